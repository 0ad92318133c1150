"""Why the chain refuses an operation: a closed set of short stable words.

A record's status and a signed denial carry one of them. The README lists who gets which.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["LATER_REASONS", "Reason"]

Reason = Literal[
    "board",
    "board-revoked",
    "board-taken",
    "change-pending",
    "counter",
    "endorsements",
    "expired",
    "factory-chain",
    "factory-early",
    "factory-expired",
    "known-node",
    "last-administrators",
    "known-voucher",
    "not-administrator",
    "not-device",
    "not-environment",
    "privilege",
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
    "unknown-target",
    "unknown-voucher",
    "used-voucher",
    "validity",
]

# A later block may still change these; the others stay.
LATER_REASONS = frozenset({"unknown-node", "unknown-head", "unknown-voucher", "factory-early"})
