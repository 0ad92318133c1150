"""The state machine of identities: what an operation does, or why it is refused.

Deterministic, bounded and O(1) per operation; there are no snapshots, it is rebuilt by replaying
blocks. `judge` and `screen` ask, `apply` decides and answers with the record's leaf. Reasons
are short stable words. Only operations of authenticated identities (and endorsed requests) come
as far as `apply`, so only they are recorded when refused.

`screen` judges strictly on the executed state. A primary may screen on a state that is up to a
pipeline window older than a backup's: it may not know yet what refuses a request here. The core
allows for that, and execution records such a request as refused.

The rules are in `admission`, `lifecycle` and `administration`, the tables in `tables`; signatures
are checked before, in `request`; blocks are made in `ledger`.
"""

from __future__ import annotations

from typing import Any, assert_never

from chain.errors import Misuse
from chain.genesis import Genesis, Membership
from chain.ledger import administration, admission, lifecycle
from chain.ledger.admission import LATER_REASONS
from chain.ledger.identity import Board, Identity
from chain.ledger.item import Authenticated
from chain.ledger.operations import (
    AddReplica,
    AddVoucher,
    CloseSession,
    Data,
    Enrol,
    EnrolBoard,
    Grant,
    OpenSession,
    Operation,
    RemoveReplica,
    Renew,
    Revoke,
    board_node,
)
from chain.ledger.statement import OK, PENDING, Line, Statement, encode_leaf, refused
from chain.ledger.tables import ADMIN, At, Tables, serial_of
from chain.pbft.application import Request, Screening

__all__ = ["LATER_REASONS", "LINES_MAX", "Registry"]

LINES_MAX = 8192  # prepared leaves, about 1 KB each; more are prepared anew

AdminOperation = Revoke | Grant | AddVoucher | AddReplica | RemoveReplica


class Registry:
    """Who is known to the chain after the last block."""

    def __init__(self, genesis: Genesis) -> None:
        self._tables = Tables(genesis)
        self._ids: list[bytes] = []
        self._enrol_ids: list[bytes] = []
        self._lines: dict[tuple[object, ...], Line] = {}

    # --- questions -------------------------------------------------------------------------------

    def identity(self, node: bytes) -> Identity | None:
        """A read-only view; None for a stranger."""
        return self._tables.identities.get(node)

    def board(self, node: bytes) -> Board | None:
        return self._tables.boards.get(node)

    @property
    def identities(self) -> tuple[Identity, ...]:
        """All devices ever admitted, and the administrators."""
        return tuple(self._tables.identities.values())

    @property
    def boards(self) -> tuple[Board, ...]:
        return tuple(self._tables.boards.values())

    @property
    def membership(self) -> Membership:
        """The replicas that decide the next block."""
        return self._tables.epochs.membership

    @property
    def next_membership(self) -> tuple[Membership, int] | None:
        """A decided change and the height after which it takes effect."""
        epochs = self._tables.epochs
        return None if epochs.next is None else (epochs.next, epochs.boundary)

    def judge(self, request: Request) -> str | None:
        """The first authentication: why the request would be refused now, None if it would not.

        Endorsements are not asked for. `LATER_REASONS` may be put right by blocks to come.
        """
        tables = self._tables
        opened = _authenticated(request).opened
        operation = opened.operation
        if isinstance(operation, Enrol):
            return admission.enrol_refusal(tables, opened.id, operation, tables.time_us)
        identity = tables.identities.get(operation.node)
        if identity is None:
            return "unknown-node"
        reason = _signer_refusal(identity, operation.counter, tables.height + 1, tables.time_us)
        return reason or self._refusal(operation, identity)

    def screen(self, request: Request) -> Screening:
        """Whether a batch with this request is an honest primary's."""
        tables = self._tables
        if request.id in tables.ids:
            return Screening.DONE
        authenticated = _authenticated(request)
        operation = authenticated.opened.operation
        if isinstance(operation, Enrol | EnrolBoard):
            if not admission.endorsed(tables, authenticated):
                # Not a race that an honest primary may lose: recorded, even as refused, it would
                # be remembered, and one faulty primary could so keep a device out.
                return Screening.INVALID
            if isinstance(operation, Enrol):
                return self._screen_enrol(operation, authenticated)
        identity = tables.identities.get(request.client)
        if identity is None:
            return Screening.LATER
        reason = _signer_refusal(identity, request.counter, tables.height + 1, tables.time_us)
        if reason is None:
            return Screening.READY
        # Who is expired may be admitted anew in a block that the primary has and we have not.
        return Screening.UNSETTLED if reason == "expired" else Screening.REFUSED

    def _screen_enrol(self, operation: Enrol, authenticated: Authenticated) -> Screening:
        tables = self._tables
        request = authenticated.opened.id
        reason = admission.enrol_refusal(tables, request, operation, tables.time_us)
        if reason is None:
            return Screening.READY
        if reason == "replay":
            return Screening.DONE
        if reason == "known-node":
            # Its certificate may have expired in a block that the primary has and we have not, or
            # stem from one that we have and the primary had not. Not so for what is captured.
            reason = admission.head_refusal(tables, operation.head)
            if reason is None:
                return Screening.UNSETTLED
        return Screening.LATER if reason in LATER_REASONS else Screening.REFUSED

    # --- execution -------------------------------------------------------------------------------

    def apply(self, request: Request, item: bytes, height: int, index: int, time_us: int) -> bytes:
        """Carries one request of block `height` out and gives the leaf of its record. `item` is
        the SHA-256 of the batch item."""
        self._ids.append(request.id)
        operation = _authenticated(request).opened.operation
        if isinstance(operation, Data):
            line = self._accept_data(operation, height, time_us)
            if line is not None:
                return line.leaf(item, operation.counter, request.id, time_us)
        at = At(height, serial_of(height, index), time_us)
        return encode_leaf(self._apply(request, operation, item, at))

    def _accept_data(self, operation: Data, height: int, time_us: int) -> Line | None:
        """The hot path, as data come by the thousand; None if anything speaks against it."""
        tables = self._tables
        identity = tables.identities.get(operation.node)
        if (
            identity is None
            or _signer_refusal(identity, operation.counter, height, time_us) is not None
            or lifecycle.data_refusal(tables, operation, identity) is not None
        ):
            return None
        identity.counter = operation.counter
        # Everything in which the statements of two accepted data can differ, beside what `Line`
        # leaves open.
        kind = (
            identity.node,
            identity.serial,
            identity.privilege,
            operation.service,
            operation.board,
        )
        line = self._lines.get(kind)
        if line is None:
            if len(self._lines) >= LINES_MAX:
                self._lines.clear()
            line = self._lines[kind] = Line(_data_statement(operation, identity))
        return line

    def _apply(self, request: Request, operation: Operation, item: bytes, at: At) -> Statement:
        authenticated = _authenticated(request)
        if isinstance(operation, Enrol):
            self._enrol_ids.append(request.id)
            return self._apply_enrol(operation, authenticated, item, at)
        identity = self._tables.identities.get(operation.node)
        reason = (
            "unknown-node"
            if identity is None
            else _signer_refusal(identity, operation.counter, at.height, at.time_us)
        )
        if identity is None or reason == "counter":
            return self._statement(request, item, at, identity, refused(reason or ""))
        identity.counter = operation.counter
        unendorsed = isinstance(operation, EnrolBoard) and not admission.endorsed(
            self._tables, authenticated
        )
        reason = reason or ("endorsements" if unendorsed else self._refusal(operation, identity))
        if reason is not None:
            return self._statement(request, item, at, identity, refused(reason))
        return self._carry_out(request, operation, identity, item, at)

    def end_block(self, height: int, time_us: int, head: bytes) -> None:
        """Block `height` is complete; `head` is its hash."""
        if height != self._tables.height + 1:
            raise Misuse(f"block {height} after {self._tables.height}")
        self._tables.end_block(height, time_us, head, self._ids, self._enrol_ids)
        self._ids, self._enrol_ids = [], []

    def _apply_enrol(
        self, operation: Enrol, authenticated: Authenticated, item: bytes, at: At
    ) -> Statement:
        tables = self._tables
        opened = authenticated.opened
        reason = admission.enrol_refusal(tables, opened.id, operation, at.time_us)
        if reason is None and not admission.endorsed(tables, authenticated):
            reason = "endorsements"
        fields = {} if reason else admission.admit(tables, operation, at)
        return Statement(
            network=tables.network,
            op="enrol",
            status=refused(reason) if reason else OK,
            node=operation.node,
            time_us=at.time_us,
            request=opened.id,
            item=item,
            privilege=operation.privilege,
            service=operation.service,
            kind=operation.kind,
            key=operation.key,
            **fields,
        )

    def _refusal(self, operation: Operation, identity: Identity) -> str | None:
        """Why `operation` of a signer in good standing is refused."""
        tables = self._tables
        match operation:
            case Data():
                return lifecycle.data_refusal(tables, operation, identity)
            case OpenSession():
                return lifecycle.open_refusal(tables, operation, identity)
            case CloseSession():
                return lifecycle.close_refusal(tables, operation, identity)
            case Renew():
                return lifecycle.renew_refusal(tables, operation, identity)
            case EnrolBoard():
                return admission.board_refusal(tables, operation, identity)
            case Revoke():
                if identity.kind != ADMIN and not administration.is_own(
                    tables, operation, identity
                ):
                    return "not-administrator"
                return administration.revoke_refusal(tables, operation)
            case Grant() | AddVoucher() | AddReplica() | RemoveReplica():
                if identity.kind != ADMIN:
                    return "not-administrator"
                return _administrative_refusal(tables, operation)
            case Enrol():
                raise Misuse("enrolments have no signer in the registry")
        assert_never(operation)

    def _carry_out(
        self, request: Request, operation: Operation, identity: Identity, item: bytes, at: At
    ) -> Statement:
        """An operation that nothing speaks against."""
        tables = self._tables
        fields: dict[str, Any]
        match operation:
            case OpenSession():
                fields = lifecycle.open_session(tables, operation, identity, at)
            case CloseSession():
                fields = lifecycle.close(tables, operation, identity, at)
            case Renew():
                fields = lifecycle.renew(tables, operation, identity, at)
            case EnrolBoard():
                fields = admission.admit_board(tables, operation, identity, at)
            case Revoke() if administration.is_own(tables, operation, identity):
                fields = administration.revoke(tables, operation, at)
            case Revoke() | Grant() | AddVoucher() | AddReplica() | RemoveReplica():
                decided = tables.approvals.approve(
                    operation, at.height, lambda admin: tables.in_force(admin, at.height)
                )
                if decided != "decided":
                    status = PENDING if decided else refused("too-many-pending")
                    return self._statement(request, item, at, identity, status)
                fields = _administer(tables, operation, at)
            case Enrol() | Data():
                raise Misuse("enrolments have no signer in the registry, data their own path")
            case _:
                assert_never(operation)
        return self._statement(request, item, at, identity, OK, **fields)

    def _statement(
        self,
        request: Request,
        item: bytes,
        at: At,
        identity: Identity | None,
        status: str,
        **fields: Any,
    ) -> Statement:
        """The record of a signed operation: who, what, with which right; then `fields`."""
        operation = _authenticated(request).opened.operation
        told: dict[str, Any] = {
            "network": operation.network,
            "op": operation.__struct_config__.tag,
            "status": status,
            "node": operation.node,
            "time_us": at.time_us,
            "request": request.id,
            "item": item,
            "counter": operation.counter,
            "privilege": identity.privilege if identity else None,
            "key": identity.key if identity else None,
            "certificate": identity.serial if identity else None,
        }
        return Statement(**(told | _subject(self._tables, operation) | fields))


def _data_statement(operation: Data, identity: Identity) -> Statement:
    """Of accepted data. Item, request and time are left to `Line`."""
    return Statement(
        network=operation.network,
        op="data",
        status=OK,
        node=operation.node,
        time_us=0,
        request=b"",
        item=b"",
        service=operation.service,
        board=operation.board,
        privilege=identity.privilege,
        key=identity.key,
        certificate=identity.serial,
    )


def _authenticated(request: Request) -> Authenticated:
    operation = request.operation
    if not isinstance(operation, Authenticated):
        raise Misuse("a request that chain.request did not open")
    return operation


def _signer_refusal(identity: Identity, counter: int, height: int, time_us: int) -> str | None:
    """Why nothing that this identity signs is carried out in block `height`."""
    if counter <= identity.counter:
        return "counter"
    if identity.ended is not None and height > identity.ended_height:
        return identity.ended
    return "expired" if identity.not_after_us < time_us else None


def _administrative_refusal(
    tables: Tables, operation: Grant | AddVoucher | AddReplica | RemoveReplica
) -> str | None:
    match operation:
        case Grant():
            return administration.grant_refusal(tables, operation)
        case AddVoucher():
            return administration.voucher_refusal(tables, operation)
        case AddReplica() | RemoveReplica():
            return administration.replica_refusal(tables, operation)
    assert_never(operation)


def _administer(tables: Tables, operation: AdminOperation, at: At) -> dict[str, Any]:
    match operation:
        case Revoke():
            return administration.revoke(tables, operation, at)
        case Grant():
            return administration.grant(tables, operation, at)
        case AddVoucher():
            return administration.add_voucher(tables, operation, at)
        case AddReplica() | RemoveReplica():
            return administration.change_replicas(tables, operation, at)
    assert_never(operation)


def _subject(tables: Tables, operation: Operation) -> dict[str, Any]:
    """Whom a record is about, if not the signer alone, and what was asked."""
    match operation:
        case OpenSession() | Data():
            return {"service": operation.service}
        case CloseSession():
            return {"session": operation.session}
        case EnrolBoard():
            return {
                "node": board_node(tables.network, operation.board),
                "by": operation.node,
                "sponsor": operation.node,
                "service": operation.service,
                "firmware": operation.firmware,
                "key_check": operation.key_check,
                "certificate": None,
            }
        case Renew() | Enrol():
            return {}
        case Revoke():
            mine = operation.target == operation.node
            about = {"by": None if mine else operation.node, "reason": operation.reason}
            others = {} if mine else {"privilege": None, "key": None, "certificate": None}
            return about | others | {"node": operation.target}
        case Grant() | AddVoucher():
            target = operation.target if isinstance(operation, Grant) else operation.voucher
            return {
                "node": target,
                "by": operation.node,
                "privilege": operation.privilege,
                "services": operation.services,
                "key": None,
                "certificate": None,
            }
        case AddReplica() | RemoveReplica():
            key = operation.key if isinstance(operation, AddReplica) else None
            return {"replica": operation.replica, "key": key, "certificate": None}
    assert_never(operation)
