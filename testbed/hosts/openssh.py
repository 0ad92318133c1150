"""Calls OpenSSH's own programs, and makes the command line of its client. OpenSSH decides about
configuration, keys and known hosts, so `openssh` asks its programs. Everything that the testbed
does on hosts goes over `ssh.py`; `ssh_argv` is for `testbed ssh` and `console`.
"""

from __future__ import annotations

import shlex
import subprocess

from inventory.model import Lab

__all__ = ["LoginUnusable", "openssh", "ssh_argv"]

ANSWER_S = 20.0


class LoginUnusable(Exception):
    """Nobody can log in with this key, configuration or known_hosts. `fix` says what to do."""

    def __init__(self, problem: str, fix: str) -> None:
        self.fix = fix
        super().__init__(problem)


def openssh(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run `ssh -G` or `ssh-keygen` to its end. Raises LoginUnusable if it is missing or hangs."""
    try:
        return subprocess.run(
            argv,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            stdin=subprocess.DEVNULL,
            timeout=ANSWER_S,
            check=False,
        )
    except FileNotFoundError as error:
        fix = "sudo apt-get install openssh-client"
        raise LoginUnusable(f"no {argv[0]} on this machine", fix) from error
    except subprocess.TimeoutExpired as error:
        problem = f"{shlex.join(argv)} does not answer within {ANSWER_S:g} s"
        raise LoginUnusable(problem, "does a Match exec of ssh_config hang?") from error


def ssh_argv(lab: Lab, name: str, *options: str) -> list[str]:
    """Logs in as the inventory says, through its jump hosts. An unknown host key is refused.

    Settings that are not in the inventory come from the user's own ssh_config.
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
        # OpenSSH would expand a % in it: %h and %p stand for the host behind.
        through = shlex.join(ssh_argv(lab, login.jump)).replace("%", "%%")
        argv += ["-o", f"ProxyCommand={through} -W [%h]:%p"]
    return [*argv, lab.login_address(name)]
