"""The deployment config of a replica: JSON, decoded into closed types.

What replicas must agree on is in the genesis document; addresses, files and this machine's
choices are here. Relative paths are relative to the config file.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Annotated, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from chain.keys import spki_of

__all__ = [
    "Address",
    "ClientConfig",
    "ConfigError",
    "PeerConfig",
    "ReplicaConfig",
    "certificate_der",
    "certificate_spki",
]

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]


class ConfigError(Exception):
    """The message names the file and the field."""


class Address(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: str
    port: Port


class PeerConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another replica, of the genesis or one that may be added later. `certificate` is PEM."""

    replica: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    host: str
    port: Port
    certificate: str


class ClientConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A gateway that may submit requests and subscribe to seals."""

    name: Name
    certificate: str


_PATHS = (
    "genesis",
    "key",
    "certificate",
    "store",
    "ready",
    "events",
    "profile",
)


class ReplicaConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    schema: Annotated[str, msgspec.Meta(pattern=r"^testbed\.replica/1$")] = "testbed.replica/1"
    name: Name
    replica: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    genesis: str
    key: str
    certificate: str
    store: str  # ":memory:" keeps nothing (benchmarks only)
    listen: Address
    ready: str | None = None
    events: str | None = None
    peers: tuple[PeerConfig, ...]
    clients: tuple[ClientConfig, ...] = ()
    verify_threads: Annotated[int, msgspec.Meta(ge=0, le=64)] | None = None  # None: by cores
    profile: str | None = None  # write a cProfile of the process here when it ends

    @classmethod
    def load(cls, path: Path) -> Self:
        """Paths come back absolute. Raises ConfigError."""
        try:
            config = msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: {error}") from error
        here = path.parent.absolute()
        changed: dict[str, str] = {}
        for field in _PATHS:
            value: str | None = getattr(config, field)
            if value is not None and value != ":memory:":
                changed[field] = str(here / value)
        config = msgspec.structs.replace(config, **changed)
        for where, certificate in config.certificates():
            try:
                certificate_spki(certificate)
            except ValueError as error:
                raise ConfigError(f"{path}: {where}: {error}") from error
        return config

    def certificates(self) -> list[tuple[str, str]]:
        """(field, PEM) of each certificate that this config pins."""
        return [
            (f"peers[{n}].certificate", peer.certificate) for n, peer in enumerate(self.peers)
        ] + [
            (f"clients[{n}].certificate", client.certificate)
            for n, client in enumerate(self.clients)
        ]


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
