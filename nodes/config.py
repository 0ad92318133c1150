"""Deployment configs of processes: JSON, decoded into closed types.

The genesis document has everything that replicas must agree on. A config has addresses, files and
choices of this machine. Relative paths are relative to the config file. This module has the config
of a replica, and the loader of all configs; `edge_config` has those of gateways and devices.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Self, TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from chain.keys import spki_of

__all__ = [
    "Address",
    "ChainConfig",
    "ClientConfig",
    "ConfigError",
    "PeerConfig",
    "ProcessConfig",
    "ReplicaConfig",
    "certificate_der",
    "certificate_spki",
    "load_config",
    "load_json",
]

T = TypeVar("T", bound=msgspec.Struct)
Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
ReplicaId = Annotated[int, msgspec.Meta(ge=0, le=2**31)]

# Fields that name a file, in the configs of all processes and of boards.
_PATHS = frozenset(
    {"genesis", "key", "certificate", "ready", "events", "state", "store", "copy", "outbox", "go"}
    | {"passwords", "voucher", "factory_chain", "port", "flashed", "log", "profile"}
    | {"switch", "escrow", "trace"}
)
MEMORY = ":memory:"  # in place of a store's path


class ConfigError(Exception):
    """The message names the file and the field."""


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    port: Port


class PeerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another replica, of the genesis or one that may be added later. `certificate` is PEM. `name`
    is for people who look at metrics."""

    replica: ReplicaId
    host: str
    port: Port
    certificate: str
    name: Name | None = None


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway that may submit requests and subscribe to seals."""

    name: Name
    certificate: str


class ProcessConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of every process. `ready` appears when it can be used. Without `events` it logs
    none; `metrics` is where it answers Prometheus."""

    name: Name
    ready: str | None = None
    events: str | None = None
    metrics: Address | None = None


class ChainConfig(ProcessConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`keep_data_blocks`: how many of the newest blocks keep the items of data
    (`chain.ledger.pruning`); None: all. `trace` (`nodes.trace_file`) has one in `trace_every`
    requests, the same ones in all processes."""

    genesis: str
    keep_data_blocks: Annotated[int, msgspec.Meta(ge=1)] | None = None
    trace: str | None = None
    trace_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1


class ReplicaConfig(ChainConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: Annotated[str, msgspec.Meta(pattern=r"^testbed\.replica/1$")] = "testbed.replica/1"
    replica: ReplicaId
    key: str
    certificate: str
    store: str  # ":memory:" keeps nothing (benchmarks only)
    listen: Address
    peers: tuple[PeerConfig, ...]
    clients: tuple[ClientConfig, ...] = ()
    verify_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None  # None: by cores
    profile: str | None = None  # write a cProfile of the process here when it ends

    @classmethod
    def load(cls, path: Path) -> Self:
        """Paths come back absolute. Raises ConfigError."""
        config = load_config(path, cls)
        for field in ("peers", "clients"):
            for n, each in enumerate(getattr(config, field)):
                try:
                    certificate_spki(each.certificate)
                except ValueError as error:
                    raise ConfigError(f"{path}: {field}[{n}].certificate: {error}") from error
        return config


def load_config(path: Path, kind: type[T]) -> T:
    """Paths come back absolute. Raises ConfigError."""
    return _absolute(load_json(path, kind), path.parent.absolute())


def load_json(path: Path, kind: type[T]) -> T:
    """Raises ConfigError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None  # the cause could show a secret


def _absolute(config: T, here: Path) -> T:
    changed: dict[str, object] = {}
    for field in config.__struct_fields__:
        value = getattr(config, field)
        if field in _PATHS and isinstance(value, str) and value != MEMORY:
            changed[field] = str(here / value)
        elif field == "boards":
            changed[field] = tuple(_absolute(board, here) for board in value)
    return msgspec.structs.replace(config, **changed)


def certificate_der(pem: str) -> bytes:
    """Raises ValueError."""
    try:
        return ssl.PEM_cert_to_DER_cert(pem.strip())
    except ValueError as error:
        raise ValueError("not a PEM certificate") from error


def certificate_spki(pem: str) -> bytes:
    """The certificate's key. Raises ValueError unless it is P-256."""
    key = x509.load_der_x509_certificate(certificate_der(pem)).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("the certificate's key is not P-256")
    return spki_of(key)
