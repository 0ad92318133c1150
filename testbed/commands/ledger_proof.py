"""`testbed ledger export-proof`: writes a device's certificate as files that openssl and a shell
can check.

A part of `commands/ledger`; `testbed.proofs` collects the content of the files.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from testbed.bundle import RunFolder, find_run
from testbed.checks.evidence import genesis_of
from testbed.commands.options import JsonOption, columns, print_json
from testbed.errors import ConfigurationError
from testbed.proofs import Ledgers, Proven, open_ledgers

__all__ = ["databases", "export_proof"]

_SUMS = "SHA256SUMS"
_EXPORTED = re.compile(
    r"SHA256SUMS|verify\.sh|genesis\.json|(device-key|dev|replica-\d+)\.pem|request\.(tbs|der)|"
    r"parent\.bin|(epoch-\d+\.)?(head\.bin|leaf\.cbor|index|path\.bin|seal-\d+\.der)"
)
_CARRIER_BYTES_MAX = 1 << 20

Where = Annotated[
    list[str],
    typer.Argument(
        metavar="BUNDLE_OR_DB",
        help='A bundle, the name of a run, "last", or .sqlite files of f+1 replicas.',
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="ID",
        help="Node id in hex, 8 or more digits of its beginning, or (bundle) a process's name.",
    ),
]


def export_proof(
    where: Where,
    device: DeviceOption,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Write the files here.")],
    *,
    carrier: Annotated[
        Path | None,
        typer.Option(
            "--carrier", metavar="PEM", help="Also include this X.509 certificate of the device."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in DIR.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a device's newest certificate with a proof that can be checked without this program.

    The files show that f+1 replicas signed the block, that the record is in it, that it follows
    its parent, and that the key's holder asked for it. `sh DIR/verify.sh NETWORK_ID` checks
    that with openssl and shell tools alone; it exits 1 if any byte was altered. This command
    prints the whole line; take the network id from somebody you trust.

    \b
    testbed ledger export-proof last --device phones-1 --out proof
    testbed ledger export-proof r1.sqlite r2.sqlite --device 82416cdb --out proof

    Exit code 0 written, 1 these files do not prove it (it says what is missing), 2 usage.
    """
    paths, run = databases(where)
    genesis = None if run is None else genesis_of(run)
    pem = None if carrier is None else _read(carrier)
    with open_ledgers(paths, genesis) as ledgers:
        node = _node(device, run, ledgers)
        proven = ledgers.prove(node, pem)
        network, left_out = ledgers.genesis.network.hex(), ledgers.left_out
    _write(out, proven.files, force=force)
    if as_json:
        print_json(_as_json(proven, network, left_out, out))
    else:
        typer.echo(_in_words(proven, network, left_out, out))


def databases(where: list[str]) -> tuple[list[Path], RunFolder | None]:
    """Files as they were named, or those of one run. Raises ConfigurationError."""
    paths = [Path(each) for each in where]
    if all(path.is_file() for path in paths):
        return paths, None
    if len(where) > 1:
        wrong = next(path for path in paths if not path.is_file())
        raise ConfigurationError(f"{wrong}: no such file; give one bundle, or .sqlite files")
    run = find_run(where[0])
    if not run.ledgers:
        raise ConfigurationError(f"{run.path}: no ledger was collected (raw/ledger is empty)")
    return run.ledgers, run


def _read(carrier: Path) -> bytes:
    try:
        with carrier.open("rb") as stream:
            return stream.read(_CARRIER_BYTES_MAX)
    except OSError as error:
        raise ConfigurationError(f"--carrier {carrier}: {error.strerror}") from error


def _node(device: str, run: RunFolder | None, ledgers: Ledgers) -> bytes:
    """The node id. A process's name means the id that it logged at its newest start."""
    if run is not None and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", device):
        started = [
            line["id"]
            for line in run.lines(f"raw/{device}.jsonl")
            if line.get("event") == "started" and isinstance(line.get("id"), str)
        ]
        if started:
            return ledgers.find(started[-1])
    return ledgers.find(device)


def _write(out: Path, files: dict[str, bytes], *, force: bool) -> None:
    """Writes the sums last, so an incomplete export does not verify."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if force:
            _remove_earlier(out)
        present = sorted(path.name for path in out.iterdir())
        if present:
            fix = "choose another --out" if force else "choose another --out, or --force"
            raise ConfigurationError(f"{out}: not empty ({present[0]}); {fix}")
        for name in sorted(files, key=lambda name: (name == _SUMS, name)):
            (out / name).write_bytes(files[name])
        (out / "verify.sh").chmod(0o755)
    except OSError as error:
        raise ConfigurationError(f"cannot write {out}: {error.strerror}; change --out") from error


def _remove_earlier(out: Path) -> None:
    """Removes only files with our names, because `verify.sh` refuses a directory with others."""
    if (out / _SUMS).is_file() and (out / "verify.sh").is_file():
        for path in out.iterdir():
            if _EXPORTED.fullmatch(path.name):
                path.unlink()


def _as_json(proven: Proven, network: str, left_out: list[str], out: Path) -> dict[str, object]:
    return {
        "ok": True,
        "network": network,
        "height": proven.height,
        "signers": list(proven.signers),
        "needed": proven.needed,
        "ended_height": proven.ended_height,
        "left_out": left_out,
        "out": str(out),
        "files": sorted(proven.files),
        "statement": {
            name: value.hex() if isinstance(value, bytes) else value
            for name, value in msgspec.structs.asdict(proven.statement).items()
            if value is not None
        },
    }


def _in_words(proven: Proven, network: str, left_out: list[str], out: Path) -> str:
    statement = proven.statement
    rows = [
        ("device", statement.node.hex()),
        ("certificate", f"{statement.certificate}, by {statement.op} in block {proven.height}"),
        ("signed by", f"replicas {', '.join(map(str, proven.signers))} (f+1 = {proven.needed})"),
        ("written", f"{len(proven.files)} files in {out}"),
        ("check", f'sh {shlex.quote(str(out / "verify.sh"))} {network} --at "$(date +%s)"'),
    ]
    lines = [columns(rows)]
    if proven.ended_height is not None:
        lines.append(
            f"note: revoked or replaced in block {proven.ended_height}; the proof shows only that "
            "it was issued"
        )
    lines += [f"left out: {reason}" for reason in left_out]
    lines.append(
        "The long number is the network id, the SHA-256 of genesis.json: trust it from elsewhere."
    )
    return "\n".join(lines)
