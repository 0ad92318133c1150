"""The operations of administrators, m of n together; and revocation by a party of itself.

Part of the `registry`, in the same shape as `admission`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chain.genesis import FactoryRoot, VoucherGrant
from chain.keys import digest, node_id
from chain.ledger.admission import certificate_fields
from chain.ledger.factory import is_root
from chain.ledger.identity import Identity
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    Grant,
    RemoveReplica,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.reasons import Reason
from chain.ledger.tables import ADMIN, At, Tables

__all__ = [
    "ADMINISTRATORS_MAX",
    "add_admin",
    "add_root",
    "add_voucher",
    "admin_refusal",
    "bar",
    "bar_refusal",
    "change_replicas",
    "device_agreed",
    "grant",
    "grant_refusal",
    "is_own",
    "no_root_refusal",
    "replica_refusal",
    "replica_subject",
    "revoke",
    "revoke_refusal",
    "revoke_subject",
    "root_refusal",
    "voucher_refusal",
    "withdraw_refusal",
    "withdraw_root",
    "withdraw_voucher",
]

ADMINISTRATORS_MAX = 64  # in force
VOUCHERS_MAX = 1_000_000  # also the most factory identities that are barred
ROOTS_MAX = 64


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
    # Administrators may still bar a board that its sponsor revoked.
    may_bar = signer.kind == ADMIN and not board.barred
    return None if board.revoked_height is None or may_bar else "revoked"


def revoke(tables: Tables, operation: Revoke, signer: Identity, at: At) -> dict[str, Any]:
    """Takes effect in the next block. A revoked device never comes back under any of its keys, and
    neither does a board that administrators revoked. A board that its sponsor revoked may get
    another sponsor."""
    identity = tables.newest_of(operation.target)
    if identity is None:
        board = tables.boards[operation.target]
        board.revoked_height, board.barred = at.height, signer.kind == ADMIN
        return {"certificate": board.serial}
    tables.revoke(identity, at.height)
    return {"node": identity.node, "certificate": identity.serial, "key": identity.key}


def device_agreed(tables: Tables, operation: Grant | Revoke) -> Grant | Revoke:
    """Approvals for one device count together, even if its key changes meanwhile. Approvals of a
    revocation count together even if their reasons differ."""
    target = tables.device(operation.target) or operation.target
    if isinstance(operation, Revoke):
        return msgspec.structs.replace(operation, target=target, reason="-")
    return msgspec.structs.replace(operation, target=target)


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


def grant_refusal(tables: Tables, operation: Grant, signer: Identity) -> Reason | None:
    identity = tables.newest_of(operation.target)
    if identity is None or identity.kind == ADMIN:
        return "unknown-target"
    if identity.ended is not None:
        return identity.ended
    return _unknown_service(tables, operation.services)


def grant(tables: Tables, operation: Grant, signer: Identity, at: At) -> dict[str, Any]:
    identity = tables.newest_of(operation.target)
    assert identity is not None, "grant_refusal"
    identity.privilege, identity.services = operation.privilege, operation.services
    identity.prior, identity.serial = identity.serial, at.serial
    return certificate_fields(identity) | {
        "node": identity.node,
        "key": identity.key,
        "kind": identity.kind,
        "service": identity.services[0],
    }


def voucher_refusal(tables: Tables, operation: AddVoucher, signer: Identity) -> Reason | None:
    if operation.voucher in tables.vouchers:
        return "known-voucher"
    if len(tables.vouchers) >= VOUCHERS_MAX:
        return "registry-full"
    return _unknown_service(tables, operation.services)


def add_voucher(tables: Tables, operation: AddVoucher, signer: Identity, at: At) -> dict[str, Any]:
    tables.vouchers[operation.voucher] = VoucherGrant(
        id=operation.voucher,
        kind=operation.kind,
        privilege_max=operation.privilege,
        services=operation.services,
        not_after_us=operation.not_after_us,
    )
    return {"kind": operation.kind, "not_after_us": operation.not_after_us}


def withdraw_refusal(tables: Tables, operation: WithdrawVoucher, signer: Identity) -> Reason | None:
    if operation.voucher not in tables.vouchers:
        return "unknown-voucher"
    if operation.voucher in tables.withdrawn:
        return "withdrawn-voucher"
    return "used-voucher" if operation.voucher in tables.used else None


def withdraw_voucher(
    tables: Tables, operation: WithdrawVoucher, signer: Identity, at: At
) -> dict[str, Any]:
    """Its place in the table stays taken: a withdrawn voucher is never added again."""
    tables.withdrawn.add(operation.voucher)
    return {}


def root_refusal(tables: Tables, operation: AddFactoryRoot, signer: Identity) -> Reason | None:
    if digest(operation.certificate) in tables.roots:
        return "known-root"
    if len(tables.roots) >= ROOTS_MAX:
        return "registry-full"
    if not is_root(operation.certificate):
        return "factory-chain"
    return _unknown_service(tables, operation.services)


def add_root(tables: Tables, operation: AddFactoryRoot, signer: Identity, at: At) -> dict[str, Any]:
    root = FactoryRoot(
        certificate=operation.certificate,
        kinds=operation.kinds,
        privilege_max=operation.privilege,
        services=operation.services,
    )
    tables.roots[digest(operation.certificate)] = root
    return {}


def no_root_refusal(
    tables: Tables, operation: WithdrawFactoryRoot, signer: Identity
) -> Reason | None:
    return None if operation.root in tables.roots else "unknown-root"


def withdraw_root(
    tables: Tables, operation: WithdrawFactoryRoot, signer: Identity, at: At
) -> dict[str, Any]:
    del tables.roots[operation.root]
    return {}


def bar_refusal(tables: Tables, operation: BarFactory, signer: Identity) -> Reason | None:
    if operation.factory in tables.barred:
        return "factory-barred"
    return "registry-full" if len(tables.barred) >= VOUCHERS_MAX else None


def bar(tables: Tables, operation: BarFactory, signer: Identity, at: At) -> dict[str, Any]:
    tables.barred.add(operation.factory)
    return {}


def _unknown_service(tables: Tables, services: tuple[str, ...]) -> Reason | None:
    return None if set(services) <= set(tables.policy.services) else "service"


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
