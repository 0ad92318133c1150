"""`testbed ledger`: verify and show stored chains, from the files alone."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from chain.genesis import Genesis
from testbed.checks.evidence import genesis_of
from testbed.checks.ledger import LedgerReport, verify_ledgers
from testbed.checks.show import ShownBlock, shown_blocks
from testbed.commands.ledger_proof import databases, export_proof
from testbed.commands.options import JsonOption, columns, print_json
from testbed.errors import ConfigurationError

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Verify and show ledgers, export proofs."
)

SHOWN_DEFAULT = 10

Where = Annotated[
    str,
    typer.Argument(
        metavar="BUNDLE_OR_DB", help='A bundle, the name of a run, "last", or a .sqlite file.'
    ),
]


@app.command()
def verify(where: Where, as_json: JsonOption = False) -> None:
    """Check every block from genesis: heads, links, Merkle roots, records, all signatures.

    Reads only the files. If something is wrong, it names the file, height and field, and the exit
    code is 1. The genesis is that of the run. A single file can only be checked against its own
    genesis, so compare the printed network id.
    """
    paths, genesis = _databases(where)
    report = verify_ledgers(paths, genesis)
    if as_json:
        print_json({"ok": report.holds, **msgspec.to_builtins(report)})
    else:
        typer.echo(_in_words(report))
    raise typer.Exit(0 if report.holds else 1)


@app.command()
def show(
    where: Where,
    height: Annotated[int | None, typer.Option(min=1, help="Only this block.")] = None,
    last: Annotated[
        int, typer.Option(min=1, metavar="N", help="Only the last N blocks.")
    ] = SHOWN_DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Print blocks as they are stored, with the fields of the paper. It does not check them; use
    `verify`."""
    paths, _ = _databases(where)
    blocks = shown_blocks(paths, height=height, last=last)
    if not blocks:
        wanted = "no block" if height is None else f"no block of height {height}"
        again = f"testbed ledger verify {shlex.quote(where)}"
        raise ConfigurationError(f"{where}: {wanted} can be read; try `{again}`")
    if as_json:
        print_json(msgspec.to_builtins(blocks))
    else:
        typer.echo("\n\n".join(map(_block, blocks)))


app.command("export-proof")(export_proof)


def _databases(where: str) -> tuple[list[Path], Genesis | None]:
    """The files to read, and the pinned genesis if there is one."""
    paths, run = databases([where])
    return paths, None if run is None else genesis_of(run)


def _in_words(report: LedgerReport) -> str:
    lines = [f"network {report.network or 'unknown'}"]
    for file in report.files:
        verdict = "holds" if not file.findings else "DOES NOT HOLD"
        if file.pruned and not file.findings:
            verdict = "what is there holds"
        lines.append(
            f"{file.file}: {verdict}: {file.verified} of {file.height} blocks verified from "
            f"genesis, {file.records} records"
        )
        if file.pruned:
            lines.append(
                f"  pruned up to height {file.pruned_to}: of {file.pruned} records of data payload "
                "and device signature are gone; only replicas say that they were valid"
            )
        lines += [f"  {finding}" for finding in file.findings]
    who = "f+1 replicas or a quorum's checkpoint"
    lines.append(
        f"{who} confirm the chain up to height {report.proven}"
        if report.proven
        else f"no block is confirmed by {who}"
    )
    return "\n".join(lines)


def _block(block: ShownBlock) -> str:
    head = [
        ("block ID", block.id),
        ("time stamp", block.time_stamp),
        ("hash of target block", block.target_block_hash),
        ("Merkle root of previous block", block.previous_merkle_root),
        ("Merkle root of this block", block.merkle_root),
        ("hash of this block", block.hash),
        ("view, epoch", f"{block.view}, {block.epoch}"),
        ("records", len(block.body)),
    ]
    lines = [columns(head)]
    if block.body:
        rows = [
            (
                "  node ID",
                "operation",
                "status",
                "privilege",
                "access time",
                "service",
                "public key",
                "certificate",
            )
        ]
        rows += [
            (
                f"  {record.node_id[:16]}",
                record.operation,
                record.operation_status,
                _or_dash(record.privilege_level),
                record.access_time[11:23],
                _or_dash(record.service_type),
                _or_dash(record.public_key)[-16:],
                _or_dash(record.certificate),
            )
            for record in block.body
        ]
        lines.append(columns(rows))
    return "\n".join(lines)


def _or_dash(value: object) -> str:
    return "-" if value is None else str(value)
