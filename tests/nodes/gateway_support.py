"""A gateway's configuration without anybody on the other end."""

from __future__ import annotations

from pathlib import Path

from nodes.config import PeerConfig
from nodes.edge_config import BrokerAddress, GatewayConfig
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen

__all__ = ["lonely_gateway"]


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
