"""The command line of OpenSSH's own client for a host of the inventory: for people's terminals.

Everything that the testbed itself does goes over `ssh.py`; this is for `testbed ssh` and `console`.
"""

from __future__ import annotations

import shlex

from inventory.model import Lab

__all__ = ["ssh_argv"]


def ssh_argv(lab: Lab, name: str, *options: str) -> list[str]:
    """Logs in as the inventory says, through its jump hosts; an unknown host key is refused.

    What the inventory leaves out comes from the user's own ssh_config.
    """
    login = lab.ssh(name)
    argv = ["ssh", *options, "-o", "StrictHostKeyChecking=yes"]
    if login.known_hosts is not None:
        argv += ["-o", f'UserKnownHostsFile="{login.known_hosts}"']
    if login.key is not None:
        argv += ["-i", login.key, "-o", "IdentitiesOnly=yes"]
    if login.port is not None:
        argv += ["-p", str(login.port)]
    if login.user is not None:
        argv += ["-l", login.user]
    if login.jump is not None:
        # A % in it would be one of OpenSSH's own: %h and %p are those of the host behind.
        through = shlex.join(ssh_argv(lab, login.jump)).replace("%", "%%")
        argv += ["-o", f"ProxyCommand={through} -W [%h]:%p"]
    return [*argv, lab.login_address(name)]
