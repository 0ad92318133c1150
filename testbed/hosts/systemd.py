"""Units as systemd services `testbed-<name>.service`, for hosts over SSH.

A service is enabled, so it comes back after a reboot or a power cut; `stop` removes its file, so
that nothing of ours is left. As root (or with passwordless sudo) it is a hardened system service
running as the login's user; otherwise a user service, which needs lingering to outlive the login.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from signal import Signals
from typing import Literal

from testbed.hosts.port import (
    BACKOFF_MIN_S,
    QUICK_DEATHS_MAX,
    STABLE_AFTER_S,
    STOP_TIMEOUT_S,
    Host,
    HostFault,
    NodeCommand,
    Unit,
    UnitState,
    UnitStatus,
)
from testbed.programs import shell

__all__ = ["SystemdUnits"]

_SYSTEM_DIRECTORY = "/etc/systemd/system"
_CALL_S_MAX = 60.0
_CALL_MARGIN_S = 20.0

Verb = Literal["start", "stop", "signal", "status", "list"]

_HARDENING = """\
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={root}
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectClock=no
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
LockPersonality=yes
SystemCallArchitectures=native
CapabilityBoundingSet=
"""


class SystemdUnits:
    """The unit verbs of the port, one round trip each. Raises what `Host.run` raises.

    `system`: the system's own systemd is used, as root; otherwise that of the user.
    """

    def __init__(self, host: Host, *, system: bool) -> None:
        self._host = host
        self._system = system
        self._user = host.run(["id", "-un"]).stdout.strip()
        self._directory = _SYSTEM_DIRECTORY
        if not system:
            home = host.run(["sh", "-c", 'printf %s "$HOME"']).stdout
            self._directory = f"{home}/.config/systemd/user"

    def start(self, unit: Unit) -> None:
        command = self.start_command(unit)
        self._host.run(command.argv, input=command.input, timeout_s=_CALL_S_MAX)

    def start_command(self, unit: Unit) -> NodeCommand:
        user = self._user if self._system else None
        text = _service_file(unit, self._host.root, user)
        log = str(self._host.log_path(unit.name))
        return NodeCommand(self._argv("start", unit.name, log, self._user), text.encode())

    def units(self) -> tuple[str, ...]:
        found = self._systemctl("list", "").split()
        return tuple(name.removeprefix("testbed-").removesuffix(".service") for name in found)

    def stop_command(self, name: str) -> NodeCommand:
        return NodeCommand(self._argv("stop", name, f"{STOP_TIMEOUT_S:.1f}"))

    def signal_command(self, name: str, signal: Signals) -> NodeCommand:
        return NodeCommand(self._argv("signal", name, signal.name.removeprefix("SIG")))

    def stop(self, name: str, timeout_s: float) -> None:
        limit_s = timeout_s + _CALL_MARGIN_S
        self._systemctl("stop", name, f"{timeout_s:.1f}", timeout_s=limit_s)

    def signal(self, name: str, signal: Signals) -> None:
        self._systemctl("signal", name, signal.name.removeprefix("SIG"))

    def status(self, name: str) -> UnitStatus:
        answer = self._systemctl("status", name)
        facts = dict(line.partition("=")[::2] for line in answer.splitlines())
        try:
            pid, restarts = int(facts["MainPID"]), int(facts["NRestarts"])
            code, status = int(facts["ExecMainCode"]), int(facts["ExecMainStatus"])
            active = facts["ActiveState"]
        except (KeyError, ValueError):
            action = f"status of unit {name}"
            raise HostFault(self._host.name, action, f"strange answer {answer!r}") from None
        died_by_signal = code in (2, 3)  # CLD_KILLED, CLD_DUMPED
        exit_code = (128 + status if died_by_signal else status) if code else None
        states = {"failed": UnitState.FAILED, "inactive": UnitState.INACTIVE}
        return UnitStatus(states.get(active, UnitState.ACTIVE), pid or None, restarts, exit_code)

    def _systemctl(self, verb: Verb, name: str, *more: str, timeout_s: float = _CALL_S_MAX) -> str:
        return self._host.run(self._argv(verb, name, *more), timeout_s=timeout_s).stdout

    def _argv(self, verb: Verb, name: str, *more: str) -> tuple[str, ...]:
        scope = "--system" if self._system else "--user"
        service = f"testbed-{name}.service"
        program = shell("hosts/systemd.sh", verb, scope, self._directory, service, *more)
        return self._host.as_root(program) if self._system else tuple(program)


def _service_file(unit: Unit, root: PurePosixPath, user: str | None) -> str:
    """For the system's systemd, which runs it as `user`; None: for the user's own."""
    hardening = "NoNewPrivileges=yes\n" if unit.hardened else ""
    if unit.hardened and user:
        hardening = _HARDENING.format(root=_quote(str(root)))
    log = str(root / "log" / f"{unit.name}.log").replace("%", "%%")
    return "\n".join(
        [
            "[Unit]",
            f"Description=testbed unit {unit.name}",
            "After=network.target",
            f"StartLimitIntervalSec={QUICK_DEATHS_MAX * STABLE_AFTER_S:g}",
            f"StartLimitBurst={QUICK_DEATHS_MAX}",
            "",
            "[Service]",
            # ":" stops systemd from expanding $NAME in our arguments
            "ExecStart=:" + " ".join(_quote(word) for word in unit.argv),
            f"WorkingDirectory={str(root / unit.cwd).replace('%', '%%')}",
            *(f"Environment={_quote(f'{name}={value}')}" for name, value in unit.env.items()),
            *([f"User={user}"] if user else []),
            f"Restart={'always' if unit.restart else 'no'}",
            f"RestartSec={BACKOFF_MIN_S}",
            f"TimeoutStopSec={STOP_TIMEOUT_S:g}",
            "KillMode=control-group",
            "UMask=0077",
            f"StandardOutput=append:{log}",
            "StandardError=inherit",
            hardening,
            "[Install]",
            f"WantedBy={'multi-user.target' if user else 'default.target'}",
            "",
        ]
    )


def _quote(word: str) -> str:
    """systemd.syntax(7): C escapes inside double quotes, and % doubled against specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return '"' + escaped.replace("\n", "\\n").replace("\t", "\\t").replace("\r", "\\r") + '"'
