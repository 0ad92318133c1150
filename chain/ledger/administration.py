"""What administrators do, m of n together; and revocation by whom it concerns.

Part of the `registry`, in the same shape as `admission`.
"""

from __future__ import annotations

from typing import Any

from chain.genesis import VoucherGrant
from chain.ledger.admission import certificate_fields
from chain.ledger.identity import Identity
from chain.ledger.operations import AddReplica, AddVoucher, Grant, RemoveReplica, Revoke
from chain.ledger.state import ADMIN, At, State

__all__ = [
    "add_voucher",
    "change_replicas",
    "grant",
    "grant_refusal",
    "is_own",
    "replica_refusal",
    "revoke",
    "revoke_refusal",
    "voucher_refusal",
]

VOUCHERS_MAX = 1_000_000


def is_own(state: State, operation: Revoke, signer: Identity) -> bool:
    """True if the signer revokes itself or a board that it sponsors: no administrator needed."""
    if operation.target == signer.node:
        return True
    board = state.boards.get(operation.target)
    return board is not None and board.sponsor == signer.device


def revoke_refusal(state: State, operation: Revoke) -> str | None:
    identity = state.identities.get(operation.target)
    if identity is not None:
        return identity.ended
    board = state.boards.get(operation.target)
    if board is None:
        return "unknown-target"
    return None if board.revoked_height is None else "revoked"


def revoke(state: State, operation: Revoke, at: At) -> dict[str, Any]:
    """Takes effect in the next block. A revoked key never comes back."""
    identity = state.identities.get(operation.target)
    if identity is None:
        board = state.boards[operation.target]
        board.revoked_height = at.height
        return {"certificate": board.serial}
    identity.ended, identity.ended_height, identity.sessions = "revoked", at.height, {}
    return {"certificate": identity.serial, "key": identity.key}


def grant_refusal(state: State, operation: Grant) -> str | None:
    identity = state.identities.get(operation.target)
    if identity is None or identity.kind == ADMIN:
        return "unknown-target"
    if identity.ended is not None:
        return identity.ended
    if not set(operation.services) <= set(state.policy.services):
        return "service"
    return None


def grant(state: State, operation: Grant, at: At) -> dict[str, Any]:
    identity = state.identities[operation.target]
    identity.privilege, identity.services = operation.privilege, operation.services
    identity.prior, identity.serial = identity.serial, at.serial
    return certificate_fields(identity) | {
        "key": identity.key,
        "kind": identity.kind,
        "service": identity.services[0],
    }


def voucher_refusal(state: State, operation: AddVoucher) -> str | None:
    if operation.voucher in state.vouchers:
        return "known-voucher"
    if len(state.vouchers) >= VOUCHERS_MAX:
        return "registry-full"
    if not set(operation.services) <= set(state.policy.services):
        return "service"
    return None


def add_voucher(state: State, operation: AddVoucher, at: At) -> dict[str, Any]:
    state.vouchers[operation.voucher] = VoucherGrant(
        id=operation.voucher, privilege_max=operation.privilege, services=operation.services
    )
    return {}


def replica_refusal(state: State, operation: AddReplica | RemoveReplica) -> str | None:
    key = operation.key if isinstance(operation, AddReplica) else None
    return state.epochs.refusal(operation.replica, key)


def change_replicas(state: State, operation: AddReplica | RemoveReplica, at: At) -> dict[str, Any]:
    key = operation.key if isinstance(operation, AddReplica) else None
    change = state.epochs.change(operation.replica, key, at.height)
    return {"epoch": change.epoch, "boundary": state.epochs.boundary}
