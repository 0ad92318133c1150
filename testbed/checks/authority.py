"""Judges a second time, by independent code, whether every record that took effect was allowed.

This is a second implementation of the rules of admission, freshness, revocation, validity,
sponsorship and administration. It is kept apart from `chain.ledger.registry` on purpose. It
compares the signed requests with the records. It looks only at records that took effect. `ledger`
checks signatures, `factory` factory certificates.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

import msgspec

from chain.block import genesis_head
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.ledger.envelope import encode_operation
from chain.ledger.identity import BOARDS_MAX, KEYS_MAX, RENEWALS_MAX
from chain.ledger.item import Authenticated, read_item
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    CloseSession,
    Data,
    Enrol,
    EnrolBoard,
    Grant,
    OpenSession,
    RemoveReplica,
    Renew,
    Revoke,
    Token,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from testbed.checks.factory import FactoryRules
from testbed.checks.records import Chain, Entry

__all__ = ["unauthorised"]

NEVER_US = 2**63
VoucherOperation = AddVoucher | WithdrawVoucher | AddFactoryRoot | WithdrawFactoryRoot | BarFactory
AdminOperation = Revoke | Grant | VoucherOperation | AddAdministrator | AddReplica | RemoveReplica


@dataclass
class _Standing:
    """What one key may do. `device` stays the same when the key is renewed."""

    device: bytes
    kind: str
    services: tuple[str, ...]
    privilege: int
    until_us: int
    ended_height: int | None = None


class _Voucher(NamedTuple):
    kind: str
    privilege_max: int
    services: tuple[str, ...]
    until_us: int

    def allows(self, operation: Enrol, time_us: int) -> bool:
        return (
            operation.kind == self.kind
            and operation.privilege <= self.privilege_max
            and operation.service in self.services
            and time_us <= self.until_us
        )


class _Rules:
    def __init__(self, genesis: Genesis, heads: Mapping[bytes, int]) -> None:
        """`heads` has the height of each head hash of the chain."""
        self._genesis = genesis
        first = sha256(genesis_head(genesis.network, genesis.time_us)).digest()
        self._heads = {first: 0} | dict(heads)
        self._policy = genesis.policy
        self._admins = set(genesis.admin_ids)
        self._standing = {
            each: _Standing(each, "admin", (), 255, NEVER_US) for each in self._admins
        }
        self._sponsors: dict[bytes, bytes] = {}
        self._revoked_boards: dict[bytes, int] = {}
        self._vouchers = {
            each.id: _Voucher(each.kind, each.privilege_max, each.services, each.not_after_us)
            for each in self._policy.vouchers
        }
        self._spent: set[bytes] = set()
        self._factory = FactoryRules(self._policy)
        self._signed: dict[bytes, dict[bytes, int]] = {}
        self._keys: Counter[bytes] = Counter()  # by device
        self._renewals: Counter[bytes] = Counter()  # by device
        self._boards: Counter[bytes] = Counter()  # by the device that brought them
        self._members = {0: {each.id for each in genesis.members}}

    def wrong(self, entry: Entry) -> str | None:
        """Why this record should not have taken effect; None if it was right. Its effect is noted
        in any case."""
        operation = entry.operation
        match operation:
            case None:
                return "its operation cannot be read"
            case Enrol():
                return self._enrol(entry, operation)
            case Data() | OpenSession() | CloseSession() | Renew() | EnrolBoard():
                signer = self._standing.get(operation.node)
                wrong = self._not_in_force(signer, entry)
                if wrong is not None or signer is None:
                    return wrong
                return self._device(entry, operation, signer)
            case _:
                return self._administer(entry, operation)

    def _enrol(self, entry: Entry, operation: Enrol) -> str | None:
        voucher = operation.voucher
        wrong = self._not_endorsed(entry) or self._not_fresh(entry, operation.head)
        if isinstance(voucher, Token):
            name = sha256(voucher.key).digest()
            granted = self._vouchers.get(name)
            if name in self._spent:
                wrong = "its voucher had been used"
            elif granted is None or not granted.allows(operation, entry.statement.time_us):
                wrong = "its voucher does not grant this"
            self._spent.add(name)
        else:
            wrong = self._factory.wrong(operation, voucher, entry.statement.time_us) or wrong
        known = self._standing.get(operation.node)
        if known is not None and known.ended_height is not None:
            wrong = "its key had been revoked or renewed"
        elif operation.privilege < self._policy.privilege_needed.get(operation.service, 0):
            wrong = "its privilege is too low for the service"
        elif operation.validity_s > self._policy.validity_s_max:
            wrong = "it is valid for longer than allowed"
        if self._in_force(entry, but=operation.node) >= self._policy.nodes_max:
            wrong = "there were too many devices"
        self._standing[operation.node] = _Standing(
            known.device if known else operation.node,
            operation.kind,
            (operation.service,),
            operation.privilege,
            entry.statement.time_us + operation.validity_s * 1_000_000,
        )
        return wrong

    def _in_force(self, entry: Entry, but: bytes) -> int:
        """How many devices other than `but` could act in this block. 0 if there cannot be too
        many."""
        if len(self._standing) <= self._policy.nodes_max:
            return 0
        return sum(
            node != but and each.kind != "admin" and self._not_in_force(each, entry) is None
            for node, each in self._standing.items()
        )

    def _not_endorsed(self, entry: Entry) -> str | None:
        """k of the m members that hash ranking selects for this request must have accepted it."""
        members = self._members.get(entry.epoch)
        if members is None:
            return "its epoch was never decided"
        faulty = (len(members) - 1) // 3
        size = min(self._policy.group_size or 2 * faulty + 1, len(members))
        needed = min(self._policy.group_accepts or faulty + 1, size)
        label = b"m2m/1/group\0" + entry.statement.request + entry.epoch.to_bytes(4, "big")
        ranked = sorted(members, key=lambda each: sha256(label + each.to_bytes(4, "big")).digest())
        try:
            opened = read_item(entry.item, self._genesis.network).operation
        except PeerFault as fault:
            return str(fault)
        assert isinstance(opened, Authenticated)
        accepts = set(opened.endorsers).intersection(ranked[:size])
        if opened.epoch != entry.epoch or len(accepts) < needed:
            return f"{len(accepts)} of {needed} endorsements by its authentication group"
        return None

    def _not_fresh(self, entry: Entry, head: bytes) -> str | None:
        """The head that it names must belong to one of the last blocks."""
        height = self._heads.get(head)
        if height is None or height >= entry.height:
            return "it names a head of no block before it"
        if entry.height - height > self._policy.enrol_window_blocks:
            return "it names a head that was too old"
        return None

    def _not_in_force(self, signer: _Standing | None, entry: Entry) -> str | None:
        if signer is None:
            return "its signer was never admitted"
        if signer.ended_height is not None and entry.height > signer.ended_height:
            return f"its signer's certificate ended in block {signer.ended_height}"
        expired = signer.until_us < entry.statement.time_us
        return "its signer's certificate had expired" if expired else None

    def _device(
        self,
        entry: Entry,
        operation: Data | OpenSession | CloseSession | Renew | EnrolBoard,
        signer: _Standing,
    ) -> str | None:
        match operation:
            case Data() | OpenSession():
                if isinstance(operation, Data) and operation.board is not None:
                    wrong = self._not_sponsored(operation.board, signer, entry)
                    if wrong is not None:
                        return wrong
                needed = self._policy.privilege_needed.get(operation.service, 0)
                if operation.service not in signer.services or signer.privilege < needed:
                    return "its signer may not use the service"
            case Renew():
                return self._renew(entry, operation, signer)
            case EnrolBoard():
                board = sha256(b"m2m/1/board\0" + self._genesis.network + operation.key).digest()
                wrong = self._not_endorsed(entry) or self._not_fresh(entry, operation.head)
                if signer.kind != "environment":
                    wrong = "its sponsor is no environmental device"
                if self._sponsors.get(board, signer.device) != signer.device and (
                    board not in self._revoked_boards
                ):
                    wrong = "its board has another sponsor"
                self._boards[signer.device] += board not in self._sponsors
                if self._boards[signer.device] > BOARDS_MAX:
                    wrong = "its sponsor has brought too many boards"
                self._sponsors[board] = signer.device
                self._revoked_boards.pop(board, None)
                return wrong
        return None

    def _renew(self, entry: Entry, operation: Renew, signer: _Standing) -> str | None:
        wrong = None
        if signer.ended_height is not None:
            wrong = "its signer had been renewed or revoked in this block"
        elif operation.validity_s > self._policy.validity_s_max:
            wrong = "it is valid for longer than allowed"
        key = sha256(operation.key).digest()
        self._keys[signer.device] += key not in self._standing
        if self._keys[signer.device] >= KEYS_MAX:  # its first key is not counted
            wrong = "its device has had too many keys"
        self._renewals[signer.device] += 1
        if self._renewals[signer.device] > RENEWALS_MAX:
            wrong = "its device has renewed too often"
        signer.ended_height = entry.height
        until_us = entry.statement.time_us + operation.validity_s * 1_000_000
        self._standing[key] = _Standing(
            signer.device, signer.kind, signer.services, signer.privilege, until_us
        )
        return wrong

    def _not_sponsored(self, board: bytes, signer: _Standing, entry: Entry) -> str | None:
        if self._sponsors.get(board) != signer.device:
            return "its board is not sponsored by its signer"
        revoked = self._revoked_boards.get(board)
        # A board's revocation stops even what follows in the same block.
        return None if revoked is None else f"its board was revoked in block {revoked}"

    def _administer(self, entry: Entry, operation: AdminOperation) -> str | None:
        wrong = self._not_in_force(self._standing.get(operation.node), entry)
        if not (isinstance(operation, Revoke) and self._is_own(operation)):
            if operation.node not in self._admins:
                wrong = wrong or "its signer is no administrator"
            else:
                wrong = self._not_approved(entry, operation) or wrong
        if isinstance(operation, Revoke) and self._locks_out(entry, operation):
            wrong = wrong or "too few administrators were left"
        if entry.statement.status == "ok":
            self._carry_out(entry, operation)
        return wrong

    def _device_of(self, node: bytes) -> bytes:
        """The device that has, or had, this key. A board is a device of its own."""
        known = self._standing.get(node)
        return node if known is None else known.device

    def _is_own(self, operation: Revoke) -> bool:
        device = self._device_of(operation.node)
        return device in (
            self._device_of(operation.target),
            self._sponsors.get(operation.target),
        )

    def _not_approved(self, entry: Entry, operation: AdminOperation) -> str | None:
        """`admins_needed` administrators must have signed the same content within the window."""
        agreed: AdminOperation = operation
        if isinstance(operation, Revoke | Grant):  # of any of the device's keys
            agreed = msgspec.structs.replace(operation, target=self._device_of(operation.target))
        if isinstance(agreed, Revoke):  # the reasons may differ
            agreed = msgspec.structs.replace(agreed, reason="any")
        content = encode_operation(msgspec.structs.replace(agreed, node=bytes(32), counter=1))
        signed = self._signed.setdefault(content, {})
        signed[operation.node] = entry.height
        window = self._policy.approval_window_blocks
        recent = [
            admin
            for admin, at in signed.items()
            if at + window >= entry.height
            and self._not_in_force(self._standing[admin], entry) is None
        ]
        if entry.statement.status != "ok":
            return None
        del self._signed[content]
        if len(recent) < self._policy.admins_needed:
            return f"{len(recent)} of {self._policy.admins_needed} administrators had signed"
        return None

    def _carry_out(self, entry: Entry, operation: AdminOperation) -> None:
        if isinstance(operation, VoucherOperation):
            self._change_vouchers(operation)
            return
        match operation:
            case Revoke():
                if operation.target in self._standing:
                    self._end_device(self._device_of(operation.target), entry.height)
                else:
                    self._revoked_boards[operation.target] = entry.height
            case AddAdministrator():
                node = sha256(operation.key).digest()
                self._admins.add(node)
                self._standing[node] = _Standing(node, "admin", (), 255, NEVER_US)
            case Grant():
                device = self._device_of(operation.target)
                for each in self._standing.values():
                    if each.device == device and each.ended_height is None:
                        each.privilege, each.services = operation.privilege, operation.services
            case AddReplica() | RemoveReplica():
                newest = max(self._members)
                members = self._members[newest] - {operation.replica}
                if isinstance(operation, AddReplica):
                    members |= {operation.replica}
                self._members[newest + 1] = members

    def _change_vouchers(self, operation: VoucherOperation) -> None:
        match operation:
            case AddVoucher():
                self._vouchers[operation.voucher] = _Voucher(
                    operation.kind, operation.privilege, operation.services, operation.not_after_us
                )
            case WithdrawVoucher():
                self._vouchers.pop(operation.voucher, None)
            case AddFactoryRoot():
                self._factory.add_root(
                    operation.certificate,
                    operation.kinds,
                    operation.privilege,
                    operation.services,
                )
            case WithdrawFactoryRoot():
                self._factory.withdraw_root(operation.root)
            case BarFactory():
                self._factory.bar(operation.factory)

    def _locks_out(self, entry: Entry, operation: Revoke) -> bool:
        """Whether a decided revocation leaves fewer administrators than must agree."""
        if entry.statement.status != "ok" or operation.target not in self._admins:
            return False
        left = {each for each in self._admins if self._standing[each].ended_height is None}
        return len(left - {operation.target}) < self._policy.admins_needed

    def _end_device(self, device: bytes, height: int) -> None:
        for standing in self._standing.values():
            if standing.device == device and standing.ended_height is None:
                standing.ended_height = height


def unauthorised(genesis: Genesis, chain: Chain) -> Iterator[tuple[Entry, str]]:
    """Each record that took effect but should not have, with the reason."""
    rules = _Rules(genesis, {head.hash: head.height for head in chain.heads})
    for entry in chain.entries:
        if entry.took_effect:
            wrong = rules.wrong(entry)
            if wrong is not None:
                yield entry, wrong
