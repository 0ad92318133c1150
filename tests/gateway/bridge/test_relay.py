"""Relays share devices among themselves without agreeing, each device at its rate."""

from __future__ import annotations

import itertools

import pytest

from chain.errors import PeerFault
from chain.keys import digest
from gateway.bridge.edge import Ask, Stamped, ask_codec, stamped_codec
from gateway.bridge.relay import Relay
from gateway.bridge.relays import ONLINE, RELAYS_MAX, SILENT_MS, Relays
from gateway.bridge.stamps import LOSS_AFTER_MS, SUSPECTED_BY, Stamps
from gateway.mqtt.topics import Request, Status, Up, parse
from tests.gateway.bridge.gate import Clock, limiter

NET = "0" * 16
NODES = ["a" * 64, "b" * 64, "c" * 64]
DEVICES = [f"{n:064x}" for n in range(200)]


def ask(body: bytes = b"signed", tries: int | None = None) -> bytes:
    return ask_codec.encode(Ask(kind="op", body=body, tries=tries))


def relays(nodes: list[str] = NODES) -> list[Relay]:
    made = [Relay(NET, node, 1, limiter(Clock())) for node in nodes]
    for relay in made:
        for node in nodes:
            relay.on_status(str(Status(NET, node)), ONLINE, 0)
    return made


def carried(
    made: list[Relay], device: str, payload: bytes = ask(), now_ms: int = 5
) -> list[tuple[str, bytes]]:
    topic = str(Request(NET, device))
    passed = [relay.on_request(topic, payload, now_ms) for relay in made]
    return [each for each in passed if each is not None]


def carriers(made: list[Relay], device: str, payload: bytes, now_ms: int = 5) -> list[str]:
    """Which relays carry it."""
    topics = [parse(topic) for topic, _ in carried(made, device, payload, now_ms)]
    return [topic.relay for topic in topics if isinstance(topic, Up)]


def test_exactly_one_relay_carries_each_message_and_the_load_is_spread() -> None:
    made = relays()
    by = [carriers(made, device, ask()) for device in DEVICES]
    assert all(len(each) == 1 for each in by)
    assert min(sum(each == [node] for each in by) for node in NODES) > 30


def test_the_share_of_a_dead_relay_falls_to_the_others() -> None:
    """It said goodbye, or it says nothing any more: a status that stays is not believed."""
    dead, *alive = relays()
    alive[0].on_status(str(Status(NET, "d" * 64)), b"gateway", 0)  # no relay
    for relay in alive:
        relay.on_status(str(Status(NET, NODES[0])), b"", 0)
    assert all(len(carried(alive, device)) == 1 for device in DEVICES)
    silent = SILENT_MS + 1
    made = relays()
    for relay in made[1:]:
        for node in NODES[1:]:
            relay.on_status(str(Status(NET, node)), ONLINE, silent)
    assert all(len(carried(made[1:], device, now_ms=silent)) == 1 for device in DEVICES)
    assert dead is not made[0]


def test_a_device_that_tries_again_gets_past_relays_that_drop() -> None:
    """Each try goes to another relay, and all are tried in turn."""
    made = relays()
    for device in DEVICES:
        tried = [carriers(made, device, ask(tries=n or None)) for n in range(len(NODES))]
        assert sorted(node for each in tried for node in each) == NODES


def test_a_relay_gains_nothing_by_choosing_its_key() -> None:
    """Its key was ground until it ranked first for one message of its victim, of 20 relays."""
    victim, known = DEVICES[7], b"a message that it knows"
    others = [digest(b"relay %d" % n).hex() for n in range(19)]

    def ranks_first(key: str, body: bytes) -> bool:
        ranking = Relays()
        for node in (*others, key):
            ranking.on_status(str(Status(NET, node)), ONLINE, 0)
        return ranking.ranked(victim, body, 0)[0] == key

    keys = (digest(b"ground %d" % n).hex() for n in itertools.count())
    mallory = next(key for key in keys if ranks_first(key, known))
    share = sum(ranks_first(mallory, b"message %d" % n) for n in range(400)) / 400
    assert share < 2 / 20


def test_what_a_relay_passes_on_is_stamped_with_its_running_number() -> None:
    (relay,) = [Relay(NET, NODES[0], 7, limiter(Clock()))]
    for n in (1, 2):
        ((topic, payload),) = carried([relay], DEVICES[0])
        assert parse(topic) == Up(NET, NODES[0], DEVICES[0], "op")
        assert stamped_codec.decode(payload) == Stamped(n=n, boot=7, at_ms=5, body=b"signed")


def test_a_flooding_device_is_held_back_here_already() -> None:
    clock = Clock()
    relay = Relay(NET, NODES[0], 1, limiter(clock, rate=1, burst=2))
    assert len(carried([relay], DEVICES[0])) == len(carried([relay], DEVICES[0])) == 1
    with pytest.raises(PeerFault) as fault:
        carried([relay], DEVICES[0])
    assert fault.value.code == "rate"
    assert len(carried([relay], DEVICES[1])) == 1


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\xa2\x64kind\x62op", bytes(20_000)])
def test_garbage_is_a_peer_fault(payload: bytes) -> None:
    relay = Relay(NET, NODES[0], 1, limiter(Clock()))
    with pytest.raises(PeerFault):
        relay.on_request(str(Request(NET, DEVICES[0])), payload, 0)
    with pytest.raises(PeerFault):
        relay.on_request("m2m/1/x", ask(), 0)
    with pytest.raises(PeerFault):
        relay.on_status("status", ONLINE, 0)


def test_lost_messages_are_reported_once_and_overtaken_ones_not_at_all() -> None:
    stamps = Stamps()

    def take(n: int, boot: int = 1) -> None:
        stamps.take("relay", Stamped(n=n, boot=boot, at_ms=0, body=b""), 0)

    for n in (1, 3, 2, 4, 7, 7, 6):
        take(n)
    assert list(stamps.lost(LOSS_AFTER_MS)) == []
    assert list(stamps.lost(LOSS_AFTER_MS + 1)) == [("relay", 1)]  # 5
    assert list(stamps.lost(10 * LOSS_AFTER_MS)) == []
    take(1, boot=2)
    take(8)
    take(100_000, boot=2)
    assert list(stamps.lost(0)) == [("relay", 100_000 - 1 - 1 - 256)]
    assert list(stamps.lost(LOSS_AFTER_MS + 1)) == [("relay", 256)]


def test_relays_that_are_gone_take_no_place_from_new_ones() -> None:
    """Each device that is its own relay counts as one."""
    stamps = Stamps()
    for number in range(RELAYS_MAX + 100):
        stamps.take(f"old {number}", Stamped(n=1, boot=1, at_ms=0, body=b"%d" % number), 0)
        stamps.pass_over([f"old {number}"], DEVICES[0], b"lost", 0)
    for number in (1, 3):
        stamps.take("new", Stamped(n=number, boot=1, at_ms=0, body=b""), 0)
    assert list(stamps.lost(LOSS_AFTER_MS + 1)) == [("new", 1)]
    for device in DEVICES:
        stamps.pass_over(["new"], device, b"lost", 0)
    assert [relay for relay, _ in stamps.suspected(LOSS_AFTER_MS + 1)] == ["new"]


def suspected(stamps: Stamps) -> list[tuple[str, int]]:
    assert list(stamps.suspected(LOSS_AFTER_MS)) == []
    return list(stamps.suspected(LOSS_AFTER_MS + 1))


def test_a_relay_that_drops_is_suspected_when_several_devices_say_so() -> None:
    """One device may lie; and a message that came needs no other relay: its answer was lost."""
    stamps = Stamps()
    stamps.take("good", Stamped(n=1, boot=1, at_ms=0, body=b"came"), 0)
    for device in DEVICES[:SUSPECTED_BY]:
        stamps.pass_over(["good"], device, b"came", 0)
    for body in (b"one", b"two", b"three"):
        stamps.pass_over(["doubtful"], DEVICES[0], body, 0)
    assert suspected(stamps) == []
    for device in DEVICES[:SUSPECTED_BY]:
        stamps.pass_over(["bad"], device, b"lost", 0)
    assert suspected(stamps) == [("bad", SUSPECTED_BY)]
    assert suspected(stamps) == []


def test_a_relay_that_claims_tries_before_anybody_had_time_makes_no_other_suspect() -> None:
    """How often a device tried is the word of the relay that brings the message."""
    stamps = Stamps()
    for n, device in enumerate(DEVICES[: 2 * SUSPECTED_BY], 1):
        stamps.pass_over(["good"], device, device.encode(), 0)
        stamps.take("good", Stamped(n=n, boot=1, at_ms=0, body=device.encode()), LOSS_AFTER_MS)
    for n, device in enumerate(DEVICES[: 2 * SUSPECTED_BY], 1):
        message = f"{device} again".encode()
        stamps.pass_over(["first", "good"], device, message, 0)
        stamps.take("first", Stamped(n=n, boot=1, at_ms=0, body=message), 1)
    assert suspected(stamps) == []
