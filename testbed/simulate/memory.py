"""Measures how much a replica remembers: the values in its core, endorser and clients.

A count is cheaper than bytes and the same on every machine. The ledger and the verifier's caches
are left out: they have their own limits and tests.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec

from nodes.replica.service import Service

__all__ = ["values_held", "values_held_max"]

_ATOMS = (int, str, bytes, bool, float, type(None))
_VALUES_PER_SLOT_AND_REPLICA = 20
_VALUES_PER_CERTIFIED_VOTE = 16
_VALUES_ELSEWHERE = 1000


def values_held(service: Service) -> int:
    """Values reachable from the replica's own state, each counted once."""
    application = id(service.ledger)
    seen = {application}
    count = 0
    waiting: list[object] = [service.core, service._endorser, service.clients]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _ATOMS):
            count += 1
            continue
        if id(value) in seen:
            continue
        seen.add(id(value))
        count += 1
        waiting.extend(_parts(value))
    return count


def _parts(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return (*value.keys(), *value.values())
    if isinstance(value, list | tuple | set | frozenset | deque):
        return value
    if isinstance(value, msgspec.Struct):
        return [getattr(value, name) for name in value.__struct_fields__]
    if type(value).__module__.startswith("chain."):
        slots = getattr(type(value), "__slots__", ())
        return [getattr(value, name) for name in slots] or list(vars(value).values())
    return ()


def values_held_max(service: Service) -> int:
    """The bound. The log has up to two windows of slots with a few values per replica each. Each
    replica's newest VIEW-CHANGE has a certificate of q votes for each number of one window."""
    consensus = service.ledger.genesis.consensus
    quorum = service.core.membership.quorum
    slots = 2 * consensus.log_window + consensus.pipeline_window
    log = slots * quorum.n * _VALUES_PER_SLOT_AND_REPLICA
    certified = quorum.n * consensus.log_window * quorum.strong
    return _VALUES_ELSEWHERE + log + certified * _VALUES_PER_CERTIFIED_VOTE
