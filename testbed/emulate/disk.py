"""The disk of an emulated host: the part of this machine that it sees, and its own files.

A host reads this machine's system through an overlay, and this module makes the layer above it. The
layer hides personal files, empties directories that must start empty, and holds the host's name,
keys and services.
"""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path
from typing import assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from testbed.emulate.plan import EmulatedMachine, EmulationOptions, LabPlan, Login, Oddity
from testbed.emulate.preflight import faketime
from testbed.emulate.tools import attempt, demand
from testbed.programs import source

__all__ = ["CLOCK_BEHIND_S", "clock_is_behind", "make_disk", "mount", "ssh_key_pair"]

_VISIBLE = {"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "var", "opt"}
"""The directories of this machine's root that a host sees. It does not see homes, data and this
project."""

_PI = 1000
"""Number of the user and group `pi`."""

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
    "systemd-sysctl.service",  # it would change settings of the real machine's kernel
    "systemd-timesyncd.service",
    "systemd-udevd.service",
    "systemd-udev-trigger.service",
)

_SSHD = """\
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
"""


FAKETIME_FILE = "etc/faketimerc"
CLOCK_BEHIND_S = 90
"""How far the clock of a host with a wrong clock is behind."""

SYNC_AFTER_S = 3
"""If such a host's time sync starts by itself, it has an answer so long after the SSH server
starts."""

_CLOCK = """\
[Unit]
{order}=testbed-sshd.service
[Service]
Type=oneshot
ExecStart=/bin/sh -c '{script}'
"""


def ssh_key_pair(comment: str) -> tuple[bytes, str]:
    """A new Ed25519 key: OpenSSH's private file, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()
    return private, f"{public} {comment}"


def make_disk(place: Path, plan: LabPlan, machine: EmulatedMachine, client_key: str) -> str:
    """Mount and fill a host's disk, `upper` and `work`; returns its public host key line."""
    mount("tmpfs", place, f"size={plan.options.disk_mb}m,mode=755")
    upper = place / "upper"
    for directory in (upper, place / "work"):
        directory.mkdir()
    _hide(upper)
    private, public = ssh_key_pair(machine.name)
    etc = upper / "etc"
    _write(etc / "hostname", f"{machine.name}\n")
    _write(etc / "hosts", "127.0.0.1 localhost\n")  # no DNS server knows the host's own name
    _write(etc / "machine-id", uuid.uuid4().hex + "\n")
    _write(etc / "fstab", "")
    _write(etc / "ssh/sshd_config", _SSHD)
    _write(etc / "ssh/ssh_host_ed25519_key", private.decode(), 0o600)
    _write_logins(upper, client_key, plan.options.login)
    _write_oddity(upper, machine.oddity, plan.options)
    ours = upper / "usr/local/bin"
    ours.mkdir(parents=True)
    _write(ours / "vcgencmd", source("emulate/vcgencmd.sh"), 0o755)
    if plan.options.systemd:
        _systemd_files(etc)
    return public


def mount(kind: str, place: Path, options: str) -> None:
    """Mounts a new file system at `place`."""
    demand("mount", "-t", kind, "-o", options, kind, str(place))


def _hide(upper: Path) -> None:
    """Hides lower entries by the marks of overlayfs: a whiteout removes one, an opaque directory
    starts empty."""
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


def _write_logins(upper: Path, client_key: str, login: Login) -> None:
    """Makes the users `pi` (with sudo and the group of serial ports) and root; the key opens one of
    them.

    Nobody can log in by password: "*" means no password. "!" would also block logins by key.
    """
    etc = upper / "etc"
    users = [line for line in Path("/etc/passwd").read_text().splitlines() if not _is_pi(line)]
    _write(etc / "passwd", "\n".join([*users, f"pi:x:{_PI}:{_PI}::/home/pi:/bin/bash", ""]))
    groups = [line for line in Path("/etc/group").read_text().splitlines() if not _is_pi(line)]
    joined = [
        f"{line.rstrip()}{'' if line.endswith(':') else ','}pi"
        if line.startswith("dialout:")
        else line
        for line in groups
    ]
    _write(etc / "group", "\n".join([*joined, f"pi:x:{_PI}:", ""]))
    names = [line.partition(":")[0] for line in users]
    _write(
        etc / "shadow", "".join(f"{name}:*:19000:0:99999:7:::\n" for name in [*names, "pi"]), 0o600
    )
    rules = etc / "sudoers.d"
    rules.mkdir(exist_ok=True)
    _write(rules / "010_pi-nopasswd", "pi ALL=(ALL) NOPASSWD: ALL\n", 0o440)
    home = _home(upper, login)
    home.mkdir(mode=0o700, exist_ok=True)
    (home / ".ssh").mkdir(mode=0o700)
    _write(home / ".ssh/authorized_keys", client_key + "\n", 0o600)
    if login == "pi":
        for path in (home, home / ".ssh", home / ".ssh/authorized_keys"):
            os.chown(path, _PI, _PI)


def _home(upper: Path, login: Login) -> Path:
    return upper / ("root" if login == "root" else "home/pi")


def _is_pi(line: str) -> bool:
    """Whether an entry of passwd or group has the name or the number of our user."""
    name, _, number, *_ = f"{line}:::".split(":")
    return name == "pi" or number == str(_PI)


def _write_oddity(upper: Path, oddity: Oddity, options: EmulationOptions) -> None:
    """Writes the files that make this host unusual. sshd starts bash, which reads .bashrc for each
    command."""
    bashrc = _home(upper, options.login) / ".bashrc"
    match oddity:
        case "none":
            return
        case "umask":
            _write(bashrc, "umask 077\n")
        case "locale":
            _write(bashrc, "export LANG=de_DE.UTF-8 LC_ALL=de_DE.UTF-8\n")
            _compile_locale(upper)
        case "clock":
            if (library := faketime()) is not None:
                _write_clock(upper, library, by_itself=not options.wrong_clock)
        case _:
            assert_never(oddity)


def _write_clock(upper: Path, library: Path, *, by_itself: bool) -> None:
    """Sets the clock back before anybody can log in. Time sync steps it, by itself or on demand."""
    # The preload file is in /run, which is empty when systemd itself starts. So systemd keeps the
    # right time.
    (upper / "etc/ld.so.preload").symlink_to("/run/preload")
    units = upper / "etc/systemd/system"
    behind = f"echo -{CLOCK_BEHIND_S}s >/{FAKETIME_FILE}; echo {library} >/run/preload"
    _write(units / "testbed-clock.service", _CLOCK.format(order="Before", script=behind))
    pause = f"sleep {SYNC_AFTER_S}; " if by_itself else ""
    right = f"{pause}echo +0 >/{FAKETIME_FILE}; : >/run/preload"
    _write(units / "testbed-timesync.service", _CLOCK.format(order="After", script=right))
    early = units / "testbed-sshd.service.requires"
    early.mkdir()
    (early / "testbed-clock.service").symlink_to("../testbed-clock.service")
    if by_itself:
        wanted = units / "testbed-sshd.service.wants"
        wanted.mkdir()
        (wanted / "testbed-timesync.service").symlink_to("../testbed-timesync.service")


def clock_is_behind(upper: Path) -> bool:
    """Whether time sync of this running host has not stepped its clock yet."""
    try:
        return (upper / FAKETIME_FILE).read_text().startswith("-")
    except FileNotFoundError:
        return False


def _compile_locale(upper: Path) -> None:
    """Compiles the German locale if this machine has its source. If not, the host asks for a locale
    that does not exist."""
    if Path("/usr/share/i18n/locales/de_DE").exists():
        place = upper / "usr/lib/locale/de_DE.utf8"
        place.parent.mkdir(parents=True)
        attempt("localedef", "-i", "de_DE", "-f", "UTF-8", str(place))


def _systemd_files(etc: Path) -> None:
    """Writes only the units that a headless Raspberry Pi needs, without this machine's own
    services."""
    system = etc / "systemd/system"
    _write(
        system / "testbed-sshd.service",
        "[Unit]\nAfter=network.target\n[Service]\nRuntimeDirectory=sshd\n"
        "ExecStart=/usr/sbin/sshd -D -e\nRestart=always\nKillMode=process\n"
        "[Install]\nWantedBy=multi-user.target\n",
    )
    # For a unit that may not tune the kernel, systemd mounts /proc again, with the real machine's
    # boot id.
    hardened = system / "testbed-m2m-.service.d"
    hardened.mkdir()
    _write(
        hardened / "boot-id.conf",
        "[Service]\nBindReadOnlyPaths=/run/boot_id:/proc/sys/kernel/random/boot_id\n",
    )
    wants = system / "multi-user.target.wants"
    wants.mkdir()
    (wants / "testbed-sshd.service").symlink_to("/etc/systemd/system/testbed-sshd.service")
    (system / "default.target").symlink_to("/lib/systemd/system/multi-user.target")
    for unit in _MASKED:
        (system / unit).symlink_to("/dev/null")
