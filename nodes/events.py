"""Typed events as JSON lines: the source of measurements, checks and the live view.

One line: {"t": wall ns, "m": monotonic ns, "boot": boot id, "node": name, "n": count, "event":
kind, ...}. Lines are kept in memory and written by size or age, never once per request. Files are
bounded: see `EventLog`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

import msgspec

from gateway.limits import TokenBucket
from nodes.ports import Events, Party

__all__ = [
    "EVENTS_BYTES_MAX",
    "FLUSH_AGE_MS",
    "FLUSH_BYTES",
    "KINDS_MAX",
    "LIMITED_BURST",
    "LIMITED_PER_S",
    "CountedEvents",
    "EventLog",
    "LimitedEvents",
    "LoggedEvent",
    "NoEvents",
    "boot_id",
    "read_events",
]

FLUSH_BYTES = 65_536
FLUSH_AGE_MS = 250
EVENTS_BYTES_MAX = 256 * 1024 * 1024  # of one file; there are two at most
KINDS_MAX = 256  # that are counted apart
KEPT = frozenset({"accuse", "conflict"})  # evidence: whoever fills the log must not remove it
KEPT_BYTES_MAX = 16 * 1024 * 1024  # of such lines
LIMITED_PER_S, LIMITED_BURST = 1.0, 1000  # lines that one peer can cause
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_encoder = msgspec.json.Encoder()


class LoggedEvent(msgspec.Struct, frozen=True):
    """One line as read back; `fields` holds what the kind of event brings."""

    t: int
    m: int
    boot: str
    node: str
    n: int
    event: str
    fields: dict[str, object]


def boot_id() -> str:
    """Monotonic times are comparable only within one boot of one machine."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return "unknown"


class NoEvents:
    """For processes whose events nobody wants."""

    def emit(self, event: str, **fields: object) -> None:
        pass


class EventLog:
    """Appends to `path`. Losing events must not stop a process: after a write error (a full disk)
    lines are dropped and counted, and the count is in the next line that can be written.

    A file that has reached `bytes_max` becomes `<path>.1`; the one that had that name is removed,
    and its size is in the next line ("events-rotated"). The new file begins with the evidence
    (`KEPT`) of this process so far, line by line, unchanged.
    """

    def __init__(self, path: Path, node: str, bytes_max: int = EVENTS_BYTES_MAX) -> None:
        self._path = path
        self._bytes_max = bytes_max
        self._file: IO[bytes] | None = None
        self._node = node
        self._boot = boot_id()
        self._lines: list[bytes] = []
        self._kept: list[bytes] = []
        self._kept_bytes = 0
        self._kept_bytes_max = min(KEPT_BYTES_MAX, bytes_max // 4)
        self._bytes = 0
        self._oldest_ns = 0
        self._torn = False  # the file ends within a line
        self._count = 0
        self.dropped = 0
        with contextlib.suppress(OSError):
            self._open_or_rotate()

    def emit(self, event: str, **fields: object) -> None:
        self._count += 1
        now_ns = time.monotonic_ns()
        line = _encoder.encode(
            {
                "t": time.time_ns(),
                "m": now_ns,
                "boot": self._boot,
                "node": self._node,
                "n": self._count,
                "event": event,
                **fields,
            }
        )
        if event in KEPT and self._kept_bytes + len(line) < self._kept_bytes_max:
            self._kept.append(line + b"\n")
            self._kept_bytes += len(line) + 1
        if not self._lines:
            self._oldest_ns = now_ns
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes >= FLUSH_BYTES or now_ns - self._oldest_ns >= FLUSH_AGE_MS * 1_000_000:
            self.flush()

    def flush(self) -> None:
        """Writes the lines that wait. A timer should call it too: only an event looks at their
        age."""
        if not self._lines:
            return
        with contextlib.suppress(OSError):
            self._open_or_rotate()
        lines, self._lines, self._bytes = self._lines, [], 0
        begin = b"\n" if self._torn else b""
        data = begin + b"\n".join(lines) + b"\n"
        written = data[: self._write(data)]
        if written:
            self._torn = not written.endswith(b"\n")
        self.dropped += len(lines) - max(0, written.count(b"\n") - len(begin))
        if len(written) < len(data):
            return
        if self.dropped:
            dropped, self.dropped = self.dropped, 0
            self.emit("events-dropped", count=dropped)

    def _open_or_rotate(self) -> None:
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            self._torn = ends_torn(self._path)
        elif self._file.tell() >= self._bytes_max and self._path.is_file():
            older = self._path.with_name(self._path.name + ".1")
            dropped_bytes = older.stat().st_size if older.exists() else 0
            self._path.replace(older)
            self._file.close()
            self._file, kept = self._path.open("ab", buffering=0), b"".join(self._kept)
            self._torn = self._write(kept) < len(kept)
            self.emit("events-rotated", dropped_bytes=dropped_bytes)

    def _write(self, data: bytes) -> int:
        """Returns how many bytes could be written: a disk that becomes full may take a part."""
        written = 0
        with contextlib.suppress(OSError):
            while self._file is not None and written < len(data):
                written += self._file.write(data[written:])
        return written

    def close(self) -> None:
        self.flush()
        self.flush()  # the first flush may have added a line: how many were dropped
        with contextlib.suppress(OSError):
            if self._file is not None:
                self._file.close()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CountedEvents:
    """Events that others can cause as often as they like. Of each kind the first, second, fourth,
    eighth and so on is emitted, with the `count` so far: a flood does not flood the log. Call
    `emit_counts` from time to time if the exact count matters."""

    def __init__(self, events: Events, event: str) -> None:
        self._events = events
        self._event = event
        self._counts: Counter[tuple[object, ...]] = Counter()
        self._not_emitted: dict[tuple[object, ...], dict[str, object]] = {}

    def add(self, *kind: object, **fields: object) -> None:
        """`fields` describe this one. Kinds above KINDS_MAX are counted together."""
        known = kind in self._counts or len(self._counts) < KINDS_MAX
        kind = kind if known else ("others",)
        self._counts[kind] += 1
        self._not_emitted[kind] = fields
        if self._counts[kind].bit_count() == 1:
            self._emit(kind)

    def emit_counts(self) -> None:
        """Emits the newest of each kind whose count was not emitted yet."""
        for kind in list(self._not_emitted):
            self._emit(kind)

    def _emit(self, kind: tuple[object, ...]) -> None:
        self._events.emit(self._event, **self._not_emitted.pop(kind), count=self._counts[kind])


class LimitedEvents:
    """Events that matter one by one, but that a peer can cause as often as it likes. Each peer may
    cause LIMITED_BURST at once, then LIMITED_PER_S. The next one says how many were `left_out`."""

    def __init__(self, events: Events, now_s: Callable[[], float] = time.monotonic) -> None:
        self._events = events
        self._now_s = now_s
        self._buckets: dict[Party, TokenBucket] = {}
        self._left_out: Counter[Party] = Counter()

    def emit(self, peer: Party, event: str, **fields: object) -> None:
        now_s = self._now_s()
        bucket = self._buckets.setdefault(peer, TokenBucket(LIMITED_PER_S, LIMITED_BURST, now_s))
        if not bucket.take(now_s):
            self._left_out[peer] += 1
            return
        if left_out := self._left_out.pop(peer, 0):
            fields["left_out"] = left_out
        self._events.emit(event, **fields)


def ends_torn(path: Path) -> bool:
    """Whether a file of lines ends within a line."""
    with path.open("rb") as file:
        if not path.is_file() or file.seek(0, os.SEEK_END) == 0:
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def read_events(path: Path) -> list[LoggedEvent]:
    """Every complete line; a torn last one (the process was killed) is left out."""
    events = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            raw = msgspec.json.decode(line, type=dict[str, object])
            common = {name: raw.pop(name) for name in ("t", "m", "boot", "node", "n", "event")}
            events.append(msgspec.convert({**common, "fields": raw}, type=LoggedEvent))
        except (msgspec.DecodeError, msgspec.ValidationError, KeyError):
            continue
    return events
