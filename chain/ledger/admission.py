"""Admission: access requests of devices, and boards that a device sponsors.

Part of the `registry`. Each `..._refusal` returns the reason, or None. Each `admit...` writes to
the tables and returns the record's additional fields. Each `..._subject` returns the fields that
follow from the operation alone.
"""

from __future__ import annotations

from typing import Any

from chain.fields import DeviceKind
from chain.keys import digest
from chain.ledger.auth_group import accepted_by
from chain.ledger.factory import factory_id, path_of
from chain.ledger.identity import BOARDS_MAX, Board, Identity
from chain.ledger.item import Authenticated
from chain.ledger.operations import Enrol, EnrolBoard, Factory, Token
from chain.ledger.possession import board_node, factory_key
from chain.ledger.reasons import Reason
from chain.ledger.tables import At, Tables

__all__ = [
    "admit",
    "admit_board",
    "board_refusal",
    "board_subject",
    "certificate_fields",
    "endorsed",
    "enrol_refusal",
    "enrol_subject",
    "token_refusal",
    "voucher_id",
]


def endorsed(tables: Tables, request: Authenticated) -> bool:
    """True if k members of the group of this request accept it, in the epoch that decides now."""
    membership = tables.epochs.membership
    return request.epoch == membership.epoch and accepted_by(
        request.opened.id, request.endorsers, membership, tables.policy
    )


def head_refusal(tables: Tables, head: bytes) -> Reason | None:
    height = tables.heads.height(head)
    if height is None:
        return "unknown-head"
    # The next block is one higher than the tables.
    return "stale-head" if tables.height - height >= tables.policy.enrol_window_blocks else None


def enrol_refusal(tables: Tables, request: bytes, operation: Enrol, time_us: int) -> Reason | None:
    policy = tables.policy
    if request in tables.enrol_ids:
        return "replay"
    if operation.service not in policy.services:
        return "service"
    if operation.privilege < policy.privilege_needed.get(operation.service, 0):
        return "privilege"
    if operation.validity_s > policy.validity_s_max:
        return "validity"
    known = tables.identities.get(operation.node)
    if known is not None:
        if known.ended is not None:
            return known.ended
        if known.not_after_us >= time_us:
            return "known-node"
    if not tables.has_room(operation.node if known is None else known.device):
        return "registry-full"
    return head_refusal(tables, operation.head) or _voucher_refusal(tables, operation, time_us)


def voucher_id(voucher: Token | Factory) -> bytes:
    """How operations of administrators name this token or this factory identity."""
    if isinstance(voucher, Token):
        return digest(voucher.key)
    return factory_id(factory_key(voucher.chain[0]))


def token_refusal(tables: Tables, token: bytes, time_us: int) -> Reason | None:
    """Why the enrolment token with this id admits nobody; None if it admits a device."""
    grant = tables.vouchers.get(token)
    if grant is None:
        return "unknown-voucher"
    if token in tables.withdrawn:
        return "withdrawn-voucher"
    if token in tables.used:
        return "used-voucher"
    return "expired-voucher" if grant.not_after_us < time_us else None


def _voucher_refusal(tables: Tables, operation: Enrol, time_us: int) -> Reason | None:
    voucher = operation.voucher
    if isinstance(voucher, Token):
        token = voucher_id(voucher)
        reason = token_refusal(tables, token, time_us)
        if reason is not None:
            return reason
        grant = tables.vouchers[token]
        return _limit_refusal(operation, (grant.kind,), grant.privilege_max, grant.services)
    factory = voucher_id(voucher)
    if factory in tables.barred:
        return "factory-barred"
    path = path_of(voucher.chain, tuple(each.certificate for each in tables.roots.values()))
    if path is None:
        return "factory-chain"
    reason = path.refusal(time_us)
    if reason is not None:
        return reason
    if tables.factory.get(factory, 0) >= tables.policy.factory_enrolments_max:
        return "used-voucher"
    root = tables.roots[digest(path.root)]
    return _limit_refusal(operation, root.kinds, root.privilege_max, root.services)


def _limit_refusal(
    operation: Enrol, kinds: tuple[DeviceKind, ...], privilege_max: int, services: tuple[str, ...]
) -> Reason | None:
    """Why the voucher does not allow what is asked for; None if it does."""
    if operation.kind not in kinds:
        return "kind"
    if operation.privilege > privilege_max:
        return "privilege"
    return None if operation.service in services else "service"


def admit(tables: Tables, operation: Enrol, at: At) -> dict[str, Any]:
    """Spends the voucher and issues the first certificate, or a new one if the last has expired."""
    voucher = voucher_id(operation.voucher)
    if isinstance(operation.voucher, Token):
        tables.used.add(voucher)
    else:
        tables.factory[voucher] = tables.factory.get(voucher, 0) + 1
    known = tables.identities.get(operation.node)
    identity = Identity(
        node=operation.node,
        key=operation.key,
        kind=operation.kind,
        device=known.device if known else operation.node,
        privilege=operation.privilege,
        services=(operation.service,),
        serial=at.serial,
        prior=known.serial if known else None,
        not_before_us=at.time_us,
        not_after_us=at.time_us + operation.validity_s * 1_000_000,
        counter=known.counter if known else 0,
    )
    tables.keep(identity)
    return certificate_fields(identity)


def enrol_subject(operation: Enrol) -> dict[str, Any]:
    return {
        "counter": None,
        "privilege": operation.privilege,
        "service": operation.service,
        "kind": operation.kind,
        "key": operation.key,
    }


def certificate_fields(identity: Identity) -> dict[str, Any]:
    """The fields of a record that issues a certificate."""
    return {
        "certificate": identity.serial,
        "prior": identity.prior,
        "not_before_us": identity.not_before_us,
        "not_after_us": identity.not_after_us,
    }


def board_refusal(tables: Tables, operation: EnrolBoard, sponsor: Identity) -> Reason | None:
    if sponsor.kind != "environment":
        return "not-environment"
    if operation.service not in sponsor.services:
        return "service"
    board = tables.boards.get(board_node(tables.network, operation.key))
    if board is None:
        if tables.devices[sponsor.device].boards >= BOARDS_MAX:
            return "quota"
    elif board.barred:
        return "board-revoked"
    elif board.sponsor != sponsor.device and not _is_free(tables, board):
        return "board-taken"
    return head_refusal(tables, operation.head)


def _is_free(tables: Tables, board: Board) -> bool:
    """True if its sponsor revoked it, or was revoked itself."""
    owner = tables.newest_of(board.sponsor)
    return board.revoked_height is not None or owner is None or owner.ended is not None


def board_subject(tables: Tables, operation: EnrolBoard) -> dict[str, Any]:
    return {
        "node": board_node(tables.network, operation.key),
        "by": operation.node,
        "sponsor": operation.node,
        "service": operation.service,
        "firmware": operation.firmware,
        "key_check": operation.key_check,
        "key": operation.key,
        "certificate": None,
    }


def admit_board(tables: Tables, operation: EnrolBoard, sponsor: Identity, at: At) -> dict[str, Any]:
    node = board_node(tables.network, operation.key)
    known = tables.boards.get(node)
    if known is None:
        tables.devices[sponsor.device].boards += 1
    tables.boards[node] = Board(
        node=node,
        sponsor=sponsor.device,
        service=operation.service,
        firmware=operation.firmware,
        key_check=operation.key_check,
        serial=at.serial,
    )
    return {"certificate": at.serial, "prior": known.serial if known else None}
