"""State transfer: catching up by blocks that prove themselves (TOCS'02, section 5.3.2, with the
chain of heads in place of a partition tree).

Blocks are fetched in intervals that end at a checkpoint. First come the heads, which link up to a
head that q CHECKPOINTs certify. Then come the bodies of these heads, in pieces. The host installs
them in order, and so checks that they execute to these heads. Nothing is believed before that.
Sources take turns. A silent source is passed over for a while; a source that lies is accused and
skipped. Pruned blocks (`ledger.pruning`) are taken only up to the height that f+1 sources say they
prune. Above it, a source of pruned blocks is passed over: it may withhold the payloads on purpose.
"""

from __future__ import annotations

from chain.block import Block, Head
from chain.errors import PeerFault
from chain.keys import digest
from chain.pbft import checkpoint, requests
from chain.pbft.effects import Install
from chain.pbft.fetching import Fetched, Interval, Piece, Transfer
from chain.pbft.inputs import Installed, InstallFailed, Received
from chain.pbft.messages import (
    BODIES_BYTES_MAX,
    Bodies,
    Checkpoint,
    CheckpointProof,
    FetchBodies,
    FetchHeads,
    Heads,
    Signed,
    encode,
)
from chain.pbft.state import ReplicaState

__all__ = [
    "HELD_BYTES_MAX",
    "INTERVALS_MAX",
    "PIECE_BLOCKS",
    "SOURCE_TICKS_MAX",
    "on_bodies",
    "on_heads",
    "on_install_failed",
    "on_installed",
    "on_tick",
    "step",
]

INTERVALS_MAX = 3  # intervals of K blocks that are fetched at once
PIECE_BLOCKS = 16  # blocks asked for in one FETCH-BODIES
# Fetched blocks that wait to be installed. The piece that is next is always fetched, so its longest
# answer may come on top of this: PIECE_BLOCKS full batches.
HELD_BYTES_MAX = 32 * 1024 * 1024
SOURCE_TICKS_MAX = 2  # status intervals that a source may take until another is asked


def on_tick(s: ReplicaState, stuck: bool) -> None:
    """Begins if we are behind a proven checkpoint and live messages do not help. Asks other sources
    for what is late."""
    if s.stable.seq > s.executed and stuck and not s.busy:
        _begin(s)
    t = s.transfer
    t.probing = False
    for interval in t.intervals:
        if interval.proof is None and s.tick - interval.asked >= SOURCE_TICKS_MAX:
            t.silent.add(interval.source)
            _ask_heads(s, interval)
        for piece in interval.pieces:
            if piece.whole is not None or piece.asked < 0:
                continue
            if s.tick - piece.asked >= SOURCE_TICKS_MAX:
                t.silent.add(piece.source)
                _ask_bodies(s, piece)


def _begin(s: ReplicaState) -> None:
    if not s.transfer.running:
        s.transfer.running = True
        s.observe("fetching", s.stable.seq)


def step(s: ReplicaState) -> None:
    """Called after every input. Begins at once if the log cannot help, keeps pieces in flight, and
    installs what is complete and next."""
    t = s.transfer
    if not t.running:
        # Normally the first comparison is enough.
        if s.executed >= s.stable.seq or s.executed >= s.log.kept_above or s.busy:
            return
        _begin(s)
    t.intervals = [interval for interval in t.intervals if interval.stop > s.executed]
    if s.executed >= s.stable.seq:
        _end(s)
        return
    _fill(s)
    _install_next(s)


def _end(s: ReplicaState) -> None:
    """We are at the proven checkpoint. If our epoch is over, we cannot see further, so we ask what
    follows."""
    t = s.transfer
    t.running = False
    t.intervals = []
    t.installing = None
    t.probing = True
    requests.rescreen_fresh(s)
    s.observe("caught-up", s.executed)
    if s.others:
        s.send(t.source(s.others), FetchHeads(s.epoch, s.me, s.executed + 1))


def _fill(s: ReplicaState) -> None:
    t = s.transfer
    while len(t.intervals) < INTERVALS_MAX:
        start = t.intervals[-1].stop + 1 if t.intervals else s.executed + 1
        if start > s.stable.seq:
            break
        interval = Interval(start, s.checkpoint_at_or_above(start))
        t.intervals.append(interval)
        _ask_heads(s, interval)
    # An interval may have any length. Its heads are small; its blocks would fill the memory.
    last = s.executed + INTERVALS_MAX * s.consensus.checkpoint_interval
    pieces = t.pieces
    coming = sum(piece.asked >= 0 and piece.whole is None for piece in pieces)
    for piece in pieces:
        if piece.asked >= 0:
            continue
        room = t.held + (coming + 1) * BODIES_BYTES_MAX <= HELD_BYTES_MAX
        if piece is not pieces[0] and (piece.stop > last or not room):
            break
        _ask_bodies(s, piece)
        coming += 1


def _ask_heads(s: ReplicaState, interval: Interval) -> None:
    interval.source = s.transfer.source(s.others)
    interval.asked = s.tick
    s.send(interval.source, FetchHeads(s.epoch, s.me, interval.start))


def _ask_bodies(s: ReplicaState, piece: Piece) -> None:
    piece.source = s.transfer.source(s.others)
    piece.answers.setdefault(piece.source, Fetched())
    _ask_rest(s, piece, piece.source)


def _ask_rest(s: ReplicaState, piece: Piece, source: int) -> None:
    if source == piece.source:
        piece.asked = s.tick
    start = piece.start + len(piece.answers[source].blocks)
    s.send(source, FetchBodies(s.epoch, s.me, start, piece.stop))


# --- heads -------------------------------------------------------------------------------------


def on_heads(s: ReplicaState, received: Received[Heads]) -> None:
    """Heads that link up to a certified one. They may come as the answer to a STATUS, without a
    question: then the proof tells us how far behind we are."""
    message = received.message
    proof = _proof(received)
    if proof is None or not _of_our_epoch(s, received.checkpoints[0], message.start):
        return
    asked = [i for i in s.transfer.intervals if i.start == message.start and i.proof is None]
    if not asked and not s.transfer.probing and proof.seq <= s.stable.seq:
        return  # nothing new: not worth checking thousands of links
    try:
        _check_links(s, message, proof)
    except PeerFault as fault:
        _accuse_liar(s, message.sender, fault.code, received.signed)
        return
    checkpoint.prove(s, proof)
    t = s.transfer
    if t.probing and message.start == s.executed + 1 and proof.seq > s.executed:
        t.probing = False
        _begin(s)
        _fill(s)
    for interval in t.intervals:
        if interval.start == message.start and interval.proof is None:
            _take_heads(s, interval, message, proof)
            return


def _proof(received: Received[Heads]) -> CheckpointProof | None:
    if not received.checkpoints:
        return None
    first = received.checkpoints[0]
    return CheckpointProof(first.seq, first.head, received.message.proof)


def _of_our_epoch(s: ReplicaState, vote: Checkpoint, start: int) -> bool:
    """The membership that certifies these heads must follow from blocks that we have."""
    if vote.epoch == s.epoch:
        return s.pending is None or vote.seq <= s.boundary
    if s.pending is None or vote.epoch != s.pending.epoch:
        return False
    return s.executed == s.boundary < start  # it also shows that the boundary is stable


def _check_links(s: ReplicaState, message: Heads, proof: CheckpointProof) -> None:
    if not message.heads or message.start + len(message.heads) - 1 != proof.seq:
        raise PeerFault("lying-heads", "the heads do not end where the proof stands")
    following = proof.head
    for offset in range(len(message.heads) - 1, -1, -1):
        encoded = message.heads[offset]
        if digest(encoded) != following:
            raise PeerFault("lying-heads", f"head {message.start + offset} is not linked to")
        head = Head.decode(encoded)
        if head.network != s.network or head.height != message.start + offset:
            raise PeerFault("lying-heads", f"head {message.start + offset} is of another chain")
        following = head.parent
    if message.start == s.executed + 1 and following != s.head:
        s.halted = True  # a quorum certified a chain that ours is not a part of
        s.observe("diverged", s.executed)


def _take_heads(
    s: ReplicaState, interval: Interval, message: Heads, proof: CheckpointProof
) -> None:
    t = s.transfer
    if proof.seq != interval.stop:  # its source skipped a checkpoint: what follows moves
        t.intervals = t.intervals[: t.intervals.index(interval) + 1]
    interval.stop = proof.seq
    interval.heads = message.heads
    interval.proof = proof
    for start in range(max(interval.start, s.executed + 1), interval.stop + 1, PIECE_BLOCKS):
        stop = min(start + PIECE_BLOCKS - 1, interval.stop)
        interval.pieces.append(Piece(start, stop))


# --- bodies ------------------------------------------------------------------------------------


def on_bodies(s: ReplicaState, received: Received[Bodies]) -> None:
    message = received.message
    for interval in s.transfer.intervals:
        for piece in interval.pieces:
            answer = _answer(s, piece, message)
            if answer is not None:
                _take_bodies(s, interval, piece, answer, received)
                return


def _answer(s: ReplicaState, piece: Piece, message: Bodies) -> Fetched | None:
    """The blocks of the same source that these continue, None if there are none. So a late answer
    counts, and the blocks of one source do not get in the way of another's."""
    if piece.whole is not None or message.sender in s.transfer.liars:
        return None
    answer = piece.answers.get(message.sender)
    if answer is None or message.start != piece.start + len(answer.blocks):
        return None
    return answer


def _take_bodies(
    s: ReplicaState, interval: Interval, piece: Piece, answer: Fetched, received: Received[Bodies]
) -> None:
    message = received.message
    blocks = message.blocks[: piece.stop - message.start + 1]
    t = s.transfer
    t.pruned[message.sender] = max(message.pruned, t.pruned.get(message.sender, 0))
    below = t.pruned_below(s.others, s.membership.quorum.weak)
    too_early = any(block.pruned for block in blocks[max(0, below + 1 - message.start) :])
    if not blocks or too_early or _dribbles(answer, blocks[0]):
        s.transfer.silent.add(message.sender)
        _give_up(s, piece, message.sender)
        return
    for seq, block in enumerate(blocks, start=message.start):
        if block.head != interval.head(seq):
            _accuse_liar(s, message.sender, "lying-bodies", received.signed)
            _give_up(s, piece, message.sender)
            return
    answer.blocks += blocks
    answer.evidence = received.signed
    answer.size = sum(block.body_bytes for block in blocks)
    answer.held += sum(block.body_bytes + len(block.head) for block in blocks)
    if piece.whole is None:
        _ask_rest(s, piece, message.sender)
    else:
        piece.answers = {message.sender: answer}
    _drop_excess(s.transfer)


def _drop_excess(t: Transfer) -> None:
    """Drops pieces that are not needed next, from the end; they are fetched again later. The
    longest answer to the piece that is needed next stays."""
    first, *rest = t.pieces
    while rest and t.held > HELD_BYTES_MAX:
        piece = rest.pop()
        piece.answers, piece.asked = {}, -1
    if t.held > HELD_BYTES_MAX:
        longest = max(first.answers, key=lambda source: len(first.answers[source].blocks))
        first.answers = {longest: first.answers[longest]}


def _give_up(s: ReplicaState, piece: Piece, source: int) -> None:
    """Takes nothing more of this source, unless it is asked again."""
    del piece.answers[source]
    if source == piece.source:
        _ask_bodies(s, piece)


def _dribbles(answer: Fetched, following: Block) -> bool:
    """Whether this block would have fitted into the answer before it (`Bodies`). Such a source is
    itself behind, or wants to hold us up block by block."""
    return bool(answer.blocks) and answer.size + following.body_bytes <= BODIES_BYTES_MAX


def _install_next(s: ReplicaState) -> None:
    if s.busy or s.halted or not s.transfer.intervals:
        return
    interval = s.transfer.intervals[0]
    while interval.pieces and interval.pieces[0].stop <= s.executed:
        del interval.pieces[0]  # executed by live messages in the meantime
    if not interval.pieces or (source := interval.pieces[0].whole) is None:
        return
    piece = interval.pieces[0]
    blocks = tuple(piece.answers[source].blocks[s.executed + 1 - piece.start :])
    s.busy = True
    s.transfer.installing = piece
    s.out.append(Install(blocks, source))


def on_installed(s: ReplicaState, item: Installed) -> None:
    t = s.transfer
    for interval in t.intervals:
        # Kept to be served to others. `checkpoint` makes the highest proven one durable itself.
        if interval.stop == item.seq and interval.proof and item.seq != s.stable.seq:
            s.persist("stable", 0, item.seq, encode(interval.proof))
    checkpoint.on_installed(s, item)
    if t.installing is not None and item.seq < t.installing.stop:
        s.busy = True  # InstallFailed follows
    else:
        t.installing = None


def on_install_failed(s: ReplicaState, item: InstallFailed) -> None:
    """The bodies do not belong to their heads: the source lied. Ask another."""
    s.busy = False
    piece, s.transfer.installing = s.transfer.installing, None
    if piece is None:
        return
    answer = piece.answers.pop(item.source)
    if answer.evidence is not None:
        _accuse_liar(s, item.source, "lying-bodies", answer.evidence)
    _ask_bodies(s, piece)


def _accuse_liar(s: ReplicaState, source: int, reason: str, signed: Signed) -> None:
    s.transfer.liars.add(source)
    s.accuse(source, reason, signed)
