"""`testbed logs`: prints the output of a lab's processes, wherever they run."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from inventory.load import load_lab
from testbed.commands.options import InventoryOption, say_which
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.layout import layout, unit_of
from testbed.standing.attached import hosts_of
from testbed.standing.running_lab import newest_running

__all__ = ["logs"]


def logs(
    nodes: Annotated[
        list[str] | None, typer.Argument(metavar="[NODE...]", help="Processes; default: all.")
    ] = None,
    inventory: InventoryOption = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Continue to print new lines as they come.")
    ] = False,
    lines: Annotated[
        int, typer.Option("-n", "--lines", min=0, max=100_000, help="Lines of each process.")
    ] = 20,
) -> None:
    """Print the last lines that processes printed.

    Each line begins with the name of its process. The processes are those of the lab that is up; if
    none is up, those that ran last on the hosts. Exit code 4 some logs could not be read, 3 none.
    """
    with _processes(inventory) as hosts, ExitStack() as streams:
        for name in nodes or ():
            if name not in hosts:
                have = ", ".join(hosts) or "none"
                raise ConfigurationError(f"{name} is no process of this lab; there are: {have}")
        wanted = list(nodes or hosts)
        reader = _Reader(hosts, lines, streams if follow else None)
        with ThreadPoolExecutor(max(1, len(wanted)), "logs") as pool, streams:
            problems = [problem for problem in pool.map(reader.read, wanted) if problem]
    for problem in problems:
        typer.echo(problem, err=True)
    if problems:
        raise typer.Exit(3 if len(problems) == len(wanted) else 4)


class _Reader:
    """Reads logs and prints whole lines, from several threads. `streams` ends the following."""

    def __init__(self, hosts: Mapping[str, Host], lines: int, streams: ExitStack | None) -> None:
        self._hosts = hosts
        self._lines = lines
        self._streams = streams
        self._printing = threading.Lock()

    def read(self, name: str) -> str:
        """Reads one log. Returns what was wrong, or ""."""
        host = self._hosts[name]
        path = str(host.log_path(unit_of(name)))
        try:
            count = 0
            if host.exists(path):  # otherwise it has no output yet
                count = int(host.run(["wc", "-l", path]).stdout.split()[0])
                first = max(0, count - self._lines)
                printed = host.run(["tail", "-n", f"+{first + 1}", path]).stdout.splitlines()
                self._print(name, printed[: count - first])
            if self._streams is None:
                return ""
            with host.follow(path) as following:
                self._streams.callback(following.close)
                for number, line in enumerate(following):
                    if number >= count:
                        self._print(name, [line])
        except LabFault as fault:
            return f"{name}: {fault}"
        return ""

    def _print(self, name: str, lines: list[str]) -> None:
        with self._printing:
            for line in lines:
                typer.echo(f"{name} | {line}")


@contextmanager
def _processes(inventory: Path | None) -> Iterator[Mapping[str, Host]]:
    """The host of each process, by the process's name."""
    running = newest_running(inventory)
    with ExitStack() as stack:
        if running is not None:
            say_which(running, inventory)
            opened = stack.enter_context(hosts_of(running))
            yield {name: opened[node.host] for name, node in running.nodes.items()}
            return
        lab = load_lab(inventory)
        hosts = stack.enter_context(ssh_hosts(lab, limited(lab, None)))
        yield {node.name: hosts[node.host] for node in layout(lab) if node.host in hosts}
