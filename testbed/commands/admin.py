"""`testbed admin`: administrators and manufacturers' roots of a running lab.

Exit codes are those of `testbed device`: 0 done, or there was nothing to do; 1 the chain refused; 2
usage; 3 the lab does not answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_public_key

from chain.fields import DeviceKind
from chain.keys import CERTIFICATE_FAULTS, digest, node_id, spki_of
from chain.ledger.factory import is_root
from testbed.commands.operated import operate, outcome, print_done
from testbed.commands.options import JsonOption, RunningOption, columns, print_found
from testbed.errors import ConfigurationError
from testbed.standing.operator import Operator

__all__ = ["app"]

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="List, add and revoke administrators; add and withdraw manufacturers' roots.",
)


KeyFile = Annotated[
    Path, typer.Argument(metavar="PEM", help="Its public key (P-256): openssl pkey -pubout.")
]
RootFile = Annotated[
    Path, typer.Argument(metavar="PEM", help="The manufacturer's root certificate.")
]


@app.command("list")
def list_all(inventory: RunningOption = None, as_json: JsonOption = False) -> None:
    """List administrators and manufacturers' roots, from a copy of the ledger that is verified
    here."""

    async def work(operator: Operator) -> list[dict[str, str]]:
        admins = [{"what": "administrator", "id": node.hex()} for node in operator.administrators]
        roots = [{"what": "root", "id": digest(root).hex()} for root in operator.roots]
        return admins + roots

    found = operate(inventory, work)
    rows = [("what", "id"), *((each["what"], each["id"]) for each in found)]
    print_found(found, columns(rows), as_json=as_json)


@app.command()
def add(key: KeyFile, inventory: RunningOption = None, as_json: JsonOption = False) -> None:
    """Make the holder of a key an administrator. The number of administrators that must agree does
    not change."""
    spki = _public_key(key)

    async def work(operator: Operator) -> dict[str, Any]:
        if node_id(spki) in operator.administrators:
            return _result(key, node_id(spki), "is an administrator already", changed=False)
        return _result(key, node_id(spki), outcome(await operator.add_admin(spki)))

    print_done(operate(inventory, work), as_json)


@app.command()
def revoke(
    key: KeyFile,
    reason: Annotated[
        str, typer.Option(help="The reason, as the record will state it.")
    ] = "operator",
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke an administrator. The chain refuses this if too few would be left to agree."""
    node = node_id(_public_key(key))

    async def work(operator: Operator) -> dict[str, Any]:
        if node not in operator.administrators:
            return _result(key, node, "is no administrator", changed=False)
        return _result(key, node, outcome(await operator.revoke_admin(node, reason)))

    print_done(operate(inventory, work), as_json)


@app.command()
def add_root(
    certificate: RootFile,
    *,
    kind: Annotated[
        Literal["mobile", "environment", "both"], typer.Option(help="Kinds of its devices.")
    ] = "mobile",
    privilege: Annotated[
        int, typer.Option(min=0, max=255, help="The highest level that its devices may have.")
    ] = 1,
    inventory: RunningOption = None,
    as_json: JsonOption = False,
) -> None:
    """Admit devices whose factory certificate (IEEE 802.1AR) chains to this root."""
    root = _root(certificate)
    if not is_root(root):
        raise ConfigurationError(f"{certificate}: not a root: it may not issue certificates")
    kinds: tuple[DeviceKind, ...] = ("environment", "mobile") if kind == "both" else (kind,)

    async def work(operator: Operator) -> dict[str, Any]:
        if root in operator.roots:
            return _result(certificate, digest(root), "counts already", changed=False)
        done = await operator.add_root(root, kinds, privilege)
        return _result(certificate, digest(root), outcome(done))

    print_done(operate(inventory, work), as_json)


@app.command()
def withdraw_root(
    certificate: RootFile, inventory: RunningOption = None, as_json: JsonOption = False
) -> None:
    """Admit no more devices by this root. Devices that it admitted stay: revoke them one by one."""
    root = _root(certificate)

    async def work(operator: Operator) -> dict[str, Any]:
        if root not in operator.roots:
            return _result(certificate, digest(root), "is not in force", changed=False)
        done = await operator.withdraw_root(root)
        return _result(certificate, digest(root), outcome(done))

    print_done(operate(inventory, work), as_json)


def _result(file: Path, name: bytes, said: str, *, changed: bool = True) -> dict[str, Any]:
    return {"name": file.name, "id": name.hex(), "changed": changed, "said": said}


def _public_key(path: Path) -> bytes:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, *CERTIFICATE_FAULTS) as error:
        raise ConfigurationError(f"{path}: no public key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise ConfigurationError(f"{path}: not a P-256 key")
    return spki_of(key)


def _root(path: Path) -> bytes:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    except (OSError, *CERTIFICATE_FAULTS) as error:
        raise ConfigurationError(f"{path}: no certificate in PEM: {error}") from error
