"""The lines of a run's logs as typed values: events of processes, and the orchestrator's own.

Only events that a checker or report reads have a type; other events stay in the files. Unknown
fields are ignored, so a log of a newer process can be read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec

__all__ = [
    "AttackLine",
    "BlockDone",
    "BoardGap",
    "BrokerLine",
    "ConflictSeen",
    "DataAdded",
    "DeviceAdmitted",
    "EventsDropped",
    "FaultLine",
    "GroupDenied",
    "Late",
    "LogEvent",
    "Milliseconds",
    "RateLimited",
    "ReadingLeftOut",
    "RelayGap",
    "Requested",
    "RunLine",
    "SensorLies",
    "SerialFrame",
    "SerialRefused",
    "Started",
    "StoreDamaged",
    "StoreMissing",
    "Usage",
    "ViewEntered",
    "VotingAgain",
    "Whole",
    "read_events",
    "read_lines",
]


# Numbers in a node's log: what a process may write and tables can hold. A line with others is
# unreadable.
Whole = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Milliseconds = Annotated[float, msgspec.Meta(ge=-1e12, le=1e12)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e12)]


class LogEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """`t` is the wall clock in ns; `m` the monotonic clock, comparable within one `boot`.

    `node` is the owner of the log file: a node speaks only for itself.
    """

    t: Whole
    m: Whole
    boot: str
    node: str


class DeviceAdmitted(LogEvent, frozen=True, kw_only=True, tag="admitted"):
    """At a device: its enrolment was answered and the receipt verified. `latency_ms` is by the
    host's clock: negative if that was set back meanwhile."""

    id: str
    latency_ms: Milliseconds


class DataAdded(LogEvent, frozen=True, kw_only=True, tag="data"):
    """At a device: a reading of `source` (a board, None: its own) was answered.
    `latency_ms` as of `DeviceAdmitted`."""

    id: str
    latency_ms: Milliseconds
    intended_ns: Whole
    source: str | None = None


class Late(LogEvent, frozen=True, kw_only=True, tag="late"):
    """At a device: a reading was not answered in time."""

    intended_ns: Whole
    source: str | None = None


class GroupDenied(LogEvent, frozen=True, kw_only=True, tag="denied"):
    """At a gateway (with `id`): f+1 replicas refused. At a device (without): it received the
    refusal."""

    reason: str
    id: str | None = None


class Requested(LogEvent, frozen=True, kw_only=True, tag="request"):
    """At a gateway: a signed request came. `outcome` is accepted, repeat-waiting, repeat-final or
    refused:<reason>. Where no request could be read, `id` is the SHA-256 of what was sent."""

    id: str
    device: str
    relay: str
    outcome: str


class FalseAnswer(LogEvent, frozen=True, kw_only=True, tag="bad-message"):
    """At a device: wrong answers, `count` of them for this reason since it started."""

    reason: str
    count: Whole


class DeniedUnproven(LogEvent, frozen=True, kw_only=True, tag="denied-unproven"):
    """At a device: refusals without a proof, `count` of them since it started."""

    reason: str
    count: Whole


class SerialRefused(LogEvent, frozen=True, kw_only=True, tag="serial-refused"):
    """At an environmental device: frames on a board's line were refused, `count` of them for this
    reason since the device started."""

    board: str
    reason: str
    count: Whole


class BoardGap(LogEvent, frozen=True, kw_only=True, tag="board-gap"):
    """At an environmental device: a board's port was gone or silent for so long, and is back."""

    board: str
    reason: str
    seconds: float


class BlockDone(LogEvent, frozen=True, kw_only=True, tag="block"):
    """At a replica: a block was executed. The `*_us` of phases count from the moment when it
    proposed or accepted the block, on its monotonic clock; only the proposer has `proposed_us`."""

    height: Whole
    count: Whole
    view: Whole
    time_us: Whole
    executed_us: Whole
    proposed_us: Whole | None = None
    prepared_us: Whole | None = None
    committed_us: Whole | None = None


class StoreDamaged(LogEvent, frozen=True, kw_only=True, tag="store-damaged"):
    """At a replica: its ledger was damaged. It fetches all again and sends no votes meanwhile."""


class StoreMissing(LogEvent, frozen=True, kw_only=True, tag="store-missing"):
    """At a replica: its ledger was gone; as `StoreDamaged`."""


class VotingAgain(LogEvent, frozen=True, kw_only=True, tag="voting-again"):
    """At a replica: it has passed every block on which it may have voted, and votes again."""


class Started(LogEvent, frozen=True, kw_only=True, tag="started"):
    """At any process: it is up. `replica`: its number in the genesis, if it is one."""

    replica: Whole | None = None


class ViewEntered(LogEvent, frozen=True, kw_only=True, tag="view"):
    """At a replica."""

    view: Whole


class ConflictSeen(LogEvent, frozen=True, kw_only=True, tag="conflict"):
    """At a gateway: `replica` signed two heads of one height."""

    replica: Whole


class RateLimited(LogEvent, frozen=True, kw_only=True, tag="rate-limited"):
    """At a gateway: so many messages of a relay were above its rate since the last such line."""

    relay: str
    count: Whole


class RelayGap(LogEvent, frozen=True, kw_only=True, tag="relay-gap"):
    """At a gateway: messages of a relay were lost on the way."""

    relay: str
    missing: Whole


class ReadingLeftOut(LogEvent, frozen=True, kw_only=True, tag="reading-left-out"):
    """At an environmental device: a board's reading from before this run was not sent."""

    board: str
    board_boot: int
    number: int


class SensorLies(LogEvent, frozen=True, kw_only=True, tag="sensor-lies"):
    """At a device: a reading of `board` (None: its own) is false, as `order` demands."""

    order: str
    number: Whole
    board: str | None = None
    board_boot: Whole | None = None


class Usage(LogEvent, frozen=True, kw_only=True, tag="usage"):
    """At any traced process: what it has used since its start. `sent` and `received`: messages and
    bytes by "party/kind"."""

    cpu_s: Amount
    rss_max_mb: Amount
    sent: dict[str, tuple[Count, Count]] = {}
    received: dict[str, tuple[Count, Count]] = {}
    signatures_made: Count = 0
    signatures_checked: Count = 0
    syncs: Count = 0
    syncs_s: Amount = 0.0


class EventsDropped(LogEvent, frozen=True, kw_only=True, tag="events-dropped"):
    """At any process: events could not be written (a full disk)."""

    count: Whole


class RunLine(msgspec.Struct, frozen=True, kw_only=True):
    """run.jsonl: what the orchestrator did, or that a host did not answer for `silent_s`."""

    t: Whole
    what: str
    host: str | None = None
    silent_s: int = 0
    phase: str | None = None
    start_ns: Whole | None = None
    settled: bool | None = None


class FaultLine(msgspec.Struct, frozen=True, kw_only=True):
    """faults.jsonl: one step of one event. `targets` are names of processes or hosts by selector
    key; `impaired` the replicas that are faulty from now on. `what` was seen at `seen_ns`."""

    t: Whole
    step: Literal["planned", "applied", "observed", "aborted", "healed", "verified"]
    event: str
    targets: dict[str, list[str]] = {}
    impaired: list[str] = []
    seen: bool = False
    what: str = ""
    seen_ns: Whole | None = None
    whole: bool = False


class AttackLine(msgspec.Struct, frozen=True, kw_only=True):
    """attacks.jsonl: one attempt. `trials` identify what was sent."""

    t: Whole
    id: str
    event: str
    trials: list[str] = []
    details: dict[str, Whole] = {}


class BrokerLine(msgspec.Struct, frozen=True, kw_only=True):
    """A line that a broker printed."""

    t_s: float
    event: str


class SerialFrame(msgspec.Struct, frozen=True, kw_only=True):
    """serial/<board>.log: what passed on the line, in hex, without the 0x00 that ends a frame."""

    t: Whole
    dir: str
    frame: str = ""


class _AnyEvent(msgspec.Struct, frozen=True):
    event: str


T = TypeVar("T", bound=msgspec.Struct)
_any_event = msgspec.json.Decoder(_AnyEvent)
_decoders = {  # by the name of the event
    str(kind.__struct_config__.tag): msgspec.json.Decoder(kind)
    for kind in LogEvent.__subclasses__()
}


def read_events(path: Path) -> tuple[list[LogEvent], int]:
    """The known events of one process's log, and the number of unreadable lines: a kill or a full
    disk may tear some."""
    found: list[LogEvent] = []
    unreadable = 0
    for line in _lines(path):
        try:
            decoder = _decoders.get(_any_event.decode(line).event)
            if decoder is not None:
                found.append(msgspec.structs.replace(decoder.decode(line), node=path.stem))
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
    return found, unreadable


def read_lines(path: Path, kind: type[T]) -> tuple[list[T], int]:
    """The lines of another log, and the number of unreadable ones."""
    decoder = msgspec.json.Decoder(kind)
    found: list[T] = []
    unreadable = 0
    for line in _lines(path):
        try:
            found.append(decoder.decode(line))
        except (msgspec.DecodeError, UnicodeDecodeError):
            unreadable += 1
    return found, unreadable


def _lines(path: Path) -> Iterator[bytes]:
    if path.exists():
        with path.open("rb") as stream:
            yield from stream
