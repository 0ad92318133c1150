"""`python -m nodes.keygen --dir DIR...`: makes processes' keys on the machine that will use them.

One P-256 key signs votes, heads and the self-signed TLS certificate. The private key stays in
DIR/key.pem (0600). The program prints one JSON line for each DIR, with public values only: the
SPKI, the node id and the certificate. A second run prints the same: an existing key is never
replaced.
"""

from __future__ import annotations

import argparse
import base64
import datetime
import sys
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from chain.keys import Es256Signer, node_id, spki_of
from nodes.disk import write_atomically
from nodes.exits import EXIT_BAD_CONFIG, EXIT_TROUBLE, fail

__all__ = ["CERTIFICATE_FILE", "KEY_FILE", "PublicKeys", "keygen", "load_key", "make_key"]

KEY_FILE = "key.pem"
CERTIFICATE_FILE = "certificate.pem"
_NOT_BEFORE = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
# RFC 5280, 4.1.2.5: no well-defined expiration. The key is pinned, and boards have no clock yet
# when they first connect.
_NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


class PublicKeys(msgspec.Struct, frozen=True):
    """The public values. `spki` is base64 of the DER, `certificate` PEM."""

    node: str
    spki: str
    certificate: str


def keygen(directory: Path) -> PublicKeys:
    """Makes the key and certificate in `directory` unless they are there. Raises OSError and
    ValueError (an existing key that is not ours)."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    key = load_key(make_key(directory / KEY_FILE))
    certificate = _self_signed(key)
    (directory / CERTIFICATE_FILE).write_text(certificate)
    spki = spki_of(key.public_key())
    return PublicKeys(
        node=node_id(spki).hex(), spki=base64.b64encode(spki).decode(), certificate=certificate
    )


def make_key(path: Path) -> Path:
    """Makes a private key (0600) at `path` unless one is there. Returns `path`. Raises OSError."""
    if not path.exists():
        pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        # Whole or not at all: a half key would stand in the way of every later start.
        write_atomically(path, pem, mode=0o600, replace=False)
    return path


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Raises ValueError for a file that others may read or that holds no P-256 key."""
    if path.stat().st_mode & 0o077:
        raise ValueError(f"{path}: others may read this private key; chmod 600 it")
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not an unencrypted PEM private key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError(f"{path}: not a P-256 key")
    return key


def _self_signed(key: ec.EllipticCurvePrivateKey) -> str:
    """A function of the key alone (deterministic signature, fixed serial and dates), so that
    making it again breaks no pin."""
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, node_id(Es256Signer(key).public).hex())]
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def main() -> None:
    parser = argparse.ArgumentParser(prog="nodes.keygen", description="Make processes' keys.")
    parser.add_argument(
        "--dir", type=Path, nargs="+", required=True, help="where the keys are kept (0700)"
    )
    directories: list[Path] = parser.parse_args().dir
    for directory in directories:
        try:
            public = keygen(directory)
        except ValueError as error:
            fail(EXIT_BAD_CONFIG, f"keygen: {error}")
        except OSError as error:
            fail(EXIT_TROUBLE, f"keygen: {directory}: {error.strerror}")
        sys.stdout.write(msgspec.json.encode(public).decode() + "\n")


if __name__ == "__main__":
    main()
