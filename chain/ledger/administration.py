"""What administrators do, m of n together; and revocation by whom it concerns.

Part of the `registry`, in the same shape as `admission`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chain.genesis import VoucherGrant
from chain.keys import node_id
from chain.ledger.admission import certificate_fields
from chain.ledger.identity import Identity
from chain.ledger.operations import (
    AddAdministrator,
    AddReplica,
    AddVoucher,
    Grant,
    RemoveReplica,
    Revoke,
)
from chain.ledger.reasons import Reason
from chain.ledger.tables import ADMIN, At, Tables

__all__ = [
    "add_admin",
    "add_voucher",
    "admin_refusal",
    "admin_subject",
    "change_replicas",
    "grant",
    "grant_refusal",
    "grant_subject",
    "is_own",
    "replica_refusal",
    "replica_subject",
    "revoke",
    "revoke_agreed",
    "revoke_refusal",
    "revoke_subject",
    "voucher_refusal",
]

ADMINISTRATORS_MAX = 64  # in force
VOUCHERS_MAX = 1_000_000


def is_own(tables: Tables, operation: Revoke, signer: Identity) -> bool:
    """True if the signer revokes its own device or a board that it sponsors: no administrator is
    needed."""
    if tables.device(operation.target) == signer.device:
        return True
    board = tables.boards.get(operation.target)
    return board is not None and board.sponsor == signer.device


def revoke_refusal(tables: Tables, operation: Revoke, signer: Identity) -> Reason | None:
    identity = tables.newest_of(operation.target)
    if identity is not None:
        if identity.ended is not None:
            return identity.ended
        if identity.kind == ADMIN and len(tables.administrators) <= tables.policy.admins_needed:
            return "last-administrators"
        return None
    board = tables.boards.get(operation.target)
    if board is None:
        return "unknown-target"
    return None if board.revoked_height is None else "revoked"


def revoke(tables: Tables, operation: Revoke, signer: Identity, at: At) -> dict[str, Any]:
    """Takes effect in the next block. A revoked device never comes back under any of its keys."""
    identity = tables.newest_of(operation.target)
    if identity is None:
        board = tables.boards[operation.target]
        board.revoked_height = at.height
        return {"certificate": board.serial}
    identity.ended, identity.ended_height, identity.sessions = "revoked", at.height, {}
    tables.administrators.discard(identity.node)
    return {"node": identity.node, "certificate": identity.serial, "key": identity.key}


def revoke_agreed(tables: Tables, operation: Revoke) -> Revoke:
    """Approvals count for the device, whatever key it has by then and whatever the reason."""
    target = tables.device(operation.target) or operation.target
    return msgspec.structs.replace(operation, target=target, reason="-")


def revoke_subject(tables: Tables, operation: Revoke) -> dict[str, Any]:
    mine = operation.target == operation.node
    about = {"by": None if mine else operation.node, "reason": operation.reason}
    others = {} if mine else {"privilege": None, "key": None, "certificate": None}
    return about | others | {"node": operation.target}


def admin_refusal(tables: Tables, operation: AddAdministrator, signer: Identity) -> Reason | None:
    if node_id(operation.key) in tables.identities:
        return "known-node"
    return "too-many-administrators" if len(tables.administrators) >= ADMINISTRATORS_MAX else None


def add_admin(
    tables: Tables, operation: AddAdministrator, signer: Identity, at: At
) -> dict[str, Any]:
    tables.add_administrator(operation.key)
    return {}


def admin_subject(tables: Tables, operation: AddAdministrator) -> dict[str, Any]:
    return {
        "node": node_id(operation.key),
        "by": operation.node,
        "privilege": None,
        "key": operation.key,
        "certificate": None,
    }


def grant_refusal(tables: Tables, operation: Grant, signer: Identity) -> Reason | None:
    identity = tables.identities.get(operation.target)
    if identity is None or identity.kind == ADMIN:
        return "unknown-target"
    if identity.ended is not None:
        return identity.ended
    if not set(operation.services) <= set(tables.policy.services):
        return "service"
    return None


def grant(tables: Tables, operation: Grant, signer: Identity, at: At) -> dict[str, Any]:
    identity = tables.identities[operation.target]
    identity.privilege, identity.services = operation.privilege, operation.services
    identity.prior, identity.serial = identity.serial, at.serial
    return certificate_fields(identity) | {
        "key": identity.key,
        "kind": identity.kind,
        "service": identity.services[0],
    }


def voucher_refusal(tables: Tables, operation: AddVoucher, signer: Identity) -> Reason | None:
    if operation.voucher in tables.vouchers:
        return "known-voucher"
    if len(tables.vouchers) >= VOUCHERS_MAX:
        return "registry-full"
    if not set(operation.services) <= set(tables.policy.services):
        return "service"
    return None


def add_voucher(tables: Tables, operation: AddVoucher, signer: Identity, at: At) -> dict[str, Any]:
    tables.vouchers[operation.voucher] = VoucherGrant(
        id=operation.voucher, privilege_max=operation.privilege, services=operation.services
    )
    return {}


def grant_subject(tables: Tables, operation: Grant | AddVoucher) -> dict[str, Any]:
    return {
        "node": operation.target if isinstance(operation, Grant) else operation.voucher,
        "by": operation.node,
        "privilege": operation.privilege,
        "services": operation.services,
        "key": None,
        "certificate": None,
    }


def replica_refusal(
    tables: Tables, operation: AddReplica | RemoveReplica, signer: Identity
) -> Reason | None:
    return tables.epochs.refusal(operation.replica, _key(operation))


def change_replicas(
    tables: Tables, operation: AddReplica | RemoveReplica, signer: Identity, at: At
) -> dict[str, Any]:
    change = tables.epochs.change(operation.replica, _key(operation), at.height)
    return {"epoch": change.epoch, "boundary": tables.epochs.boundary}


def replica_subject(tables: Tables, operation: AddReplica | RemoveReplica) -> dict[str, Any]:
    return {"replica": operation.replica, "key": _key(operation), "certificate": None}


def _key(operation: AddReplica | RemoveReplica) -> bytes | None:
    return operation.key if isinstance(operation, AddReplica) else None
