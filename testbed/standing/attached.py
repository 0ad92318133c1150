"""Access to a running lab from another process: its hosts, and its deployment for looking and
collecting.

Only the process that keeps the lab running starts and stops anything (`control`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.hosts.local import LocalHost
from testbed.hosts.opening import ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.deployment import Deployment
from testbed.provision.ready import interpreters
from testbed.standing.running_lab import RunningLab

__all__ = ["attached", "hosts_of"]


@contextmanager
def hosts_of(running: RunningLab) -> Iterator[Mapping[str, Host]]:
    """The hosts of a running lab's processes, by name. Nothing connects before the first
    command."""
    nodes = running.nodes.values()
    remote = dict.fromkeys(node.host for node in nodes if node.directory is None)
    with ExitStack() as stack:
        hosts: dict[str, Host] = {}
        if remote:
            hosts |= stack.enter_context(ssh_hosts(running.lab, remote))
        for node in nodes:
            if node.directory is not None and node.host not in hosts:
                root = Path(node.directory).parent
                hosts[node.host] = stack.enter_context(LocalHost(root, name=node.host))
        yield hosts


@contextmanager
def attached(running: RunningLab, say: Callable[[str], None]) -> Iterator[Deployment]:
    """At its end everything still runs. Raises LabFault, ConfigurationError."""
    lab = running.lab
    with hosts_of(running) as hosts:
        remote = {n: host for n, host in hosts.items() if not isinstance(host, LocalHost)}
        python = dict.fromkeys(hosts, sys.executable) | interpreters(remote)
        deployment = Deployment(lab, hosts, python, say)
        deployment.broker_version = lab.broker_kind()
        deployment.begun = set(running.nodes)
        yield deployment
