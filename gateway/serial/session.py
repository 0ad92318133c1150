"""What both ends of a serial session share: the order of messages, their fields, their refusals.

    1. host  -> board  HELLO  [R_h, host id, key version]
    2. board -> host   BOARD  [board id, R_b, boot counter]   tag = HMAC(K, "B" || transcript)
    3. host  -> board  HOST   []                              tag = HMAC(K, "H" || transcript)

then frames sealed with keys made from K and both nonces (HKDF-SHA256, one key per direction).
The transcript is every frame body so far, each after its length. The three carry the host's
attempt number as their counter, so that a late answer is told from a forged one. The board
confirms with a PONG: only then does the host call the session up. A running session stays until
the next one is confirmed, so nobody without the key can end one by saying HELLO.

Readings go back-N: the board holds each until the host acknowledges it, and names with each the
one before it that it still holds; the host takes a reading only if that one is taken already. So
one pair (boot counter, reading number) on the host's side says what was taken, across power loss.

The two ends are `host_session` and `board_session`, state machines without input or output: bytes
go in with `receive`, time with `tick`, bytes come out of `data_to_send`. Times are in ms of the
caller's own steady clock. Keys and tags are `seal`, bytes are `frames`, the port is `uart`.
Flashing copies this very file to the board: it keeps to the subset that MicroPython runs.
"""

from gateway.serial.frames import Frame, FrameDecoder
from gateway.serial.seal import Channel, Mac, key_bytes, same
from gateway.serial.tinycbor import CborError, encode

TYPE_CHECKING = False  # MicroPython has no `typing`; mypy takes the name for true.

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["Attempt", "End", "Reading", "Refused", "Up", "reading_fields", "reading_of"]

kind_hello = 1
kind_board = 2
kind_host = 3
kind_reading = 4  # [boot, number, ms since boot, [values], [boot, number] of the one before]
kind_ack = 5  # [boot, number, 1 to have everything after it sent again]
kind_ping = 6  # [echo]
kind_pong = 7  # [echo, ms since boot]
kind_refuse = 8  # [reason], without proof: a hint for people and a nudge to say HELLO
kinds_of_host = (kind_hello, kind_host, kind_ack, kind_ping)
kinds_of_board = (kind_board, kind_reading, kind_pong, kind_refuse)

name_chars_max = 32
values_max = 8

greeting_prefix = "m2m-board/1 "


class Up:
    """Both ends have proved that they hold the key; `boot` is the board's boot counter."""

    def __init__(self, boot: int) -> None:
        self.boot = boot


class Refused:
    """Something came that is no part of this session; `reason` is a short stable word."""

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Reading:
    """One reading of the board: `values` are integers in the units of its sensor.

    `at_ms` counts from the board's boot number `boot`; `number` counts the readings of that boot
    from 1.
    """

    def __init__(self, boot: int, number: int, at_ms: int, values: tuple[int, ...]) -> None:
        self.boot = boot
        self.number = number
        self.at_ms = at_ms
        self.values = values

    @property
    def id(self) -> tuple[int, int]:
        """(boot counter, reading number): grows strictly, also across power loss."""
        return (self.boot, self.number)


class Attempt:
    """One run of the three passes, on either side."""

    def __init__(self, number: int, since_ms: int, nonces: bytes, body: bytes) -> None:
        self.number = number
        self.since_ms = since_ms
        self.nonces = nonces
        self.transcript = b""
        self.channel: Channel | None = None
        self.boot = 0
        self.extend(body)

    def extend(self, body: bytes) -> None:
        """The next frame body of the transcript."""
        self.transcript += len(body).to_bytes(2, "big") + body

    def proof(self, mac: Mac, label: bytes) -> bytes:
        """The tag that shows the key: "B" for the board, "H" for the host, so none reflects."""
        return mac.tag(label + self.transcript)

    def proved(self, mac: Mac, label: bytes, frame: Frame) -> bool:
        """Extends the transcript with the peer's frame if its tag is the right proof of it."""
        before = self.transcript
        self.extend(frame.body)
        if same(frame.tag, self.proof(mac, label)):
            return True
        # A forged answer must not spoil the true one that may still come.
        self.transcript = before
        return False


class End:
    """What both ends have: decoder, output, the running session and the one before it."""

    def __init__(self, key: bytes, random: "Callable[[int], bytes]") -> None:
        assert len(key) == key_bytes, "key_bytes"
        self._key = key
        self._mac = Mac(key)
        self._random = random
        self._decoder = FrameDecoder()
        self._out = bytearray()
        self._channel: Channel | None = None
        self._earlier: Channel | None = None
        self._attempt: Attempt | None = None
        self._since_ms = 0
        # Refusals and noise by reason. Reasons are words of these files, so it stays small.
        self.counters: dict[str, int] = {}

    @property
    def is_up(self) -> bool:
        """A session runs."""
        return self._channel is not None

    def data_to_send(self) -> bytes:
        """Take the bytes for the line."""
        data = bytes(self._out)
        self._out = bytearray()
        return data

    def _count(self, reason: str) -> None:
        self.counters[reason] = self.counters.get(reason, 0) + 1

    def _refuse(self, reason: str) -> "list[Any]":
        self._count(reason)
        return [Refused(reason)]

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
        """Is this the next frame of the running session? "" or the reason to refuse it."""
        channel = self._channel
        if channel is not None and channel.wrote(frame):
            return channel.admit(frame)
        for known in (channel, self._earlier):
            if known is not None and known.sealed(frame):
                return "reflected"
        if self._earlier is not None and self._earlier.wrote(frame):
            return "old-session"
        return "no-session" if channel is None else "bad-tag"


def reading_fields(reading: Reading) -> "list[Any]":
    """A reading as CBOR fields, as frames and the board's journal carry it."""
    return [reading.boot, reading.number, reading.at_ms, list(reading.values)]


def reading_of(value: "Any") -> Reading:
    """The reverse of `reading_fields`; CborError if it is none."""
    boot, number, at_ms, values = fields_of(value, int, int, int, list)
    if boot < 1 or number < 1 or not 0 < len(values) <= values_max:
        raise CborError("reading")
    if not all(isinstance(item, int) for item in values):
        raise CborError("reading")
    return Reading(boot, number, at_ms, tuple(values))


def fields_of(value: "Any", *types: type) -> "Any":
    """`value` as an array of exactly these types, integers unsigned; CborError otherwise."""
    if not isinstance(value, list) or len(value) != len(types):
        raise CborError("fields")
    for item, wanted in zip(value, types):  # noqa: B905 (MicroPython's zip has no `strict`)
        if not isinstance(item, wanted) or (isinstance(item, int) and item < 0):
            raise CborError("field type")
    return value
