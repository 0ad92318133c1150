"""The key that an inventory names for a login, from its file or from ssh-agent."""

from __future__ import annotations

from pathlib import Path

import paramiko
from paramiko.pkey import UnknownKeyType

from testbed.hosts.host_keys import fingerprint
from testbed.hosts.openssh import LoginUnusable, openssh

__all__ = ["login_key"]


def login_key(path: Path) -> paramiko.PKey:
    """The private key in `path`. Raises LoginUnusable."""
    try:
        content = path.read_bytes()
    except OSError as error:
        fix = "correct ssh: {key: ...} in the inventory, or leave key: out"
        raise LoginUnusable(f"cannot read the key {path}: {error.strerror}", fix) from error
    if b"PRIVATE KEY" not in content:
        fix = f"name the private key: {path.with_suffix('') if path.suffix == '.pub' else '...'}"
        raise LoginUnusable(f"{path} is no private key", fix)
    try:
        return paramiko.PKey.from_path(path)
    except (TypeError, paramiko.PasswordRequiredException) as error:
        held = _from_agent(path)
        if held is None:
            problem = f"the key {path} has a passphrase, and ssh-agent does not hold it"
            raise LoginUnusable(problem, f"ssh-add {path}") from error
        return held
    except (ValueError, paramiko.SSHException, UnknownKeyType) as error:
        fix = "use a key of the kind ed25519: ssh-keygen -t ed25519"
        raise LoginUnusable(f"cannot use the key {path}: {error}", fix) from error


def _from_agent(path: Path) -> paramiko.PKey | None:
    """The key that ssh-agent holds for this file. Its fingerprint can be read without a
    passphrase."""
    words = openssh("ssh-keygen", "-l", "-f", str(path)).stdout.split()
    held = paramiko.Agent().get_keys()
    return next((key for key in held if fingerprint(key) in words), None)
