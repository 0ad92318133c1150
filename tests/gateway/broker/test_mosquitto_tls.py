"""Mosquitto's carrier listener: key, certificate and password let in, and nothing less.

Real `mosquitto_pub` and `mosquitto_sub`; a whole bench with them is in
`tests/testbed/test_mosquitto_bench.py`.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from chain.ledger.operations import Renew
from chain.ledger.possession import renewal_statement
from chain.proofs.certificate import carrier_certificate
from chain.proofs.proof import decode_proof
from gateway.bridge.edge import admitted_codec
from gateway.broker.port import DynamicSecurityAdmin
from gateway.mqtt.client import MqttClient
from gateway.mqtt.topics import Role
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from testbed.bench.network import HeldPort
from tests.chain import world
from tests.chain.world import Device, World, private_key
from tests.gateway.bridge.gate import Gate
from tests.gateway.broker.brokers import ROOT, BrokerProcess, story, until, user, why_not
from tests.gateway.broker.raw_mqtt import connect_bytes

pytestmark = pytest.mark.skipif(
    why_not("mosquitto") is not None or shutil.which("mosquitto_pub") is None,
    reason="mosquitto and mosquitto-clients are not here",
)

NOT_AUTHORISED = (5,)  # what the tools exit with when CONNECT is refused
LOST = (1, 7, 8, 14)  # the handshake was refused (8: in TLS itself), or the connection cut


class Bench:
    """Mosquitto with a carrier listener. What the gate decides about logins is done at it."""

    def __init__(self, folder: Path, gate: Gate) -> None:
        self.folder, self.gate, self.held = folder, gate, HeldPort()
        self.port = self.held.number
        self.gateway, self.operator = user(Role.GATEWAY, "a"), user(Role.ADMIN, "a")
        keygen(folder / "broker")
        files = {"certificate": f"broker/{CERTIFICATE_FILE}", "key": f"broker/{KEY_FILE}"}
        self.broker = BrokerProcess(
            folder,
            "mosquitto",
            [self.gateway, self.operator],
            tls=files,
            carriers={"port": self.port},
        )
        self.broker.trust = (folder / "broker" / CERTIFICATE_FILE).read_text()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[tuple[MqttClient, DynamicSecurityAdmin]]:
        await self.broker.start()
        try:
            async with (
                self.broker.client(self.gateway, f"{ROOT}/req/+") as ear,
                self.broker.admin(self.operator) as admin,
            ):
                yield ear, admin
        finally:
            self.broker.stop()
            self.held.release()

    def carrier(self, device: Device) -> bytes:
        """From what the device was answered last."""
        _, kind, payload = next(a for a in reversed(self.gate.answers) if a[1] != "carrier")
        receipt = admitted_codec.decode(payload).receipt if kind == "admitted" else payload
        return carrier_certificate(private_key(device.name), decode_proof(receipt))

    async def catch_up(self, admin: DynamicSecurityAdmin) -> None:
        """What the gateway process does with the bridge's changes."""
        for change in self.gate.changes:
            if change.user is None:
                await admin.remove(change.name)
                continue
            await admin.ensure(change.user)
        for carrier in self.gate.carriers:
            await admin.carry(carrier.name, carrier.pem)
        self.gate.changes.clear()
        self.gate.carriers.clear()

    def tools(self, device: Device, pem: bytes, **changes: str) -> Tools:
        node = device.node.hex()
        return Tools(
            self, device, pem, {"-u": node, "-i": node, "-P": self.gate.logins[node]} | changes
        )


class Tools:
    """`mosquitto_pub` and `mosquitto_sub` as one device, over mutual TLS."""

    def __init__(self, bench: Bench, device: Device, pem: bytes, login: dict[str, str]) -> None:
        key, certificate = bench.folder / f"{device.name}.key", bench.folder / f"{device.name}.pem"
        key.write_bytes(
            private_key(device.name).private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        certificate.write_bytes(pem)
        options = {"-h": "127.0.0.1", "-p": str(bench.port), "-q": "1"} | login
        options |= {"--cert": str(certificate), "--key": str(key)}
        options |= {"--cafile": str(bench.folder / "broker" / CERTIFICATE_FILE)}
        self._options = ["--insecure", *(part for option in options.items() for part in option)]

    async def publish(self, topic: str, *what: str) -> int:
        """Its exit code."""
        process = await self._run("mosquitto_pub", "-t", topic, *what)
        await process.communicate()
        assert process.returncode is not None
        return process.returncode

    async def listed(self, topic: str, text: str) -> None:
        """Until it is let in."""
        async with asyncio.timeout(60):
            while await self.publish(topic, "-m", text) != 0:
                await asyncio.sleep(0.1)

    async def hears(self, topic: str, *words: bytes, then: Any = None) -> None:
        """Listens until the tool has printed each of the words; `then` happens after the first."""
        listening = await self._run("mosquitto_sub", "-t", topic, "-C", "1", "-W", "60", "-d")
        assert listening.stdout is not None
        for word in words:
            async with asyncio.timeout(60):
                while word not in (line := await listening.stdout.readline()):
                    assert line, f"the tool ended without {word!r}"
            if then is not None and word is words[0]:
                await then
        await listening.communicate()

    async def _run(self, program: str, *more: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            "stdbuf",  # or the tool's words wait in its buffer
            "-oL",
            program,
            *self._options,
            *more,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """Its chain lives now, since OpenSSL looks at the clock."""
    monkeypatch.setattr(world, "START_US", time.time_ns() // 1000 - 10 * world.SECOND_US)
    return Bench(tmp_path, Gate(tmp_path, World()))


def renew(gate: Gate, device: Device) -> None:
    """Under the same key: another certificate of the same name."""
    possession = device.signer.sign(
        renewal_statement(gate.world.network, device.node, device.signer.public)
    )
    operation = gate.world.signed(
        Renew, device, key=device.signer.public, validity_s=3600, possession=possession
    )
    gate.ask(operation, device)
    assert [each.status for each in gate.decide()] == ["ok"]


@story
async def test_a_device_from_its_listing_over_a_renewal_to_its_revocation(bench: Bench) -> None:
    gate, device = bench.gate, bench.gate.admit("phone")
    node = device.node.hex()
    pem, topic = bench.carrier(device), f"{ROOT}/req/{node}"
    async with bench.running() as (ear, admin):
        tools = bench.tools(device, pem)
        await bench.catch_up(admin)
        assert await tools.publish(topic, "-m", "a login, but not listed") in LOST
        gate.up(node, "carrier", pem)
        await bench.catch_up(admin)
        await tools.listed(topic, "listed")
        assert (await ear.receive()).payload == b"listed"
        answer = ear.publish(f"{ROOT}/rsp/{node}/receipt", b"an answer")
        await tools.hears(f"{ROOT}/rsp/{node}/#", b"SUBACK", b"an answer", then=answer)

        renew(gate, device)
        renewed = bench.carrier(device)
        assert renewed != pem
        gate.up(node, "carrier", renewed)
        lost = ear.counts["lost"]
        await bench.catch_up(admin)
        await until(lambda: ear.counts["lost"] > lost and ear.is_up)  # it forgets the old one
        tools = bench.tools(device, renewed)
        await tools.listed(topic, "renewed")
        assert (await ear.receive()).payload == b"renewed"

        connection = admin.connection
        bench.broker.kill()
        await bench.broker.start()
        assert await tools.publish(topic, "-m", "a broker that was killed knows everybody") == 0

        await ear.ready(60)
        await until(lambda: admin.connection > connection)
        lost = ear.counts["lost"]
        await admin.remove(node)
        assert await tools.publish(topic, "-m", "revoked") in (*LOST, *NOT_AUTHORISED)
        await until(lambda: f"removed {node}" in bench.broker.log())
        await until(lambda: "mosquitto starts again" in bench.broker.log())
        await until(lambda: ear.counts["lost"] > lost and ear.is_up)
        refused = bench.broker.log().count("bad-certificate by")
        assert await tools.publish(topic, "-m", "refused in the handshake") in LOST
        await until(lambda: bench.broker.log().count("bad-certificate by") > refused)


@story
async def test_our_own_clients_speak_to_the_pinned_broker_only(bench: Bench) -> None:
    imposter = keygen(bench.folder / "imposter").certificate
    async with (
        bench.running() as (ear, _),
        bench.broker.client(bench.gateway, trust=imposter, ready=False) as deceived,
    ):
        await until(lambda: deceived.counts["refused"] >= 1)
        assert not deceived.is_up
        assert ear.is_up
        reader, writer = await asyncio.open_connection("127.0.0.1", bench.broker.port)
        writer.write(connect_bytes(bench.gateway.name, bench.gateway.name, "without TLS"))
        with suppress(ConnectionResetError):
            assert b"\x20\x02" not in await reader.read()  # no CONNACK
        writer.close()


@story
async def test_what_is_not_the_devices_own_is_refused(bench: Bench) -> None:
    gate, device = bench.gate, bench.gate.admit("phone")
    node = device.node.hex()
    pem, topic = bench.carrier(device), f"{ROOT}/req/{node}"
    gate.up(node, "carrier", pem)
    short = gate.admit("brief", validity_s=1)  # and the chain's time is long ago
    brief = bench.carrier(short)
    gate.up(short.node.hex(), "carrier", brief)
    huge = bench.folder / "huge"
    huge.write_bytes(bytes(10 * 1024 * 1024))
    async with bench.running() as (ear, admin):
        await bench.catch_up(admin)
        good = bench.tools(device, pem)
        await good.listed(topic, "listed")
        wrong = bench.tools(device, pem, **{"-P": "wrong"})
        assert await wrong.publish(topic, "-m", "without the password") in NOT_AUTHORISED
        usurper = bench.tools(device, pem, **{"-i": "a" * 64})
        assert await usurper.publish(topic, "-m", "as another client") in NOT_AUTHORISED
        gateway = bench.tools(device, pem, **{"-i": "a" * 64, "-u": "a" * 64})
        assert await gateway.publish(topic, "-m", "as another user") in NOT_AUTHORISED
        expired = bench.tools(short, brief)
        assert await expired.publish(f"{ROOT}/req/{short.node.hex()}", "-m", "expired") in LOST
        assert await good.publish(topic, "-f", str(huge)) in LOST
        await good.hears("#", b": 128")  # the failure code of SUBACK
        assert await good.publish(topic, "-m", "and all the while it is let in") == 0
        assert [(await ear.receive()).payload for _ in range(2)][1].startswith(b"and all")
        await bench.broker.counted("oversized")
        await bench.broker.counted("bad-certificate")
