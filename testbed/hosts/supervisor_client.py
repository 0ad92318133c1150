"""Runs on the machine, under its own python3, and speaks XML-RPC to our supervisord there.

`units_supervisor.py` sends this file's text; it may import the standard library only. One JSON
object comes on standard input, one goes to standard output. Elsewhere: everything else.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import xmlrpc.client
from pathlib import Path
from typing import Any

__all__ = ["main"]

_SERVER_WITHIN_S = 10.0
_BORN_WITHIN_S = 10.0
_POLL_S = 0.02
_LOG_TAIL_BYTES = 50_000


class _UnixConnection(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(30)
        self.sock.connect(self.host)


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _UnixConnection(self._path)


def _server(home: Path) -> Any:
    """The supervisor's RPC interface, or None when no supervisord runs here."""
    proxy = xmlrpc.client.ServerProxy("http://local", _UnixTransport(str(home / "s")))
    try:
        proxy.supervisor.getState()
    except OSError:
        return None
    return proxy.supervisor


def _start(home: Path, name: str, files: dict[str, str], supervisord: list[str]) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home.parent / "log").mkdir(mode=0o700, exist_ok=True)
    changed = False
    for file, text in files.items():
        path = home / file
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            changed = changed or not file.startswith("supervisord")
    server = _server(home)
    if server is None:
        (home / f"{name}.starts").write_text("")
        _run_server(home, supervisord)
        return
    known = {info["name"]: info for info in server.getAllProcessInfo()}
    if name in known:
        if not changed and known[name]["statename"] in ("RUNNING", "STARTING", "BACKOFF"):
            return
        _remove(server, name, 10.0)
    (home / f"{name}.starts").write_text("")
    server.reloadConfig()
    server.addProcessGroup(name)


def _run_server(home: Path, candidates: list[str]) -> None:
    path = os.pathsep.join(["/usr/local/bin", os.environ.get("PATH", "/usr/bin:/bin")])
    for program in candidates:
        try:
            subprocess.run(
                [program, "-c", str(home / "supervisord.conf")],
                check=True,
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        except FileNotFoundError:
            continue
        until = time.monotonic() + _SERVER_WITHIN_S
        while _server(home) is None:
            if time.monotonic() >= until:
                sys.exit(
                    f"{program} did not answer within {_SERVER_WITHIN_S:g} s;"
                    f" see {home}/supervisord.log"
                )
            time.sleep(_POLL_S)
        return
    sys.exit(
        "no supervisord: looked for " + ", ".join(candidates) + "; provision the machine, or:"
        " apt-get install supervisor"
    )


def _remove(server: Any, name: str, timeout_s: float) -> None:
    """Stop a process and forget it.

    Between fork and exec a child still has supervisord's own signal handlers: a SIGTERM that comes
    then is caught there and lost, and the program would run on until SIGKILL. So a program that
    had not been executed when it was told to end is told once more when it has.
    """
    master = _command_line(server.getPID())
    told = server.getProcessInfo(name)["pid"]
    if _command_line(told) == master:
        told = 0
    with contextlib.suppress(xmlrpc.client.Fault):  # it does not run
        server.stopProcess(name, False)
    until = time.monotonic() + timeout_s
    while True:
        info = server.getProcessInfo(name)
        pid = info["pid"]
        if info["statename"] in ("STOPPED", "EXITED", "FATAL", "UNKNOWN"):
            break
        if pid and time.monotonic() >= until:
            _kill_group(pid, signal.SIGKILL)
            until = float("inf")
        elif pid not in (0, told) and _command_line(pid) not in (b"", master):
            _kill_group(pid, signal.SIGTERM)
            told = pid
        time.sleep(_POLL_S)
    server.removeProcessGroup(name)


def _command_line(pid: int) -> bytes:
    """Empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes() if pid else b""
    except OSError:
        return b""


def _kill_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.killpg(pid, number)


def _stop(home: Path, name: str, timeout_s: float) -> None:
    server = _server(home)
    if server is not None and any(i["name"] == name for i in server.getAllProcessInfo()):
        _remove(server, name, timeout_s)
    for file in (home / f"{name}.ini", home / f"{name}.sh", home / f"{name}.starts"):
        file.unlink(missing_ok=True)
    if server is not None and not server.getAllProcessInfo():
        # Until the process is gone, not only its socket: it would take a successor's socket along.
        pid = server.getPID()
        server.shutdown()
        until = time.monotonic() + _SERVER_WITHIN_S
        while _runs(pid) and time.monotonic() < until:
            time.sleep(_POLL_S)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _signal(home: Path, name: str, number: int) -> None:
    server = _server(home)
    infos = server.getAllProcessInfo() if server is not None else []
    pids = [info["pid"] for info in infos if info["name"] == name and info["pid"]]
    if not pids:
        sys.exit("it has no process at the moment")
    # Before that it may have supervisord's own handlers still, and would be counted by nobody.
    until = time.monotonic() + _BORN_WITHIN_S
    while pids[0] not in _starts(home, name) and time.monotonic() < until:
        time.sleep(_POLL_S)
    os.kill(pids[0], number)


def _starts(home: Path, name: str) -> list[int]:
    """The process ids of a unit's lives. A process is there before its script has noted it."""
    return [int(pid) for pid in (home / f"{name}.starts").read_text().split()]


def _status(home: Path, name: str) -> dict[str, object]:
    server = _server(home)
    infos = server.getAllProcessInfo() if server is not None else []
    for info in infos:
        if info["name"] == name:
            starts = _starts(home, name)
            uncounted = info["pid"] != 0 and info["pid"] not in starts
            return {
                "state": info["statename"],
                "pid": info["pid"] or None,
                "restarts": max(0, len(starts) + uncounted - 1),
                "exit_code": _exit_code(server, name) if info["stop"] else None,
            }
    return {"state": "STOPPED", "pid": None, "restarts": 0, "exit_code": None}


def _exit_code(server: Any, name: str) -> int | None:
    """supervisord forgets a code at the next start, and never has a signal's; its log has both."""
    pattern = rf"exited: {re.escape(name)} \((?:exit status (\d+)|terminated by (SIG\w+))"
    deaths = re.findall(pattern, server.readLog(-_LOG_TAIL_BYTES, 0))
    if not deaths:
        return None
    status, killer = deaths[-1]
    return int(status) if status else 128 + signal.Signals[killer].value


def main() -> None:
    """One order, one answer."""
    order = json.load(sys.stdin)
    home, name, verb = Path(order["home"]), order["name"], order["verb"]
    answer: dict[str, object] = {}
    if verb == "start":
        _start(home, name, order["files"], order["supervisord"])
    elif verb == "stop":
        _stop(home, name, order["timeout_s"])
    elif verb == "signal":
        _signal(home, name, order["number"])
    else:
        answer = _status(home, name)
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
