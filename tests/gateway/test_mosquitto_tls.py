"""Mosquitto's own tools take part with a device's key and carrier certificate, until revoked."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from chain.certificate import carrier_certificate
from chain.proof import decode_proof
from gateway.broker_security import User
from gateway.edge import admitted_codec
from gateway.topics import Role
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from testbed.bench.network import free_ports
from tests.chain import world
from tests.chain.world import Device, World, private_key
from tests.gateway.brokers import ROOT, BrokerProcess, story, user, why_not
from tests.gateway.gate import Gate

pytestmark = pytest.mark.skipif(
    why_not("mosquitto") is not None or shutil.which("mosquitto_pub") is None,
    reason="mosquitto and mosquitto-clients are not here",
)


class Tools:
    """`mosquitto_pub` and `mosquitto_sub` as one device, over mutual TLS."""

    def __init__(self, folder: Path, port: int, node: str) -> None:
        self._options = ["-h", "127.0.0.1", "-p", str(port), "-i", node, "-q", "1", "--insecure"]
        self._options += ["--cafile", str(folder / "broker" / CERTIFICATE_FILE)]
        self._options += ["--cert", str(folder / "phone.pem"), "--key", str(folder / "phone.key")]

    async def publish(self, topic: str, text: str) -> int:
        process = await self._run("mosquitto_pub", "-t", topic, "-m", text)
        await process.communicate()
        assert process.returncode is not None
        return process.returncode

    async def listen(self, topic: str) -> asyncio.subprocess.Process:
        return await self._run("mosquitto_sub", "-t", topic, "-C", "1", "-W", "20", "-d")

    async def heard(self, listening: asyncio.subprocess.Process, what: bytes) -> None:
        """Until the tool has printed it."""
        assert listening.stdout is not None
        async with asyncio.timeout(20):
            while what not in (line := await listening.stdout.readline()):
                assert line, f"the tool ended without {what!r}"

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
def carrier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Device, bytes]:
    """A device and its carrier certificate, from the proof that the gateway handed it; now, since
    OpenSSL looks at the clock."""
    monkeypatch.setattr(world, "START_US", time.time_ns() // 1000 - 5 * world.SECOND_US)
    gate = Gate(tmp_path, World())
    device = gate.admit("phone")
    proof = decode_proof(admitted_codec.decode(gate.answers[-1][2]).receipt)
    key = private_key("phone").private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    certificate = carrier_certificate(private_key("phone"), proof)
    (tmp_path / "phone.key").write_bytes(key)
    (tmp_path / "phone.pem").write_bytes(certificate)
    return device, certificate


@story
async def test_key_and_certificate_are_enough_until_the_device_is_revoked(
    tmp_path: Path, carrier: tuple[Device, bytes]
) -> None:
    device, certificate = carrier
    me = User(Role.DEVICE, device.node.hex())
    gateway, operator = user(Role.GATEWAY, "a"), user(Role.ADMIN, "a")
    keygen(tmp_path / "broker")
    listed = tmp_path / "clients.pem"
    listed.write_bytes(b"")
    port = free_ports(1)[0]
    tls = {"certificate": f"broker/{CERTIFICATE_FILE}", "key": f"broker/{KEY_FILE}"}
    broker = BrokerProcess(
        tmp_path,
        "mosquitto",
        [gateway, operator],
        tls=tls | {"clients": listed.name},
        certificates={"host": "127.0.0.1", "port": port},
    )
    await broker.start()
    tools = Tools(tmp_path, port, me.node)
    try:
        async with (
            broker.client(gateway, f"{ROOT}/req/+") as ear,
            broker.admin(operator) as admin,
        ):
            assert await tools.publish(f"{ROOT}/req/{me.node}", "not listed") != 0
            await admin.ensure(me)
            listed.write_bytes(certificate)
            async with asyncio.timeout(20):
                while await tools.publish(f"{ROOT}/req/{me.node}", "admitted") != 0:
                    await asyncio.sleep(0.1)
            assert (await ear.receive()).payload == b"admitted"
            listening = await tools.listen(f"{ROOT}/rsp/{me.node}/#")
            await tools.heard(listening, b"SUBACK")
            await ear.publish(f"{ROOT}/rsp/{me.node}/receipt", b"an answer")
            await tools.heard(listening, b"an answer")
            await listening.communicate()

            await admin.remove(me.name)
            await tools.publish(f"{ROOT}/req/{me.node}", "revoked")
            listening = await tools.listen(f"{ROOT}/rsp/{me.node}/#")
            await tools.heard(listening, b": 128")  # the failure code of SUBACK
            await listening.communicate()
            await admin.ensure(me)
            await tools.publish(f"{ROOT}/req/{me.node}", "the mark")
            assert (await ear.receive()).payload == b"the mark"
    finally:
        broker.stop()
