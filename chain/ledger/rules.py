"""One row per operation: who may order it, its refusals, its effect, the subject of its record.

A new operation needs its type in `operations`, its rules in `admission`, `lifecycle` or
`administration`, and a row here. `Enrol` has no row: its signer is not in the registry yet, so
`registry` treats it by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from chain.keys import digest, node_id
from chain.ledger import administration as admin
from chain.ledger import admission, lifecycle
from chain.ledger.identity import Identity
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    CloseSession,
    Data,
    EnrolBoard,
    Grant,
    OpenSession,
    Operation,
    RemoveReplica,
    Renew,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.reasons import Reason
from chain.ledger.tables import At, Tables

__all__ = ["RULES", "Rule"]

Fields = dict[str, Any]  # of a `Statement`
Operand = Any  # the operation type that is the row's key


class Rule(NamedTuple):
    """`refusal` and `execute` take the signer, who is in good standing. `subject` gives the
    statement's fields that follow from the operation alone, `execute` those that it decides. Where
    `alone` is false, administrators must approve together: two approvals are for the same thing if
    `agreed` gives the same operation."""

    refusal: Callable[[Tables, Operand, Identity], Reason | None]
    execute: Callable[[Tables, Operand, Identity, At], Fields]
    subject: Callable[[Tables, Operand], Fields]
    alone: Callable[[Tables, Operand, Identity], bool] = lambda tables, operation, signer: True
    agreed: Callable[[Tables, Operand], Operation] = lambda tables, operation: operation


def _never(tables: Tables, operation: Operand, signer: Identity) -> bool:
    return False


def _copied(*names: str) -> Callable[[Tables, Operand], Fields]:
    return lambda tables, operation: {name: getattr(operation, name) for name in names}


def _about(node: Callable[[Operand], bytes]) -> Callable[[Tables, Operand], Fields]:
    """The record is about another than its signer: `node` gives its node id, or the hash that names
    a voucher, a root or a factory identity."""
    return lambda tables, operation: {
        "node": node(operation),
        "by": operation.node,
        "privilege": getattr(operation, "privilege", None),
        "services": getattr(operation, "services", None),
        "key": getattr(operation, "key", None),
        "certificate": None,
    }


RULES: dict[type, Rule] = {
    Data: Rule(lifecycle.data_refusal, lifecycle.accept_data, _copied("service", "board")),
    OpenSession: Rule(lifecycle.open_refusal, lifecycle.open_session, _copied("service")),
    CloseSession: Rule(lifecycle.close_refusal, lifecycle.close_session, _copied("session")),
    Renew: Rule(lifecycle.renew_refusal, lifecycle.renew, _copied()),
    EnrolBoard: Rule(admission.board_refusal, admission.admit_board, admission.board_subject),
    Revoke: Rule(
        admin.revoke_refusal,
        admin.revoke,
        admin.revoke_subject,
        admin.is_own,
        admin.device_agreed,
    ),
    Grant: Rule(
        admin.grant_refusal, admin.grant, _about(lambda o: o.target), _never, admin.device_agreed
    ),
    AddVoucher: Rule(admin.voucher_refusal, admin.add_voucher, _about(lambda o: o.voucher), _never),
    WithdrawVoucher: Rule(
        admin.withdraw_refusal, admin.withdraw_voucher, _about(lambda o: o.voucher), _never
    ),
    AddFactoryRoot: Rule(
        admin.root_refusal, admin.add_root, _about(lambda o: digest(o.certificate)), _never
    ),
    WithdrawFactoryRoot: Rule(
        admin.no_root_refusal, admin.withdraw_root, _about(lambda o: o.root), _never
    ),
    BarFactory: Rule(admin.bar_refusal, admin.bar, _about(lambda o: o.factory), _never),
    AddAdministrator: Rule(
        admin.admin_refusal, admin.add_admin, _about(lambda o: node_id(o.key)), _never
    ),
    AddReplica: Rule(admin.replica_refusal, admin.change_replicas, admin.replica_subject, _never),
    RemoveReplica: Rule(
        admin.replica_refusal, admin.change_replicas, admin.replica_subject, _never
    ),
}
