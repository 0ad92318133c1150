"""Units under a supervisord of our own, for machines without systemd.

supervisord is one well-kept Python program that the deployed environment carries. It runs while
there is a unit to supervise and ends with the last one; all its files are in `<root>/sv`. After a
reboot the next `start` brings it back with every unit that was running.

A unit's command line and environment stand in a shell script beside its configuration, because
supervisord's own syntax has no way to write every argument (`%`, ` ;`, line ends).
"""

from __future__ import annotations

import json
import shlex
import threading
from pathlib import Path, PurePosixPath
from signal import Signals

from testbed.hosts import supervisor_client
from testbed.hosts.port import (
    COMMAND_TIMEOUT_S,
    LOG_BYTES_MAX,
    QUICK_DEATHS_MAX,
    STOP_TIMEOUT_S,
    Host,
    HostFault,
    NodeCommand,
    Unit,
    UnitState,
    UnitStatus,
)
from testbed.hosts.units import Units

__all__ = ["SupervisorUnits"]

_SOCKET_PATH_BYTES_MAX = 90
"""The kernel's limit for a Unix socket's path is 107; supervisord appends its process id."""

_LIST = 'cd "$1" 2>/dev/null || exit 0; for f in *.ini; do [ ! -e "$f" ] || echo "$f"; done'

_STATES = {
    "STARTING": UnitState.ACTIVE,
    "RUNNING": UnitState.ACTIVE,
    "BACKOFF": UnitState.ACTIVE,
    "STOPPING": UnitState.ACTIVE,
    "FATAL": UnitState.FAILED,
    "UNKNOWN": UnitState.FAILED,
    "STOPPED": UnitState.INACTIVE,
}


class SupervisorUnits(Units):
    """One round trip per verb: a small client runs on the machine beside supervisord."""

    def __init__(self, host: Host, supervisord: str) -> None:
        self._host = host
        self._home = host.root / "sv"
        self._supervisord = [str(host.root / supervisord), "supervisord"]
        self._client = Path(supervisor_client.__file__).read_text()
        self._changing = threading.Lock()
        if len(str(self._home / "s").encode()) > _SOCKET_PATH_BYTES_MAX:
            problem = f"{self._home} is too long a path for supervisord's socket"
            raise HostFault(host.name, "units", problem, "choose a shorter root")

    def start(self, unit: Unit) -> None:
        with self._changing:
            self._do(self.start_command(unit))

    def start_command(self, unit: Unit) -> NodeCommand:
        files = {
            "supervisord.conf": _server_text(self._home),
            f"{unit.name}.ini": _unit_text(unit, self._host.root, self._home),
            f"{unit.name}.sh": _script_text(unit, self._host.root, self._home),
        }
        return self._command("start", unit.name, files=files, supervisord=self._supervisord)

    def units(self) -> tuple[str, ...]:
        found = self._host.run(["sh", "-c", _LIST, "units", str(self._home)]).stdout.split()
        return tuple(name.removesuffix(".ini") for name in found)

    def stop(self, name: str, timeout_s: float) -> None:
        with self._changing:
            self._ask("stop", name, timeout_s=timeout_s)

    def signal(self, name: str, signal: Signals) -> None:
        self._ask("signal", name, number=int(signal))

    def status(self, name: str) -> UnitStatus:
        facts = json.loads(self._ask("status", name))
        code = facts["exit_code"]
        if facts["state"] == "EXITED":
            state = UnitState.INACTIVE if code == 0 else UnitState.FAILED
        else:
            state = _STATES[facts["state"]]
        return UnitStatus(state, facts["pid"], facts["restarts"], code)

    def _ask(self, verb: str, name: str, **more: object) -> str:
        return self._do(self._command(verb, name, **more))

    def _command(self, verb: str, name: str, **more: object) -> NodeCommand:
        order = {"verb": verb, "name": name, "home": str(self._home), **more}
        return NodeCommand(("python3", "-c", self._client), json.dumps(order).encode())

    def _do(self, command: NodeCommand) -> str:
        limit_s = COMMAND_TIMEOUT_S + STOP_TIMEOUT_S
        return self._host.run(command.argv, input=command.input, timeout_s=limit_s).stdout


def _server_text(home: PurePosixPath) -> str:
    place = _literal(home)
    return f"""\
[unix_http_server]
file={place}/s
chmod=0700
[supervisord]
logfile={place}/supervisord.log
logfile_maxbytes=1MB
logfile_backups=1
pidfile={place}/supervisord.pid
childlogdir={place}
umask=077
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[include]
files={place}/*.ini
"""


def _unit_text(unit: Unit, root: PurePosixPath, home: PurePosixPath) -> str:
    script = shlex.quote(_literal(home / f"{unit.name}.sh"))
    # startsecs=0: a program that may end by itself is not "starting" when it ends at once.
    return f"""\
[program:{unit.name}]
command=/bin/sh {script}
directory={_literal(root)}
autostart=true
autorestart={"true" if unit.restart else "false"}
startsecs={1 if unit.restart else 0}
startretries={QUICK_DEATHS_MAX if unit.restart else 0}
stopsignal=TERM
stopwaitsecs={STOP_TIMEOUT_S:g}
stopasgroup=true
killasgroup=true
redirect_stderr=true
stdout_logfile={_literal(root / "log" / f"{unit.name}.log")}
stdout_logfile_maxbytes={LOG_BYTES_MAX}
stdout_logfile_backups=1
"""


def _script_text(unit: Unit, root: PurePosixPath, home: PurePosixPath) -> str:
    """Notes its own starts, since supervisord counts none."""
    starts = shlex.quote(str(home / f"{unit.name}.starts"))
    exports = "".join(f"export {name}={shlex.quote(word)}\n" for name, word in unit.env.items())
    cwd = shlex.quote(str(root / unit.cwd))
    return f"echo $$ >>{starts}\ncd -- {cwd} || exit 1\n{exports}exec {shlex.join(unit.argv)}\n"


def _literal(path: PurePosixPath) -> str:
    return str(path).replace("%", "%%")
