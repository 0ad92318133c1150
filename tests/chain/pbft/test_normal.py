"""The normal case: requests become blocks, in order, once, within every bound."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from chain.genesis import Consensus
from chain.pbft.effects import Broadcast, Effect, Execute, Persist, Refuse, Sync
from chain.pbft.inputs import Input, Submitted
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    decode_body,
    encode,
)
from chain.pbft.pool import LATER_MAX, OWN_CLIENTS, WAITING_MAX, Pool
from chain.pbft.state_machine import Screening
from tests.chain.cluster import SMALL, Cluster
from tests.chain.fakes import item, open_item, sign, signer_of, verified


@pytest.mark.parametrize("n", [4, 5, 6, 7, 10])
def test_requests_become_the_same_blocks_everywhere(n: int) -> None:
    cluster = Cluster(n)
    cluster.request(*(f"r{number}" for number in range(50)))
    cluster.settle()
    assert len({tuple(cluster.executed(i)) for i in range(n)}) == 1
    assert sorted(cluster.executed(0)) == sorted(f"r{number}" for number in range(50))
    assert not cluster.accusations
    assert not cluster.faults


@pytest.mark.parametrize("n", [4, 5, 6, 7, 10])
def test_f_crashed_replicas_do_not_matter_f_plus_1_stop_progress(n: int) -> None:
    cluster = Cluster(n)
    faulty = cluster.genesis.quorum.faulty
    cluster.crash(*range(n - faulty, n))
    cluster.request("a")
    cluster.settle()
    spare = n - faulty - cluster.genesis.quorum.strong
    cluster.crash(*range(n - faulty - spare - 1, n - faulty))
    cluster.request("b", to=0)
    cluster.run(60_000_000)
    assert cluster.executed(0) == ["a"]


def test_one_request_alone_leaves_at_once_and_a_crowd_shares_blocks() -> None:
    """Batches form from what waits while earlier ones are in flight, never by a timer."""
    cluster = Cluster(consensus=Consensus())
    cluster.request("a")
    cluster.run(3_000)  # three message delays
    assert cluster.executed(0) == ["a"]
    cluster.request(*(f"r{number}" for number in range(1000)))
    cluster.settle()
    assert cluster.nodes[0].ledger.height < 40


def test_several_blocks_are_in_flight_but_no_more_than_the_window() -> None:
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Commit)
    cluster.request(*(f"r{number}" for number in range(100)))
    cluster.run(10_000)
    proposals = {line for line in cluster.transcript if "0 proposed" in line}
    assert len(proposals) == SMALL.pipeline_window


def test_a_request_to_a_backup_is_forwarded() -> None:
    cluster = Cluster()
    cluster.request("a", to=2)
    cluster.settle()
    assert max(cluster.views()) == 0


def test_a_request_to_everybody_is_executed_once() -> None:
    cluster = Cluster()
    for _ in range(3):
        cluster.request("a", to=range(4))
        cluster.run(10_000)
    assert all(cluster.executed(i) == ["a"] for i in range(4))
    assert {reason for _, _, reason in cluster.refusals} == {"done"}


def test_what_refers_to_the_future_waits_and_the_impossible_is_refused() -> None:
    cluster = Cluster()
    cluster.request("b>a", "!never", to=0)
    cluster.run(100_000)
    assert cluster.executed(0) == []
    assert [reason for _, _, reason in cluster.refusals] == ["refused"]
    cluster.request("a", to=0)
    cluster.run(100_000)
    assert cluster.executed(3) == ["a", "b>a"]


def test_what_never_becomes_known_causes_no_view_change() -> None:
    """A client can not make replicas suspect each other with requests that nobody can execute."""
    cluster = Cluster()
    cluster.request("b>nothing", to=range(4))
    cluster.run(20_000_000)
    assert cluster.views() == [0, 0, 0, 0]
    assert ("refused") in {reason for _, _, reason in cluster.refusals}


def test_a_backup_that_is_behind_waits_with_what_it_does_not_know_yet() -> None:
    """In-order acceptance: judged when the predecessors are executed, not refused before."""
    cluster = Cluster()
    cluster.lose = lambda source, to, message: isinstance(message, Commit) and to == 3
    cluster.request("a")
    cluster.run(5_000)
    cluster.request("b>a")
    cluster.run(5_000)
    assert cluster.executed(0) == ["a", "b>a"]
    assert cluster.executed(3) == []
    cluster.heal()
    cluster.settle(limit_us=5_000_000)
    assert cluster.views() == [0, 0, 0, 0]
    assert not cluster.accusations


Bad = Callable[[Cluster], Proposal]
BAD: dict[str, Bad] = {
    "an executed request": lambda c: Proposal(2, c.now_us, 0, (item("a"),)),
    "one request twice": lambda c: Proposal(2, c.now_us, 0, (item("x"), item("x"))),
    "what nobody can know": lambda c: Proposal(2, c.now_us, 0, (item("x>y"),)),
    "a time that goes back": lambda c: Proposal(2, 5, 0, (item("x"),)),
    "a null request out of the blue": lambda c: Proposal.null(2),
    "too many requests": lambda c: Proposal(
        2, c.now_us, 0, tuple(item(f"x{n}") for n in range(SMALL.batch_requests_max + 1))
    ),
    "too many bytes": lambda c: Proposal(
        2, c.now_us, 0, (item("x" * (SMALL.batch_bytes_max + 1000)),)
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_primary_that_proposes_what_it_must_not_is_left(bad: str) -> None:
    """It is accused with what it signed; the next primary goes on."""
    cluster = Cluster(byzantine=[0])
    cluster.request("a")
    cluster.settle()
    raw = BAD[bad](cluster).encode()
    digest = Proposal.digest_of(raw)
    for to in (1, 2, 3):
        forged = sign(signer_of(0), PrePrepare(0, 0, 0, 2, digest), raw)
        cluster.post(0, to, forged)
    cluster.run(10_000)
    assert (0, "bad-proposal") in cluster.accused()
    cluster.request("b", to=[1, 2, 3])
    cluster.settle(lambda: all("b" in cluster.executed(i) for i in (1, 2, 3)))
    assert all(cluster.executed(i) == ["a", "b"] for i in (1, 2, 3))


@pytest.mark.parametrize(("seq", "accused"), [(2, False), (5, True)])
def test_a_refused_request_convicts_only_a_primary_that_must_have_known(
    seq: int, accused: bool
) -> None:
    """It may have lost a race in the pipeline, which its client can arrange: then execution
    decides. What was refused W blocks earlier already, no honest primary proposes."""
    cluster = Cluster(byzantine=[0])
    cluster.request("a")
    cluster.settle()
    for number in range(2, seq + 1):
        items = (item("!x"),) if number == seq else ()
        raw = Proposal(number, cluster.now_us + number, 0, items).encode()
        message = PrePrepare(0, 0, 0, number, Proposal.digest_of(raw))
        for to in (1, 2, 3):
            cluster.post(0, to, sign(signer_of(0), message, raw))
    cluster.run(10_000)
    assert ((0, "bad-proposal") in cluster.accused()) is accused


@pytest.mark.parametrize(("skew_us", "accepted"), [(-400_000, 1), (0, 1), (400_000, 1),
                                                   (600_000, 0), (-1_600_000, 0)])  # fmt: skip
def test_proposer_time_must_be_near_the_backups_clock(skew_us: int, accepted: int) -> None:
    """Within precision + message delay; a backup with a wrong clock only abstains."""
    cluster = Cluster()
    cluster.run(1_900_000)
    cluster.nodes[0].clock_skew_us = skew_us
    cluster.request("a", to=0)
    cluster.run(100_000)
    assert len(cluster.executed(1)) == accepted
    assert not cluster.accusations


def test_a_chain_that_wrong_clocks_took_into_the_future_goes_on() -> None:
    """An hour ahead by a quorum of wrong clocks, which are then put right: nothing has to wait for
    the hour to pass, and the chain's time stands nearly still until then."""
    cluster = Cluster()
    for i in (0, 1, 2):
        cluster.nodes[i].clock_skew_us = 3_600_000_000
    cluster.request("a")
    cluster.settle(lambda: len(cluster.executed(2)) == 1)
    ahead_us = cluster.nodes[2].ledger.tip[2]
    for i in (0, 1, 2):
        cluster.nodes[i].clock_skew_us = 0
    cluster.request("b")
    cluster.settle(limit_us=2_000_000)
    assert ahead_us < cluster.nodes[3].ledger.tip[2] < ahead_us + 1_000


def test_a_replica_with_a_wrong_clock_follows() -> None:
    cluster = Cluster()
    cluster.nodes[3].clock_skew_us = 10_000_000
    cluster.request(*(f"r{number}" for number in range(30)))
    cluster.settle()
    assert set(cluster.views()[:3]) == {0}


@pytest.mark.parametrize("seed", range(5))
def test_any_order_of_messages_gives_the_same_chain(seed: int) -> None:
    cluster = Cluster()
    cluster.delay = lambda source, to: 500 + (cluster.now_us * 7919 + source * 31 + seed) % 20_000
    cluster.request(*(f"r{number}" for number in range(60)))
    cluster.settle()
    assert len(cluster.executed(2)) == 60


@pytest.mark.parametrize("kind", [Prepare, Commit])
def test_double_votes_are_accused_with_both_signatures(
    kind: type[Prepare] | type[Commit],
) -> None:
    cluster = Cluster(byzantine=[3])
    cluster.isolate(0)
    for digest in (b"x" * 32, b"y" * 32):
        cluster.post(3, 1, sign(signer_of(3), kind(0, 3, 0, 1, digest)))
    cluster.run(5_000)
    (_, accusation), *others = cluster.accusations
    assert not others
    assert accusation.culprit == 3
    assert accusation.second is not None


def test_the_primary_has_no_second_vote() -> None:
    """Its PRE-PREPARE is its PREPARE (4.2): q replicas must know the proposal, not q-1."""
    cluster = Cluster(byzantine=[0])
    cluster.lose = lambda source, to, message: isinstance(message, Prepare) and source != 0
    cluster.request("a", to=0)
    cluster.run(2_000)
    slot = cluster.nodes[1].replica.log.slot(1)
    assert slot.accepted is not None
    cluster.post(0, 1, sign(signer_of(0), Prepare(0, 0, 0, 1, slot.accepted.digest)))
    cluster.run(2_000)
    assert slot.prepared is None


def test_pool_bounds() -> None:
    """Per client, then fair shares, then closed; nothing is forgotten or counted twice."""
    pool = Pool()

    def fill() -> list[object]:
        return [
            pool.add(
                open_item(item(f"client{number % 7}/{number}")), OWN_CLIENTS, Screening.READY, 0
            )
            for number in range(2 * WAITING_MAX)
        ]

    answers = fill()
    assert len(pool.fresh) <= WAITING_MAX
    assert answers.count(None) == len(pool.fresh)
    assert pool.add(open_item(item("newcomer/1")), OWN_CLIENTS, Screening.READY, 0) is None
    for request_id in list(pool.fresh):
        pool.drop(request_id)
    assert fill() == answers, "all the room is free again"
    for request_id in list(pool.fresh):
        pool.drop(request_id)
    later = [
        pool.add(open_item(item(f"c{n}/1")), OWN_CLIENTS, Screening.LATER, 0)
        for n in range(LATER_MAX + 1)
    ]
    assert later[-1] == "busy"


def test_a_huge_request_is_refused_before_it_can_hurt_the_primary() -> None:
    cluster = Cluster()
    huge = open_item(item("x" * (SMALL.batch_bytes_max + 1)))
    effects = cluster.nodes[0].replica.handle(Submitted(huge), cluster.now_us)
    assert effects == [Refuse(huge.id, "refused")]


def test_the_log_is_bounded_whatever_is_sent() -> None:
    """Votes outside the window leave no trace; a peer holds one place per slot."""
    cluster = Cluster(byzantine=[3])
    node = cluster.nodes[1]
    for seq in range(0, 100_000, 97):
        for view in (0, 5, 9):
            message: ReplicaMessage = Commit(0, 3, view, seq, b"z" * 32)
            node.give(verified(node.verifier, encode(sign(signer_of(3), message)), 3))
    slots = node.replica.log.slots
    assert len(slots) <= SMALL.log_window
    assert all(len(slot.commits.votes) <= 4 for slot in slots.values())


def test_executed_batches_are_served_from_the_store_not_from_memory() -> None:
    """Memory: a batch can be a megabyte, and the log holds two windows of them."""
    cluster = Cluster()
    cluster.isolate(3)
    cluster.request(*(f"r{number}" for number in range(20)))
    cluster.settle(lambda: len(cluster.executed(0)) == 20)
    log = cluster.nodes[0].replica.log
    assert not any(b.raw for slot in log.above(0) for b in slot.batches.values())
    cluster.heal()
    before = len(cluster.transcript)
    cluster.settle(limit_us=5_000_000)
    assert any("0 -> 3  PRE-PREPARE v0 n1 [r0]" in line for line in cluster.transcript[before:])
    cluster.restart(0)  # from the facts
    log = cluster.nodes[0].replica.log
    assert not any(b.raw for slot in log.above(0) for b in slot.batches.values())
    assert not cluster.accusations


def effects_of(cluster: Cluster, replica: int) -> list[Effect]:
    """The effects that its core returns from now on, in order."""
    effects: list[Effect] = []
    core = cluster.nodes[replica].replica
    handle = core.handle

    def noted(item: Input, now_us: int) -> list[Effect]:
        returned = handle(item, now_us)
        effects.extend(returned)
        return returned

    core.handle = noted  # type: ignore[method-assign]
    return effects


def test_persist_comes_before_send() -> None:
    """The order of effects is a contract: a vote is durable before it leaves."""
    cluster = Cluster()
    effects = effects_of(cluster, 1)
    cluster.request("a")
    cluster.settle()
    relevant = [type(effect) for effect in effects if isinstance(effect, Persist | Broadcast)]
    assert relevant == [Persist, Broadcast] * 2


def test_a_checkpoint_leaves_only_with_its_block_durable() -> None:
    """Below a proven checkpoint votes count no more: they cannot bring a lost block again."""
    cluster = Cluster(consensus=msgspec.structs.replace(SMALL, checkpoint_interval=1))
    effects = effects_of(cluster, 1)
    cluster.request("a")
    cluster.settle()
    relevant = [
        effect
        for effect in effects
        if isinstance(effect, Execute | Sync)
        or (
            isinstance(effect, Broadcast)
            and isinstance(decode_body(effect.signed.body), Checkpoint)
        )
    ]
    executed = [isinstance(effect, Execute) for effect in relevant].index(True)
    following = [type(effect) for effect in relevant[executed:]]
    assert following[:3] == [Execute, Sync, Broadcast]


def test_times_rise_and_are_those_of_the_proposer() -> None:
    cluster = Cluster()
    cluster.request(*(f"r{number}" for number in range(20)))
    cluster.settle()
    heads = [msgspec.structs.astuple(block)[0] for block in cluster.nodes[2].ledger.blocks]
    times = [int.from_bytes(head[52:60], "big") for head in heads]
    assert times == sorted(set(times))


def test_commits_that_their_sender_did_not_sign_are_not_handed_on() -> None:
    """They count where they come over its own link. A laggard gets only those that it can check,
    and nobody honest is blamed for passing on the others."""
    cluster = Cluster(byzantine=[3])

    def unsigned(source: int, to: int, signed: Signed) -> Signed:
        lies = source == 3 and isinstance(decode_body(signed.body), Commit)
        return Signed(signed.body, bytes(64)) if lies else signed

    cluster.on_post = unsigned
    cluster.isolate(2)
    for number in range(6):
        cluster.request(f"r{number}")
        cluster.run(10_000)
    assert cluster.heights() == [6, 6, 0, 6]
    cluster.crash(3)
    cluster.heal()
    cluster.settle(limit_us=20_000_000)
    assert not cluster.faults


@pytest.mark.parametrize("signs", [False, True])
def test_a_commit_is_evidence_only_if_its_sender_signed_it(signs: bool) -> None:
    cluster = Cluster(byzantine=[3])
    node = cluster.nodes[0]
    first, second = (sign(signer_of(3), Commit(0, 3, 0, 1, each * 32)) for each in (b"a", b"b"))
    if not signs:
        first = Signed(first.body, bytes(64))
    for each in (first, second):
        node.give(verified(node.verifier, encode(each), 3))
    assert len(cluster.accusations) == signs
