"""`testbed emulate`: hosts with real SSH servers on one Linux machine, and boards plugged in."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated

import typer

from testbed.commands.options import JsonOption, columns, print_found, time_option
from testbed.emulate import lab
from testbed.emulate.inventory_file import FILES
from testbed.emulate.plan import BOARDS_MAX, HOSTS_MAX, EmulationOptions, Login
from testbed.errors import ConfigurationError
from testbed.printed import as_typed

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="A lab of emulated hosts with real SSH servers, on this machine (Linux, root).",
)

LabOption = Annotated[
    Path, typer.Option("-i", "--inventory", metavar="FILE", help="The lab, as `up` wrote it.")
]
HostArgument = Annotated[str, typer.Argument(help="Name of a host, as in the inventory.")]
_DEFAULT_OUT = Path("emulated")
_DEFAULT_LAB = _DEFAULT_OUT / FILES["inventory"]


@app.command()
def up(
    *,
    hosts: Annotated[int, typer.Option(min=1, max=HOSTS_MAX, help="How many hosts.")] = 6,
    boards: Annotated[int, typer.Option(min=0, max=BOARDS_MAX, help="How many boards.")] = 2,
    login: Annotated[
        Login, typer.Option(help="The login: pi has sudo and a home of its own.")
    ] = "pi",
    systemd: Annotated[
        bool, typer.Option("--systemd/--no-systemd", help="Run systemd in the hosts.")
    ] = True,
    wrong_clock: Annotated[
        bool,
        typer.Option(
            "--wrong-clock", help="On the last host, time synchronisation does not start."
        ),
    ] = False,
    cpu: Annotated[
        str | None,
        typer.Option(metavar="PERCENT", help="Each host's share of one core: 20%."),
    ] = None,
    disk_mb: Annotated[
        int, typer.Option(min=16, help="Size of a host's disk, which is in memory.")
    ] = 2048,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the lab's inventory and keys.")
    ] = _DEFAULT_OUT,
    as_json: JsonOption = False,
) -> None:
    """Make hosts and boards; write inventory, key and known_hosts. If they are up, do nothing."""
    began = time.monotonic()
    made = lab.up(
        out, EmulationOptions(hosts, boards, _percent(cpu), disk_mb, login, systemd, wrong_clock)
    )
    took_s = time.monotonic() - began
    found = {
        "ok": True,
        "lab": made.plan.lab_id,
        "inventory": str(made.inventory),
        "network": made.plan.network,
        "shaping": made.plan.shaping,
        "hosts": {machine.name: machine.addr for machine in made.plan.machines},
        "boards": {board.name: board.host for board in made.plan.boards},
        "took_s": round(took_s, 3),
    }
    rows = [("HOST", "ADDRESS", "DATA", "ROLES", "BOARDS")]
    for machine in made.plan.machines:
        plugged = ", ".join(b.name for b in made.plan.boards if b.host == machine.name) or "-"
        roles = ", ".join(machine.roles)
        rows.append((machine.name, machine.addr, machine.data_addr, roles, plugged))
    key, known = made.out / "id_ed25519", made.out / "known_hosts"
    command = f"ssh -i {key} -o UserKnownHostsFile={known} {login}@{made.plan.machines[0].addr}"
    text = (
        f"{columns(rows)}\n\nup in {took_s:.1f} s, links shaped by {made.plan.shaping}\n"
        f"inventory: {made.inventory}\nlog in:    {command}"
    )
    print_found(found, text, as_json=as_json)


@app.command()
def down(inventory: LabOption = _DEFAULT_LAB) -> None:
    """Remove the lab and every trace of it, also after an interrupted `up`. It can be repeated."""
    if lab.down(inventory.parent):
        typer.echo("down")
        return
    typer.echo(f"no emulated lab in {inventory.parent}; nothing to do")
    for other in lab.elsewhere():
        again = f"testbed emulate down -i {other / FILES['inventory']}"
        typer.echo(as_typed(f"there is one in {other}: {again}"))


@app.command()
def status(inventory: LabOption = _DEFAULT_LAB, as_json: JsonOption = False) -> None:
    """Show which hosts are on, and how often each was started."""
    answer = lab.find(inventory.parent).ask(do="status")
    rows = [("HOST", "ADDRESS", "POWER", "BOOTS")]
    for name, host in answer["hosts"].items():
        rows.append((name, host["addr"], "on" if host["on"] else "off", str(host["boots"])))
    print_found(answer, columns(rows), as_json=as_json)


@app.command()
def reboot(host: HostArgument, inventory: LabOption = _DEFAULT_LAB) -> None:
    """Reboot a host properly. Returns when its SSH server answers."""
    lab.find(inventory.parent).reboot(host)
    typer.echo(f"{host}: rebooted")


@app.command()
def throttle(
    host: HostArgument,
    bits: Annotated[
        str, typer.Argument(help="Bits: 0x50005; 0: no throttling; none: no firmware.")
    ],
    inventory: LabOption = _DEFAULT_LAB,
) -> None:
    """Make a host's firmware report throttling, as `vcgencmd get_throttled` does on a Pi."""
    try:
        value = None if bits == "none" else int(bits, 0)
    except ValueError:
        value = -1
    if value is not None and not 0 <= value < 2**20:
        raise ConfigurationError(f"throttled bits {bits}: use a number as 0x50005, or none")
    lab.find(inventory.parent).throttle(host, value)
    typer.echo(f"{host}: throttled {bits}")


@app.command()
def link(
    source: Annotated[str, typer.Argument(metavar="FROM", help="Host that sends.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="Host that receives.")],
    *,
    delay_ms: Annotated[
        float, time_option("--delay", "Delay of every frame.", least="0ms", default="0ms")
    ] = 0,
    jitter_ms: Annotated[
        float,
        time_option(
            "--jitter", "Variation of the delay, in both directions.", least="0ms", default="0ms"
        ),
    ] = 0,
    loss: Annotated[str, typer.Option(metavar="PERCENT", help="Share of lost frames: 5%.")] = "0%",
    rate_kbit: Annotated[float, typer.Option(min=0, help="0: without limit.")] = 0,
    for_ms: Annotated[float, time_option("--for", "Clear it after this time; default: never.")] = 0,
    inventory: LabOption = _DEFAULT_LAB,
) -> None:
    """Shape one direction of the link between two hosts, if the kernel cannot. Without options:
    clear it."""
    share = re.fullmatch(r"(\d{1,3}(?:\.\d+)?)%?", loss)
    if not share or float(share[1]) > 100:
        raise ConfigurationError(f"--loss {loss}: use a share of frames, as 5%")
    shape = {
        "delay_ms": delay_ms,
        "jitter_ms": jitter_ms,
        "loss": float(share[1]) / 100,
        "rate_kbit": rate_kbit,
    }
    lab.find(inventory.parent).shape(source, target, shape, for_ms / 1000)
    typer.echo(f"{source} to {target}: {'shaped' if any(shape.values()) else 'clear'}")


@app.command()
def links(inventory: LabOption = _DEFAULT_LAB, as_json: JsonOption = False) -> None:
    """Show how links are shaped now, and how many frames passed, were lost and so on."""
    answer = lab.find(inventory.parent).ask(do="links")["links"]
    rows = [("FROM", "TO", "DELAY", "LOSS", "KBIT/S", "FRAMES")]
    for row in answer:
        frames = ", ".join(f"{count} {what}" for what, count in row["frames"].items())
        delay = f"{row['delay_ms']:g} ms" + (f" +-{row['jitter_ms']:g}" if row["jitter_ms"] else "")
        rate = f"{row['rate_kbit']:g}" if row["rate_kbit"] else "-"
        rows.append((row["from"], row["to"], delay, f"{row['loss']:.1%}", rate, frames or "-"))
    print_found(answer, columns(rows), as_json=as_json)


def _percent(text: str | None) -> int | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,4})%?", text)
    if not match or int(match[1]) < 1:
        raise ConfigurationError(f"--cpu {text}: use a share of one core, as 20%")
    return int(match[1])
