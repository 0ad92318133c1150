"""What peers fetch does not keep a replica from its own work."""

from __future__ import annotations

from chain.ledger.envelope import sign_operation
from chain.pbft.effects import ServeBodies
from chain.pbft.messages import (
    BODIES_BYTES_MAX,
    Bodies,
    FetchBodies,
    Submit,
    decode_body,
    decode_signed,
    encode,
    sign,
)
from nodes.replica.serving import PEER_BYTES_MAX, QUESTIONS_MAX, TURN_BYTES_MAX, Serving
from tests.nodes.test_service import GATEWAY, SIGNERS, Bus, Node

INTERVAL_US = 250_000
LARGE = BODIES_BYTES_MAX


def test_each_peer_has_a_budget_per_interval_and_peers_take_turns() -> None:
    serving = Serving(INTERVAL_US)
    for start in range(20):
        serving.put(ServeBodies(1, start, start))
    serving.put(ServeBodies(2, 0, 0))
    served = []
    while (question := serving.take(0)) is not None:
        served.append(question.to)
        serving.answered(question.to, LARGE)
    assert served[:2] == [1, 2]
    assert served.count(1) == PEER_BYTES_MAX // LARGE
    assert serving.delay_us(0) == INTERVAL_US
    assert serving.take(INTERVAL_US) is not None


def test_a_peer_that_asks_and_asks_fills_its_own_queue_only() -> None:
    serving = Serving(INTERVAL_US)
    for start in range(2 * QUESTIONS_MAX):
        serving.put(ServeBodies(1, start, start))
    serving.put(ServeBodies(2, 7, 7))
    taken = []
    while (question := serving.take(0)) is not None:
        taken.append(question)
    assert len(taken) == QUESTIONS_MAX + 1
    assert serving.delay_us(0) is None


def test_sixteen_small_fetches_cost_one_large_answer_a_turn() -> None:
    """Blocks of a third of a megabyte each: a turn begins no answer above its share."""
    bus = Bus(identities=1)
    bus.admit()
    for _ in range(3):
        _large_block(bus)
    node = bus.nodes[1]
    bus.frames.clear()
    bus.clock.stop()  # all of it within one interval, however slow the machine is
    question = sign(SIGNERS[3], bus.genesis.network, FetchBodies(0, 3, 2, 4))
    service = node.service
    service.step([(3, service.verify(3, encode(question))) for _ in range(16)])
    answered = _bodies(bus, node)
    assert answered == 1
    for _ in range(20):
        service.step((), ("driver/serve",))
    sent = sum(len(frame) for sender, _, frame in bus.frames if sender == node.me)
    assert answered < _bodies(bus, node)
    assert sent < PEER_BYTES_MAX + 2 * LARGE


def _large_block(bus: Bus) -> None:
    device = bus.devices[0]
    frames = []
    for _ in range(2 * TURN_BYTES_MAX // 3500):
        data = sign_operation(device.data(bus.genesis.network, bytes(3300)), device.signer)
        frames.append((GATEWAY, encode(Submit(data))))
    service = bus.nodes[0].service
    service.step(service.verify_all(frames))
    bus.run()


def _bodies(bus: Bus, node: Node) -> int:
    sent = [frame for sender, party, frame in bus.frames if sender == node.me and party == 3]
    return sum(isinstance(decode_body(decode_signed(frame).body), Bodies) for frame in sent)
