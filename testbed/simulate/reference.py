"""A second implementation of the rules for blocks, independent of `chain.ledger.ledger` and
`chain.ledger.registry`.

It decodes with another library (cbor2) and keeps only the state that decides whether an executed
operation was allowed: who is enrolled, who has ended, last counters, used vouchers. It judges
accepted operations only, because a refused one has no effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import cbor2
import msgspec

from chain.block import Block, Head

__all__ = ["Reference", "RuleBrokenError", "request_id"]

_items = msgspec.msgpack.Decoder(tuple[bytes, list[tuple[bytes, bytes, bytes]]])
_endorsements = msgspec.msgpack.Decoder(tuple[str, int, int, bytes, bool, str])


class RuleBrokenError(Exception):
    """`rule` names the property."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def request_id(cose: bytes) -> bytes:
    """SHA-256 of the Sig_structure (RFC 9052, section 4.4) of a COSE_Sign1."""
    protected, _, payload, _ = cbor2.loads(cose).value
    return hashlib.sha256(cbor2.dumps(["Signature1", protected, b"", payload])).digest()


class Reference:
    """Judges each block once, in order. `signed` grows as devices sign."""

    def __init__(
        self,
        genesis_time_us: int,
        *,
        vouchers: Mapping[bytes, tuple[str, int]],
        administrators: Collection[bytes],
        replicas: Mapping[int, bytes],
        checkpoint_interval: int,
        accepts: int | None = None,
    ) -> None:
        """`vouchers`: the tokens that may be used once, with kind and last time. `administrators`:
        their keys. `replicas`: the keys of the first epoch's replicas. `accepts`: how many members
        of an authentication group must accept; default f+1."""
        self.signed: set[bytes] = set()
        self.executed: dict[bytes, tuple[str, int]] = {}  # request id -> best status, height
        self._interval = checkpoint_interval
        self._accepts = accepts
        self._administrators = {hashlib.sha256(key).digest() for key in administrators}
        # For each epoch: the last height of the epoch before it, and its members' keys.
        self._epochs: list[tuple[int, dict[int, bytes]]] = [(0, dict(replicas))]
        self._ids_used = set(replicas)
        self._stood: dict[bytes, int] = {}  # request id -> newest height with it
        self._vouchers = dict(vouchers)
        self._time_us = genesis_time_us
        self._counters: dict[bytes, int] = dict.fromkeys(self._administrators, 0)
        self._revoked: dict[bytes, int] = {}  # device -> height
        self._renewed: dict[bytes, int] = {}  # former key -> height
        self._devices: dict[bytes, bytes] = {}  # node id -> first node id of the same device

    @property
    def newest_members(self) -> Collection[int]:
        """The members of the newest ordered epoch, whether it is in force or not."""
        return self._epochs[-1][1]

    def members(self, epoch: int) -> Collection[int]:
        """The members of an epoch. None if nobody ordered it."""
        return self._epochs[epoch][1] if epoch < len(self._epochs) else ()

    def begins_above(self, epoch: int) -> int:
        return self._epochs[epoch][0]

    def epoch_of(self, height: int) -> int:
        """Which epoch decides this height."""
        return max(e for e, (above, _) in enumerate(self._epochs) if e == 0 or above < height)

    def judge(self, head: Head, block: Block) -> None:
        """Raises RuleBrokenError."""
        if head.epoch != self.epoch_of(head.height):
            raise RuleBrokenError("epoch", f"block {head.height} is of epoch {head.epoch}")
        if head.time_us <= self._time_us:
            raise RuleBrokenError("time", f"block time {head.time_us} is not after its parent's")
        self._time_us = head.time_us
        if head.count != len(block.records):
            raise RuleBrokenError("prefix", f"{len(block.records)} records, {head.count} promised")
        for record in block.records:
            self._judge(head, cbor2.loads(record.leaf), record.item)

    def _judge(self, head: Head, leaf: dict[str, Any], item: bytes) -> None:
        if hashlib.sha256(item).digest() != leaf["item"]:
            raise RuleBrokenError("validity", "a record does not commit to its item")
        cose, endorsements = _items.decode(item)
        request = request_id(cose)
        if request != leaf["request"]:
            raise RuleBrokenError("validity", "a record names another request than its item")
        if request not in self.signed:
            raise RuleBrokenError("validity", f"no client signed request {request.hex()[:8]}")
        # A request may be in two blocks, if a third view joins the certificates of two views (the
        # second one is then refused). It must not be twice in one block.
        if self._stood.get(request) == head.height:
            raise RuleBrokenError("exactly-once", f"{request.hex()[:8]} stands twice in one block")
        self._stood[request] = head.height
        if leaf["time_us"] != head.time_us:
            raise RuleBrokenError("time", "access time is not the block's time")
        status = leaf["status"]
        before = self.executed.get(request)
        if status == "ok":
            if before is not None and before[0] == "ok":
                raise RuleBrokenError("exactly-once", f"request {request.hex()[:8]} executed twice")
            self._check(head.height, request, cbor2.loads(cbor2.loads(cose).value[2]), endorsements)
        if status == "ok" or before is None:
            self.executed[request] = (status, head.height)

    def _check(
        self, height: int, request: bytes, operation: dict[str, Any], endorsements: list[Any]
    ) -> None:
        name = operation["op"]
        if name == "enrol":
            accepts = [_endorsements.decode(body) for body, _, _ in endorsements]
            endorsers = {
                sender
                for _, _, sender, endorsed, accepted, _ in accepts
                if accepted and endorsed == request
            }
            self._check_enrolment(height, operation, endorsers)
            return
        node, counter = operation["node"], operation["counter"]
        if node not in self._counters:
            raise RuleBrokenError("validity", f"{name} of a node that never enrolled")
        device = self._devices.get(node, node)
        ended = min(self._revoked.get(device, height), self._renewed.get(node, height))
        if ended < height:
            raise RuleBrokenError("validity", f"{name} of a node that ended at {ended}")
        if counter <= self._counters[node]:
            raise RuleBrokenError(
                "exactly-once", f"{name} with counter {counter} after {self._counters[node]}"
            )
        self._counters[node] = counter
        if name == "revoke":
            target = operation["target"]
            self._revoked.setdefault(self._devices.get(target, target), height)
        elif name == "renew":
            new = hashlib.sha256(operation["key"]).digest()
            if new != node:
                self._renewed.setdefault(node, height)
            self._devices[new] = device
            self._counters.setdefault(new, 0)
        elif name == "add-voucher":
            self._vouchers[operation["voucher"]] = operation["kind"], operation["not_after_us"]
        elif name == "withdraw-voucher":
            if self._vouchers.pop(operation["voucher"], None) is None:
                raise RuleBrokenError("validity", "a voucher was withdrawn that admits nobody")
        elif name in ("add-replica", "remove-replica"):
            self._change(height, operation)

    def _change(self, height: int, operation: dict[str, Any]) -> None:
        """Judges a membership change: an administrator orders it, one at a time, and it is in force
        above the next checkpoint."""
        if operation["node"] not in self._administrators:
            raise RuleBrokenError("validity", f"{operation['op']} by who is no administrator")
        above, members = self._epochs[-1]
        if len(self._epochs) > 1 and height <= above:
            raise RuleBrokenError("epoch", f"a change at {height} while another is pending")
        replica, key = operation["replica"], operation.get("key")
        if key is None and replica not in members:
            raise RuleBrokenError("epoch", f"r{replica} is removed and was no member")
        if key is not None and (replica in self._ids_used or key in members.values()):
            raise RuleBrokenError("epoch", f"r{replica} is added a second time")
        self._ids_used.add(replica)
        following = {r: k for r, k in members.items() if r != replica}
        if key is not None:
            following[replica] = key
        boundary = -(-height // self._interval) * self._interval
        self._epochs.append((boundary, following))

    def _check_enrolment(self, height: int, operation: dict[str, Any], endorsers: set[int]) -> None:
        voucher = hashlib.sha256(operation["voucher"]["key"]).digest()
        if voucher not in self._vouchers:
            raise RuleBrokenError("validity", "enrolled without a valid, unused voucher")
        kind, last_us = self._vouchers.pop(voucher)
        if operation["kind"] != kind or self._time_us > last_us:
            raise RuleBrokenError("validity", f"enrolled with a voucher of {kind} until {last_us}")
        members = self.members(self.epoch_of(height))
        endorsers &= set(members)
        # f+1: one of them is honest.
        if len(endorsers) < (self._accepts or (len(members) - 1) // 3 + 1):
            raise RuleBrokenError("validity", f"enrolled with {len(endorsers)} endorsements")
        node = hashlib.sha256(operation["key"]).digest()
        if node in self._counters:
            raise RuleBrokenError("validity", "enrolled twice under one key")
        self._counters[node] = 0
