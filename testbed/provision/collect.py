"""Bring home what a run left on its hosts: event logs, ledgers, serial logs, what hosts are.

Never keys, tokens or passwords: only the files named here are fetched.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from testbed.bundle import RunFolder
from testbed.hosts.port import CommandFailed, Host, HostFault, TransferFailed
from testbed.provision.configs import EVENTS, STORE
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["collect"]

FETCHES_AT_ONCE_MAX = 16
COPY_S_MAX = 120.0

_COPY_LEDGER = """
import sys
from pathlib import Path
from nodes.replica.ledger_file import copy_ledger
copy_ledger(Path(sys.argv[1]), Path(sys.argv[2]))
"""

_ABOUT = """
import json, os, platform
from pathlib import Path
def read(path):
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
cpu = [l.split(":", 1)[1].strip() for l in (read("/proc/cpuinfo") or "").splitlines()
       if l.startswith(("model name", "Model"))]
print(json.dumps({
    "kernel": platform.release(), "machine": platform.machine(),
    "python": platform.python_version(),
    "os": next((l.split("=", 1)[1].strip('"') for l in (read("/etc/os-release") or "").splitlines()
                if l.startswith("PRETTY_NAME=")), None),
    "cpu": cpu[0] if cpu else None, "cores": os.cpu_count(),
    "governor": read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    "boot": read("/proc/sys/kernel/random/boot_id"),
}))
"""


def collect(deployment: Deployment, run: RunFolder) -> list[str]:
    """Fetch everything; answers what could not be had, in words (a gap, not a failure)."""
    with ThreadPoolExecutor(FETCHES_AT_ONCE_MAX, "collect") as pool:
        nodes = list(pool.map(lambda node: _node(deployment, node, run), deployment.nodes))
        names = sorted({node.host for node in deployment.nodes})
        hosts = list(pool.map(lambda name: _about(deployment, name, run), names))
    return [problem for problems in (*nodes, *hosts) for problem in problems]


def _node(deployment: Deployment, node: Node, run: RunFolder) -> list[str]:
    """Fetch each file that the process left; answers which are missing or could not be read."""
    host = deployment.host(node)
    wanted = {str(host.log_path(node.unit)): f"raw/log/{node.name}.log"}
    owed = set()
    if node.role == "board":
        wanted[node.file("line.log")] = f"raw/serial/{node.name}.log"
    elif node.role != "broker":
        wanted[node.file(EVENTS)] = f"raw/{node.name}.jsonl"
        owed.add(node.file(EVENTS))
    problems: list[str] = []
    try:
        if node.role == "replica" and _present(host, [node.file(STORE)]):
            copy = node.file("collected.sqlite")
            argv = [deployment.python(node), "-c", _COPY_LEDGER, node.file(STORE), copy]
            try:
                host.run(argv, timeout_s=COPY_S_MAX)
                wanted[copy] = f"raw/ledger/{node.name}.sqlite"
            except CommandFailed as fault:
                problems.append(f"{node.name}: cannot copy its ledger: {fault.problem}")
        there = _present(host, list(wanted))
        if node.name in deployment.begun:
            problems += [f"{node.name}: {each} is missing" for each in sorted(owed - there)]
    except HostFault as fault:
        return [*problems, str(fault)]
    for remote in sorted(there):
        path = run.path / wanted[remote]
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            host.fetch(remote, path)
        except TransferFailed as fault:
            problems.append(f"{node.name}: cannot bring {remote} home: {fault.problem}")
        except HostFault as fault:
            return [*problems, str(fault)]
    return problems


def _present(host: Host, paths: list[str]) -> set[str]:
    """Which of these files exist."""
    return set(host.run(["ls", "-d", "--", *paths], check=False).stdout.splitlines())


def _about(deployment: Deployment, name: str, run: RunFolder) -> list[str]:
    host = deployment.hosts[name]
    python = next(deployment.python(node) for node in deployment.nodes if node.host == name)
    try:
        about = json.loads(host.run([python, "-c", _ABOUT]).stdout)
    except HostFault as fault:
        return [str(fault)]
    if any(node.host == name for node in deployment.with_role("broker")):
        about["broker"] = deployment.broker_version
    run.write_json(f"env/{name}.json", about)
    return []
