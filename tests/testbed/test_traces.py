"""Traces laid together: one path per operation, clocks with their bound, nothing made up."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from gateway.hops import Hop
from nodes.trace_file import MAGIC, RECORD, Mark, TraceFile
from testbed.checks.conditions import ClockLine, ConditionLine
from testbed.traces.clocks import Clocks
from testbed.traces.paths import RECORDS_MAX, Traces, read_traces, steps
from testbed.traces.read import LIVES_MAX
from tests.testbed.test_conditions import FINE, LIMITS

MS = 1_000_000
REQUEST = bytes(7) + b"\x05" + bytes(24)
NOTHING = Clocks([], [])
# One machine each: its boot, and how far its monotonic clock is behind the orchestrator's wall.
BASES = {"a": 1_000_000 * MS, "b": 5_000_000 * MS}


def readings(
    host: str, *at_ms: int, bound_ms: float = 0.5, step_ms: int = 0, step_at_ms: int = 0
) -> tuple[list[ClockLine], list[ConditionLine]]:
    """Of a host whose boot has its name. From `step_at_ms` on the orchestrator's wall clock is
    `step_ms` ahead of what it was."""
    clocks, looks = [], []
    for ms in at_ms:
        stepped_ns = step_ms * MS if ms >= step_at_ms else 0
        base_ns = BASES[host] + stepped_ns
        t_ns = BASES["a"] + ms * MS + stepped_ns
        offset_ms = 7.0  # of the host's wall clock; it drops out
        clocks.append(
            ClockLine(
                t=t_ns,
                host=host,
                offset_ms=offset_ms,
                bound_ms=bound_ms,
                wall_minus_monotonic_ns=base_ns + round(offset_ms * MS),
            )
        )
        seen = msgspec.structs.replace(FINE, boot=host)
        looks.append(ConditionLine(t=t_ns, host=host, limits=LIMITS, seen=seen))
    return clocks, looks


def two_hosts(**fields: float) -> Clocks:
    clocks, looks = [], []
    for host in BASES:
        found = readings(host, 0, 5_000, 10_000, **fields)  # type: ignore[arg-type]
        clocks += found[0]
        looks += found[1]
    return Clocks(clocks, looks)


def later(host: str, ms: float) -> int:
    """On `host`'s clock: the moment at which the clock of "a" is at `ms`."""
    return round(ms * MS) + BASES["a"] - BASES[host]


def test_on_one_machine_every_duration_is_exact() -> None:
    assert NOTHING.span("a", 5, "a", 12) == (7, 0, "known")


def test_between_machines_a_duration_has_the_bound_of_both_clocks() -> None:
    took_ns, bound_ns, state = two_hosts().span("a", 3_000 * MS, "b", later("b", 3_004))
    assert (took_ns, bound_ns, state) == (4 * MS, 1 * MS, "known")


def test_what_lies_below_the_bound_is_unresolvable() -> None:
    assert two_hosts().span("a", 3_000 * MS, "b", later("b", 3_000.9)).state == "unresolvable"


@pytest.mark.parametrize("clocks", [NOTHING, Clocks(*readings("a", 0, 5_000))])
def test_without_a_reading_of_both_hosts_it_is_not_known(clocks: Clocks) -> None:
    assert clocks.span("a", 3_000 * MS, "b", later("b", 3_004)).state == "unknown"


def test_a_clock_step_makes_what_lies_around_it_unknown_and_nothing_else() -> None:
    clocks = two_hosts(step_ms=400, step_at_ms=5_000)
    assert clocks.span("a", 3_000 * MS, "b", later("b", 3_004)).state == "unknown"
    assert clocks.span("a", 3_000 * MS, "a", 3_004 * MS).state == "known"
    after = clocks.span("a", 7_000 * MS, "b", later("b", 7_004))
    assert (after.took_ns, after.state) == (4 * MS, "known")


def test_far_from_any_reading_the_bound_grows_as_clocks_drift() -> None:
    near = two_hosts().span("a", 10_000 * MS, "b", later("b", 10_004))
    far = two_hosts().span("a", 70_000 * MS, "b", later("b", 70_004))
    assert far.bound_ns > near.bound_ns + 50 * MS
    assert far.state == "unresolvable"


def test_a_hop_passed_before_the_one_in_front_of_it_took_no_time() -> None:
    order = (Hop.PREPARED, Hop.SYNCED, Hop.COMMITTED)
    at = {Hop.PREPARED: 10, Hop.COMMITTED: 11, Hop.SYNCED: 15}
    assert steps(order, at) == [(Hop.SYNCED, 5), (Hop.COMMITTED, 0)]
    assert steps(order, {}) == []


def put_together(tmp_path: Path, *noted: tuple[str, Hop, int, int]) -> Traces:
    """(process, hop, time, view); heights are 1."""
    files: dict[str, TraceFile] = {}
    for process, hop, at_ns, view in noted:
        if process not in files:
            files[process] = TraceFile(tmp_path / f"{process}.bin")
        if hop < Hop.PROPOSED or hop > Hop.SEALED:
            files[process].request(hop, REQUEST, at_ns, view)
        else:
            files[process].block(hop, 1, at_ns, view)
    for each in files.values():
        each.close()
    return read_traces(sorted(tmp_path.glob("*.bin")))


def test_the_relay_and_the_gateway_that_passed_it_on_first_count(tmp_path: Path) -> None:
    traces = put_together(
        tmp_path,
        ("phone", Hop.INTENDED, 10, 0),
        ("phone", Hop.SENT, 20, 0),
        ("relay1", Hop.RELAY_IN, 22, 0),  # it drops the message
        ("relay2", Hop.RELAY_IN, 30, 0),
        ("relay2", Hop.RELAY_OUT, 33, 0),
        ("gw2", Hop.GATEWAY_IN, 41, 0),
        ("gw2", Hop.RECEIPT, 99, 0),
        ("gw1", Hop.GATEWAY_IN, 40, 0),
        ("gw1", Hop.RECEIPT, 90, 0),
        ("phone", Hop.ANSWERED, 95, 0),
    )
    found = traces.path(REQUEST, None, NOTHING)
    assert [(each.hop, each.process, each.took_ns) for each in found] == [
        (Hop.SENT, "phone", 10),
        (Hop.RELAY_IN, "relay2", 10),
        (Hop.RELAY_OUT, "relay2", 3),
        (Hop.GATEWAY_IN, "gw1", 7),
        (Hop.RECEIPT, "gw1", 50),
        (Hop.ANSWERED, "phone", 5),
    ]


def test_after_a_view_change_the_last_proposal_counts(tmp_path: Path) -> None:
    traces = put_together(
        tmp_path,
        ("r1", Hop.ARRIVED, 5, 0),
        ("r1", Hop.PROPOSED, 10, 0),
        ("r2", Hop.PRE_PREPARED, 12, 0),
        ("r2", Hop.PROPOSED, 500, 1),
        ("r2", Hop.PREPARED, 510, 1),
        ("r2", Hop.EXECUTED, 540, 1),
        ("r1", Hop.PRE_PREPARED, 505, 1),
        ("r1", Hop.EXECUTED, 530, 1),
    )
    path = traces.path(REQUEST, 1, NOTHING)
    assert [(each.hop, each.process, each.view) for each in path] == [
        (Hop.PROPOSED, "r2", 1),
        (Hop.PREPARED, "r2", 1),
        (Hop.EXECUTED, "r2", 1),
    ]
    of_r1 = [each for each in traces.block_steps() if each.replica == "r1"]
    assert [(each.hop, each.view, each.took_ns) for each in of_r1] == [(Hop.EXECUTED, 1, 25)]


def test_what_is_not_in_the_sample_has_no_path(tmp_path: Path) -> None:
    traces = put_together(tmp_path, ("r1", Hop.PROPOSED, 10, 0))
    assert traces.path(bytes(32), 1, NOTHING) == []
    assert traces.every == 1
    assert read_traces([]).every is None


def test_a_file_that_is_no_trace_is_a_problem_and_the_others_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"nonsense")
    traces = put_together(tmp_path, ("r1", Hop.PROPOSED, 10, 0))
    assert "a.bin: not a trace" in traces.problems[0]
    assert list(traces.blocks) == [1]


def test_a_strangers_trace_takes_neither_time_nor_memory_without_end(tmp_path: Path) -> None:
    """Every traced operation of a block looks at what was noted of it: one mark of each process,
    however often it is in the file."""
    start = RECORD.pack(Mark.START, 0, 0, 1, 1)
    again = b"".join(RECORD.pack(Hop.PROPOSED, 0, 0, at_ns, 7) for at_ns in range(1000, 0, -1))
    (tmp_path / "r1.bin").write_bytes(MAGIC + start + again)
    (tmp_path / "r2.bin").write_bytes(MAGIC + start * (LIVES_MAX + 1))
    for name in ("r3", "r4"):
        with (tmp_path / f"{name}.bin").open("wb") as file:
            file.truncate((RECORDS_MAX // 2 + 1) * RECORD.size)
    traces = read_traces(sorted(tmp_path.glob("*.bin")))
    assert [mark.at_ns for mark in traces.blocks[7][Hop.PROPOSED].values()] == [1]
    for part in ("r2.bin", f"more than {LIVES_MAX} starts", "r4 and what follows"):
        assert part in " ".join(traces.problems)


def test_a_time_from_the_orchestrator_to_a_host_has_the_bound_of_that_host() -> None:
    """As recovery from healing has."""
    clocks = two_hosts()
    wall_ns = BASES["a"] + 3_000 * MS  # the orchestrator's, when the clock of "a" is at 3,000
    found = clocks.since(wall_ns, "b", later("b", 3_004))
    assert (found.took_ns, found.bound_ns, found.state) == (4 * MS, 0.5 * MS, "known")
    assert clocks.since(wall_ns, "b", later("b", 3_000.4)).state == "unresolvable"
    assert clocks.since(wall_ns, "nowhere", 5).state == "unknown"


def test_a_time_over_a_step_of_the_orchestrator_s_clock_is_not_known() -> None:
    clocks = two_hosts(step_ms=400, step_at_ms=5_000)
    wall_ns = BASES["a"] + 3_000 * MS
    assert clocks.since(wall_ns, "b", later("b", 3_004)).state == "unknown"
    assert clocks.since(wall_ns - 3_000 * MS, "b", later("b", 7_000)).state == "unknown"
    after = clocks.since(wall_ns + 4_400 * MS, "b", later("b", 7_004))
    assert (after.took_ns, after.state) == (4 * MS, "known")
