"""Access to a running lab from another process: its hosts, and its deployment for looking and
collecting.

Only the process that keeps the lab running starts and stops anything (`control`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from testbed.hosts.local import LocalHost
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.deployment import Deployment
from testbed.provision.ready import interpreters
from testbed.standing.running_lab import RunningLab

__all__ = ["attached"]


@contextmanager
def attached(running: RunningLab, say: Callable[[str], None]) -> Iterator[Deployment]:
    """At its end everything still runs. Raises LabFault, ConfigurationError."""
    lab = running.lab
    with ExitStack() as stack:
        remote = stack.enter_context(ssh_hosts(lab, limited(lab, None)))
        python = interpreters(remote)
        hosts: dict[str, Host] = dict(remote)
        for node in running.nodes.values():
            if node.directory is not None and node.host not in hosts:
                root = Path(node.directory).parent
                hosts[node.host] = stack.enter_context(LocalHost(root, name=node.host))
                python[node.host] = sys.executable
        deployment = Deployment(lab, hosts, python, say)
        deployment.broker_version = lab.broker_kind()
        deployment.begun = set(running.nodes)
        yield deployment
