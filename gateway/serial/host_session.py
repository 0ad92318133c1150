"""The host's end of a serial session: it checks the board's proof, takes each reading once and
pings the board.

It does no input or output: `uart` owns the port and the clock. The messages are described in
`session`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gateway.serial.frames import Frame, Text, encode_frame, frame_body, no_tag
from gateway.serial.seal import frames_per_session_max, nonce_bytes, session_channel, suite_hmac
from gateway.serial.session import (
    BoardReading,
    Connected,
    End,
    HandshakeAttempt,
    RefusedFrame,
    fields_of,
    greeting_prefix,
    kind_ack,
    kind_board,
    kind_hello,
    kind_host,
    kind_ping,
    kind_reading,
    kind_refuse,
    kinds_of_board,
    kinds_of_host,
    name_chars_max,
    reading_of,
    stray,
)
from gateway.serial.tinycbor import CborError, decode, encode

__all__ = ["Console", "Event", "HostSession", "Taken", "Timing"]

# How far two crystals drift apart: the uncertainty of a mapped time grows with a reading's age.
drift_ppm_max = 100


@dataclass(frozen=True, slots=True)
class Timing:
    """How long the host waits, in ms of its clock, and after how many frames it changes keys."""

    handshake_retry_ms: int = 1_000
    handshake_gap_ms: int = 200
    handshake_ms_max: int = 5_000
    ping_ms: int = 2_000
    silence_ms_max: int = 7_000
    rekey_ms: int = 60 * 60 * 1000
    rekey_frames: int = frames_per_session_max - 4_096


@dataclass(frozen=True, slots=True)
class Taken:
    """A genuine reading, delivered once: `reading.id` grows strictly.

    At least `missed` readings before it are lost: the board's queue was full, or its power failed.
    `sampled_ms` is when it was sampled, on the host's clock, with an error of at most
    `uncertainty_ms`. Both are None for a reading of an earlier boot.
    """

    reading: BoardReading
    missed: int
    sampled_ms: int | None
    uncertainty_ms: int | None


@dataclass(frozen=True, slots=True)
class Console:
    """Plain text on the line (greeting, traceback). Anyone on the line can write it."""

    text: str


Event = Connected | Taken | RefusedFrame | Console


class HostSession(End):
    """One for each opened port. `highest` is the (boot counter, reading number) last acknowledged,
    (0, 0) at first. `random(n)` gives n unpredictable bytes.
    """

    def __init__(
        self,
        *,
        host_id: str,
        board_id: str,
        key: bytes,
        key_version: int,
        random: Callable[[int], bytes],
        highest: tuple[int, int] = (0, 0),
        timing: Timing | None = None,
    ) -> None:
        super().__init__(key, random)
        assert 0 < len(host_id) <= name_chars_max, "name_chars_max"
        self._host_id = host_id
        self._board_id = board_id
        self._key_version = key_version
        self._timing = timing or Timing()
        self._highest = highest
        self._acknowledged = highest
        self._ack_due = False
        self._resend_asked = False
        self._boot = 0
        self._attempts = 0
        self._trying_since_ms: int | None = None
        self._failure = "no-answer"
        self._heard_ms = 0
        self._pinged_ms = 0
        self._proved_ms = 0
        # Host clock minus board clock, and the largest error of that, in ms.
        self._offset: tuple[int, int] | None = None
        # The board's clock at its last answer, and the highest reading taken until then.
        self._answered: tuple[int, tuple[int, int]] | None = None

    def start(self, now_ms: int) -> None:
        """Sends a HELLO: the first one, a repeated one, or one to change keys."""
        self._attempts += 1
        if self._trying_since_ms is None:
            self._trying_since_ms = now_ms
        nonce = self._random(nonce_bytes)
        payload = encode([nonce, self._host_id, self._key_version])
        body = frame_body(kind_hello, suite_hmac, self._attempts, payload)
        self._attempt = HandshakeAttempt(self._attempts, now_ms, nonce, body)
        # The 0x00 ends an unfinished frame that the board may still hold.
        self._out.extend(b"\x00" + encode_frame(body, no_tag))

    def receive(self, data: bytes, now_ms: int) -> list[Event]:
        """Takes bytes of the line; returns the events in them."""
        events: list[Event] = []
        for item in self._decoder.feed(data):
            if isinstance(item, Frame):
                events.extend(self._on_frame(item, now_ms))
            elif isinstance(item, Text):
                # A board prints its greeting when it starts, and then has no session.
                if item.text.startswith(greeting_prefix):
                    self._start_again(now_ms)
                events.append(Console(item.text))
            else:
                self._count("noise-" + item.reason)
        if self._ack_due:
            self._say_ack(resend=False)
        return events

    def acknowledge(self) -> None:
        """The caller has saved all readings delivered so far: the board may forget them."""
        if self._acknowledged != self._highest:
            self._acknowledged = self._highest
            self._say_ack(resend=False)

    def tick(self, now_ms: int) -> str | None:
        """Repeats a HELLO, pings, or changes keys.

        Returns why the port must be reopened, if it must: the board is silent or proved nothing.
        """
        timing = self._timing
        if self._attempt is not None and self._trying_since_ms is not None:
            if now_ms - self._trying_since_ms >= timing.handshake_ms_max:
                return self._failure
            if now_ms - self._attempt.since_ms >= timing.handshake_retry_ms:
                self.start(now_ms)
        channel = self._channel
        if channel is None:
            return None
        if now_ms - self._heard_ms >= timing.silence_ms_max:
            return "silent"
        if self._attempt is None:
            if now_ms - self._pinged_ms >= timing.ping_ms:
                self._ping(now_ms)
            aged = now_ms - self._since_ms >= timing.rekey_ms
            if aged or max(channel.sent, channel.received) >= timing.rekey_frames:
                self.start(now_ms)
        return None

    def _start_again(self, now_ms: int) -> None:
        attempt = self._attempt
        if attempt is None or now_ms - attempt.since_ms >= self._timing.handshake_gap_ms:
            self.start(now_ms)

    def _on_frame(self, frame: Frame, now_ms: int) -> list[Any]:
        refusal = stray(frame, kinds_of_host, kinds_of_board)
        if refusal:
            return self._refuse(refusal)
        try:
            if frame.kind == kind_board:
                return self._on_board(frame, now_ms)
            if frame.kind == kind_refuse:
                return self._on_hint(frame, now_ms)
            return self._on_sealed(frame, now_ms)
        except CborError:
            return self._refuse("malformed")

    def _on_board(self, frame: Frame, now_ms: int) -> list[Any]:
        """Message 2: checks that this is the board and that it holds the key."""
        attempt = self._attempt
        if frame.counter < self._attempts:
            # A late answer to an earlier HELLO: the board was still starting.
            self._count("late-answer")
            return []
        if attempt is None or attempt.channel is not None or frame.counter != attempt.number:
            return self._refuse("stale-handshake")
        board_id, nonce, boot = fields_of(decode(frame.payload), str, bytes, int)
        if board_id != self._board_id or len(nonce) != nonce_bytes:
            return self._fail("wrong-board")
        if not attempt.proved(self._mac, b"B", frame):
            return self._fail("bad-proof")
        # A lower counter means an old copy of the board, or a board that lost its memory.
        if boot < max(1, self._boot, self._highest[0]):
            return self._fail("boot-rollback")
        attempt.boot = boot
        self._proved_ms = now_ms
        body = frame_body(kind_host, suite_hmac, attempt.number, encode([]))
        attempt.extend(body)
        attempt.channel = session_channel(self._key, attempt.nonces + nonce, is_host=True)
        self._out.extend(encode_frame(body, attempt.proof(self._mac, b"H")))
        return []

    def _on_hint(self, frame: Frame, now_ms: int) -> list[Any]:
        """A refusal without proof. All that it can cause is another HELLO."""
        (reason,) = fields_of(decode(frame.payload), str)
        if reason == "no-session":
            self._count("hint-no-session")
            self._start_again(now_ms)
            return []
        return self._fail("key-version" if reason == "key-version" else "bad-hint")

    def _on_sealed(self, frame: Frame, now_ms: int) -> list[Any]:
        events = self._confirm(frame, now_ms)
        refusal = self._admit(frame)
        if refusal:
            return events + self._refuse(refusal)
        self._heard_ms = now_ms
        fields = decode(frame.payload)
        if frame.kind == kind_reading:
            return events + self._on_reading(fields, now_ms)
        echo, board_ms = fields_of(fields, int, int)
        self._answered = (board_ms, self._highest)
        # The board answers message 3 with an echo of 0, like a ping.
        asked_ms = self._pinged_ms if echo else self._proved_ms
        if echo in (0, self._pinged_ms):
            # It read its clock between the two times: the error is at most half the round trip.
            self._offset = ((asked_ms + now_ms) // 2 - board_ms, (now_ms - asked_ms) // 2 + 1)
        return events

    def _confirm(self, frame: Frame, now_ms: int) -> list[Any]:
        """The first frame under the new keys shows that message 3 arrived."""
        attempt = self._attempt
        if attempt is None or attempt.channel is None or not attempt.channel.wrote(frame):
            return []
        self._promote(attempt.channel, now_ms)
        if attempt.boot != self._boot:
            self._offset = None
        self._answered = None
        self._boot = attempt.boot
        self._trying_since_ms = None
        self._failure = "no-answer"
        self._resend_asked = False
        self._ping(now_ms)
        return [Connected(self._boot)]

    def _on_reading(self, fields: Any, now_ms: int) -> list[Any]:
        if not isinstance(fields, list) or not fields:
            raise CborError("fields")
        reading = reading_of(fields[:-1])
        before = tuple(fields_of(fields[-1], int, int))
        if reading.boot > self._boot or before >= reading.id:
            return self._refuse("malformed")
        if self._is_counted_again(reading):
            return self._fail("boot-rollback")
        if reading.id <= self._highest:
            # Our acknowledgement was lost or is not sent yet.
            self._count("duplicate")
            self._ack_due |= reading.id <= self._acknowledged
            return []
        if before > self._highest:
            # The line lost a reading that the board still holds. We ask once: the board repeats it.
            self._count("out-of-sequence")
            if not self._resend_asked:
                self._resend_asked = True
                self._say_ack(resend=True)
            return []
        self._resend_asked = False
        boot, number = self._highest
        missed = reading.number - 1 - (number if boot == reading.boot else 0)
        self._highest = reading.id
        if self._offset is None or reading.boot != self._boot:
            return [Taken(reading, missed, None, None)]
        sampled_ms = reading.at_ms + self._offset[0]
        drift_ms = max(0, now_ms - sampled_ms) * drift_ppm_max // 1_000_000
        return [Taken(reading, missed, sampled_ms, self._offset[1] + drift_ms)]

    def _is_counted_again(self, reading: BoardReading) -> bool:
        """Whether it was sampled after an answer but has a number taken before that answer. Then it
        is of another boot with the same boot number, and would pass for a repetition."""
        if self._answered is None or reading.boot != self._boot:
            return False
        board_ms, highest = self._answered
        return reading.at_ms > board_ms and reading.id <= highest

    def _fail(self, reason: str) -> list[Any]:
        self._failure = reason
        return self._refuse(reason)

    def _ping(self, now_ms: int) -> None:
        self._pinged_ms = now_ms
        self._say(kind_ping, [now_ms])

    def _say_ack(self, *, resend: bool) -> None:
        self._ack_due = False
        self._say(kind_ack, [*self._acknowledged, int(resend)])
