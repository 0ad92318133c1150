"""Races that a client arranges in the pipeline: an honest primary is not to blame for them."""

from __future__ import annotations

from chain.pbft.log import Offer
from chain.pbft.messages import PrePrepare, Proposal, Signed, encode
from chain.pbft.proposal_check import Verdict, check_proposal
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening, VerifiedRequest
from tests.chain.world import SECOND_US, Device, World


def judged(world: World, seq: int, request: VerifiedRequest) -> Verdict:
    """What a backup that has executed all of `world` says of `request`, proposed as `seq`."""
    ledger = world.ledger
    state = ReplicaState(
        1,
        ledger.membership,
        world.genesis.consensus,
        world.network,
        world.replicas[1],
        state_machine=ledger,
        holds=lambda signed: True,
        executed=(ledger.height, ledger.head_hash, ledger.time_us),
        pending=None,
    )
    time_us = ledger.time_us + SECOND_US
    proposal = Proposal(seq, time_us, 0, (request.item,))
    raw = proposal.encode()
    message = PrePrepare(0, 0, 0, seq, Proposal.digest_of(raw))
    state.now_us = time_us
    signed = Signed(encode(message), bytes(64), raw)
    return check_proposal(state, Offer(message, signed, proposal, (request,), time_us))


def test_two_enrolments_of_one_device_in_the_pipeline() -> None:
    """With one voucher, both ready when they are proposed: the second loses the race."""
    world = World()
    device = Device("alice")
    voucher = world.vouchers[0]
    first, second = (
        world.request(world.enrol(device, with_voucher=voucher, nonce=bytes([each]) * 16), device)
        for each in range(2)
    )
    assert world.ledger.screen(first) is world.ledger.screen(second) is Screening.READY
    world.block(first)
    assert judged(world, world.ledger.height + 1, second) is Verdict.ACCEPT
    assert world.block(second)[0].status == "refused:known-node"


def test_an_expired_identity_that_comes_back_in_the_pipeline() -> None:
    """The primary has executed its new enrolment and proposes its data; we have not."""
    world = World()
    device = world.admit("alice", validity_s=1)
    world.idle(2)
    data = world.request(world.data(device), device)
    ahead = world.ledger.height + world.genesis.consensus.pipeline_window
    assert judged(world, ahead, data) is not Verdict.REFUSE
    world.run(world.enrol(device), device)
    assert world.ledger.screen(data) is Screening.READY
