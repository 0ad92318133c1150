"""The state machine of identities: carries out an operation, or refuses it with a reason.

Deterministic, bounded and O(1) per operation. It is rebuilt by replaying blocks; replicas never
take it from each other. `judge` and `screen` only ask; `apply` decides and returns the record's
leaf. Only endorsed requests and operations of authenticated identities reach `apply`, so only they
are recorded when refused.

`screen` judges strictly on the executed state. A primary's state may be up to a pipeline window
older than a backup's. So it may propose a request that the backup already refuses. The core allows
for that, and execution records such a request as refused.

`rules` lists the rules; their code is in `admission`, `lifecycle` and `administration`, the tables
in `tables`. `item` has checked the signatures before. `ledger` makes blocks.
"""

from __future__ import annotations

from typing import Any

from chain.errors import Misuse
from chain.genesis import FactoryRoot, Genesis, Membership
from chain.ledger import admission, lifecycle
from chain.ledger.approvals import Approval
from chain.ledger.identity import Board, Identity
from chain.ledger.item import Authenticated
from chain.ledger.operations import Data, Enrol, EnrolBoard, Factory, Operation
from chain.ledger.reasons import LATER_REASONS, Reason
from chain.ledger.rules import RULES
from chain.ledger.statement import OK, PENDING, LeafTemplate, Statement, encode_leaf, refused
from chain.ledger.tables import ADMIN, At, Tables, serial_of
from chain.pbft.state_machine import Screening, VerifiedRequest

__all__ = ["TEMPLATES_MAX", "Registry"]

TEMPLATES_MAX = 8192  # prepared leaves that are kept, about 1 KB each


class Registry:
    """The parties that the chain knows after the last block."""

    def __init__(self, genesis: Genesis) -> None:
        self._tables = Tables(genesis)
        self._ids: list[bytes] = []
        self._enrol_ids: list[bytes] = []
        self._templates: dict[tuple[object, ...], LeafTemplate] = {}

    def __getstate__(self) -> dict[str, object]:
        """For a process that keeps its own state (`nodes.kept`). Prepared leaves are left out,
        because they are made again."""
        return {**self.__dict__, "_templates": {}}

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

    def admits(self, voucher: bytes) -> bool:
        """Whether the enrolment token with this id may still admit a device."""
        return admission.token_refusal(self._tables, voucher, self._tables.time_us) is None

    def is_barred(self, factory: bytes) -> bool:
        """Whether administrators barred this factory identity."""
        return factory in self._tables.barred

    @property
    def administrators(self) -> frozenset[bytes]:
        """Node ids of those in force."""
        return frozenset(self._tables.administrators)

    @property
    def factory_roots(self) -> tuple[FactoryRoot, ...]:
        """Manufacturers' roots in force."""
        return tuple(self._tables.roots.values())

    @property
    def boards(self) -> tuple[Board, ...]:
        return tuple(self._tables.boards.values())

    @property
    def membership(self) -> Membership:
        """The replicas that decide the next block."""
        return self._tables.epochs.membership

    @property
    def removed_replicas(self) -> frozenset[int]:
        """Former members. An id is never used again."""
        return self._tables.epochs.removed

    @property
    def decided_membership(self) -> Membership:
        """The newest that is decided: ahead of `membership` until its boundary is passed."""
        return self._tables.epochs.next or self.membership

    def judge(self, request: VerifiedRequest) -> Reason | None:
        """The first authentication: the reason to refuse the request now, None if there is none.

        It does not look at endorsements. Later blocks may remove a reason of `LATER_REASONS`.
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

    def screen(self, request: VerifiedRequest) -> Screening:
        """Whether this request may stand in a batch of an honest primary."""
        tables = self._tables
        if request.id in tables.ids:
            return Screening.DONE
        authenticated = _authenticated(request)
        operation = authenticated.opened.operation
        if type(operation) is Enrol or type(operation) is EnrolBoard:
            if not admission.endorsed(tables, authenticated):
                # No race can excuse a primary here. If the request were recorded, even as refused,
                # its id would be used up: one faulty primary could keep a device out.
                return Screening.INVALID
            if isinstance(operation, Enrol):
                return self._screen_enrol(operation, authenticated)
        identity = tables.identities.get(request.client)
        if identity is None:
            return Screening.LATER
        reason = _signer_refusal(identity, request.counter, tables.height + 1, tables.time_us)
        if reason is None:
            return Screening.READY
        # An expired key may be admitted again in a block that the primary has and we have not.
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
            # Its certificate may have expired in a block that the primary has and we have not. Or
            # it was issued in a block that we have and the primary had not. A captured request
            # names an old head, so this does not excuse it.
            reason = admission.head_refusal(tables, operation.head)
            if reason is None:
                return Screening.UNSETTLED
        if reason == "registry-full" or isinstance(operation.voucher, Factory):
            return Screening.UNSETTLED  # places become free, and roots are added and withdrawn
        return Screening.LATER if reason in LATER_REASONS else Screening.REFUSED

    # --- execution -------------------------------------------------------------------------------

    def apply(
        self, request: VerifiedRequest, item: bytes, height: int, index: int, time_us: int
    ) -> bytes:
        """Carries out one request of block `height` and returns the leaf of its record. `item` is
        the SHA-256 of the batch item."""
        self._ids.append(request.id)
        operation = _authenticated(request).opened.operation
        at = At(height, serial_of(height, index), time_us)
        if isinstance(operation, Data):
            template = self._accept_data(request, operation, at)
            if template is not None:
                return template.leaf(item, operation.counter, request.id, time_us)
        return encode_leaf(self._apply(request, operation, item, at))

    def _accept_data(
        self, request: VerifiedRequest, operation: Data, at: At
    ) -> LeafTemplate | None:
        """The fast path for data, the most frequent operation. None if they must be refused."""
        tables = self._tables
        identity = tables.identities.get(operation.node)
        if (
            identity is None
            or _signer_refusal(identity, operation.counter, at.height, at.time_us) is not None
            or lifecycle.data_refusal(tables, operation, identity) is not None
        ):
            return None
        identity.counter = operation.counter
        # The statements of two accepted data differ in these fields, and in those that
        # `LeafTemplate` leaves open.
        kind = (
            identity.node,
            identity.serial,
            identity.privilege,
            operation.service,
            operation.board,
        )
        template = self._templates.get(kind)
        if template is None:
            if len(self._templates) >= TEMPLATES_MAX:
                self._templates.clear()
            statement = self._statement(request, bytes(32), at, identity, OK)
            template = self._templates[kind] = LeafTemplate(statement)
        return template

    def _apply(
        self, request: VerifiedRequest, operation: Operation, item: bytes, at: At
    ) -> Statement:
        tables = self._tables
        authenticated = _authenticated(request)
        if isinstance(operation, Enrol):
            self._enrol_ids.append(request.id)
            reason = admission.enrol_refusal(tables, request.id, operation, at.time_us)
            if reason is None and not admission.endorsed(tables, authenticated):
                reason = "endorsements"
            status = OK if reason is None else refused(reason)
            fields = admission.admit(tables, operation, at) if reason is None else {}
            return self._statement(request, item, at, None, status, **fields)
        identity = tables.identities.get(operation.node)
        if identity is None:
            return self._statement(request, item, at, None, refused("unknown-node"))
        reason = _signer_refusal(identity, operation.counter, at.height, at.time_us)
        if reason != "counter":
            identity.counter = operation.counter
            if isinstance(operation, EnrolBoard) and not admission.endorsed(tables, authenticated):
                reason = reason or "endorsements"
            reason = reason or self._refusal(operation, identity)
        if reason is not None:
            return self._statement(request, item, at, identity, refused(reason))
        rule = RULES[type(operation)]
        if not rule.alone(tables, operation, identity):
            match tables.approvals.approve(
                rule.agreed(tables, operation),
                at.height,
                lambda admin: tables.in_force(admin, at.height),
            ):
                case Approval.PENDING:
                    return self._statement(request, item, at, identity, PENDING)
                case Approval.REFUSED:
                    status = refused("too-many-pending")
                    return self._statement(request, item, at, identity, status)
        fields = rule.execute(tables, operation, identity, at)
        return self._statement(request, item, at, identity, OK, **fields)

    def end_block(self, height: int, time_us: int, head: bytes) -> None:
        """Block `height` is complete; `head` is its hash."""
        if height != self._tables.height + 1:
            raise Misuse(f"block {height} after {self._tables.height}")
        self._tables.end_block(height, time_us, head, self._ids, self._enrol_ids)
        self._ids, self._enrol_ids = [], []

    def _refusal(self, operation: Operation, identity: Identity) -> Reason | None:
        """Why `operation` of a signer in good standing is refused."""
        rule = RULES[type(operation)]
        if identity.kind != ADMIN and not rule.alone(self._tables, operation, identity):
            return "not-administrator"
        return rule.refusal(self._tables, operation, identity)

    def _statement(
        self,
        request: VerifiedRequest,
        item: bytes,
        at: At,
        identity: Identity | None,
        status: str,
        **fields: Any,
    ) -> Statement:
        """The record of an operation: its signer, what it asked for, then `fields`."""
        operation = _authenticated(request).opened.operation
        subject = (
            admission.enrol_subject(operation)
            if isinstance(operation, Enrol)
            else RULES[type(operation)].subject(self._tables, operation)
        )
        signed: dict[str, Any] = {
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
        return Statement(**(signed | subject | fields))


def _authenticated(request: VerifiedRequest) -> Authenticated:
    operation = request.operation
    if not isinstance(operation, Authenticated):
        raise Misuse("a request that chain.ledger.item did not open")
    return operation


def _signer_refusal(identity: Identity, counter: int, height: int, time_us: int) -> Reason | None:
    """Why block `height` refuses an operation by its signer and counter; None if it does not."""
    if counter <= identity.counter:
        return "counter"
    if identity.ended is not None and height > identity.ended_height:
        return identity.ended
    return "expired" if identity.not_after_us < time_us else None
