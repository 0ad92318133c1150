"""What replicas note in their traces: each hop of a request and of its block, with its view."""

from __future__ import annotations

from collections import Counter

import pytest

from chain.block import Head
from gateway.hops import NO_TRACE, Hop, Trace
from nodes.events import NoEvents
from nodes.replica.phases import Phases
from tests.nodes.test_service import Bus, StoppableClock

AT_THE_CHOSEN_ONE = [Hop.ARRIVED, Hop.VERIFIED]
BLOCK = [
    Hop.PREPARED,
    Hop.SYNCED,
    Hop.COMMIT_SENT,
    Hop.COMMITTED,
    Hop.EXECUTED,
    Hop.SEALED,
]


class Kept(Trace):
    """Keeps what is noted: (hop, height or id, time, view, epoch)."""

    on = True

    def __init__(self) -> None:
        self.noted: list[tuple[Hop, int | bytes, int, int, int]] = []
        self._ns = 100

    def now_ns(self) -> int:
        self._ns += 1
        return self._ns

    def request(
        self, hop: Hop, request: bytes, at_ns: int = 0, view: int = 0, epoch: int = 0
    ) -> None:
        self.noted.append((hop, request, at_ns or self.now_ns(), view, epoch))

    def block(self, hop: Hop, height: int, at_ns: int = 0, view: int = 0, epoch: int = 0) -> None:
        self.noted.append((hop, height, at_ns or self.now_ns(), view, epoch))

    def hops(self) -> list[Hop]:
        return [hop for hop, *_ in self.noted]


def test_an_access_request_passes_every_hop_and_each_replica_notes_its_own() -> None:
    traces = [Kept() for _ in range(4)]
    bus = Bus(traces=traces)
    bus.admit()
    request = [*AT_THE_CHOSEN_ONE, Hop.FIRST_AUTHENTICATED, Hop.ENDORSED, Hop.PROPOSED]
    assert Counter(traces[0].hops()) == Counter([*request, *BLOCK])
    assert [hop for hop in traces[0].hops() if hop in request] == request
    for backup in traces[1:]:
        assert Counter(backup.hops()) == Counter([Hop.PRE_PREPARED, *BLOCK])
    for trace in traces:
        at_ns = {hop: at for hop, _, at, *_ in trace.noted}
        assert at_ns[Hop.PREPARED] < at_ns[Hop.SYNCED] < at_ns[Hop.COMMIT_SENT]
        assert at_ns[Hop.COMMITTED] < at_ns[Hop.EXECUTED] < at_ns[Hop.SEALED]
    assert next(at for hop, _, at, *_ in traces[0].noted if hop is Hop.ARRIVED) == 1


def test_data_need_no_authentication_group() -> None:
    traces = [Kept(), *[NO_TRACE] * 3]
    bus = Bus(traces=traces)
    bus.admit()
    assert isinstance(traces[0], Kept)
    traces[0].noted.clear()
    bus.data()
    assert Counter(traces[0].hops()) == Counter([*AT_THE_CHOSEN_ONE, Hop.PROPOSED, *BLOCK])


class LastEvent(NoEvents):
    def __init__(self) -> None:
        self.fields: dict[str, object] = {}

    def emit(self, event: str, **fields: object) -> None:
        self.fields = fields


@pytest.mark.parametrize("trace", [NO_TRACE, Kept()])
def test_times_of_two_primaries_are_never_mixed(trace: Trace) -> None:
    """A block that was proposed here in view 0 and again by the next primary: this replica is no
    proposer of it, and its times count from the second proposal. The trace keeps both apart."""
    last = LastEvent()
    phases = Phases(last, StoppableClock(), trace)
    for what, view in (("proposed", 0), ("pre-prepared", 1), ("prepared", 1), ("committed", 1)):
        phases.observe(what, view, 5, 0)  # type: ignore[arg-type]
    head = Head(bytes(32), 5, 1, bytes(32), bytes(32), bytes(32), epoch=0, view=0, count=1)
    phases.executed(head)
    assert "proposed_us" not in last.fields
    assert last.fields["pre_prepared_us"] == 0
    if isinstance(trace, Kept):
        assert [(hop, view) for hop, _, _, view, _ in trace.noted] == [
            (Hop.PROPOSED, 0),
            (Hop.PRE_PREPARED, 1),
            (Hop.PREPARED, 1),
            (Hop.COMMITTED, 1),
            (Hop.EXECUTED, 1),
        ]
