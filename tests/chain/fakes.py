"""What surrounds a replica in tests of the core: signatures, requests, a ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from chain.block import Block, Head, Record, genesis_head
from chain.errors import PeerFault
from chain.genesis import Member, Membership
from chain.keys import digest
from chain.merkle import EMPTY_ROOT
from chain.pbft.inputs import Received
from chain.pbft.messages import (
    Proposal,
    ReplicaMessage,
    Signed,
    decode_body,
    decode_signed,
    encode,
    signed_bytes,
)
from chain.pbft.state_machine import Screening, VerifiedRequest
from chain.pbft.verify import Verifier

__all__ = [
    "NETWORK",
    "FakeScheme",
    "FakeSigner",
    "Ledger",
    "item",
    "open_item",
    "open_items",
    "sign",
    "signer_of",
    "verified",
]

NETWORK = digest(b"a network for tests")
START_US = 1_700_000_000_000_000


class FakeSigner:
    """Cheap and deterministic; anybody could forge it, so only tests and simulations use it."""

    def __init__(self, name: str) -> None:
        self.public = f"key of {name}".encode().ljust(32, b".")

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.public + data).digest()


def signer_of(replica: int) -> FakeSigner:
    return FakeSigner(f"replica {replica}")


class FakeScheme:
    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        return hashlib.sha512(public + data).digest() == signature


def item(text: str) -> bytes:
    """A request: "NAME", "client/NAME", "NAME>OTHER" (known once OTHER is executed),
    "!NAME" (refused), "+4" / "-3" (adds or removes a replica), "NAME@0" (endorsed in epoch 0, not
    valid in another)."""
    return b"ok " + text.encode()


def open_item(data: bytes) -> VerifiedRequest:
    if not data.startswith(b"ok "):
        raise PeerFault("bad-signature", "not signed by its client")
    text = data[3:].decode()
    client, _, _ = text.rpartition("/")
    return VerifiedRequest(digest(data), client.encode() or b"anybody", 0, data, text)


def open_items(items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
    opened: list[VerifiedRequest | PeerFault] = []
    for data in items:
        try:
            opened.append(open_item(data))
        except PeerFault as fault:
            opened.append(fault)
    return opened


class Ledger:
    """Blocks, and the operations above; screening by what is executed."""

    def __init__(self, membership: Membership, interval: int) -> None:
        self.interval = interval
        head = genesis_head(NETWORK, START_US)
        self.blocks = [Block(head, ())]
        self.names: list[list[str]] = [[]]
        self.done: dict[bytes, int] = {}
        self.membership = membership  # that decided the last block
        self.memberships = {membership.epoch: membership}
        self.pending: Membership | None = None

    @property
    def height(self) -> int:
        return len(self.blocks) - 1

    @property
    def deciding(self) -> Membership:
        """Who decides the next block."""
        changes = self.pending is not None and self.height % self.interval == 0
        return self.pending if changes and self.pending else self.membership

    @property
    def tip(self) -> tuple[int, bytes, int]:
        block = self.blocks[-1]
        return self.height, block.hash, Head.decode(block.head).time_us

    def screen(self, request: VerifiedRequest) -> Screening:
        if request.id in self.done:
            return Screening.DONE
        text = str(request.operation)
        if text.startswith("!"):
            return Screening.REFUSED
        _, _, epoch = text.partition("@")
        if epoch and int(epoch) != self.deciding.epoch:
            return Screening.INVALID
        _, _, needed = text.partition(">")
        if needed and digest(item(needed)) not in self.done:
            return Screening.LATER
        return Screening.READY

    def open(self, data: bytes) -> VerifiedRequest:
        return open_item(data)

    def execute(self, proposal: Proposal, requests: Iterable[VerifiedRequest], epoch: int) -> None:
        parent = Head.decode(self.blocks[-1].head)
        assert proposal.seq == self.height + 1
        records, names = [], []
        if epoch != self.membership.epoch:
            assert self.pending is not None
            assert self.height % self.interval == 0
            self.membership, self.pending = self.pending, None
        for request in requests:
            if request.id not in self.done:
                self.done[request.id] = proposal.seq
                names.append(str(request.operation))
                records.append(Record(b"", request.item))
                self._change(str(request.operation))
        head = Head(
            network=NETWORK,
            height=proposal.seq,
            time_us=max(proposal.time_us, parent.time_us + 1),
            parent=self.blocks[-1].hash,
            parent_root=parent.root,
            root=digest(b"".join(record.item for record in records)) if records else EMPTY_ROOT,
            epoch=epoch,
            view=proposal.view,
            count=len(records),
        )
        self.blocks.append(Block(head.encode(), tuple(records)))
        self.names.append(names)

    def append(self, block: Block) -> None:
        head = Head.decode(block.head)
        proposal = Proposal(head.height, head.time_us, head.view, ())
        requests = [open_item(record.item) for record in block.records]
        self.execute(proposal, requests, head.epoch)
        if self.blocks[-1].head != block.head:
            self.truncate(self.height - 1)
            raise PeerFault("bad-block", f"block {head.height} does not execute to its head")

    def truncate(self, height: int) -> None:
        """What a crash leaves: the blocks that were synced. (Not across a membership change.)"""
        for names in self.names[height + 1 :]:
            for name in names:
                self.done.pop(digest(item(name)), None)
        del self.blocks[height + 1 :], self.names[height + 1 :]

    def _change(self, text: str) -> None:
        if text[:1] not in "+-" or self.pending is not None:
            return
        member = int(text[1:])
        members = [m for m in self.membership.members if m.id != member]
        if text[0] == "+":
            members.append(Member(member, signer_of(member).public))
        self.pending = Membership(self.membership.epoch + 1, tuple(sorted(members)))
        self.memberships[self.pending.epoch] = self.pending


def sign(signer: FakeSigner, message: ReplicaMessage, attachment: bytes = b"") -> Signed:
    body = encode(message)
    return Signed(body, signer.sign(signed_bytes(NETWORK, body)), attachment)


def verified(verifier: Verifier, frame: bytes, sender: int) -> Received[ReplicaMessage]:
    """The message in `frame`, which came over the link of replica `sender`."""
    signed = decode_signed(frame)
    return verifier.verify(decode_body(signed.body), signed, sender)
