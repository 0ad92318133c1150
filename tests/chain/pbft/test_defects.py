"""Defects that real implementations had, one story for each (the table in chain/README.md).

The cluster checks agreement, exactly-once and "no honest replica contradicts itself" throughout.
Restart at every persist boundary is in test_restart, fuzzed decoders are in test_verify.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations

import msgspec
import pytest

from chain.block import Block
from chain.genesis import Consensus
from chain.pbft.inputs import Submitted
from chain.pbft.messages import (
    Bodies,
    Checkpoint,
    Commit,
    Heads,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    Proposal,
    Signed,
    StatusMessage,
    ViewChange,
    decode_body,
    decode_proposal,
    encode,
)
from chain.pbft.pool import CLIENT_WAITING_MAX
from chain.pbft.replica import Replica
from chain.pbft.state import ReplicaState
from tests.chain.cluster import SMALL, Cluster
from tests.chain.fakes import NETWORK, item, open_item, sign, signer_of, verified

BACKUPS = (1, 2, 3)


def without_proposals_of(primary: int) -> Callable[[int, int, object], bool]:
    """An asynchronous network in which nothing that `primary` proposes arrives."""
    return lambda source, to, message: source == primary and isinstance(message, PrePrepare)


def blocks(cluster: Cluster, count: int) -> None:
    for _ in range(count):
        cluster.request(f"r{len(cluster.submitted)}")
        cluster.settle()


# --- what was decided stays decided ------------------------------------------------------------


@pytest.mark.parametrize("committer", BACKUPS)
def test_view_change_keeps_what_one_replica_committed(committer: int) -> None:
    """View change wipes prepared state: one replica commits, then view change: digest unchanged."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Commit) and to != committer
    cluster.request("a")
    cluster.run(10_000)
    assert [i for i in cluster.nodes if cluster.executed(i)] == [committer]
    decided = cluster.nodes[committer].ledger.blocks[1]
    cluster.heal()
    cluster.crash(0)
    cluster.request("b", to=BACKUPS)
    cluster.settle()
    assert min(cluster.views()) >= 1
    assert all(cluster.nodes[i].ledger.blocks[1] == decided for i in BACKUPS)
    assert all(cluster.executed(i) == ["a", "b"] for i in BACKUPS)


def test_certificates_survive_views_in_which_nothing_was_prepared() -> None:
    """View change wipes prepared state: the next view is entered, fails, and the one after it
    must still know what the first one had prepared."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Commit) and to != 3
    cluster.request("a")
    cluster.run(10_000)
    assert cluster.executed(3) == ["a"]
    cluster.crash(0)
    cluster.lose = lambda source, to, message: (
        isinstance(message, Prepare | Commit) and message.view < 2
    )
    cluster.request("b", to=BACKUPS)
    cluster.settle(limit_us=20_000_000)
    assert min(cluster.views()) >= 2
    assert all(cluster.executed(i) == ["a", "b"] for i in BACKUPS)


SETS = [subset for size in range(4) for subset in combinations(BACKUPS, size)]


@pytest.mark.parametrize("prepared", SETS, ids=str)
def test_a_view_change_ends_whoever_had_prepared_or_committed(prepared: tuple[int, ...]) -> None:
    """ "Committed, so never change view" deadlocks (neo-go): enumerate who knows what."""
    for committed in SETS:
        cluster = Cluster()

        def lose(source: int, to: int, message: object, knows: tuple[int, ...] = committed) -> bool:
            if isinstance(message, Prepare):
                return to not in prepared
            return isinstance(message, Commit) and to not in knows

        cluster.lose = lose
        cluster.request("a")
        cluster.run(10_000)
        cluster.crash(0)
        cluster.heal()
        cluster.request("a", "b", to=BACKUPS)
        cluster.settle(limit_us=10_000_000)
        assert {tuple(cluster.executed(i)) for i in BACKUPS} <= {("a", "b"), ("b", "a")}


# --- views and checkpoints that run apart ------------------------------------------------------


def test_different_low_water_marks_do_not_stop_a_view_change() -> None:
    """Replicas with different low-water marks deadlock a view change (Fabric 0.6)."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint | Heads) and to != 1
    blocks(cluster, 10)
    assert [cluster.nodes[i].replica.stable for i in BACKUPS] == [8, 0, 0]
    cluster.crash(0)
    cluster.request("b", to=BACKUPS)
    cluster.settle()
    assert min(cluster.views()) >= 1
    assert len(set(cluster.heights()[1:])) == 1


def test_view_changes_are_sent_again() -> None:
    """VIEW-CHANGE never re-sent: permanent deadlock (Fabric 0.6): star partition, heal."""
    cluster = Cluster()
    cluster.partition([0], [1], [2], [3])
    cluster.request("a", to=range(4))
    cluster.run(30_000_000)
    cluster.cut = {frozenset(pair) for pair in combinations(BACKUPS, 2)}  # a star around 0
    cluster.run(5_000_000)
    cluster.heal()
    cluster.settle(limit_us=10_000_000)


def test_only_f_replicas_hold_the_stable_checkpoint() -> None:
    """At most f hold the stable checkpoint: endless view change (Concord, TigerBeetle)."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Checkpoint) and to != 1
    blocks(cluster, 8)
    cluster.run(5_000)
    assert [node.replica.stable for node in cluster.nodes.values()] == [0, 8, 0, 0]
    cluster.crash(2)
    cluster.lose = without_proposals_of(0)
    cluster.request("b", to=[0, 1, 3])
    cluster.settle(limit_us=10_000_000)
    assert {cluster.nodes[i].replica.view for i in (0, 1, 3)} == {1}
    cluster.heal()
    blocks(cluster, 30)


def test_a_backup_that_misses_view_changes_enters_by_the_new_view() -> None:
    """A backup with NEW-VIEW but too few VIEW-CHANGEs (Concord-BFT)."""
    cluster = Cluster()
    cluster.crash(0)
    cluster.lose = lambda source, to, message: isinstance(message, ViewChange) and to == 2
    cluster.request("a", to=BACKUPS)
    cluster.settle(limit_us=5_000_000)
    assert cluster.nodes[2].replica.active


def test_a_laggard_is_needed_for_the_new_view() -> None:
    """NEW-VIEW not retried after transfer (Concord-BFT): lag > K through a view change, and
    state sync and view change both commit (SmartBFT): interleave; exactly-once."""
    cluster = Cluster()
    cluster.isolate(3)
    blocks(cluster, 20)
    cluster.crash(0)
    cluster.heal()
    cluster.request("b", to=BACKUPS)
    cluster.settle(limit_us=20_000_000)
    names = cluster.executed(3)
    assert len(names) == len(set(names)) == 21
    assert cluster.executed(1) == names


@pytest.mark.parametrize("n", [4, pytest.param(7, marks=pytest.mark.soak)])
def test_views_meet_again_soon_after_a_long_loss_of_quorum(n: int) -> None:
    """Unbounded timeout doubling leaves validators rounds apart (Besu)."""
    cluster = Cluster(n)
    half = n // 2
    cluster.request("a", to=range(n))
    cluster.partition(range(half), range(half, n))
    cluster.run(300_000_000)
    cluster.isolate(0)
    cluster.run(150_000_000)
    cluster.heal()
    cluster.request("b", to=range(n))
    cluster.settle(limit_us=2 * SMALL.view_timeout_us_max)
    assert max(cluster.views()) - min(cluster.views()) <= 1


def test_the_timeout_is_capped() -> None:
    """Unbounded timeout doubling (Besu): a quorum that tries view after view in vain for long
    must not sit in one for long afterwards."""
    cluster = Cluster()
    cluster.crash(0)
    cluster.lose = lambda source, to, message: isinstance(message, NewView | PrePrepare)
    cluster.request("a", to=BACKUPS)
    cluster.run(400_000_000)
    assert min(cluster.views()) > 20
    cluster.heal()
    cluster.settle(limit_us=3 * SMALL.view_timeout_us_max)


# --- primaries ---------------------------------------------------------------------------------


def test_a_primary_that_dies_after_its_pre_prepare_is_noticed() -> None:
    """Stall after PRE-PREPARE because a commit timer was removed (Sawtooth)."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Prepare)
    cluster.request("a", to=0)  # no backup knows of the request but by the PRE-PREPARE
    cluster.run(1_500)
    cluster.crash(0)
    cluster.lose = lambda source, to, message: isinstance(message, Prepare) and message.view == 0
    cluster.settle(limit_us=5_000_000)
    assert min(cluster.views()) == 1


def test_an_idle_chain_notices_a_dead_primary() -> None:
    """No request, no heartbeat block: the next view keeps heads fresh."""
    cluster = Cluster()
    cluster.run(5_000_000)
    assert min(cluster.heights()) >= 2
    cluster.crash(0)
    height = cluster.nodes[1].ledger.height
    cluster.run(4 * (SMALL.heartbeat_us + SMALL.view_timeout_us))
    assert min(cluster.views()) >= 1
    assert cluster.nodes[1].ledger.height > height


@pytest.mark.parametrize("partitioned", range(4))
def test_no_livelock_with_one_replica_partitioned(partitioned: int) -> None:
    """Livelock with one node partitioned (BFT-SMaRt): targeted partition, and back."""
    cluster = Cluster()
    for _ in range(3):
        cluster.isolate(partitioned)
        cluster.request(f"r{len(cluster.submitted)}", to=range(4))
        cluster.settle(limit_us=10_000_000)
        cluster.heal()
        cluster.request(f"r{len(cluster.submitted)}", to=range(4))
        cluster.settle(limit_us=10_000_000)
    assert max(cluster.views()) <= 4


def test_a_slow_primary_is_replaced_or_fills_its_batches() -> None:
    """Primary just under the timeout (Aardvark): throughput floor."""
    cluster = Cluster()
    slow = cluster.nodes[0]
    mean = msgspec.structs.replace(SMALL, batch_requests_max=1, pipeline_window=1)
    state = ReplicaState(
        0,
        slow.ledger.membership,
        mean,
        NETWORK,
        slow.signer,
        state_machine=slow.ledger,
        holds=slow.verifier.holds,
        executed=slow.ledger.tip,
    )
    slow.replica = Replica(state)
    slow.start()
    cluster.delay = lambda source, to: 900_000 if source == 0 else 1_000
    cluster.request(*(f"r{number}" for number in range(40)), to=range(4))
    cluster.settle(limit_us=10_000_000)
    assert min(cluster.nodes[i].replica.view for i in BACKUPS) >= 1


def test_a_flood_harms_only_its_client() -> None:
    """Flooding (Aardvark): quotas; the flooder is told "busy", others are served."""
    cluster = Cluster(consensus=Consensus(checkpoint_interval=8, pipeline_window=4))
    cluster.isolate(0)  # nothing can be executed meanwhile
    flood = [Submitted(open_item(item(f"flooder/{n}"))) for n in range(3 * CLIENT_WAITING_MAX)]
    cluster.nodes[0].give(*flood)
    assert sum(reason == "busy" for _, _, reason in cluster.refusals) >= CLIENT_WAITING_MAX
    cluster.nodes[0].give(Submitted(open_item(item("honest/1"))))
    cluster.submitted.add(open_item(item("honest/1")).id)
    cluster.heal()
    cluster.settle(limit_us=60_000_000)


def test_a_peer_that_asks_too_much_is_answered_within_bounds() -> None:
    """Quotas: a STATUS flood does not make the others send floods."""
    cluster = Cluster()
    cluster.isolate(3)
    blocks(cluster, 7)
    cluster.heal()
    status = StatusMessage(0, 3, 0, True, 0, 0)
    before = len(cluster.transcript)
    for _ in range(1000):
        cluster.nodes[1].give(
            verified(cluster.nodes[1].verifier, encode(sign(signer_of(3), status)), 3)
        )
    assert len(cluster.transcript) - before < 100


def test_an_equivocating_primary_and_a_partition() -> None:
    """Conflicting proposals, then heal (CometBFT): the laggard catches up, the liar is named."""
    cluster = Cluster(byzantine=[0])
    other = Proposal(1, cluster.now_us + 1, 0, (item("evil"),)).encode()
    forged = sign(signer_of(0), PrePrepare(0, 0, 0, 1, Proposal.digest_of(other)), other)

    def equivocate(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        lies = source == 0 and to == 3 and isinstance(message, PrePrepare) and message.seq == 1
        return forged if lies else signed

    cluster.on_post = equivocate
    cluster.partition([0, 1, 2], [3])
    cluster.cut.discard(frozenset((0, 3)))
    cluster.request("a", to=0)
    cluster.run(1_000_000)
    cluster.heal()
    cluster.run(1_000_000)
    blocks(cluster, 20)
    assert cluster.executed(3) == cluster.executed(1)
    assert cluster.executed(3)[0] == "a"
    assert (0, "equivocation-pre-prepare") in cluster.accused()
    accusation = next(accuse for _, accuse in cluster.accusations)
    assert accusation.second is not None  # both signed statements are the proof


def test_a_digest_is_bound_to_its_sequence_number() -> None:
    """Digest not bound to content (ByzzFuzz): PRE-PREPARE seq+1 to one replica in round 1."""
    cluster = Cluster(byzantine=[0])

    def shift(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if source != 0 or to != 3 or not isinstance(message, PrePrepare) or message.seq != 1:
            return signed
        return sign(signer_of(0), msgspec.structs.replace(message, seq=2), signed.attachment)

    cluster.on_post = shift
    cluster.request("a", to=0)
    cluster.run(10_000)
    assert (0, "bad-proposal") in cluster.faults
    cluster.on_post = None
    blocks(cluster, 10)
    assert cluster.executed(3) == cluster.executed(1)


# --- NEW-VIEW and VIEW-CHANGE against their evidence ------------------------------------------


def _prepared_then_leave(cluster: Cluster) -> None:
    """ "a" and "b" are prepared, not committed; then replica 0 proposes no more."""
    cluster.lose = lambda source, to, message: isinstance(message, Commit)
    cluster.request("a")
    cluster.request("b", *(f"s{n}" for n in range(7)))
    cluster.run(10_000)
    cluster.lose = without_proposals_of(0)
    cluster.request("c", to=range(4))


def _edit(message: NewView, ordered: list[Signed]) -> NewView:
    return msgspec.structs.replace(message, pre_prepares=tuple(ordered))


def _of(message: NewView, seq: int, digest: bytes, view: int | None = None) -> Signed:
    view = message.view if view is None else view
    return sign(signer_of(1), PrePrepare(0, 1, view, seq, digest))


FORGERIES: dict[str, Callable[[NewView], NewView]] = {
    "omit the last": lambda m: _edit(m, list(m.pre_prepares[:-1])),
    "omit all": lambda m: _edit(m, []),
    "add one": lambda m: _edit(m, [*m.pre_prepares, _of(m, len(m.pre_prepares) + 1, bytes(32))]),
    "duplicate": lambda m: _edit(m, [*m.pre_prepares, m.pre_prepares[-1]]),
    "another digest": lambda m: _edit(m, [_of(m, 1, bytes(32)), *m.pre_prepares[1:]]),
    "null for a prepared one": lambda m: _edit(
        m,
        [
            _of(m, 1, Proposal.digest_of(Proposal.null(1).encode())),
            *m.pre_prepares[1:],
        ],
    ),
    "reversed": lambda m: _edit(m, list(m.pre_prepares[::-1])),
    "stale view in O": lambda m: _edit(
        m,
        [
            _of(m, 1, decode_body(m.pre_prepares[0].body).digest, 0),  # type: ignore[union-attr]
            *m.pre_prepares[1:],
        ],
    ),
    "too few VIEW-CHANGEs": lambda m: msgspec.structs.replace(m, view_changes=m.view_changes[:-1]),
    "one VIEW-CHANGE twice": lambda m: msgspec.structs.replace(
        m, view_changes=(*m.view_changes[:-1], m.view_changes[0])
    ),
    "a stale VIEW-CHANGE": lambda m: msgspec.structs.replace(
        m,
        view_changes=(
            *m.view_changes[:-1],
            sign(signer_of(1), ViewChange(0, 1, 5, 0, bytes(32), (), ())),
        ),
    ),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_every_backup_checks_new_view_against_its_evidence(forgery: str) -> None:
    """NEW-VIEW not checked against evidence; omissions pass (FISCO-BCOS)."""
    cluster = Cluster(byzantine=[1])

    def forge(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if message.sender != 1 or not isinstance(message, NewView):
            return signed
        return sign(signer_of(1), FORGERIES[forgery](message))

    cluster.on_post = forge
    _prepared_then_leave(cluster)
    cluster.settle(limit_us=20_000_000)
    named = {culprit for culprit, reason in cluster.accused() if reason == "bad-new-view"}
    refused = {source for source, code in cluster.faults if code.startswith("bad-")}
    assert 1 in named | refused
    assert min(cluster.nodes[i].replica.view for i in (0, 2, 3)) >= 2
    assert cluster.chain(0)[0] == ["a"]


def _spoil_certificate(message: ViewChange) -> ViewChange:
    if not message.prepared:
        return message
    proof = message.prepared[0]
    inner = decode_body(proof.pre_prepare.body)
    assert isinstance(inner, PrePrepare)
    other = sign(signer_of(0), msgspec.structs.replace(inner, digest=bytes(32)))
    spoilt = PreparedProof(other, proof.prepares)
    return msgspec.structs.replace(message, prepared=(spoilt, *message.prepared[1:]))


def _too_high(message: ViewChange) -> ViewChange:
    seq = SMALL.log_window + 1
    first = sign(signer_of(0), PrePrepare(0, 0, 0, seq, bytes(32)))
    votes = tuple(sign(signer_of(i), Prepare(0, i, 0, seq, bytes(32))) for i in (1, 2))
    return msgspec.structs.replace(message, prepared=(PreparedProof(first, votes),))


@pytest.mark.parametrize("spoil", [_spoil_certificate, _too_high])
def test_an_invalid_certificate_blocks_nobody_honest(
    spoil: Callable[[ViewChange], ViewChange],
) -> None:
    """An invalid certificate hides a valid one (Concord-BFT): one Byzantine VIEW-CHANGE."""
    cluster = Cluster(byzantine=[3])

    def forge(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if message.sender != 3 or not isinstance(message, ViewChange):
            return signed
        return sign(signer_of(3), spoil(message))

    cluster.on_post = forge
    _prepared_then_leave(cluster)
    cluster.settle(lambda: all("c" in cluster.executed(i) for i in (0, 1, 2)), 10_000_000)
    assert cluster.chain(0)[0] == ["a"]
    assert {cluster.nodes[i].replica.view for i in (0, 1, 2)} == {1}
    assert (3, "bad-certificate") in cluster.faults or (3, "bad-view-change") in cluster.accused()


# --- state transfer ----------------------------------------------------------------------------


def _lie_in_bodies(message: Bodies) -> Bodies:
    first = message.blocks[0]
    record = msgspec.structs.replace(first.records[0], item=item("forged"))
    lie = Block(first.head, (record,))
    return msgspec.structs.replace(message, blocks=(lie, *message.blocks[1:]))


LIES: dict[str, Callable[[Heads | Bodies], Heads | Bodies]] = {
    "a head changed": lambda m: (
        msgspec.structs.replace(m, heads=(m.heads[0][:-1] + b"\xff", *m.heads[1:]))
        if isinstance(m, Heads)
        else m
    ),
    "heads left out": lambda m: (
        msgspec.structs.replace(m, heads=m.heads[1:]) if isinstance(m, Heads) else m
    ),
    "a proof of too few": lambda m: (
        msgspec.structs.replace(m, proof=m.proof[1:]) if isinstance(m, Heads) else m
    ),
    "a record changed": lambda m: _lie_in_bodies(m) if isinstance(m, Bodies) else m,
    "no blocks": lambda m: msgspec.structs.replace(m, blocks=()) if isinstance(m, Bodies) else m,
    "other blocks": lambda m: (
        msgspec.structs.replace(m, blocks=m.blocks[::-1]) if isinstance(m, Bodies) else m
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_source_is_accused_and_skipped(lie: str) -> None:
    """Sync believes unverified claims (BFT-SMaRt, FISCO-BCOS): lying sources."""
    cluster = Cluster(byzantine=[1])
    cluster.isolate(3)
    blocks(cluster, 40)
    forged = []

    def forge(source: int, to: int, signed: Signed) -> Signed:
        message = decode_body(signed.body)
        if source != 1 or not isinstance(message, Heads | Bodies):
            return signed
        forged.append(message)
        return sign(signer_of(1), LIES[lie](message))

    cluster.on_post = forge
    cluster.heal()
    cluster.on_post = forge
    cluster.settle(limit_us=20_000_000)
    assert forged
    assert cluster.executed(3) == cluster.executed(0)
    assert "forged" not in cluster.executed(3)
    if lie != "no blocks":  # which is no lie, only useless
        named = {culprit for culprit, reason in cluster.accused() if reason.startswith("lying")}
        refused = {source for source, code in cluster.faults if code == "bad-certificate"}
        assert 1 in named | refused
    assert {culprit for culprit, _ in cluster.accused()} <= {1}


# --- membership --------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["+4", "-3"])
@pytest.mark.parametrize("height", range(5, 11))
def test_a_view_change_across_an_epoch_boundary(change: str, height: int) -> None:
    """Member change breaks the view change (FISCO-BCOS): the primary dies around the boundary."""
    cluster = Cluster(5)
    blocks(cluster, 4)
    cluster.request(change)
    cluster.settle()
    if change == "+4":
        change = "+5"
        cluster.request(change)
        cluster.settle()
        cluster.join(5)
    blocks(cluster, max(0, height - cluster.nodes[1].ledger.height))
    cluster.crash(0)
    left = [1, 2, 4]
    cluster.request("x", to=left)
    cluster.settle(partial(_all_have, cluster, left, "x"), 20_000_000)
    for number in range(12):
        cluster.request(f"y{number}", to=left)
        cluster.settle(partial(_all_have, cluster, left, f"y{number}"))
    assert {cluster.nodes[i].replica.epoch for i in left} == {1}


def _all_have(cluster: Cluster, ids: list[int], name: str) -> bool:
    return all(name in cluster.executed(i) for i in ids)


def test_batches_hold_what_they_say() -> None:
    """Guard of the stories above: the harness's own requests travel in the proposal."""
    proposal = Proposal(1, 5, 0, (item("a"),))
    assert decode_proposal(proposal.encode()) == proposal
