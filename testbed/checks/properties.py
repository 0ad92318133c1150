"""Safety and liveness, judged from stored chains, device receipts and wall times.

Each property has its verdict and a text about the findings. A replica's statement counts only if
its signature or its hash chain binds the replica to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from chain.genesis import Genesis
from testbed.checks.authority import unauthorised
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import LedgerReport
from testbed.checks.logs import DataAdded, DeviceAdmitted
from testbed.checks.records import Chain, Entry, board_readings

__all__ = [
    "Property",
    "agreement",
    "durability",
    "exactly_once",
    "no_unauthorised_commit",
    "safety",
    "validity",
]

NAMED_MAX = 3  # examples in a detail


class Property(msgspec.Struct, frozen=True, kw_only=True):
    """`detail` describes the check, or the break. `held` is None if it cannot be judged."""

    name: str
    held: bool | None
    detail: str


def safety(evidence: Evidence, ledger: LedgerReport) -> tuple[Property, ...]:
    """All safety properties of honest replicas, also those that the campaign does not list."""
    return (
        agreement(evidence.chains),
        validity(ledger),
        exactly_once(evidence.longest),
        no_unauthorised_commit(evidence.genesis, evidence.longest),
        durability(evidence, evidence.chains),
    )


def agreement(chains: Sequence[Chain]) -> Property:
    """Equal heads at each common height, and so equal prefixes: heads are linked by hash."""
    seen: dict[int, dict[bytes, str]] = {}
    forks = []
    for chain in chains:
        for head in chain.heads:
            heads = seen.setdefault(head.height, {})
            if heads and head.hash not in heads:
                other = next(iter(heads.values()))
                forks.append(f"{other} and {chain.name} differ at height {head.height}")
            heads.setdefault(head.hash, chain.name)
    held = not forks and bool(chains)
    heights = ", ".join(f"{chain.name} {chain.height}" for chain in chains)
    return Property(
        name="agreement", held=held, detail=_examples(forks) or f"heights: {heights or 'none'}"
    )


def validity(ledger: LedgerReport) -> Property:
    """Every operation was signed by its client, and every block follows from them."""
    found = [str(finding) for finding in ledger.findings]
    records = max((file.records for file in ledger.files), default=0)
    detail = f"{records} records verified from genesis"
    if ledger.pruned:
        below = min(file.pruned_to for file in ledger.files if file.pruned)
        detail = (
            f"not judged: the ledgers are pruned up to height {below}: nobody saw payload and "
            f"signature of {ledger.pruned} of {records} records"
        )
    return Property(
        name="validity",
        held=None if ledger.holds and ledger.pruned else ledger.holds,
        detail=_examples(found) or detail,
    )


def exactly_once(chain: Chain) -> Property:
    """No request and no board reading takes effect twice; the counters of a node rise strictly."""
    wrong = []
    requests: set[bytes] = set()
    counters: dict[bytes, int] = {}
    for entry in chain.entries:
        if not entry.took_effect:
            continue
        if entry.statement.request in requests:
            wrong.append(f"{_where(entry)}: request {entry.statement.request.hex()[:16]} again")
        requests.add(entry.statement.request)
        signer = entry.statement.by or entry.statement.node
        counter = entry.statement.counter
        if counter is not None:
            if counter <= counters.get(signer, 0):
                wrong.append(f"{_where(entry)}: counter {counter} of {signer.hex()[:16]} again")
            counters[signer] = counter
    wrong += [f"{reading} {count} times" for reading, count in repeated_readings(chain).items()]
    detail = f"{len(requests)} requests, each once"
    pruned = [entry.height for entry in chain.entries if entry.pruned]
    if pruned:
        what = f"pruned up to height {pruned[-1]}: their readings are not known"
        detail += f"; {len(pruned)} of them are {what}"
    return Property(
        name="exactly-once",
        held=None if pruned and not wrong else not wrong,
        detail=_examples(wrong) or detail,
    )


def repeated_readings(chain: Chain) -> dict[tuple[str, int, int], int]:
    """(board, boot, number) of readings that are on the chain more than once, and how often."""
    counts = Counter(reading for _, reading in board_readings(chain.entries))
    return {reading: count for reading, count in counts.items() if count > 1}


def no_unauthorised_commit(genesis: Genesis, chain: Chain) -> Property:
    """Nothing took effect without its signer's right to it (`authority`)."""
    found = [f"{_where(entry)}: {reason}" for entry, reason in unauthorised(genesis, chain)]
    effective = sum(entry.took_effect for entry in chain.entries)
    return Property(
        name="no-unauthorised-commit",
        held=not found,
        detail=_examples(found) or f"{effective} records took effect, each by right",
    )


def durability(evidence: Evidence, chains: Sequence[Chain], kept: str = "on the chain") -> Property:
    """Every request for which a device holds a receipt is on every chain that is high enough."""
    receipts = {event.id: event.node for event in evidence.events(DeviceAdmitted)}
    receipts |= {event.id: event.node for event in evidence.events(DataAdded)}
    stored = [
        {entry.statement.request.hex(): entry.height for entry in chain.entries} for chain in chains
    ]
    heights: dict[str, int] = {}
    for requests in stored:
        heights = requests | heights
    missing = []
    for request, node in receipts.items():
        if request not in heights:
            missing.append(f"{node} holds a receipt for {request[:16]}, which is on no chain")
        for chain, requests in zip(chains, stored, strict=True):
            if request not in requests and heights.get(request, chain.height + 1) <= chain.height:
                missing.append(f"{chain.name} lacks {request[:16]}, receipted to {node}")
    return Property(
        name="durability",
        held=not missing,
        detail=_examples(missing) or f"{len(receipts)} receipts, all {kept}",
    )


def _where(entry: Entry) -> str:
    return f"record {entry.index} of height {entry.height}"


def _examples(found: Sequence[str]) -> str:
    more = f" (and {len(found) - NAMED_MAX} more)" if len(found) > NAMED_MAX else ""
    return "; ".join(found[:NAMED_MAX]) + more
