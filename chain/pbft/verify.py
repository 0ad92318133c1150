"""From bytes on a link to a message that the core may trust: signatures, digests, certificates.

Pure and thread-safe: the host may verify in bulk, in threads, before its loop. Valid signatures and
opened requests are remembered, within a bound, so they are not verified twice. Certificates (q
CHECKPOINTs; a PRE-PREPARE with q-1 PREPAREs; q VIEW-CHANGEs) are checked as a whole: equal
statements of distinct members of one epoch. The handlers of `chain.pbft` act on the messages.

COMMITs are in no certificate, and links are authenticated. So a COMMIT that comes over its sender's
own link counts unchecked. It is checked (`holds`) before it is handed on or used as evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from chain.errors import PeerFault
from chain.genesis import Membership
from chain.keys import Scheme, digest
from chain.pbft.inputs import Received
from chain.pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    Forward,
    Heads,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    ViewChange,
    decode_body,
    decode_proposal,
    signed_bytes,
)
from chain.pbft.state_machine import VerifiedRequest

__all__ = ["REQUESTS_REMEMBERED_MAX", "SIGNATURES_REMEMBERED_MAX", "GenerationalCache", "Verifier"]

SIGNATURES_REMEMBERED_MAX = 32_768  # digests of signed statements, 32 bytes each
REQUESTS_REMEMBERED_MAX = 2048  # opened batch items

# Anybody may hand these on, because each proves itself. Certificates are made of them, so their
# signatures are worth remembering.
_RELAYED = frozenset({PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView})
_VOTES = frozenset({Prepare, Commit})  # the most common messages; they have no contents to check

_M = TypeVar("_M", PrePrepare, Prepare, Checkpoint, ViewChange)
_V = TypeVar("_V")


class GenerationalCache(Generic[_V]):
    """A bounded memory in two generations: the older is dropped when the younger is full.

    Single dictionary operations only, so threads may share it without a lock; a lost race costs
    one more verification.
    """

    def __init__(self, entries_max: int) -> None:
        self._half = entries_max // 2
        self._young: dict[bytes, _V] = {}
        self._old: dict[bytes, _V] = {}

    def get(self, key: bytes) -> _V | None:
        value = self._young.get(key)
        return value if value is not None else self._old.get(key)

    def put(self, key: bytes, value: _V) -> None:
        if len(self._young) >= self._half:
            self._old, self._young = self._young, {}
        self._young[key] = value


class Verifier:
    """Verifies each signature once and remembers it, within a bound.

    `membership(epoch)` gives the membership of a past, the current or the pending epoch, None if
    it is not known here. `newest` is the newest epoch that is known at the start; the first ones
    may be forgotten. `open_items(items)` opens batch items: for each the request, or its fault.
    """

    def __init__(
        self,
        network: bytes,
        scheme: Scheme,
        membership: Callable[[int], Membership | None],
        open_items: Callable[[Sequence[bytes]], Sequence[VerifiedRequest | PeerFault]],
        newest: int = 0,
    ) -> None:
        self._network = network
        self._scheme = scheme
        self._membership = membership
        self._open_items = open_items
        self._newest = newest  # the newest epoch that is known
        self._signatures: GenerationalCache[bool] = GenerationalCache(SIGNATURES_REMEMBERED_MAX)
        self._requests: GenerationalCache[VerifiedRequest] = GenerationalCache(
            REQUESTS_REMEMBERED_MAX
        )

    def verify(
        self, message: ReplicaMessage, signed: Signed, sender: int
    ) -> Received[ReplicaMessage]:
        """`message` is the body of `signed`, which came over the link of replica `sender`.

        Raises PeerFault. The code "unknown-epoch" means that this replica is behind (or the
        sender is): drop the frame without blaming anyone.
        """
        kind = type(message)
        relayed = kind in _RELAYED
        if message.sender != sender and not relayed:
            raise PeerFault("wrong-sender", f"{message.sender} over the link of {sender}")
        if signed.attachment and kind is not PrePrepare:
            raise PeerFault("bad-frame", "an attachment that nothing commits to")
        public = self._key(message)
        if kind is not Commit or message.sender != sender:
            self._check_signature(message, signed, public, remember=relayed)
        if kind in _VOTES:
            return Received(message, signed)
        return self._contents(message, signed)

    def holds(self, signed: Signed) -> bool:
        """Whether a replica's statement has a valid signature, so that others can check it too."""
        try:
            message = decode_body(signed.body)
            self._check_signature(message, signed, self._key(message), remember=True)
        except PeerFault:
            return False
        return True

    def _contents(self, message: ReplicaMessage, signed: Signed) -> Received[ReplicaMessage]:
        match message:
            case PrePrepare():
                return self._pre_prepare(message, signed)
            case ViewChange():
                return self._view_change(message, signed)
            case NewView():
                return self._new_view(message, signed)
            case Heads():
                return Received(message, signed, checkpoints=self._heads_proof(message))
            case Batch():
                proposal = decode_proposal(message.proposal)
                requests = self._opened(proposal.items)
                return Received(message, signed, proposal=proposal, requests=requests)
            case Forward():
                return Received(message, signed, requests=(self.open(message.item),))
            case _:
                return Received(message, signed)  # it has no contents that the core reads

    def open_all(self, items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
        """`open_items`, remembered: a request that was submitted here is not verified again when
        it comes in a batch."""
        opened: list[VerifiedRequest | PeerFault | None] = [
            self._requests.get(item) for item in items
        ]
        unknown = [place for place, request in enumerate(opened) if request is None]
        fresh = self._open_items([items[place] for place in unknown]) if unknown else ()
        for place, request in zip(unknown, fresh, strict=True):
            opened[place] = request
            if not isinstance(request, PeerFault):
                self._requests.put(request.item, request)  # key and value share one copy
        return [each for each in opened if each is not None]

    def open(self, item: bytes) -> VerifiedRequest:
        """`open_all` for one. Raises PeerFault."""
        return self._opened((item,))[0]

    def _opened(self, items: Sequence[bytes]) -> tuple[VerifiedRequest, ...]:
        requests = []
        for opened in self.open_all(items):
            if isinstance(opened, PeerFault):
                raise opened
            requests.append(opened)
        return tuple(requests)

    # --- signatures ----------------------------------------------------------------------------

    def _members(self, epoch: int) -> Membership:
        membership = self._membership(epoch)
        if membership is None:
            raise PeerFault("unknown-epoch", f"epoch {epoch} is not known here")
        return membership

    def _key(self, message: ReplicaMessage) -> bytes:
        """Votes count for members of their epoch only. A replica that asks or answers may be epochs
        ahead or behind, or a member of the next epoch only: any membership that we know will do."""
        if type(message) in _RELAYED:
            spki = self._members(message.epoch).spki(message.sender)
        else:
            spki = self._newest_key(message.sender)
        if spki is None:
            raise PeerFault("not-a-member", f"{message.sender} in epoch {message.epoch}")
        return spki

    def _newest_key(self, sender: int) -> bytes | None:
        while self._membership(self._newest + 1) is not None:
            self._newest += 1
        for epoch in range(self._newest, -1, -1):
            membership = self._membership(epoch)
            if membership is None:
                return None  # those before it are forgotten
            spki = membership.spki(sender)
            if spki is not None:
                return spki
        return None

    def _check_signature(
        self, message: ReplicaMessage, signed: Signed, spki: bytes, *, remember: bool
    ) -> None:
        key = digest(signed.signature + signed.body) if remember else b""
        if remember and self._signatures.get(key):
            return
        if not self._scheme.verify(
            spki, signed_bytes(self._network, signed.body), signed.signature
        ):
            kind = type(message).__name__
            raise PeerFault("bad-signature", f"{kind} that claims to be from {message.sender}")
        if remember:
            self._signatures.put(key, True)

    def _nested(self, signed: Signed, kind: type[_M], epoch: int) -> _M:
        """Reads a statement inside another one: of this kind and epoch, with a good signature and
        no attachment."""
        message = decode_body(signed.body)
        if not isinstance(message, kind) or signed.attachment:
            raise PeerFault("bad-certificate", f"{type(message).__name__} for {kind.__name__}")
        if message.epoch != epoch:
            raise PeerFault("bad-certificate", f"epoch {message.epoch} instead of {epoch}")
        self._check_signature(message, signed, self._key(message), remember=True)
        return message

    # --- digests and certificates --------------------------------------------------------------

    def _pre_prepare(self, message: PrePrepare, signed: Signed) -> Received[PrePrepare]:
        """The digest is recomputed over the attached batch, and the batch names its number."""
        if message.sender != self._members(message.epoch).primary(message.view):
            raise PeerFault("not-primary", f"{message.sender} is not primary of {message.view}")
        if not signed.attachment:
            raise PeerFault("no-batch", f"PRE-PREPARE {message.seq} without its batch")
        if Proposal.digest_of(signed.attachment) != message.digest:
            raise PeerFault("bad-digest", f"PRE-PREPARE {message.seq} names another batch")
        proposal = decode_proposal(signed.attachment)
        if proposal.seq != message.seq or proposal.view > message.view:
            raise PeerFault("bad-proposal", f"batch of {proposal.seq} proposed as {message.seq}")
        requests = self._opened(proposal.items)
        return Received(message, signed, proposal=proposal, requests=requests)

    def _checkpoints(
        self, proof: tuple[Signed, ...], epochs: tuple[int, ...]
    ) -> tuple[Checkpoint, ...]:
        """q CHECKPOINTs of distinct members of one of `epochs` that agree."""
        votes = []
        epoch = -1
        for signed in proof:
            if epoch < 0:
                epoch = decode_body(signed.body).epoch
                if epoch not in epochs or len(proof) != self._members(epoch).quorum.strong:
                    raise PeerFault("bad-certificate", f"{len(proof)} CHECKPOINTs of {epoch}")
            votes.append(self._nested(signed, Checkpoint, epoch))
        if len({vote.sender for vote in votes}) != len(votes):
            raise PeerFault("bad-certificate", "two CHECKPOINTs of one sender")
        if len({(vote.seq, vote.head) for vote in votes}) > 1:
            raise PeerFault("bad-certificate", "CHECKPOINTs that do not agree")
        return tuple(votes)

    def _heads_proof(self, message: Heads) -> tuple[Checkpoint, ...]:
        """Heads may be certified by another epoch than the one that their sender is in."""
        if not message.proof:
            raise PeerFault("bad-certificate", "HEADS without a proof")
        epoch = decode_body(message.proof[0].body).epoch
        return self._checkpoints(message.proof, (epoch,))

    def _prepared(self, proof: PreparedProof, message: ViewChange) -> PrePrepare:
        """prepared(m, v, n): the primary's PRE-PREPARE and q-1 PREPAREs of distinct backups."""
        members = self._members(message.epoch)
        if len(proof.prepares) != members.quorum.strong - 1:
            raise PeerFault("bad-certificate", f"{len(proof.prepares)} PREPAREs")
        first = self._nested(proof.pre_prepare, PrePrepare, message.epoch)
        primary = members.primary(first.view)
        if first.sender != primary or first.view >= message.view:
            raise PeerFault("bad-certificate", f"PRE-PREPARE of {first.sender} in {first.view}")
        senders = {primary}
        for signed in proof.prepares:
            vote = self._nested(signed, Prepare, message.epoch)
            if (vote.view, vote.seq, vote.digest) != (first.view, first.seq, first.digest):
                raise PeerFault("bad-certificate", "a PREPARE of something else")
            if vote.sender in senders:
                raise PeerFault("bad-certificate", f"two votes of {vote.sender}")
            senders.add(vote.sender)
        return first

    def _view_change(self, message: ViewChange, signed: Signed) -> Received[ViewChange]:
        """Its checkpoint may stand at the boundary where its epoch began, and then be certified
        by the epoch before. Checkpoint 0 is the genesis: nobody signs it."""
        if message.stable_seq or message.stable_proof:
            epochs = (message.epoch, message.epoch - 1)
            votes = self._checkpoints(message.stable_proof, epochs)
            claim = (message.stable_seq, message.stable_head)
            if not votes or (votes[0].seq, votes[0].head) != claim:
                raise PeerFault("bad-certificate", "the stable checkpoint is not proven")
        prepared = tuple(self._prepared(proof, message) for proof in message.prepared)
        return Received(message, signed, prepared=prepared)

    def _new_view(self, message: NewView, signed: Signed) -> Received[NewView]:
        """V: at least q sound VIEW-CHANGEs of distinct members for this very view. O: signed by
        the primary; whether it is what V decides is the core's question."""
        members = self._members(message.epoch)
        if message.sender != members.primary(message.view):
            raise PeerFault("bad-new-view", f"{message.sender} is not primary of {message.view}")
        if not members.quorum.strong <= len(message.view_changes) <= members.quorum.n:
            raise PeerFault("bad-new-view", f"{len(message.view_changes)} VIEW-CHANGEs")
        view_changes, senders = [], set()
        for entry in message.view_changes:
            inner = self._nested(entry, ViewChange, message.epoch)
            if inner.view != message.view or inner.sender in senders:
                raise PeerFault("bad-new-view", f"a stale or second VIEW-CHANGE: {inner.sender}")
            senders.add(inner.sender)
            view_changes.append(self._view_change(inner, entry))
        pre_prepares = []
        for entry in message.pre_prepares:
            pre_prepare = self._nested(entry, PrePrepare, message.epoch)
            if pre_prepare.sender != message.sender:
                raise PeerFault("bad-new-view", f"a PRE-PREPARE of {pre_prepare.sender}")
            pre_prepares.append(pre_prepare)
        return Received(
            message,
            signed,
            view_changes=tuple(view_changes),
            pre_prepares=tuple(pre_prepares),
        )
