"""The baseline: a centralised service provider (`nodes.provider`), the design that the paper argues
against.

The provider runs on the first replica's host, in place of all replicas. Gateway, broker and devices
stay where they are. The sensor boards' firmware speaks the chain's protocol, so boards are left
out. Their environmental device sends readings at the times that the schedule has for the boards.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from typing import Any

import msgspec

from gateway.broker.security import User
from gateway.mqtt.topics import Role
from inventory.model import Lab
from nodes.config import Address
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE
from nodes.provider.config import (
    DeviceToken,
    DeviceTokens,
    GatewayPassword,
    ProviderConfig,
    ProviderDeviceConfig,
    ProviderGatewayConfig,
)
from testbed.campaign.schedule import ScheduledDevice
from testbed.provision.configs import (
    EVENTS,
    GO,
    READY,
    SECRET,
    STORE,
    File,
    LabNetwork,
    broker_config,
    config_file,
    metrics_address,
    network_name,
    security_file,
)
from testbed.provision.layout import Node
from testbed.provision.material import Material, Voucher, make_material
from testbed.systems.system import Checks, System

__all__ = ["BASELINE", "ESCROW", "attackers_token"]

ESCROW = "escrow.sqlite"
_PASSWORDS = "passwords.json"
_NO_CONSENSUS = "one process decides alone; there is no consensus to disturb"
_OTHER_PROTOCOL = "the attacker speaks the protocol of the chain's devices"
_NO_BOARD = "the baseline has no sensor boards: their protocol is the chain's"


def _lab(lab: Lab) -> Lab:
    """The lab with only one replica. All hosts stay, because a fault may concern any of them."""
    others = list(lab.replicas())[1:]
    hosts = {
        name: host.model_copy(
            update={
                "roles": tuple(
                    role
                    for role in host.roles
                    if role != "spare" and (role != "replica" or name not in others)
                ),
                "factory": None,
            }
        )
        for name, host in lab.hosts.items()
    }
    chain = lab.chain.model_copy(update={"f": 0, "factory_roots": ()})
    return lab.model_copy(update={"hosts": hosts, "boards": {}, "chain": chain})


def _devices(devices: tuple[ScheduledDevice, ...]) -> tuple[ScheduledDevice, ...]:
    """The devices with the sends of boards moved to their hosts' environmental devices."""
    found = []
    for device in devices:
        if device.role == "environment":
            boards = [each for each in devices if each.role == "board" and each.host == device.host]
            draws = tuple(draw for board in boards for draw in board.draws)
            found.append(device.model_copy(update={"draws": draws}))
        elif device.role != "board":
            found.append(device)
    return tuple(found)


def _files(node: Node, network: LabNetwork) -> Iterator[File]:
    material, broker = network.material, network.broker
    net = network_name(material.genesis)
    at = metrics_address(node, network.nodes, network.lab)
    common: dict[str, Any] = {"name": node.name, "ready": READY, "events": EVENTS, "metrics": at}
    own: dict[str, Any] = {"key": f"keys/{KEY_FILE}", "certificate": f"keys/{CERTIFICATE_FILE}"}
    match node.role:
        case "replica":
            yield config_file(
                ProviderConfig(
                    **common,
                    **own,
                    clients=network.clients,
                    listen=Address(*network.address(node)),
                    passwords=_PASSWORDS,
                    store=STORE,
                    escrow=ESCROW,
                )
            )
            tokens = {
                voucher.user.node: _token_key(voucher) for voucher in material.vouchers.values()
            }
            his, key = attackers_token(material)
            yield _secret(_PASSWORDS, DeviceTokens(keys={**tokens, his: key.hex()}))
        case "gateway":
            (provider,) = network.peers
            yield config_file(
                ProviderGatewayConfig(
                    **common,
                    **own,
                    net=net,
                    provider=provider,
                    broker=broker,
                    node=material.keys[node.name].node,
                    passwords=_PASSWORDS,
                )
            )
            login, _ = material.gateways[node.name]
            yield _secret(_PASSWORDS, GatewayPassword(gateway=login.password or ""))
        case "mobile" | "environment":
            yield config_file(
                ProviderDeviceConfig(
                    **common, net=net, state="state", voucher="token.json", broker=broker, go=GO
                )
            )
            voucher = material.vouchers[node.name]
            token = DeviceToken(
                device=voucher.user.node,
                password=voucher.user.password or "",
                key=_token_key(voucher),
            )
            yield _secret("token.json", token)
        case "broker":
            yield config_file(broker_config(node, network, at))
            yield security_file(material, _users(material))
        case "board":
            return


def _token_key(voucher: Voucher) -> str:
    return sha256(b"m2m baseline token\0" + voucher.pem).hexdigest()


def attackers_token(material: Material) -> tuple[str, bytes]:
    """Name and token of a device that the provider knows, but that is not in the lab. It is the
    attacker's own: anybody may buy a device."""
    secret = material.login_secret
    named, token = (sha256(what + secret) for what in (b"attacker's device", b"attacker's token"))
    return named.hexdigest(), token.digest()


def _secret(name: str, value: msgspec.Struct) -> File:
    return File(name, msgspec.json.encode(value), SECRET)


def _users(material: Material) -> list[User]:
    """The broker's logins. A device has one login from the beginning, because there is no admission
    that changes it."""
    return [
        User(Role.DEVICE, user.node, user.password) if user.role is Role.NEWCOMER else user
        for user in material.users
    ]


def _checks() -> Checks:
    from testbed.checks import provider  # noqa: PLC0415 - only judging needs it

    return provider


BASELINE = System(
    name="baseline",
    lab=_lab,
    devices=_devices,
    lacks={
        "consensus": _NO_CONSENSUS,
        "board": _NO_BOARD,
        "serial": _NO_BOARD,
        "device": _OTHER_PROTOCOL,
        "identity": _OTHER_PROTOCOL,
    },
    has_switch=False,
    bears_faults=False,
    programs={
        "broker": "nodes.gateway.broker",
        "replica": "nodes.provider.process",
        "gateway": "nodes.provider.gateway",
        "environment": "nodes.provider.device",
        "mobile": "nodes.provider.device",
    },
    # The network's name, tokens and logins are the chain's. The genesis document names one member
    # and starts no chain.
    material=partial(make_material, replicas_min=1),
    files=_files,
    traced=frozenset(),
    checks=_checks,
)
