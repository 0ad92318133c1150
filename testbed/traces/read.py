"""Reads the trace files of processes (`nodes.trace_file` writes them and describes the format).

A trace may come from a stranger: data that does not follow the format is refused, with the place in
the file. A torn record at the end is ignored, because a kill may leave one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, NamedTuple
from uuid import UUID

import msgspec

from gateway.hops import REQUEST_HOPS, Hop
from nodes.trace_file import MAGIC, RECORD, TRACE_BYTES_MAX, Mark

__all__ = ["Life", "Passed", "TraceError", "parse_trace", "read_trace"]

_HOPS: Final = {int(hop): hop for hop in Hop}
LIVES_MAX = 1024  # starts of one process in one run
_TIME_NS_MAX = 2**62
_HEIGHT_MAX = 2**62
_WORD_BYTES = 8


class TraceError(Exception):
    """Not a trace; the message names the file and the place."""


class Passed(NamedTuple):
    """A request or block passed a hop. `key` is a height, or `gateway.hops.request_key`; `at_ns` is
    on the monotonic clock of the process's machine."""

    hop: Hop
    key: int
    at_ns: int
    view: int
    epoch: int


class Life(msgspec.Struct, kw_only=True):
    """The records of a process from one start to its end. `clocks` are (monotonic ns, wall ns); one
    request in `every` was noted; `dropped` records had no room."""

    boot: str
    every: int
    passed: list[Passed] = []
    clocks: list[tuple[int, int]] = []
    dropped: int = 0


def read_trace(path: Path) -> list[Life]:
    """The lives of a process, in order. Raises TraceError."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= TRACE_BYTES_MAX else b""
    except OSError as error:
        raise TraceError(f"{path.name}: {error.strerror}") from error
    if size > TRACE_BYTES_MAX:
        raise TraceError(f"{path.name}: {size} bytes; a trace has at most {TRACE_BYTES_MAX}")
    return parse_trace(data, path.name)  # a report names no folder of this machine


def parse_trace(data: bytes, name: str) -> list[Life]:
    """`name` is for errors. Raises TraceError."""
    if data[: len(MAGIC)] != MAGIC:
        begins = MAGIC.rstrip(b"\0").decode()
        raise TraceError(f"{name}: not a trace of this version (it does not begin with {begins!r})")
    lives: list[Life] = []
    whole = data[len(MAGIC) : len(data) - len(data) % RECORD.size]
    for number, record in enumerate(RECORD.iter_unpack(whole), 1):
        what, _, _, at_ns, key = record
        place = f"{name}: record {number} (byte {number * RECORD.size})"
        if what == Mark.START:
            if not 0 < key <= _TIME_NS_MAX:
                raise TraceError(f"{place}: one request in {key} was noted: that cannot be")
            if len(lives) == LIVES_MAX:
                raise TraceError(f"{place}: more than {LIVES_MAX} starts")
            lives.append(Life(boot="", every=key))
        elif not lives:
            raise TraceError(f"{place}: no START before it")
        elif what == Mark.BOOT:
            words = at_ns.to_bytes(_WORD_BYTES, "big") + key.to_bytes(_WORD_BYTES, "big")
            lives[-1].boot = str(UUID(bytes=words))
        elif what == Mark.DROPPED:
            lives[-1].dropped = key
        elif what == Mark.CLOCK:
            _check_time(key, place)
            _check_time(at_ns, place)
            lives[-1].clocks.append((at_ns, key))
        else:
            lives[-1].passed.append(_passed(record, place))
    return lives


def _passed(record: tuple[int, int, int, int, int], place: str) -> Passed:
    what, epoch, view, at_ns, key = record
    hop = _HOPS.get(what)
    if hop is None:
        raise TraceError(f"{place}: there is no hop {what}")
    _check_time(at_ns, place)
    if hop not in REQUEST_HOPS and key > _HEIGHT_MAX:
        raise TraceError(f"{place}: {key} is no height")
    return Passed(hop, key, at_ns, view, epoch)


def _check_time(at_ns: int, place: str) -> None:
    if at_ns > _TIME_NS_MAX:
        raise TraceError(f"{place}: {at_ns} ns is no time")
