"""The MQTT client: a broker that comes and goes, a slow consumer, TLS with client certificates."""

from __future__ import annotations

import asyncio
import hashlib
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from chain.errors import Misuse
from gateway.broker_security import User
from gateway.mqtt import (
    BrokerUnavailableError,
    MqttClient,
    MqttSettings,
    Tls,
    inbound_messages_max,
    inflight_publishes_max,
)
from gateway.topics import Role, Up
from tests.gateway.brokers import (
    NET,
    ROOT,
    next_payloads,
    node,
    running,
    started,
    story,
    until,
    user,
)

GATEWAY, DEVICE = user(Role.GATEWAY, "a"), user(Role.DEVICE, "b")
ALL_UP = f"{ROOT}/up/+/+/+"
DATA = str(Up(NET, DEVICE.node, DEVICE.node, "data"))


@story
async def test_without_a_broker_a_publish_says_so_in_time() -> None:
    client = MqttClient(MqttSettings("127.0.0.1", 1, "nobody"))
    async with running(client.run()):
        with pytest.raises(BrokerUnavailableError, match=r"not acknowledged within 0\.2 s"):
            await client.publish("t", b"x", deadline_s=0.2)
        with pytest.raises(BrokerUnavailableError, match=r"no connection to .* as nobody"):
            await client.ready(0.1)
    assert client.counts["refused"] >= 1


@story
async def test_a_publish_waits_for_the_broker_to_come_back(tmp_path: Path) -> None:
    async with (
        started(tmp_path, "embedded", [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        broker.kill()
        await until(lambda: not device.is_up)
        waiting = asyncio.create_task(device.publish(DATA, b"patient"))
        await broker.start()
        await waiting
        await gateway.ready()
        await device.publish(DATA, b"after")
        heard = await next_payloads(gateway, 1)  # "patient" came, or was before the subscription
        assert b"after" in heard or await next_payloads(gateway, 1) == [b"after"]
        assert device.counts["connected"] == 2


@story
async def test_a_slow_consumer_makes_the_broker_wait(tmp_path: Path) -> None:
    """Reading stops at the limit, nothing is dropped, and goes on when the consumer does."""
    total = inbound_messages_max + 500
    async with (
        started(tmp_path, "embedded", [GATEWAY, DEVICE]) as broker,
        broker.client(GATEWAY, ALL_UP) as gateway,
        broker.client(DEVICE) as device,
    ):
        publishing = asyncio.gather(*(device.publish(DATA, b"%d" % i) for i in range(total)))
        link = gateway._link
        assert link is not None
        await until(lambda: gateway._inbox.full and not link._reading)
        await publishing
        piled_up = gateway._inbox._queue.qsize()
        assert inbound_messages_max <= piled_up <= inbound_messages_max + inflight_publishes_max
        payloads = await next_payloads(gateway, total)
        assert set(payloads) == {b"%d" % i for i in range(total)}
        assert gateway.counts["dropped"] == 0


def test_a_payload_beyond_the_limit_is_a_bug() -> None:
    with pytest.raises(Misuse, match="at most"):
        asyncio.run(MqttClient(MqttSettings("h", 1, "n")).publish("t", b"x" * 65536))


def test_a_password_is_not_shown() -> None:
    assert "hunter2" not in repr(MqttSettings("h", 1, "n", password="hunter2"))


def _certificate(folder: Path, name: str) -> str:
    """A self-signed certificate and its key as files; returns SHA-256 of the SPKI."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    (folder / f"{name}.key").touch(0o600)
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()


@story
async def test_a_certificate_is_a_login_and_the_key_is_the_name(tmp_path: Path) -> None:
    """No password; a listed certificate comes in only under its own key's digest, an unlisted
    one not at all, and one that is listed later without a restart."""
    _certificate(tmp_path, "broker")
    known = _certificate(tmp_path, "known")
    late = _certificate(tmp_path, "late")
    listed = tmp_path / "clients.pem"
    listed.write_bytes((tmp_path / "known.pem").read_bytes())
    users = [User(Role.DEVICE, known), User(Role.DEVICE, late), User(Role.DEVICE, node("9"))]
    files = {"certificate": "broker.pem", "key": "broker.key", "clients": "clients.pem"}

    def tls(name: str) -> Tls:
        return Tls(tmp_path / "broker.pem", tmp_path / f"{name}.pem", tmp_path / f"{name}.key")

    async with (
        started(tmp_path, "embedded", users, tls=files) as broker,
        AsyncExitStack() as stack,
    ):
        device = await stack.enter_async_context(broker.client(users[0], tls=tls("known")))
        await device.publish(str(Up(NET, known, known, "data")), b"x")
        for who, name in ((users[2], "known"), (users[1], "late")):
            refused = await stack.enter_async_context(
                broker.client(who, tls=tls(name), ready=False)
            )
            await until(lambda client=refused: client.counts["refused"] >= 1)  # type: ignore[misc]
            assert not refused.is_up
        with listed.open("ab") as file:
            file.write((tmp_path / "late.pem").read_bytes())
        await refused.ready()
        await refused.publish(str(Up(NET, late, late, "data")), b"x")
