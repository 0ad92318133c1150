"""Opens the hosts of a lab for a deployment: SSH hosts must have our code, local hosts are made.

A campaign, a running lab and the provisioning benchmark begin with this. `testbed.hosts.opening`
opens SSH hosts alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from inventory.model import Lab
from testbed.hosts.local import LocalHost
from testbed.hosts.opening import limited, ssh_hosts
from testbed.hosts.port import Host
from testbed.provision.ready import interpreters
from testbed.provision.workspace import check_sockets, workspace

__all__ = ["opened_hosts"]


@contextmanager
def opened_hosts(lab: Lab) -> Iterator[tuple[Mapping[str, Host], Mapping[str, str]]]:
    """(hosts, interpreter on each) by name. Local hosts live in a private directory of the run.

    Raises ConfigurationError if a host does not have exactly the code of this checkout.
    """
    with ExitStack() as stack:
        remote = stack.enter_context(ssh_hosts(lab, limited(lab, None)))
        python = interpreters(remote)
        hosts: dict[str, Host] = {}
        if len(remote) < len(lab.active):
            root = stack.enter_context(workspace())
            check_sockets(lab, root)
        for name in lab.active:
            if name in remote:
                hosts[name] = remote[name]
            else:
                hosts[name] = stack.enter_context(LocalHost(root / name, name=name))
                python[name] = sys.executable
        yield hosts, python
