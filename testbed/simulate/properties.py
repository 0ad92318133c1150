"""The checker of the properties of every run. It judges at every step, from outside the core.

It sees the frames that leave a replica, the blocks and facts that reach its disk, its accusations,
and the final blocks of clients. It never looks inside. Each check costs O(1) per event.
`testbed.simulate.reference` is a second, independent implementation of the rules. It judges whether
an operation was allowed.

The checker ignores Byzantine replicas, so only an honest one can break a property. The first break
ends the run (`BrokenError`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec

from chain.block import Block, Head
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    ReplicaMessage,
    ViewChange,
    decode_signed,
)
from chain.pbft.state import ViewFact
from testbed.simulate.disk import Disk
from testbed.simulate.outcome import Violation
from testbed.simulate.reference import Reference, RuleBrokenError
from testbed.simulate.timeline import Timeline

__all__ = ["BrokenError", "Checker"]

_messages = msgspec.msgpack.Decoder(ReplicaMessage)
_views = msgspec.msgpack.Decoder(ViewFact)
_Vote = tuple[str, int, int, int, int]  # kind, replica, epoch, view, sequence number
_ASKED = ("view-change", "new-view")  # statements on views, not on sequence numbers


def _is_backed(disk: Disk, kind: str, epoch: int, view: int, seq: int) -> bool:
    """Whether the disk keeps, even after a crash, what prevents a contradiction of this vote: that
    the replica was in this view or a later one; for a COMMIT, the certificate and the batch."""
    if kind == "prepared":
        return disk.holds("prepared", view, seq) and disk.holds("proposal", view, seq)
    fact = disk.durable("view", 0, 0)
    if fact is None:
        return False
    entered = _views.decode(fact.data)
    return (entered.epoch, entered.view, entered.active) >= (epoch, view, True)


class BrokenError(Exception):
    """A property was broken."""

    def __init__(self, finding: Violation) -> None:
        super().__init__(str(finding))
        self.finding = finding


class Checker:
    """Judges one run."""

    def __init__(
        self,
        timeline: Timeline,
        honest: frozenset[int],
        genesis_head: bytes,
        reference: Reference,
        time_us_max: Callable[[], int] | None,
    ) -> None:
        """`genesis_head` is the hash of block 0. `time_us_max` gives the latest time that a block
        may have now; None if too many clocks are wrong for such a limit."""
        self._timeline = timeline
        self._honest = honest
        self._reference = reference
        self._time_us_max = time_us_max
        self._agreed = [genesis_head]
        self._heights: dict[int, int] = dict.fromkeys(honest, 0)
        self._votes: dict[_Vote, bytes] = {}
        self._wiped: set[int] = set()
        self._final_height = 0
        self._last_frame: dict[int, bytes] = {}

    @property
    def height(self) -> int:
        """The height of the highest block that an honest replica has executed."""
        return len(self._agreed) - 1

    def height_of(self, replica: int) -> int:
        return self._heights[replica]

    def broken(self, name: str, message: str) -> BrokenError:
        return BrokenError(Violation(name, self._timeline.now_us, message))

    # --- what replicas write ---------------------------------------------------------------------

    def wrote_block(self, replica: int, height: int, block: Block) -> None:
        """Checks agreement per sequence number and consistent prefixes of chains, and the validity
        of new blocks."""
        if replica not in self._honest:
            return
        if height != self._heights[replica] + 1:
            raise self.broken("prefix", f"r{replica} wrote {height} after {self._heights[replica]}")
        head = Head.decode(block.head)
        if head.height != height or head.parent != self._agreed[height - 1]:
            raise self.broken("prefix", f"r{replica}: block {height} does not link to {height - 1}")
        if height == len(self._agreed):
            self._check_content(replica, head, block)
            self._agreed.append(block.hash)
        elif block.hash != self._agreed[height]:
            raise self._fork(replica, height, block.hash)
        self._heights[replica] = height

    def _fork(self, replica: int, height: int, found: bytes) -> BrokenError:
        what = (
            f"r{replica} executed {found.hex()[:8]} at {height}, "
            f"another honest replica executed {self._agreed[height].hex()[:8]}"
        )
        if height <= self._final_height and height > max(self._heights.values()):
            return self.broken("durability", f"{what}: a block that clients hold final was lost")
        return self.broken("agreement", f"fork: {what}")

    def _check_content(self, replica: int, head: Head, block: Block) -> None:
        if self._time_us_max is not None and head.time_us > self._time_us_max():
            ahead_s = (head.time_us - self._time_us_max()) / 1e6
            raise self.broken("time", f"block {head.height} is {ahead_s:.1f} s too far ahead")
        try:
            self._reference.judge(head, block)
        except RuleBrokenError as broken:
            raise self.broken(broken.rule, f"r{replica} at {head.height}: {broken}") from broken

    def restarted(self, replica: int, height: int) -> None:
        """Notes the height after a crash, which may lose unsynced blocks and nothing else."""
        if replica in self._honest:
            self._heights[replica] = height

    def wiped(self, replica: int) -> None:
        """The replica forgot which views it had asked for, and may ask for one again with other
        content. That is harmless: when its abstention ends, a quorum without its vote has proven a
        checkpoint, and all that it forgot to have prepared is at or below it. It must not
        contradict its votes on sequence numbers, because abstention covers these."""
        self._wiped.add(replica)
        self._votes = {
            vote: content
            for vote, content in self._votes.items()
            if vote[1] != replica or vote[0] not in _ASKED
        }

    # --- what replicas send ----------------------------------------------------------------------

    def sent(self, replica: int, frame: bytes, disk: Disk) -> None:
        """Checks that there is no equivocation, not even across a restart. No vote may leave before
        the entry into its view is durable, and no COMMIT before its certificate and batch are."""
        if replica not in self._honest or self._last_frame.get(replica) is frame:
            return
        self._last_frame[replica] = frame
        body = decode_signed(frame).body
        message = _messages.decode(body)
        if message.sender != replica:
            return  # it repeats another replica's message
        match message:
            case PrePrepare(epoch=epoch, view=view, seq=seq, digest=digest):
                self._voted(("proposal", replica, epoch, view, seq), digest, disk)
            case Prepare(epoch=epoch, view=view, seq=seq, digest=digest):
                self._voted(("proposal", replica, epoch, view, seq), digest, disk)
            case Commit(epoch=epoch, view=view, seq=seq, digest=digest):
                self._voted(("prepared", replica, epoch, view, seq), digest, disk)
            case Checkpoint(epoch=epoch, seq=seq, head=head):
                self._voted(("checkpoint", replica, epoch, 0, seq), head, None)
                if disk.height_durable < seq:
                    raise self.broken(
                        "durable-vote", f"r{replica} vouched for block {seq} before it was synced"
                    )
            case ViewChange(epoch=epoch, view=view):
                self._voted(("view-change", replica, epoch, view, 0), body, None)
            case NewView(epoch=epoch, view=view):
                self._voted(("new-view", replica, epoch, view, 0), body, None)
            case _:
                pass

    def _voted(self, vote: _Vote, content: bytes, disk: Disk | None) -> None:
        before = self._votes.get(vote)
        if before == content:
            return
        kind, replica, epoch, view, seq = vote
        if replica not in self._reference.members(epoch):
            raise self.broken("epoch", f"r{replica} votes in epoch {epoch}, where it has no vote")
        if disk is not None and seq <= self._reference.begins_above(epoch):
            raise self.broken("epoch", f"r{replica} votes on n{seq} in epoch {epoch}: too early")
        if before is not None:
            raise self.broken(
                "equivocation", f"honest r{replica} sent two {kind} statements for v{view} n{seq}"
            )
        self._votes[vote] = content
        if disk is not None and not _is_backed(disk, kind, epoch, view, seq):
            raise self.broken(
                "durable-vote",
                f"r{replica} sent its {kind} vote v{view} n{seq} before its basis was synced",
            )

    def holds(self, replica: int, values: int, values_max: int) -> None:
        """Checks that memory is bounded, with any messages of peers."""
        if replica in self._honest and values > values_max:
            raise self.broken("memory", f"r{replica} holds {values} values, at most {values_max}")

    def agreed(self, height: int) -> bytes | None:
        """Hash of the head that honest replicas executed at this height."""
        return self._agreed[height] if height < len(self._agreed) else None

    def accused(self, replica: int, culprit: int, reason: str, fault: str | None) -> None:
        """Checks that no honest replica has evidence against another honest one, and that its
        evidence is valid for everybody who judges the bytes (`fault`: why it is not)."""
        if replica not in self._honest:
            return
        forgot = culprit in self._wiped and reason == "equivocation-view-change"
        if culprit in self._honest and not forgot:
            raise self.broken("accusation", f"r{replica} accuses honest r{culprit}: {reason}")
        if fault is not None:
            raise self.broken("evidence", f"r{replica} accuses r{culprit} of {reason}: {fault}")

    def blamed(self, replica: int, party: object, code: object) -> None:
        """Checks that no honest replica passes on an invalid signature."""
        if replica in self._honest and party in self._honest and code == "bad-signature":
            raise self.broken("accusation", f"r{replica} got a bad signature from honest r{party}")

    # --- what clients hold -----------------------------------------------------------------------

    def final(self, gateway: int, height: int, head_hash: bytes, signers: Collection[int]) -> None:
        """Checks that certificates are sound: a block with f+1 seals of members of its epoch was
        executed by an honest replica."""
        if height >= len(self._agreed):
            raise self.broken(
                "certificate", f"g{gateway} holds {height} final, no honest replica executed it"
            )
        if head_hash != self._agreed[height]:
            raise self.broken("certificate", f"g{gateway} holds another block final at {height}")
        members = self._reference.members(self._reference.epoch_of(height))
        if len(set(signers) & set(members)) < (len(members) - 1) // 3 + 1:
            raise self.broken("certificate", f"g{gateway} took the seals of {signers} for enough")
        self._final_height = max(self._final_height, height)
