"""Keys, tokens and the genesis document of a network.

`nodes.keygen` makes private keys of processes on the machine that uses them, and returns only
public data. The orchestrator itself holds only secrets that it hands out or uses as administrator:
enrolment tokens, broker passwords, administrator keys. They are in 0600 files and never in a
bundle.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from chain.fields import DeviceKind
from chain.genesis import Consensus, FactoryRoot, Genesis, Member, Policy, VoucherGrant
from chain.keys import Es256Signer, digest, node_id, spki_of
from chain.ledger.possession import factory_key
from chain.quorum import REPLICAS_MIN
from gateway.broker.security import User, bootstrap_user, new_password
from gateway.mqtt.topics import Role
from inventory.model import Lab
from nodes.device.vouchers import FACTORY_CHAIN, factory_user, read_chain
from nodes.keygen import PublicKeys
from testbed.errors import ConfigurationError
from testbed.fleet import at_once
from testbed.hosts.local import LocalHost
from testbed.hosts.port import Host, TransferFailed
from testbed.provision.layout import Node

__all__ = ["SERVICES", "Material", "Voucher", "make_keys", "make_material", "read_factory"]

SERVICES = ("telemetry",)
PRIVILEGE_MAX = 3
VOUCHER_VALID_S = 365 * 86_400  # devices of the inventory may be started late


@dataclass(frozen=True)
class Voucher:
    """An enrolment token: the holder of `pem` may enrol one device of `kind`."""

    pem: bytes = field(repr=False)
    spki: bytes
    kind: DeviceKind

    @classmethod
    def new(cls, kind: DeviceKind) -> Voucher:
        private = ec.generate_private_key(ec.SECP256R1())
        return cls(pem=_pem(private), spki=spki_of(private.public_key()), kind=kind)

    @property
    def id(self) -> bytes:
        return digest(self.spki)

    @property
    def user(self) -> User:
        """The broker login that belongs to the token."""
        return bootstrap_user(self.id, self.pem)

    def grant(self, time_us: int) -> VoucherGrant:
        """Its grant in a genesis of this time."""
        return VoucherGrant(
            id=self.id,
            kind=self.kind,
            privilege_max=PRIVILEGE_MAX,
            services=SERVICES,
            not_after_us=time_us + VOUCHER_VALID_S * 1_000_000,
        )


@dataclass(frozen=True)
class Material:
    """Everything from which a network is started. `keys` are public, by process name.

    A device has a token in `vouchers`, or its factory certificate (DER) is in `factory`.

    `operator` and `broker_admin` are the administrator's own logins: for the chain, and for the
    broker.
    """

    genesis: Genesis
    keys: Mapping[str, PublicKeys]
    vouchers: Mapping[str, Voucher] = field(repr=False)
    factory: Mapping[str, bytes]
    gateways: Mapping[str, tuple[User, User]] = field(repr=False)
    operator: User = field(repr=False)
    broker_admin: User = field(repr=False)
    login_secret: bytes = field(repr=False)
    admin_pem: bytes = field(repr=False)

    @property
    def users(self) -> list[User]:
        """Every login that the broker has at its start."""
        logins = [user for pair in self.gateways.values() for user in pair]
        return [
            *logins,
            self.operator,
            self.broker_admin,
            *(voucher.user for voucher in self.vouchers.values()),
            *(factory_user(certificate) for certificate in self.factory.values()),
        ]

    @property
    def voucher_names(self) -> dict[str, str]:
        """The device that got each voucher, by the SHA-256 of the voucher's key in hex."""
        tokens = {each.id.hex(): name for name, each in self.vouchers.items()}
        made = {digest(factory_key(each)).hex(): name for name, each in self.factory.items()}
        return tokens | made


def make_keys(
    hosts: Mapping[str, Host], python: Mapping[str, str], nodes: list[Node]
) -> dict[str, PublicKeys]:
    """Make (or find) the keys of all processes that need TLS, on their own machines, in parallel.
    One program makes all keys of a machine: its start takes longer than a key."""
    owners: dict[str, list[Node]] = {}
    for node in nodes:
        if node.role in ("replica", "spare", "gateway", "broker"):
            local = isinstance(hosts[node.host], LocalHost)
            owners.setdefault("this machine" if local else node.host, []).append(node)

    def on_machine(machine: list[Node]) -> dict[str, PublicKeys]:
        host = machine[0].host
        argv = [python[host], "-m", "nodes.keygen", "--dir"]
        argv += [str(hosts[node.host].root / node.file("keys")) for node in machine]
        keys = msgspec.json.Decoder(PublicKeys).decode_lines(hosts[host].run(argv).stdout)
        return {node.name: key for node, key in zip(machine, keys, strict=True)}

    made = at_once(on_machine, owners.values())
    return {name: key for keys in made for name, key in keys.items()}


def read_factory(lab: Lab, hosts: Mapping[str, Host], nodes: Sequence[Node]) -> dict[str, bytes]:
    """The factory certificates (DER) of devices that have one in the inventory. Their keys stay
    where they are. Raises ConfigurationError naming host and file."""
    found = {}
    for node in nodes:
        directory = lab.hosts[node.host].factory
        if directory is not None and node.role in ("environment", "mobile"):
            path = f"{directory}/{FACTORY_CHAIN}"
            try:
                found[node.name] = read_chain(hosts[node.host].get(path), f"{node.host}:{path}")[0]
            except (ValueError, TransferFailed) as error:
                raise ConfigurationError(f"{error}; see factory: in the inventory") from error
    return found


def read_roots(lab: Lab) -> tuple[bytes, ...]:
    """The manufacturers' root certificates, DER. Raises ConfigurationError naming the file."""
    roots = []
    for path in lab.chain.factory_roots:
        try:
            roots.append(x509.load_pem_x509_certificate(Path(path).read_bytes()))
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"chain.factory_roots: {path}: {error}") from error
    return tuple(root.public_bytes(serialization.Encoding.DER) for root in roots)


def _factory_kinds(nodes: Sequence[Node], factory: Mapping[str, bytes]) -> tuple[DeviceKind, ...]:
    """The kinds that factory identities may have: those that have one in the inventory; if none
    has, mobile only."""
    relays = any(node.name in factory and node.role == "environment" for node in nodes)
    return ("environment", "mobile") if relays else ("mobile",)


def make_material(
    lab: Lab,
    nodes: Sequence[Node],
    keys: Mapping[str, PublicKeys],
    factory: Mapping[str, bytes],
    *,
    replicas_min: int = REPLICAS_MIN,
) -> Material:
    """A new network for these processes; nothing of an older one is reused. `factory` is the result
    of `read_factory`. Raises ConfigurationError if they are too few for a chain."""
    if len(lab.replicas()) < replicas_min:
        raise ConfigurationError(
            f"lab {lab.lab} has {len(lab.replicas())} active replicas; a chain needs at least "
            f"{replicas_min}: give more hosts the role replica"
        )
    vouchers = {
        node.name: Voucher.new("environment" if node.role == "environment" else "mobile")
        for node in nodes
        if node.role in ("environment", "mobile") and node.name not in factory
    }
    admin = ec.generate_private_key(ec.SECP256R1())
    admin_node = node_id(Es256Signer(admin).public).hex()
    gateways = {}
    for node in nodes:
        if node.role == "gateway":
            name = keys[node.name].node
            gateways[node.name] = (
                User(Role.GATEWAY, name, new_password()),
                User(Role.ADMIN, name, new_password()),
            )
    time_us = time.time_ns() // 1000
    genesis = Genesis(
        name=lab.lab,
        time_us=time_us,
        members=tuple(
            Member(id=node.index, spki=base64.b64decode(keys[node.name].spki))
            for node in nodes
            if node.role == "replica"
        ),
        policy=Policy(
            admins=(Es256Signer(admin).public,),
            admins_needed=1,
            vouchers=tuple(voucher.grant(time_us) for voucher in vouchers.values()),
            factory_roots=tuple(
                FactoryRoot(
                    certificate=root,
                    kinds=_factory_kinds(nodes, factory),
                    privilege_max=PRIVILEGE_MAX,
                    services=SERVICES,
                )
                for root in read_roots(lab)
            ),
            services=SERVICES,
            group_size=lab.chain.group.m,
            group_accepts=lab.chain.group.k,
        ),
        consensus=consensus(lab),
    )
    return Material(
        genesis=genesis,
        keys=keys,
        vouchers=vouchers,
        factory=factory,
        gateways=gateways,
        operator=User(Role.DEVICE, admin_node, new_password()),
        broker_admin=User(Role.ADMIN, admin_node, new_password()),
        login_secret=secrets.token_bytes(32),
        admin_pem=_pem(admin),
    )


def consensus(lab: Lab) -> Consensus:
    """The inventory's chain options in the units of the genesis."""
    options = lab.chain
    return Consensus(
        checkpoint_interval=options.checkpoint_interval,
        pipeline_window=options.window,
        batch_requests_max=options.batch_requests_max,
        batch_bytes_max=options.batch_bytes_max,
        view_timeout_us=round(options.view_timeout_ms * 1000),
        heartbeat_us=round(options.heartbeat_ms * 1000),
        precision_us=round(options.precision_ms * 1000),
        message_delay_us=round(options.message_delay_ms * 1000),
    )


def _pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
