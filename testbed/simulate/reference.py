"""A second reading of what blocks may say, independent of `chain.ledger` and `chain.registry`.

It decodes with another library (cbor2) and keeps the least state that decides whether an executed
operation was allowed: who is enrolled, who has ended, the last counter, the vouchers used. It
judges what was accepted; what was refused has no effect and needs no defence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
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

    def __init__(self, genesis_time_us: int, vouchers: Collection[bytes], endorsers: int) -> None:
        """`vouchers`: ids of the tokens that may be used once; `endorsers`: k, how many members
        of the authentication group must have accepted an enrolment."""
        self.signed: set[bytes] = set()
        self.executed: dict[bytes, tuple[str, int]] = {}  # request id -> best status, height
        self._endorsers = endorsers
        self._stood: dict[bytes, int] = {}  # request id -> height where it stood last
        self._vouchers = set(vouchers)
        self._time_us = genesis_time_us
        self._counters: dict[bytes, int] = {}
        self._ended: dict[bytes, int] = {}

    def judge(self, head: Head, block: Block) -> None:
        """Raises RuleBrokenError."""
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
        # In two blocks it may stand, with certificates of two views that a third one joins (the
        # second is then refused); in one block only if nobody looked.
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
            self._check_enrolment(operation, endorsers)
            return
        node, counter = operation["node"], operation["counter"]
        if node not in self._counters:
            raise RuleBrokenError("validity", f"{name} of a node that never enrolled")
        if node in self._ended and self._ended[node] < height:
            raise RuleBrokenError("validity", f"{name} of a node that ended at {self._ended[node]}")
        if counter <= self._counters[node]:
            raise RuleBrokenError(
                "exactly-once", f"{name} with counter {counter} after {self._counters[node]}"
            )
        self._counters[node] = counter
        if name == "revoke":
            self._ended.setdefault(operation["target"], height)
        elif name == "renew":
            self._ended.setdefault(node, height)
            self._counters.setdefault(hashlib.sha256(operation["key"]).digest(), 0)

    def _check_enrolment(self, operation: dict[str, Any], endorsers: set[int]) -> None:
        voucher = hashlib.sha256(operation["voucher"]["key"]).digest()
        if voucher not in self._vouchers:
            raise RuleBrokenError("validity", "enrolled without a valid, unused voucher")
        self._vouchers.discard(voucher)
        if len(endorsers) < self._endorsers:
            raise RuleBrokenError("validity", f"enrolled with {len(endorsers)} endorsements")
        node = hashlib.sha256(operation["key"]).digest()
        if node in self._counters:
            raise RuleBrokenError("validity", "enrolled twice under one key")
        self._counters[node] = 0
