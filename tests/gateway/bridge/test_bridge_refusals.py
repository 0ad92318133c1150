"""What the gateway refuses at once, and what floods and hostile bytes cannot do."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chain.keys import Es256Signer, digest
from chain.ledger.admission import voucher_id
from chain.ledger.envelope import sign_operation
from chain.ledger.operations import (
    AddFactoryRoot,
    Factory,
    WithdrawFactoryRoot,
)
from chain.ledger.possession import voucher_statement
from gateway.bridge.answers import Answer, AnswerCache
from gateway.bridge.edge import (
    Stamped,
    SyncRequest,
    stamped_codec,
    sync_codec,
)
from gateway.bridge.relays import ONLINE
from gateway.bridge.stamps import LOSS_AFTER_MS
from gateway.broker.security import bootstrap_id
from gateway.mqtt.topics import Status
from tests.chain.registry_support import by_admins, certificate
from tests.chain.world import Device, private_key
from tests.gateway.bridge.gate import RELAY, Gate, limiter


def test_what_no_block_can_mend_is_refused_before_a_replica_hears_of_it(gate: Gate) -> None:
    world = gate.world
    device, other = gate.admit("phone"), Device("other")
    used = world.vouchers[0]
    stale = world.enrol(other)
    stranger = Device("stranger")
    for operation, by, reason in (
        (world.enrol(other, with_voucher=used), other, "used-voucher"),
        (world.enrol(other, service="heating"), other, "service"),
        (world.enrol(other, privilege=9), other, "privilege"),
        (msgspec.structs.replace(world.enrol(device)), device, "known-node"),
        (world.data(stranger), stranger, "unknown-node"),
        (msgspec.structs.replace(world.data(device), network=bytes(32)), device, None),
    ):
        gate.ask(operation, by)
        if reason is not None:
            assert gate.refusals()[-1] == reason
    assert gate.bridge.counts["refused:wrong-network"] == 1
    world.idle(17)
    gate.seal()
    gate.ask(stale, other)
    assert gate.refusals()[-1] == "stale-head"
    gate.ask(world.data(device), device)
    gate.decide()
    late = msgspec.structs.replace(world.data(device), counter=1)
    gate.ask(late, device)
    assert gate.refusals()[-1] == "counter"
    world.block(after_us=4000 * 1_000_000)
    gate.seal()
    gate.ask(world.data(device), device)
    assert gate.refusals()[-1] == "expired"
    assert not gate.submitted


def test_what_an_admitted_device_may_not_do_goes_on_record(gate: Gate) -> None:
    device = gate.admit("phone")
    gate.ask(gate.world.data(device, service="valve"), device)
    (statement,) = gate.decide()
    assert statement.status == "refused:service"
    assert gate.answers[-1][1] == "receipt"


def test_an_unknown_voucher_is_refused_unless_we_lag_behind(gate: Gate) -> None:
    """A lagging gateway may not know of a voucher that was added a moment ago."""
    world, device = gate.world, Device("phone")
    unknown = Device("a voucher of nobody").signer
    gate.ask(world.enrol(device, with_voucher=unknown), device)
    assert gate.refusals() == ["unknown-voucher"]
    assert len(gate.submitted) == 1, "only replicas can prove it to the device"
    gate.submitted.clear()
    world.idle(1)
    for replica in (1, 2):
        gate.bridge.on_seal(world.seal(replica, world.blocks[-1], with_body=False))
    gate.ask(world.enrol(device, with_voucher=unknown, nonce=bytes(16)), device)
    assert len(gate.submitted) == 1
    assert gate.refusals() == ["unknown-voucher"]


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hostile_bytes_are_counted_and_do_nothing_else(gate: Gate, data: st.DataObject) -> None:
    """Whatever is in topic, envelope or body; also one byte changed in what would be accepted."""
    if not gate.world.blocks:
        gate.admit("phone")
    gate.clock.s += 1000
    device = Device("phone")
    device.counter = 1
    good = sign_operation(gate.world.data(device), device.signer)
    at = data.draw(st.integers(0, len(good) - 1))
    bent = good[:at] + bytes((good[at] ^ data.draw(st.integers(1, 255)),)) + good[at + 1 :]
    body = data.draw(st.sampled_from([bent, data.draw(st.binary(max_size=400))]))
    stamped = stamped_codec.encode(Stamped(n=1, boot=1, at_ms=0, body=body))
    payload = data.draw(st.sampled_from([stamped, data.draw(st.binary(max_size=400))]))
    kind = data.draw(st.sampled_from(["op", "enrol", "sync", "carrier", "other"]))
    good_topic = f"m2m/1/{gate.bridge.net}/up/{RELAY}/{device.node.hex()}/{kind}"
    topic = data.draw(st.sampled_from([good_topic, data.draw(st.text(max_size=100))]))
    before = sum(n for name, n in gate.bridge.counts.items() if name.startswith("refused"))
    gate.bridge.on_up(topic, payload, 0)
    after = sum(n for name, n in gate.bridge.counts.items() if name.startswith("refused"))
    assert after == before + 1
    assert gate.bridge.take_writes() is None


@pytest.mark.parametrize(
    "raised",
    [OverflowError("date"), AssertionError(), RecursionError(), UnicodeError(), KeyError(1)],
)
def test_whatever_a_library_raises_on_a_strangers_bytes_is_a_refusal(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, raised: Exception
) -> None:
    """One message must not end every gateway that gets it."""
    device = gate.admit("phone")

    def break_down(*_: object) -> None:
        raise raised

    monkeypatch.setattr("gateway.bridge.logins.verify_carrier", break_down)
    monkeypatch.setattr("gateway.bridge.bridge.open_operation", break_down)
    for kind in ("carrier", "op", "enrol"):
        gate.up(device.node.hex(), kind, b"anything")
    assert gate.bridge.counts["refused:unreadable"] == 3


def test_a_fault_of_this_machine_is_no_refusal(gate: Gate) -> None:
    """A gateway whose disk fails ends loudly, and its device sends the request again."""
    device = gate.admit("phone")
    gate.store.close()
    with pytest.raises(sqlite3.Error):
        gate.ask(gate.world.data(device), device)


def test_a_factory_identity_whose_root_was_withdrawn_gets_nothing(gate: Gate) -> None:
    """Its login stays, because no record names it. It can ask for access, and nothing else."""
    world, key, root_key = gate.world, private_key("idevid"), private_key("factory root")
    root = certificate("Factory", "Factory", root_key, root_key, ca=True)
    leaf = certificate("Sensor 7", "Factory", key, root_key, ca=False)
    added = {"certificate": root, "kinds": ("mobile",), "privilege": 1, "services": ("telemetry",)}
    assert by_admins(world, AddFactoryRoot, **added) == "ok"
    assert by_admins(world, WithdrawFactoryRoot, root=digest(root)) == "ok"
    gate.seal()
    device, head = Device("phone"), world.ledger.head_hash
    proof = Es256Signer(key).sign(voucher_statement(world.network, device.signer.public, head))
    voucher = Factory(chain=(leaf,), signature=proof)
    login = bootstrap_id(voucher_id(voucher))
    gate.ask(world.enrol(device, voucher=voucher), device, device=login)
    assert gate.refusals() == ["factory-chain"]
    assert [each.status for each in gate.decide()] == ["refused:factory-chain"]
    gate.up(login, "sync", sync_codec.encode(SyncRequest(start=1, bodies=True)))
    gate.up(login, "op", sign_operation(world.data(device), device.signer))
    assert gate.outcomes()[-2:] == ["refused:unknown-node", "refused:wrong-node"]
    assert gate.logins == {}


def test_only_admitted_devices_make_a_relay_suspect(gate: Gate) -> None:
    """One login at the broker names any devices, and anybody can make keys."""
    for relay in ("1" * 64, "2" * 64):
        status = str(Status(gate.bridge.net, relay))
        gate.bridge.on_up(status, ONLINE, gate.now_ms)

    def try_again(devices: list[Device]) -> list[str]:
        for device in devices:
            cose = sign_operation(gate.world.data(device), device.signer)
            gate.up(device.node.hex(), "op", cose, tries=1)
            gate.up(device.node.hex(), "sync", device.node, tries=1)
        gate.bridge.tick(gate.now_ms + LOSS_AFTER_MS + 1)
        return [event for event, _ in gate.events if event == "relay-suspected"]

    assert try_again([Device(f"made up {number}") for number in range(64)]) == []
    gate.clock.s += 1
    assert try_again([gate.admit(f"phone {number}") for number in range(8)]) != []


def test_no_relay_makes_another_suspect_with_what_has_come_already(gate: Gate) -> None:
    """It hears all that devices ask, and keeps it: it brings it again and says how often the device
    tried."""
    good, other, bad = "1" * 64, "2" * 64, "3" * 64
    phones = [gate.admit(f"phone {number}") for number in range(8)]

    def present() -> None:
        for relay in (good, other, bad):
            gate.bridge.on_up(str(Status(gate.bridge.net, relay)), ONLINE, gate.now_ms)

    for _ in range(4):
        present()
        sent = [(each, gate.ask(gate.world.data(each), each, relay=other)) for each in phones]
        for settled in (False, True):
            if settled:
                gate.decide()
                gate.clock.s += 1
                present()
            for tries in range(1, 7):
                for phone, cose in sent:
                    gate.up(phone.node.hex(), "op", cose, relay=bad, tries=tries)
        gate.bridge.tick(gate.now_ms + LOSS_AFTER_MS + 1)
    assert not [fields for event, fields in gate.events if event == "relay-suspected"]


def test_a_relay_that_leaves_gaps_without_end_writes_few_events(gate: Gate) -> None:
    device = gate.admit("phone")
    for _ in range(2_000):
        gate.stamped += 1_000
        gate.up(device.node.hex(), "op", b"")
        gate.clock.s += 0.05
        gate.bridge.tick(gate.now_ms)
    gate.clock.s += 2 * LOSS_AFTER_MS / 1000
    gate.bridge.tick(gate.now_ms)
    gaps = [fields["missing"] for event, fields in gate.events if event == "relay-gap"]
    assert len(gaps) <= 102
    assert sum(int(str(missing)) for missing in gaps) == 2_000 * 1_000


def test_a_final_request_that_is_replayed_is_answered_from_memory_or_at_a_low_rate(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the cache each replay costs the decoding and hashing of a block."""
    gate.restart_with(syncs=limiter(gate.clock, rate=8, burst=8))
    device = gate.admit("phone")
    cose = gate.ask(gate.world.data(device), device)
    gate.decide()
    reads = 0
    find = gate.bridge.follower.find

    def counted(request: bytes) -> object:
        nonlocal reads
        reads += 1
        return find(request)

    monkeypatch.setattr(gate.bridge.follower, "find", counted)
    for _ in range(50):
        gate.up(device.node.hex(), "op", cose)
    assert (reads, gate.bridge.counts["repeat-final"]) == (0, 50)
    gate.clock.s += 100
    monkeypatch.setattr(gate.bridge, "_answers", AnswerCache(bytes_max=0))
    for _ in range(50):
        gate.up(device.node.hex(), "op", cose)
    assert (reads, gate.bridge.counts["refused:rate"]) == (8, 42)


def test_a_flood_of_garbage_is_counted_and_writes_few_events(gate: Gate) -> None:
    """Otherwise one relay, at its rate, makes 35 GB of events a day."""
    gate.restart_with(
        relays=limiter(gate.clock, 10_000, 10_000),
        devices=limiter(gate.clock, 10_000, 10_000),
        events=limiter(gate.clock, 1, 20),
    )
    for _ in range(1_000):
        gate.up("c" * 64, "op", b"garbage")
    assert gate.bridge.counts["refused:bad-cose"] == 1_000
    assert len(gate.outcomes()) == 20
    device = gate.admit("phone")
    gate.ask(gate.world.data(device), device)
    assert gate.outcomes().count("accepted") == 2, "what is accepted is always logged"


def test_a_refused_message_is_named_by_what_was_sent(gate: Gate) -> None:
    """Whoever judges an attack finds each of its messages: by its id, or by its digest."""
    device = gate.admit("phone")
    altered = sign_operation(gate.world.data(device), device.signer)[:-1] + b"\0"
    gate.up(device.node.hex(), "op", altered)
    gate.bridge.on_up(f"m2m/1/{gate.bridge.net}/up/{RELAY}/{'c' * 64}/op", b"no stamp", 0)
    logged = [fields["id"] for event, fields in gate.events if event == "request"]
    assert logged[-2:] == [digest(altered).hex(), digest(b"no stamp").hex()]


def test_cached_answers_are_bounded_in_bytes() -> None:
    cache = AnswerCache(bytes_max=10_000)
    for number in range(100):
        cache.put(number.to_bytes(32), Answer(bytes(32), False, bytes(1000), 0))
        assert cache.bytes <= 10_000
        assert cache.get((0).to_bytes(32)) is not None, "used again and again"
    assert cache.get((99).to_bytes(32)) is not None
