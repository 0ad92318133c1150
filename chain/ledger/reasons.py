"""Why the chain refuses an operation: a closed set of short stable words.

A record's status and a signed denial carry one of them. The README lists them by operation.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = ["LATER_REASONS", "REASONS", "Reason"]

Reason = Literal[
    "board",
    "board-revoked",
    "board-taken",
    "change-pending",
    "counter",
    "endorsements",
    "expired-voucher",
    "expired",
    "factory-barred",
    "factory-chain",
    "factory-early",
    "factory-expired",
    "kind",
    "known-node",
    "last-administrators",
    "known-root",
    "known-voucher",
    "not-administrator",
    "not-device",
    "not-environment",
    "privilege",
    "quota",
    "registry-full",
    "renewed",
    "replay",
    "replica-used",
    "revoked",
    "service",
    "session",
    "sessions",
    "stale-head",
    "too-few-replicas",
    "too-many-administrators",
    "too-many-pending",
    "too-many-replicas",
    "unknown-head",
    "unknown-node",
    "unknown-replica",
    "unknown-root",
    "unknown-target",
    "unknown-voucher",
    "used-voucher",
    "validity",
    "withdrawn-voucher",
]

REASONS: Final[frozenset[str]] = frozenset(get_args(Reason))

# A later block may still change these; the others stay.
LATER_REASONS = frozenset({"unknown-node", "unknown-head", "unknown-voucher", "factory-early"})
