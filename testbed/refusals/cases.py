"""Tries everything that must be refused on a running lab, in the order of the attacker's reach.

Each case sends something that a person with a relay's or a device's access could send. If an attack
of campaigns sends it too, the case takes it from there. `trial` finds out who refused it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from signal import Signals
from typing import Any

import msgspec
import paho.mqtt.client as paho
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from chain.errors import PeerFault
from chain.keys import digest
from chain.ledger.operations import Token
from chain.ledger.statement import OK
from chain.proofs.certificate import carrier_certificate, verify_carrier
from gateway.bridge.edge import SyncRequest, sync_codec
from gateway.broker.security import bootstrap_id, bootstrap_user
from gateway.mqtt.topics import Up
from gateway.serial.frames import Frame, decode_line, encode_frame
from testbed.attacker.at_the_door import ATTACKS
from testbed.attacker.door_attack import DoorTarget
from testbed.attacker.forgery import ESCALATIONS, EXPIRED_AFTER_S, FORGERIES
from testbed.attacker.manufacturer import Manufacturer, issue
from testbed.attacker.puppet import Puppet
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.material import PRIVILEGE_MAX
from testbed.refusals.trial import Refusal, RefusalTrial

__all__ = ["try_all"]

LAGS_MAX = 5
_ALL_BLOCKS = sync_codec.encode(SyncRequest(start=1, bodies=True))


async def try_all(trial: RefusalTrial, say: Callable[[str], None]) -> list[Refusal]:
    """Every case, in order. Raises LabFault."""
    for cases in ALL:
        say((cases.__doc__ or "").partition("\n")[0])
        await cases(trial)
    return trial.found


async def _forged(t: RefusalTrial) -> None:
    """Forgeries and escalations: what `device.impersonate` and `device.escalate` send."""
    ways = {what: way for some in (*FORGERIES.values(), ESCALATIONS) for what, way in some.items()}
    await t.later(EXPIRED_AFTER_S)  # the certificate of one of his devices must have expired
    for tried, forge in ways.items():
        for tries in range(LAGS_MAX):  # a gateway that lags for a moment lets the group refuse it
            if tries:
                t.found.pop()
            device, kind, body = forge(t.hand)
            await t.signed(tried, body, device, kind)
            if t.found[-1].layer != "group":
                break


async def _access(t: RefusalTrial) -> None:
    """Access requests."""
    device = Puppet(t.network)
    spare = await t.operator.new_voucher("spare", 3)
    _, used, _ = await t.admit("first")
    bent = device.enrol(spare, t.head)
    assert isinstance(bent.voucher, Token)
    bent = msgspec.structs.replace(
        bent, voucher=msgspec.structs.replace(bent.voucher, signature=bytes(64))
    )
    old = digest(t.material.genesis.encode())
    await t.request("used voucher", device.enrol(used, t.head), device)
    await t.request("voucher that did not sign for this key", bent, device)
    foreign = device.enrol(spare, t.head, service="heating")
    await t.request("service that is not offered", foreign, device)
    await t.request("head that never was", device.enrol(spare, old), device)
    disguised = device.enrol(spare, t.head, kind="environment")
    await t.request("another kind of device than the voucher's", disguised, device)
    withdrawn = await t.operator.new_voucher("withdrawn", 3)
    await t.operator.withdraw("withdrawn")
    await t.request("voucher that was withdrawn", device.enrol(withdrawn, t.head), device)
    t.spent.append(("login of a withdrawn voucher", withdrawn.user))
    late = await t.operator.new_voucher("late", 3, valid_s=1)
    await t.later(1)
    await t.request("voucher after its time", device.enrol(late, t.head), device)
    t.spent.append(("login of an expired voucher", late.user))


async def _factory(t: RefusalTrial) -> None:
    """Factory certificates (IEEE 802.1AR)."""
    root = t.manufacturer.root
    own = issue("own", root)
    wrong = {
        "factory certificate of an unknown manufacturer": issue("fake", Manufacturer().root),
        "factory certificate with CA:TRUE": issue("maker", root, ca=True),
        "factory certificate after its time": issue("stale", root, days=-1),
    }
    for tried, made in wrong.items():
        device = Puppet(t.network)
        await t.request(tried, device.enrol_by(made, t.head), device)
    device, below = Puppet(t.network), issue("below", own)
    chain = (below.der, own.der)
    await t.request(
        "factory certificate issued by a device", device.enrol_by(below, t.head, chain), device
    )
    await t.request(
        "factory certificate without its key",
        device.enrol_by(below, t.head, (own.der,)),
        device,
    )
    await t.request(
        "privilege above what factories grant",
        device.enrol_by(own, t.head, privilege=PRIVILEGE_MAX + 1),
        device,
    )
    if await t.request("", device.enrol_by(own, t.head), device) != OK:
        raise LabFault("a good factory certificate is not admitted")
    second = Puppet(t.network)
    await t.request("factory certificate used before", second.enrol_by(own, t.head), second)


async def _replay(t: RefusalTrial) -> None:
    """Replays."""
    puppet, voucher, enrolment = await t.admit("replayed")
    data = puppet.sign(puppet.data())
    await t.signed("", data, puppet.node.hex(), "op")
    login = bootstrap_id(voucher.id)
    await t.signed("access request replayed", enrolment, login, "enrol")
    await t.signed("access request replayed under another name", enrolment, "a" * 64, "enrol")
    await t.signed("data replayed", data, puppet.node.hex(), "op")
    t.spent.append(("login of a spent voucher", voucher.user))
    puppet.counter = 0
    await t.request("counter used before", puppet.data(payload=b"new"), puppet)


async def _form(t: RefusalTrial) -> None:
    """Malformed and altered messages."""
    puppet, _, _ = await t.admit("formed")
    good, name = puppet.sign(puppet.data()), puppet.node.hex()
    other = puppet.sign(puppet.data(network=digest(b"another network")))
    cases = {
        "altered reading": good.replace(b"21.5", b"99.5"),
        "altered signature": good[:-1] + bytes((good[-1] ^ 1,)),
        "captured in another network": other,
        "malformed COSE": b"\xd2\x84\x40" + good,
        "empty body": b"",
    }
    for tried, body in cases.items():
        await t.at_gateway(tried, "op", body, name)
    await t.at_gateway("malformed CBOR", "op", b"", name, raw=b"\xbf\xff")
    await t.at_gateway("malformed request for blocks", "sync", b"\xa0", name)
    await t.signed("data under another device's name", good, "b" * 64, "op")
    await t.signed("data sent as an access request", good, name, "enrol")


async def _ends(t: RefusalTrial) -> None:
    """Expired and revoked."""
    for name, had in (("expiry", "expired"), ("revocation", "revoked")):
        t.spent.append((f"login after {name}", t.attacker.login_of(t.hand.devices[had])))
    gone, voucher, enrolment = await t.admit("gone")
    await t.operator.revoke(t.operator.find("gone")[1], "lost")
    login = bootstrap_id(voucher.id)
    await t.signed("access request replayed after revocation", enrolment, login, "enrol")
    again = gone.enrol(await t.operator.new_voucher("gone again", 3), t.head)
    await t.request("new access request of a revoked key", again, gone)
    await t.at_gateway("blocks for a revoked device", "sync", _ALL_BLOCKS, gone.node.hex())
    first, _, _ = await t.admit("renewed")
    second, third = Puppet(t.network), Puppet(t.network)
    for before, after in ((first, second), (second, third)):
        if await t.request("", before.renew(after), before) != OK:
            raise LabFault("a device is not renewed")
    await t.operator.revoke(t.operator.find("renewed")[1], "lost")
    await t.request("data of the newest key of a revoked device", third.data(), third)
    for name, key in (("first", first), ("newest", third)):
        t.spent.append((f"login of the {name} key of a revoked device", t.attacker.login_of(key)))


async def _restarts(t: RefusalTrial) -> None:
    """Replays after all replicas and the gateway were killed and started again."""
    puppet, voucher, enrolment = await t.admit("before")
    data = puppet.sign(puppet.data())
    await t.signed("", data, puppet.node.hex(), "op")
    await asyncio.to_thread(_restart, t.deployment)
    login = bootstrap_id(voucher.id)
    await t.signed("access request replayed after restarts", enrolment, login, "enrol")
    await t.signed("data replayed after restarts", data, puppet.node.hex(), "op")


def _restart(deployment: Deployment) -> None:
    nodes = [*deployment.with_role("replica"), *deployment.with_role("gateway")]
    for node in nodes:
        deployment.host(node).signal(node.unit, Signals.SIGKILL)
        deployment.host(node).stop(node.unit)
    for node in nodes:
        deployment.start_node(node)
    for node in nodes:
        deployment.wait_ready(node)


async def _at_broker(t: RefusalTrial) -> None:
    """What the broker refuses: takeover, topic hijack and eavesdropping, and more."""
    rogue = await t.login_of(t.hand.devices["admitted"])
    at = DoorTarget(t.net, rogue, "a" * 64, t.hand.rng)
    for attack in ATTACKS.values():
        for what, user, client_id, act in attack.ways(at):
            await t.at_broker(what, user, act, client_id)
    mine = str(Up(t.net, rogue.node, rogue.node, "op"))

    def publish(payload: bytes, retain: bool = False) -> Callable[[paho.Client], Any]:
        return lambda client: client.publish(mine, payload, qos=1, retain=retain)

    await t.at_broker("message of 10 MB", rogue, publish(bytes(10 * 1024 * 1024)))
    await t.at_broker("retained message", rogue, publish(b"", retain=True))
    unknown = bootstrap_user(b"nobody", b"nobody's token")
    for name, user in (("voucher that nobody issued", unknown), *t.spent):
        await t.at_broker(name, user, None)


async def _carriers(t: RefusalTrial) -> None:
    """Carrier certificates sent to the gateway."""
    puppet, _, enrolment = await t.admit("carried")
    other, _, theirs = await t.admit("other")
    for each in (puppet, other):
        await t.login_of(each)
    await t.operator.refresh()
    own = carrier_certificate(puppet.key, t.proof_of(enrolment))
    foreign = carrier_certificate(other.key, t.proof_of(theirs))
    altered = {
        "carrier certificate of another device": foreign,
        "carrier certificate with a CA behind it": own + foreign,
        "carrier certificate that is no text": own + b"\xff",
        "carrier certificate with CA:TRUE": _rebuilt(own, puppet, ca=True),
    }
    name = puppet.node.hex()
    for tried, pem in altered.items():
        await t.at_gateway(tried, "carrier", pem, name)
    await t.operator.revoke(t.operator.find("carried")[1], "lost")
    await t.at_gateway("carrier certificate of a revoked device", "carrier", own, name)


async def _serial(t: RefusalTrial) -> None:
    """The line to a sensor board."""
    board = t.deployment.with_role("board")[0]
    sent = decode_line(await t.frame_of(board))
    assert isinstance(sent, Frame)
    forged = encode_frame(sent.body[:-1] + bytes((sent.body[-1] ^ 1,)), sent.tag)
    replayed = encode_frame(sent.body, sent.tag)
    # Past the end of the frame: in COBS, 0xff announces 254 more bytes.
    noise = {"noise on a serial line: not COBS": b"\xff\xaa\x55"}
    flipped = bytearray(replayed)
    flipped[-1] ^= 1 if flipped[-1] != 1 else 2  # it must not become a zero
    noise["noise on a serial line: a bit flipped"] = bytes(flipped)
    await t.on_the_line("serial frame replayed (an old counter)", board, replayed)
    await t.on_the_line("serial frame altered (its MAC does not hold)", board, forged)
    for tried, line in noise.items():
        await t.on_the_line(tried, board, line)


async def _offline(t: RefusalTrial) -> None:
    """Certificates, checked offline."""
    puppet, _, enrolment = await t.admit("certified")
    good = carrier_certificate(puppet.key, t.proof_of(enrolment))
    genesis = t.material.genesis
    statement = verify_carrier(good, genesis)
    usurper = Puppet(t.network)
    late_us = (statement.not_after_us or 0) + 1
    for tried, pem, at_us in (
        ("certificate with CA:TRUE", _rebuilt(good, puppet, ca=True), None),
        ("certificate of another key with this proof", _rebuilt(good, usurper, ca=False), None),
        ("certificate after its time", good, late_us),
    ):
        try:
            verify_carrier(pem, genesis, at_us)
        except PeerFault as fault:
            t.add(tried, "verifier", fault.code)
        else:
            t.add(tried, "verifier", "ok")


def _rebuilt(pem: bytes, puppet: Puppet, *, ca: bool) -> bytes:
    """The same certificate for another key or of another kind, signed by `puppet`."""
    old = x509.load_pem_x509_certificate(pem)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(puppet.key.public_key())
        .serial_number(old.serial_number)
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        value: Any = extension.value
        if isinstance(value, x509.BasicConstraints):
            value = x509.BasicConstraints(ca=ca, path_length=None)
        builder = builder.add_extension(value, critical=extension.critical)
    made = builder.sign(puppet.key, hashes.SHA256())
    return made.public_bytes(serialization.Encoding.PEM)


ALL = (
    _forged,
    _access,
    _factory,
    _replay,
    _form,
    _ends,
    _restarts,
    _carriers,
    _at_broker,
    _serial,
    _offline,
)
