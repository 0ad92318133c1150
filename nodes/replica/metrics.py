"""A replica's metrics for Prometheus: counters that it keeps anyway."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nodes.metrics import Metric, one
from nodes.ports import Party
from nodes.replica.event_loop import EventLoop
from nodes.replica.service import Service
from nodes.wire.tls_wire import TlsWire

__all__ = ["replica_metrics"]


def replica_metrics(
    service: Service, event_loop: EventLoop, wire: TlsWire, names: Mapping[int, str]
) -> Iterator[Metric]:
    """`names` of replicas; gateways are parties by their names."""
    core = service.core
    yield one("height", "gauge", "The newest block that it has executed.", service.ledger.height)
    yield one("view", "gauge", "Its view: who is primary.", core.view)
    yield one("epoch", "gauge", "Its epoch: who is a member.", core.epoch)
    yield one("links", "gauge", "Replicas and gateways that it is linked to.", len(wire.connected))
    yield one("syncs", "counter", "Syncs of its store to the disk.", event_loop.syncs)
    yield one("sync_seconds", "counter", "Time spent in them.", event_loop.syncs_s)

    def by_peer(counts: Mapping[Party, int]) -> dict[str, float]:
        return {
            (names.get(party) if isinstance(party, int) else None) or str(party): float(count)
            for party, count in counts.items()
        }

    heard, unsent = by_peer(wire.heard()), by_peer(wire.dropped())
    yield Metric("frames_heard", "counter", "Frames that came from a peer.", heard, "peer")
    yield Metric("frames_unsent", "counter", "Frames that were dropped unsent.", unsent, "peer")
    refused: dict[str, float] = {}
    for (_, code), count in dict(service.faults).items():
        refused[code] = refused.get(code, 0.0) + count
    yield Metric("frames_refused", "counter", "Frames that were refused.", refused, "reason")
