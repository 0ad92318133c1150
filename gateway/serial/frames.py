"""Frames on a serial line: COBS, CRC-16 and an incremental decoder.

    COBS( kind u8 | suite u8 | counter u32 | CBOR payload | tag 16 | CRC-16 ) 0x00

How bytes become frames and back lives here. The order of messages is in `session`, keys and tags
are in `seal`, and the port is in `uart`. Flashing copies this file to the board, so it keeps to the
subset of Python that MicroPython runs. MicroPython has no library for COBS.

A frame never contains 0x00, so a reader that lost its place continues at the next 0x00. The CRC
tells noise from attack: noise breaks the CRC, while a forger can compute the CRC but not the tag.
A chunk of printable text is neither: boards print their greeting and their tracebacks as text.
"""

try:
    from binascii import crc_hqx
except ImportError:  # MicroPython
    crc_hqx = None  # type: ignore[assignment]

__all__ = [
    "Frame",
    "FrameDecoder",
    "LineSplitter",
    "Noise",
    "Text",
    "cobs_decode",
    "cobs_encode",
    "crc16",
    "encode_frame",
]

header_bytes = 6
tag_bytes = 16
crc_bytes = 2
payload_bytes_max = 256
frame_bytes_min = header_bytes + tag_bytes + crc_bytes
frame_bytes_max = frame_bytes_min + payload_bytes_max
# COBS adds one byte per started run of 254.
line_bytes_max = frame_bytes_max + frame_bytes_max // 254 + 1

no_tag = bytes(tag_bytes)


class Frame:
    """A chunk with a correct CRC. Who sent it is not known yet.

    `body` is what the tag covers: header and payload.
    """

    def __init__(self, body: bytes, tag: bytes) -> None:
        self.body = body
        self.tag = tag
        self.kind = body[0]
        self.suite = body[1]
        self.counter = int.from_bytes(body[2:header_bytes], "big")
        self.payload = body[header_bytes:]


class Text:
    """A printable chunk: a greeting or a message of the interpreter. It is never trusted."""

    def __init__(self, text: str) -> None:
        self.text = text


class Noise:
    """A chunk that is not a frame; `reason` is `cobs`, `crc`, `short` or `long`."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
        table.append(crc)
    return table


_table = _crc_table()


def _crc16_plain(data: bytes) -> int:
    crc = 0xFFFF
    for byte in data:
        crc = (crc << 8 & 0xFFFF) ^ _table[crc >> 8 ^ byte]
    return crc


def crc16(data: bytes) -> int:
    """CRC-16/CCITT-FALSE (polynomial 0x1021, start 0xFFFF, not reflected)."""
    return _crc16_plain(data) if crc_hqx is None else crc_hqx(data, 0xFFFF)


def cobs_encode(data: bytes) -> bytes:
    """Consistent overhead byte stuffing (Cheshire and Baker 1999): the result has no 0x00."""
    out = bytearray()
    blocks = data.split(b"\x00")
    last = len(blocks) - 1
    for index, whole in enumerate(blocks):
        block = whole
        while len(block) >= 254:
            out.append(255)
            out.extend(block[:254])
            block = block[254:]
        # At the end of the data, a full run needs no closing code.
        if block or index < last or not whole:
            out.append(len(block) + 1)
            out.extend(block)
    return bytes(out)


def cobs_decode(line: bytes) -> bytes | None:
    """The data that `line` encodes, or None if no encoder writes `line` (without its 0x00)."""
    out = bytearray()
    at = 0
    size = len(line)
    while at < size:
        code = line[at]
        end = at + code
        if code == 0 or end > size:
            return None
        out.extend(line[at + 1 : end])
        at = end
        if code < 255 and at < size:
            out.append(0)
    return bytes(out)


def frame_body(kind: int, suite: int, counter: int, payload: bytes) -> bytes:
    """Header and payload, which the tag covers."""
    assert len(payload) <= payload_bytes_max, "payload_bytes_max"
    return bytes((kind, suite)) + counter.to_bytes(4, "big") + payload


def encode_frame(body: bytes, tag: bytes) -> bytes:
    """A frame as bytes for the line, with the closing 0x00."""
    assert len(tag) == tag_bytes, "tag_bytes"
    raw = body + tag
    return cobs_encode(raw + crc16(raw).to_bytes(crc_bytes, "big")) + b"\x00"


def decode_line(line: bytes) -> Frame | Text | Noise:
    """Reads one chunk between two 0x00."""
    raw = cobs_decode(line)
    if raw is not None and frame_bytes_min <= len(raw) <= frame_bytes_max:
        end = len(raw) - crc_bytes
        if crc16(raw[:end]) == int.from_bytes(raw[end:], "big"):
            return Frame(raw[: end - tag_bytes], raw[end - tag_bytes : end])
    if _is_text(line):
        return Text(line.decode().strip())
    if raw is None:
        return Noise("cobs")
    return Noise("short" if len(raw) < frame_bytes_min else "crc")


def _is_text(line: bytes) -> bool:
    return all(32 <= byte < 127 or byte in b"\r\n\t" for byte in line)


class LineSplitter:
    """Cuts a byte stream at each 0x00. It holds at most `line_bytes_max` of an unfinished chunk."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._overflowed = False

    def feed(self, data: bytes) -> list[tuple[bytes, bool]]:
        """The chunks that `data` completes. True beside a chunk: it was longer, and was cut."""
        chunks: list[tuple[bytes, bool]] = []
        start = 0
        while True:
            end = data.find(b"\x00", start)
            self._keep(data[start:] if end < 0 else data[start:end])
            if end < 0:
                return chunks
            if self._held:
                chunks.append((bytes(self._held), self._overflowed))
            self._held = bytearray()
            self._overflowed = False
            start = end + 1

    def _keep(self, part: bytes) -> None:
        room = line_bytes_max - len(self._held)
        if len(part) > room:
            self._overflowed = True
        self._held.extend(part[:room])


class FrameDecoder:
    """Turns bytes into frames, with a bounded buffer."""

    def __init__(self) -> None:
        self._splitter = LineSplitter()

    def feed(self, data: bytes) -> list[Frame | Text | Noise]:
        """The items that `data` completes, in the order of the line."""
        items: list[Frame | Text | Noise] = []
        for chunk, overflowed in self._splitter.feed(data):
            if not overflowed:
                items.append(decode_line(chunk))
            elif _is_text(chunk):
                items.append(Text(chunk.decode()))
            else:
                items.append(Noise("long"))
        return items
