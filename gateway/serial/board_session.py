"""The sensor board's end of a serial session: it proves its key and holds readings until the host
acknowledges them.

It does no input or output: the firmware's `main` owns the line, the clock and the flash. The
messages are described in `session`. Flashing copies this file to the board, so it keeps to the
subset of Python that MicroPython runs.
"""

from gateway.serial.frames import Frame, Noise, encode_frame, frame_body, no_tag
from gateway.serial.seal import nonce_bytes, session_channel, suite_hmac
from gateway.serial.session import (
    BoardReading,
    Connected,
    End,
    HandshakeAttempt,
    RefusedFrame,
    fields_of,
    kind_ack,
    kind_board,
    kind_hello,
    kind_host,
    kind_pong,
    kind_reading,
    kind_refuse,
    kinds_of_board,
    kinds_of_host,
    name_chars_max,
    reading_fields,
    stray,
    values_max,
)
from gateway.serial.tinycbor import CborError, decode, encode

TYPE_CHECKING = False  # MicroPython has no `typing`; mypy treats this name as true.

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BoardSession"]

readings_held_max = 128
# Readings sent and not acknowledged. 16 frames take 1 s at 9600 baud, well below the resend time.
readings_in_flight_max = 16
resend_ms_min = 2_000
resend_ms_max = 30_000
# The host changes keys each hour. If it does not, the board ends the session a little later.
session_ms_max = 66 * 60 * 1000


class BoardSession(End):
    """One for each boot; `boot` is its number, from 1. `held` are readings kept over a power loss.
    `random(n)` gives n unpredictable bytes.
    """

    def __init__(
        self,
        *,
        board_id: str,
        key: bytes,
        key_version: int,
        boot: int,
        random: "Callable[[int], bytes]",
        held: "list[BoardReading] | None" = None,
    ) -> None:
        super().__init__(key, random)
        assert 0 < len(board_id) <= name_chars_max, "name_chars_max"
        self._board_id = board_id
        self._key_version = key_version
        self._boot = boot
        # The readings that wait for an acknowledgement, oldest first.
        self.held: list[BoardReading] = (held or [])[-readings_held_max:]
        self._number = 0
        # How many of `held`, counted from the oldest, are sent. The oldest was sent at `_sent_ms`.
        self._in_flight = 0
        self._sent_ms = 0
        self._resend_ms = resend_ms_min

    def sample(self, values: tuple[int, ...], now_ms: int) -> BoardReading:
        """Queues a reading, which is sent as soon as the host allows. If the queue is full, the
        oldest is dropped.
        """
        assert 0 < len(values) <= values_max, "values_max"
        self._number += 1
        reading = BoardReading(self._boot, self._number, now_ms, values)
        if len(self.held) >= readings_held_max:
            self.held.pop(0)
            self._in_flight = max(0, self._in_flight - 1)
            self._count("dropped-oldest")
        self.held.append(reading)
        self._pump(now_ms)
        return reading

    def receive(self, data: bytes, now_ms: int) -> "list[Connected | RefusedFrame]":
        """Takes bytes of the line; returns the events in them."""
        events: list[Connected | RefusedFrame] = []
        for item in self._decoder.feed(data):
            if isinstance(item, Frame):
                events.extend(self._on_frame(item, now_ms))
            elif isinstance(item, Noise):
                self._count("noise-" + item.reason)
        return events

    def tick(self, now_ms: int) -> None:
        """Sends again what was not acknowledged, and ends a session that is too old."""
        channel = self._channel
        if channel is None:
            return
        if channel.spent or now_ms - self._since_ms >= session_ms_max:
            self._earlier = channel
            self._channel = None
            self._hint("no-session")
        elif self._in_flight and now_ms - self._sent_ms >= self._resend_ms:
            self._resend_ms = min(2 * self._resend_ms, resend_ms_max)
            self._in_flight = 0
            self._pump(now_ms)

    def _pump(self, now_ms: int) -> None:
        if self._channel is None:
            return
        if self._in_flight == 0:
            self._sent_ms = now_ms
        while self._in_flight < min(len(self.held), readings_in_flight_max):
            index = self._in_flight
            fields = reading_fields(self.held[index])
            fields.append(list(self.held[index - 1].id) if index else [0, 0])
            self._say(kind_reading, fields)
            self._in_flight += 1

    def _hint(self, reason: str) -> None:
        body = frame_body(kind_refuse, suite_hmac, 0, encode([reason]))
        self._out.extend(encode_frame(body, no_tag))

    def _on_frame(self, frame: Frame, now_ms: int) -> "list[Any]":
        refusal = stray(frame, kinds_of_board, kinds_of_host)
        if refusal:
            return self._refuse(refusal)
        try:
            if frame.kind == kind_hello:
                return self._on_hello(frame, now_ms)
            if frame.kind == kind_host:
                return self._on_host(frame, now_ms)
            return self._on_sealed(frame, now_ms)
        except CborError:
            return self._refuse("malformed")

    def _on_hello(self, frame: Frame, now_ms: int) -> "list[Any]":
        """Message 1. It proves nothing: it begins an attempt and changes no running session."""
        host_nonce, _host_id, key_version = fields_of(decode(frame.payload), bytes, str, int)
        if len(host_nonce) != nonce_bytes or frame.tag != no_tag:
            return self._refuse("malformed")
        if key_version != self._key_version:
            self._hint("key-version")
            return self._refuse("key-version")
        nonce = self._random(nonce_bytes)
        attempt = HandshakeAttempt(frame.counter, now_ms, host_nonce + nonce, frame.body)
        payload = encode([self._board_id, nonce, self._boot])
        body = frame_body(kind_board, suite_hmac, frame.counter, payload)
        attempt.extend(body)
        self._attempt = attempt
        self._out.extend(encode_frame(body, attempt.proof(self._mac, b"B")))
        return []

    def _on_host(self, frame: Frame, now_ms: int) -> "list[Any]":
        """Message 3: the host has proved its key. From here on the new keys are used."""
        attempt = self._attempt
        if attempt is None or frame.counter != attempt.number:
            return self._refuse("stale-handshake")
        if not attempt.proved(self._mac, b"H", frame):
            return self._refuse("bad-proof")
        self._promote(session_channel(self._key, attempt.nonces, is_host=False), now_ms)
        self._say(kind_pong, [0, now_ms])
        self._in_flight = 0
        self._resend_ms = resend_ms_min
        self._pump(now_ms)
        return [Connected(self._boot)]

    def _on_sealed(self, frame: Frame, now_ms: int) -> "list[Any]":
        refusal = self._admit(frame)
        if refusal:
            # One hint in each call is enough to make the host send a HELLO.
            if self._channel is None and not self._out:
                self._hint("no-session")
            return self._refuse(refusal)
        fields = decode(frame.payload)
        if frame.kind == kind_ack:
            boot, number, resend = fields_of(fields, int, int, int)
            self._on_ack((boot, number), resend != 0, now_ms)
        else:
            (echo,) = fields_of(fields, int)
            self._say(kind_pong, [echo, now_ms])
        return []

    def _on_ack(self, upto: tuple[int, int], resend: bool, now_ms: int) -> None:
        while self.held and self.held[0].id <= upto:
            self.held.pop(0)
            self._in_flight = max(0, self._in_flight - 1)
            self._sent_ms = now_ms
            self._resend_ms = resend_ms_min
        if resend:
            self._in_flight = 0
        self._pump(now_ms)
