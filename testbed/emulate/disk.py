"""The disk of an emulated host: what it sees of this machine, and what is its own.

A host reads this machine's system through an overlay; this is the layer above it. It hides what is
personal, empties what must start empty, and holds the host's name, keys and services.
"""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from testbed.emulate.plan import LabPlan, Machine
from testbed.emulate.tools import demand

__all__ = ["make_disk", "mount", "ssh_key_pair"]

_VISIBLE = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt"}
"""What a host sees of this machine's root directory; homes, data and this project it does not."""

_FRESH = {
    "boot": 0o755,
    "dev": 0o755,
    "etc/init.d": 0o755,
    **{f"etc/rc{level}.d": 0o755 for level in "0123456S"},
    "etc/ssh": 0o755,
    "etc/systemd/system": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "var/log": 0o755,
    "var/spool/cron": 0o755,
    "var/tmp": 0o1777,
}
"""Directories that start empty."""

_MASKED = (
    "console-getty.service",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "getty.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "dbus-org.freedesktop.login1.service",
    "systemd-logind.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",  # it would set the kernel of the real machine
    "systemd-timesyncd.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
"""


_VCGENCMD = """\
#!/bin/sh
# A Raspberry Pi's firmware, as far as `testbed emulate throttle` plays it: silent unless told.
[ "$1" = get_throttled ] && [ -s /run/firmware/throttled ] || exit 1
echo "throttled=$(cat /run/firmware/throttled)"
"""


def ssh_key_pair(comment: str) -> tuple[bytes, str]:
    """A new Ed25519 key: OpenSSH's private file, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()
    return private, f"{public} {comment}"


def make_disk(place: Path, plan: LabPlan, machine: Machine, client_key: str) -> str:
    """Mount and fill a host's disk, `upper` and `work`; returns its public host key line."""
    mount("tmpfs", place, f"size={plan.options.disk_mb}m,mode=755")
    upper = place / "upper"
    for directory in (upper, place / "work"):
        directory.mkdir()
    _hide(upper)
    private, public = ssh_key_pair(machine.name)
    etc = upper / "etc"
    hosts = "".join(f"{one.addr} {one.name}\n" for one in plan.machines)
    _write(etc / "hostname", f"{machine.name}\n")
    _write(etc / "hosts", f"127.0.0.1 localhost\n{hosts}")
    _write(etc / "machine-id", uuid.uuid4().hex + "\n")
    _write(etc / "fstab", "")
    _write(etc / "shadow", _without_passwords(Path("/etc/shadow").read_text()), 0o600)
    _write(etc / "ssh/sshd_config", _SSHD)
    _write(etc / "ssh/ssh_host_ed25519_key", private.decode(), 0o600)
    _write(etc / "ssh/authorized_keys", client_key + "\n")
    programs = upper / "usr/local/bin"
    programs.mkdir(parents=True)
    _write(programs / "vcgencmd", _VCGENCMD, 0o755)
    if plan.options.systemd:
        _systemd_files(etc)
    return public


def mount(kind: str, place: Path, options: str) -> None:
    """A new file system of its own at `place`."""
    demand("mount", "-t", kind, "-o", options, kind, str(place))


def _hide(upper: Path) -> None:
    """Overlay's marks: a whiteout takes a lower entry away, an opaque directory starts empty."""
    for place, mode in _FRESH.items():
        directory = upper / place
        directory.mkdir(mode=0o755, parents=True)
        directory.chmod(mode)
        os.setxattr(directory, "trusted.overlay.opaque", b"y")
    fresh = {place.partition("/")[0] for place in _FRESH}
    for entry in Path("/").iterdir():
        if entry.name not in _VISIBLE | fresh:
            os.mknod(upper / entry.name, stat.S_IFCHR | 0o600, os.makedev(0, 0))


def _write(path: Path, text: str, mode: int = 0o644) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)


def _without_passwords(shadow: str) -> str:
    """Nobody logs in by password, root by key: "*" is no password, where "!" were no login."""
    lines = [line.split(":") for line in shadow.splitlines() if ":" in line]
    return "".join(":".join([name, "*", *rest]) + "\n" for name, _, *rest in lines)


def _systemd_files(etc: Path) -> None:
    """Only what a headless Raspberry Pi needs; the machine's own services stay out."""
    system = etc / "systemd/system"
    _write(
        system / "testbed-sshd.service",
        "[Unit]\nAfter=network.target\n[Service]\nRuntimeDirectory=sshd\n"
        "ExecStart=/usr/sbin/sshd -D -e\nRestart=always\nKillMode=process\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    wants = system / "multi-user.target.wants"
    wants.mkdir()
    (wants / "testbed-sshd.service").symlink_to("/etc/systemd/system/testbed-sshd.service")
    (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for unit in _MASKED:
        (system / unit).symlink_to("/dev/null")
