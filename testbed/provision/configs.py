"""The configuration files of each process, from layout, material and ports. Pure.

Paths in configs are relative to the config file, so the same bytes work wherever a host keeps its
root. Secret files have a mode that says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from chain.genesis import Genesis
from gateway.broker.port import BrokerConfig, BrokerKind, Listen, TlsFiles
from gateway.broker.security import User, write_security
from inventory.model import Lab
from nodes.config import Address, ClientConfig, PeerConfig, ReplicaConfig
from nodes.device.vouchers import FACTORY_CHAIN, FACTORY_KEY
from nodes.edge_config import (
    BoardConfig,
    BrokerAddress,
    EnvironmentConfig,
    GatewayConfig,
    MobileConfig,
)
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE
from testbed.provision.layout import Node, carriers_socket
from testbed.provision.material import Material

__all__ = [
    "CONFIG",
    "EVENTS",
    "GO",
    "READY",
    "SECRET",
    "STORE",
    "TRACE",
    "File",
    "LabNetwork",
    "broker_config",
    "config_file",
    "files_of",
    "metrics_address",
    "network_name",
    "security_file",
]

CONFIG = "config.json"
READY = "ready.json"
EVENTS = "events.jsonl"
TRACE = "trace.bin"
STORE = "ledger.sqlite"
GO = "go.json"
GENESIS = "genesis.json"
SECRET = 0o600


@dataclass(frozen=True)
class File:
    """A file to put on a process's host, relative to its directory."""

    name: str
    data: bytes
    mode: int = 0o644


@dataclass(frozen=True)
class LabNetwork:
    """The processes of a network, and what their files are made from. `ports`: by the names of
    `layout.sockets`."""

    nodes: Sequence[Node]
    lab: Lab
    material: Material
    ports: Mapping[str, int]

    def address(self, node: Node) -> tuple[str, int]:
        """The address at which a listening process is reached."""
        return self.lab.address(node.host), self.ports[node.name]

    @property
    def broker(self) -> BrokerAddress:
        """The address at which devices reach the broker."""
        broker = next(node for node in self.nodes if node.role == "broker")
        carriers = self.ports.get(carriers_socket(broker))
        certificate = "" if carriers is None else self.material.keys[broker.name].certificate
        return BrokerAddress(*self.address(broker), certificate, carriers)

    @property
    def clients(self) -> tuple[ClientConfig, ...]:
        """The gateways, as those know them to whom they connect."""
        return tuple(
            ClientConfig(node.name, self.material.keys[node.name].certificate)
            for node in self.nodes
            if node.role == "gateway"
        )

    @property
    def peers(self) -> tuple[PeerConfig, ...]:
        """The replicas and spares, as those know them who connect to them."""
        return tuple(
            PeerConfig(
                node.index,
                *self.address(node),
                self.material.keys[node.name].certificate,
                node.name,
            )
            for node in self.nodes
            if node.role in ("replica", "spare")
        )


def files_of(node: Node, network: LabNetwork) -> Iterator[File]:
    """The files that this process needs before it starts (boards are flashed instead)."""
    lab, material = network.lab, network.material
    metrics = metrics_address(node, network.nodes, lab)
    if node.role in ("replica", "spare", "gateway", "environment", "mobile"):
        yield File(GENESIS, material.genesis.encode())
    match node.role:
        case "replica" | "spare":
            yield config_file(_replica(node, network), metrics)
        case "broker":
            yield config_file(broker_config(node, network, metrics))
            yield security_file(material, material.users)
        case "gateway":
            yield config_file(_gateway(node, network), metrics)
            gateway, admin = material.gateways[node.name]
            passwords = {
                "gateway": gateway.password,
                "admin": admin.password,
                "devices": material.login_secret.hex(),
            }
            yield File("passwords.json", json.dumps(passwords).encode(), SECRET)
        case "mobile" | "environment":
            yield config_file(_device(node, network), metrics)
            if node.name in material.vouchers:
                yield File("voucher.pem", material.vouchers[node.name].pem, SECRET)
        case "board":
            return


def security_file(material: Material, users: Sequence[User]) -> File:
    """The logins that the broker has when it starts."""
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "security.json"
        write_security(path, network_name(material.genesis), users)
        return File(path.name, path.read_bytes(), SECRET)


def network_name(genesis: Genesis) -> str:
    """The network's name in topics: the first 16 hex digits of its id."""
    return genesis.network.hex()[:16]


def metrics_address(node: Node, nodes: Sequence[Node], lab: Lab) -> Address | None:
    """The address at which a process answers Prometheus, if it does. Each has a port of its own,
    because some share a host."""
    if lab.metrics is None or not _has_metrics(node, lab):
        return None
    before = sum(_has_metrics(other, lab) for other in nodes[: nodes.index(node)])
    return Address(lab.metrics.listen, lab.metrics.port + before)


def _has_metrics(node: Node, lab: Lab) -> bool:
    """Whether a process can answer Prometheus. Boards run no process of ours, and Mosquitto has its
    own topics for this."""
    return node.role != "board" and (node.role != "broker" or lab.broker_kind() == "embedded")


def config_file(config: msgspec.Struct, metrics: Address | None = None) -> File:
    """A process's config."""
    if metrics is not None:
        config = msgspec.structs.replace(config, metrics=metrics)
    return File(CONFIG, msgspec.json.format(msgspec.json.encode(config), indent=1) + b"\n")


def _replica(node: Node, network: LabNetwork) -> ReplicaConfig:
    return ReplicaConfig(
        name=node.name,
        replica=node.index,
        genesis=GENESIS,
        key=f"keys/{KEY_FILE}",
        certificate=f"keys/{CERTIFICATE_FILE}",
        store=STORE,
        listen=Address(*network.address(node)),
        ready=READY,
        events=EVENTS,
        peers=tuple(peer for peer in network.peers if peer.replica != node.index),
        clients=network.clients,
        keep_data_blocks=network.lab.chain.keep_data,
    )


def broker_config(node: Node, network: LabNetwork, metrics: Address | None) -> BrokerConfig:
    """The config of the process `node`, which is a broker."""
    host, port = network.address(node)
    carriers = network.ports.get(carriers_socket(node))
    return BrokerConfig(
        kind=BrokerKind(network.lab.broker_kind()),
        security_file="security.json",
        ready_file=READY,
        listen=Listen(host, port),
        tls=None if carriers is None else TlsFiles(f"keys/{CERTIFICATE_FILE}", f"keys/{KEY_FILE}"),
        carriers=None if carriers is None else Listen(host, carriers),
        name=node.name,
        metrics=None if metrics is None else Listen(metrics.host, metrics.port),
    )


def _gateway(node: Node, network: LabNetwork) -> GatewayConfig:
    return GatewayConfig(
        name=node.name,
        genesis=GENESIS,
        key=f"keys/{KEY_FILE}",
        certificate=f"keys/{CERTIFICATE_FILE}",
        replicas=network.peers,
        broker=network.broker,
        node=network.material.keys[node.name].node,
        passwords="passwords.json",
        copy="copy.sqlite",
        outbox="outbox.sqlite",
        keep_data_blocks=network.lab.chain.keep_data,
        ready=READY,
        events=EVENTS,
    )


def _device(node: Node, network: LabNetwork) -> MobileConfig | EnvironmentConfig:
    lab = network.lab
    common: dict[str, Any] = {
        "name": node.name,
        "genesis": GENESIS,
        "state": "state",
        "voucher": "voucher.pem",
        "broker": network.broker,
        "go": GO,
        "keep_data_blocks": lab.chain.keep_data,
        "ready": READY,
        "events": EVENTS,
    }
    if (factory := lab.hosts[node.host].factory) is not None:
        common |= {
            "voucher": f"{factory}/{FACTORY_KEY}",
            "factory_chain": f"{factory}/{FACTORY_CHAIN}",
        }
    if node.role == "mobile":
        return MobileConfig(**common)
    boards = tuple(
        BoardConfig(
            name=board.name,
            port=f"../{board.file('port')}",
            key=f"../{board.file('host.key')}",
            flashed=f"../{board.file('flashed.json')}",
            baud=lab.boards[board.name].line.baud,
            reset_on_open=lab.boards[board.name].line.reset_on_open,
            log=f"../{board.file('line.log')}",
        )
        for board in network.nodes
        if board.role == "board" and board.host == node.host
    )
    return EnvironmentConfig(**common, boards=boards)
