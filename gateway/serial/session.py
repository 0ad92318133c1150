"""What both ends of a serial session share: the order of messages, their fields and refusals.

    1. host  -> board  HELLO  [R_h, host id, key version]
    2. board -> host   BOARD  [board id, R_b, boot counter]   tag = HMAC(K, "B" || transcript)
    3. host  -> board  HOST   []                              tag = HMAC(K, "H" || transcript)

All later frames are sealed with keys made from K and both nonces (HKDF-SHA256, one key for each
direction). The transcript is every frame body so far, each after its length. Messages 1 to 3 carry
the host's attempt number as their counter, which tells a late answer from a forged one. The board
confirms with a PONG, and only then does the host treat the session as running. A running session
stays until the next one is confirmed, so nobody without the key can end it with a HELLO.

Readings use go-back-N. The board holds a reading until the host acknowledges it. With each reading
it names the previous one that it still holds, and the host takes a reading only after that one. So
one pair (boot counter, reading number) on the host marks the last reading taken, also across power
loss.

The two ends are `host_session` and `board_session`. They are state machines without input or
output: `receive` takes bytes, `tick` takes the time, `data_to_send` gives bytes. Times are in ms of
the caller's steady clock. Keys and tags are in `seal`, bytes are in `frames`, the port is in
`uart`. Flashing copies this file to the board, so it keeps to the subset that MicroPython runs.
"""

from gateway.serial.frames import Frame, FrameDecoder
from gateway.serial.seal import Channel, Mac, key_bytes, same, suite_hmac
from gateway.serial.tinycbor import CborError, encode

TYPE_CHECKING = False  # MicroPython has no `typing`; mypy treats this name as true.

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = [
    "BoardReading",
    "Connected",
    "End",
    "HandshakeAttempt",
    "RefusedFrame",
    "reading_fields",
    "reading_of",
    "stray",
]

kind_hello = 1
kind_board = 2
kind_host = 3
kind_reading = 4  # [boot, number, ms since boot, [values], [boot, number] of the one before]
kind_ack = 5  # [boot, number, 1 to ask for everything after it again]
kind_ping = 6  # [echo]
kind_pong = 7  # [echo, ms since boot]
kind_refuse = 8  # [reason], without proof: a hint for people, and a request for a HELLO
kinds_of_host = (kind_hello, kind_host, kind_ack, kind_ping)
kinds_of_board = (kind_board, kind_reading, kind_pong, kind_refuse)

name_chars_max = 32
values_max = 8
value_end = 1 << 63  # signed 64 bits: what JSON libraries hold

greeting_prefix = "m2m-board/1 "


class Connected:
    """Both ends have proved that they hold the key: a session begins, at first, after a reboot or
    to change keys. `boot` is the board's boot counter.
    """

    def __init__(self, boot: int) -> None:
        self.boot = boot


class RefusedFrame:
    """A frame that is not part of this session; `reason` is a short stable word."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class BoardReading:
    """One reading of the board. `values` are integers in the units of its sensor.

    `at_ms` counts from the board's boot number `boot`. `number` counts the readings of that boot
    from 1.
    """

    def __init__(self, boot: int, number: int, at_ms: int, values: tuple[int, ...]) -> None:
        self.boot = boot
        self.number = number
        self.at_ms = at_ms
        self.values = values

    @property
    def id(self) -> tuple[int, int]:
        """(boot counter, reading number). It grows strictly, also across power loss."""
        return (self.boot, self.number)


class HandshakeAttempt:
    """One run of messages 1 to 3, on either side."""

    def __init__(self, number: int, since_ms: int, nonces: bytes, body: bytes) -> None:
        self.number = number
        self.since_ms = since_ms
        self.nonces = nonces
        self.transcript = b""
        self.channel: Channel | None = None
        self.boot = 0
        self.extend(body)

    def extend(self, body: bytes) -> None:
        """Adds the next frame body to the transcript."""
        self.transcript += len(body).to_bytes(2, "big") + body

    def proof(self, mac: Mac, label: bytes) -> bytes:
        """The tag that proves the key. The labels "B" (board) and "H" (host) prevent reflection."""
        return mac.tag(label + self.transcript)

    def proved(self, mac: Mac, label: bytes, frame: Frame) -> bool:
        """Adds the peer's frame to the transcript if its tag is the correct proof."""
        before = self.transcript
        self.extend(frame.body)
        if same(frame.tag, self.proof(mac, label)):
            return True
        # A forged answer must not spoil the genuine one that may still come.
        self.transcript = before
        return False


class End:
    """What both ends have: a decoder, output, the running session and the one before it."""

    def __init__(self, key: bytes, random: "Callable[[int], bytes]") -> None:
        assert len(key) == key_bytes, "key_bytes"
        self._key = key
        self._mac = Mac(key)
        self._random = random
        self._decoder = FrameDecoder()
        self._out = bytearray()
        self._channel: Channel | None = None
        self._earlier: Channel | None = None
        self._attempt: HandshakeAttempt | None = None
        self._since_ms = 0
        # Refusals and noise by reason. These files define the reasons, so it stays small.
        self.counters: dict[str, int] = {}

    @property
    def is_up(self) -> bool:
        """Whether a session runs."""
        return self._channel is not None

    def data_to_send(self) -> bytes:
        """Takes the bytes for the line."""
        data = bytes(self._out)
        self._out = bytearray()
        return data

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def _refuse(self, reason: str) -> "list[Any]":
        self._count(reason)
        return [RefusedFrame(reason)]

    def _say(self, kind: int, fields: "list[Any]") -> None:
        assert self._channel is not None
        if self._channel.spent:
            self._count("spent")
        else:
            self._out.extend(self._channel.seal(kind, encode(fields)))

    def _promote(self, channel: Channel, now_ms: int) -> None:
        self._earlier = self._channel
        self._channel = channel
        self._attempt = None
        self._since_ms = now_ms

    def _admit(self, frame: Frame) -> str:
        """ "" if this is the next frame of the running session, else the reason to refuse it."""
        channel = self._channel
        if channel is not None and channel.wrote(frame):
            return channel.admit(frame)
        for known in (channel, self._earlier):
            if known is not None and known.sealed(frame):
                return "reflected"
        if self._earlier is not None and self._earlier.wrote(frame):
            return "old-session"
        return "no-session" if channel is None else "bad-tag"


def stray(frame: Frame, own: tuple[int, ...], peers: tuple[int, ...]) -> str:
    """Why the end that sends the kinds `own` does not take this frame: "" if its peer sends it."""
    if frame.suite != suite_hmac:
        return "bad-suite"
    if frame.kind in own:
        return "reflected"
    return "" if frame.kind in peers else "bad-kind"


def reading_fields(reading: BoardReading) -> "list[Any]":
    """A reading as CBOR fields, for frames and for the board's journal."""
    return [reading.boot, reading.number, reading.at_ms, list(reading.values)]


def reading_of(value: "Any") -> BoardReading:
    """The reverse of `reading_fields`. Raises CborError."""
    boot, number, at_ms, values = fields_of(value, int, int, int, list)
    if boot < 1 or number < 1 or not 0 < len(values) <= values_max:
        raise CborError("reading")
    if not all(isinstance(item, int) and -value_end <= item < value_end for item in values):
        raise CborError("reading")
    return BoardReading(boot, number, at_ms, tuple(values))


def fields_of(value: "Any", *types: type) -> "Any":
    """`value` if it is an array of exactly these types, integers unsigned. Raises CborError."""
    if not isinstance(value, list) or len(value) != len(types):
        raise CborError("fields")
    for item, wanted in zip(value, types):  # noqa: B905 (MicroPython's zip has no `strict`)
        if not isinstance(item, wanted) or (isinstance(item, int) and item < 0):
            raise CborError("field type")
    return value
