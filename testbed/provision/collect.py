"""Fetches the files of a run from its hosts: event logs, ledgers, serial logs, facts of the hosts.

Keys, tokens and passwords are never fetched, because only files named here are.
"""

from __future__ import annotations

import json

from testbed import programs
from testbed.bundle import RunFolder
from testbed.fleet import at_once
from testbed.hosts.port import CommandFailed, HostFault, TransferFailed
from testbed.provision.configs import EVENTS, STORE, TRACE
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from testbed.provision.probe import present

__all__ = ["collect"]

COPY_S_MAX = 120.0
_HOLDERS = ("replica", "spare")  # of a ledger


def collect(deployment: Deployment, run: RunFolder) -> list[str]:
    """Fetch everything. Returns in words what could not be fetched: a gap, not a failure."""
    # A spare that never ran has left nothing; if the lab was only attached, its host is not open.
    begun = deployment.begun
    there = [node for node in deployment.nodes if node.role != "spare" or node.name in begun]
    # In a running lab ledgers are copied last, so that they have every block for which a log has a
    # receipt.
    holders = [node for node in there if node.role in _HOLDERS]
    others = [node for node in there if node.role not in _HOLDERS]
    nodes = [
        problems
        for wave in (others, holders)
        for problems in at_once(lambda node: _node(deployment, node, run), wave)
    ]
    names = sorted({node.host for node in there})
    hosts = at_once(lambda name: _about(deployment, name, run), names)
    return [problem for problems in (*nodes, *hosts) for problem in problems]


def _node(deployment: Deployment, node: Node, run: RunFolder) -> list[str]:
    """Fetch each file that the process left. Returns which are missing or could not be read."""
    host = deployment.host(node)
    wanted = {str(host.log_path(node.unit)): f"raw/log/{node.name}.log"}
    owed = set()
    if node.role == "board":
        wanted[node.file("line.log")] = f"raw/serial/{node.name}.log"
    elif node.role != "broker":
        wanted[node.file(EVENTS)] = f"raw/{node.name}.jsonl"
        owed.add(node.file(EVENTS))
        wanted[node.file(TRACE)] = f"raw/trace/{node.name}.bin"
    problems: list[str] = []
    try:
        if node.role in _HOLDERS and present(host, [node.file(STORE)]):
            copy = node.file("collected.sqlite")
            argv = [deployment.python(node), "-m", "nodes.replica.ledger_copy"]
            try:
                host.run([*argv, node.file(STORE), copy], timeout_s=COPY_S_MAX)
                wanted[copy] = f"raw/ledger/{node.name}.sqlite"
            except CommandFailed as fault:
                problems.append(f"{node.name}: cannot copy its ledger: {fault.problem}")
        there = present(host, list(wanted))
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


def _about(deployment: Deployment, name: str, run: RunFolder) -> list[str]:
    host = deployment.hosts[name]
    python = next(deployment.python(node) for node in deployment.nodes if node.host == name)
    try:
        argv = programs.python(python, "provision/look.py", "about")
        about = json.loads(host.run(argv).stdout)
    except HostFault as fault:
        return [str(fault)]
    if any(node.host == name for node in deployment.with_role("broker")):
        about["broker"] = deployment.broker_version
    run.write_json(f"env/{name}.json", about)
    return []
