"""Relays share devices among themselves without agreeing, each device at its rate."""

from __future__ import annotations

import pytest

from chain.errors import PeerFault
from gateway.bridge.edge import Ask, Stamped, ask_codec, stamped_codec
from gateway.bridge.relay import ONLINE, Relay
from gateway.bridge.stamps import PATIENCE_MS, Stamps
from gateway.mqtt.topics import Request, Status, Up, parse
from tests.gateway.bridge.gate import Clock, limiter

NET = "0" * 16
NODES = ["a" * 64, "b" * 64, "c" * 64]
DEVICES = [f"{n:064x}" for n in range(200)]
ASK = ask_codec.encode(Ask(kind="op", body=b"signed"))


def relays() -> list[Relay]:
    made = [Relay(NET, node, 1, limiter(Clock())) for node in NODES]
    for relay in made:
        for node in NODES:
            relay.on_status(str(Status(NET, node)), ONLINE)
    return made


def carried(made: list[Relay], device: str) -> list[tuple[str, bytes]]:
    topic = str(Request(NET, device))
    return [told for relay in made if (told := relay.on_request(topic, ASK, 5)) is not None]


def test_exactly_one_relay_carries_each_device_and_the_load_is_spread() -> None:
    made = relays()
    by = [parse(carried(made, device)[0][0]) for device in DEVICES]
    assert all(len(carried(made, device)) == 1 for device in DEVICES)
    shares = [sum(isinstance(up, Up) and up.relay == node for up in by) for node in NODES]
    assert min(shares) > 30


def test_the_share_of_a_dead_relay_falls_to_the_others() -> None:
    made = relays()
    dead, alive = made[0], made[1:]
    for relay in alive:
        relay.on_status(str(Status(NET, NODES[0])), b"")
    assert all(len(carried(alive, device)) == 1 for device in DEVICES)
    before = [relay.carries(device) for relay in alive for device in DEVICES]
    alive[0].on_status(str(Status(NET, "d" * 64)), b"gateway")  # no relay
    assert before == [relay.carries(device) for relay in alive for device in DEVICES]
    assert dead.carries(next(d for d in DEVICES if dead.carries(d)))


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
        relay.on_request("m2m/1/x", ASK, 0)
    with pytest.raises(PeerFault):
        relay.on_status("status", ONLINE)


def test_lost_messages_are_told_once_and_overtaken_ones_not_at_all() -> None:
    stamps = Stamps()

    def take(n: int, boot: int = 1) -> None:
        stamps.take("relay", Stamped(n=n, boot=boot, at_ms=0, body=b""), 0)

    for n in (1, 3, 2, 4, 7, 7, 6):
        take(n)
    assert list(stamps.lost(PATIENCE_MS)) == []
    assert list(stamps.lost(PATIENCE_MS + 1)) == [("relay", 1)]  # 5
    assert list(stamps.lost(10 * PATIENCE_MS)) == []
    take(1, boot=2)
    take(8)
    take(100_000, boot=2)
    assert list(stamps.lost(0)) == [("relay", 100_000 - 1 - 1 - 256)]
    assert list(stamps.lost(PATIENCE_MS + 1)) == [("relay", 256)]
