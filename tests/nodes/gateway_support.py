"""A gateway's configuration, with nobody or a faulty replica on the other end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec

from nodes.config import PeerConfig, certificate_der
from nodes.edge_config import BrokerAddress, GatewayConfig
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.ports import Party
from nodes.wire.inbox import Inbox
from nodes.wire.tls_wire import TlsWire

__all__ = ["FaultyReplica", "lonely_gateway"]


def lonely_gateway(folder: Path) -> GatewayConfig:
    """Its keys are made, below `folder`; neither its replica nor its broker is there."""
    keygen(folder / "own")
    return GatewayConfig(
        name="gateway",
        genesis="",
        key=str(folder / "own" / KEY_FILE),
        certificate=str(folder / "own" / CERTIFICATE_FILE),
        replicas=(PeerConfig(0, "127.0.0.1", 1, keygen(folder / "r0").certificate),),
        broker=BrokerAddress("127.0.0.1", 1),
        node="a" * 64,
        passwords="",
        copy=str(folder / "copy.sqlite"),
        outbox=str(folder / "outbox.sqlite"),
    )


class FaultyReplica:
    """The replica of a `lonely_gateway` listens, and sends whatever a test wants. `config` is the
    gateway's that dials it."""

    def __init__(self, folder: Path, config: GatewayConfig) -> None:
        certificate = certificate_der(Path(config.certificate).read_text())
        self.is_linked = asyncio.Event()
        self._wire = TlsWire(
            key_file=folder / "r0" / KEY_FILE,
            certificate_file=folder / "r0" / CERTIFICATE_FILE,
            certificates={"gateway": certificate},
            dial={},
            inbox=Inbox(),
            on_readable=lambda: None,
            on_link=self._on_link,
            on_refused=lambda _: None,
        )
        (replica,) = config.replicas
        replica = msgspec.structs.replace(replica, port=self._wire.listen("127.0.0.1", 0))
        self.config = msgspec.structs.replace(config, replicas=(replica,))

    def _on_link(self, _party: Party, up: bool, _reason: str) -> None:
        if up:
            self.is_linked.set()

    def send(self, frame: bytes) -> None:
        self._wire.send("gateway", frame)

    async def close(self) -> None:
        await self._wire.close()
