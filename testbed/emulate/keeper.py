"""The process that holds an emulated lab. When it ends, nothing of the lab is left.

`lab.py` starts it in its own pid, mount and network namespaces. Hosts, boards, mounts, bridges and
cables all live inside these, so the kernel removes everything when the keeper ends, also after kill
-9. It talks with `up` over its standard streams until the lab is up; then it takes orders on a
control socket.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gateway.shaping import Shape
from nodes.board.flash import new_key, prepare
from testbed.control_socket import obeying
from testbed.emulate import network
from testbed.emulate.cgroup import groups
from testbed.emulate.machine import RunningMachine
from testbed.emulate.plan import LabPlan
from testbed.emulate.switch import Switch
from testbed.emulate.tools import demand
from testbed.errors import LabFault
from testbed.fleet import at_once

__all__ = ["main"]

BOARD_REPL_WINDOW_MS = 1_000
"""`testbed flash` has so much time after a board's reset to stop its firmware."""


class Keeper:
    """The lab's machines and its switch, and the orders for them."""

    def __init__(self, plan: LabPlan, runtime: Path, consoles: Path) -> None:
        self.plan = plan
        self.switch = Switch() if plan.shaping == "switch" else None
        have = groups()
        self.machines = {
            machine.name: RunningMachine(
                plan, machine, runtime=runtime, consoles=consoles, groups=have, switch=self.switch
            )
            for machine in plan.machines
        }
        self._orders: dict[str, Callable[[dict[str, Any]], dict[str, Any] | None]] = {
            "status": self._status,
            "power": self._power,
            "reboot": self._reboot,
            "throttle": self._throttle,
            "shape": self._shape,
            "links": self._links,
            "clear": self._clear,
        }

    def raise_lab(self, runtime: Path, client_key: str) -> dict[str, str]:
        """Starts everything; returns public host keys by name."""
        network.open_bridges(self.plan)
        if self.switch:
            self.switch.plug(network.ORCHESTRATOR, self.plan.own_data_mac, network.ORCHESTRATOR)
        for board in self.plan.boards:
            home = runtime / "boards" / board.name
            home.mkdir(parents=True)
            prepare(home, board.name, new_key(), repl_window_ms=BOARD_REPL_WINDOW_MS)
        everyone = list(self.machines.values())
        keys = at_once(lambda one: one.prepare(client_key), everyone)
        at_once(RunningMachine.on, everyone)
        at_once(RunningMachine.wait_for_boards, everyone)
        return dict(zip(self.machines, keys, strict=True))

    def obey(self, line: bytes) -> bytes:
        """Takes one order and returns one answer. A wrong order gets an answer with `error`."""
        return json.dumps(self._answer(line)).encode()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            order = json.loads(line)
            does = self._orders[order["do"]]
            return {"ok": True, **(does(order) or {})}
        except KeyError as error:
            return {"error": f"unknown name {error}"}
        except (LabFault, ValueError, TypeError, OSError, subprocess.SubprocessError) as error:
            return {"error": str(error)}

    def _status(self, _: dict[str, Any]) -> dict[str, Any]:
        hosts = {name: machine.status() for name, machine in self.machines.items()}
        return {"shaping": self.plan.shaping, "hosts": hosts}

    def _power(self, order: dict[str, Any]) -> None:
        machine = self.machines[order["host"]]
        to = order["to"]
        if to not in ("on", "off", "cycle"):
            raise ValueError(f"power {to}: use on, off or cycle")
        if to in ("off", "cycle"):
            machine.off()
        if to in ("on", "cycle"):
            machine.on()
            machine.wait_for_boards()

    def _reboot(self, order: dict[str, Any]) -> None:
        machine = self.machines[order["host"]]
        machine.reboot()
        machine.wait_for_boards()

    def _throttle(self, order: dict[str, Any]) -> None:
        bits = order["bits"]
        self.machines[order["host"]].throttle(None if bits is None else int(bits))

    def _shape(self, order: dict[str, Any]) -> None:
        switch = self._need_switch()
        shape = msgspec.convert(order["shape"], Shape)
        pair = (order["from"], order["to"])
        for name in pair:
            self.machines[name]
        switch.shape(*pair, shape, float(order.get("for_s", 0)))

    def _links(self, _: dict[str, Any]) -> dict[str, Any]:
        return {"links": self._need_switch().links()}

    def _clear(self, _: dict[str, Any]) -> None:
        self._need_switch().clear()

    def _need_switch(self) -> Switch:
        if self.switch is None:
            raise LabFault("links of this lab are shaped by the kernel: use tc netem on eth1")
        return self.switch


def _tell(**facts: Any) -> None:
    print(json.dumps(facts), flush=True)  # noqa: T201 - the pipe to `up`


def _identity() -> dict[str, int]:
    """Ids of this process and of the first process of our namespace, as seen from outside: /proc
    still shows these."""
    status = Path("/proc/self/status").read_text()
    parent = int(status.partition("PPid:")[2].split()[0])
    return {"keeper_pid": int(Path("/proc/self").readlink().name), "init_pid": parent}


def main() -> None:
    """`python -m testbed.emulate.keeper RUNTIME CONSOLES`; ends when `up` ends too early."""
    runtime, consoles = Path(sys.argv[1]), Path(sys.argv[2])
    _tell(**_identity())
    demand("mount", "-t", "proc", "proc", "/proc")
    (runtime / "m").mkdir()
    order = json.loads(sys.stdin.readline() or "null")
    if order is None:
        return
    keeper = Keeper(msgspec.convert(order["plan"], LabPlan), runtime, consoles)
    try:
        keys = keeper.raise_lab(runtime, order["client_key"])
        before = os.umask(0o077)
        with obeying(runtime / "control", keeper.obey):
            os.umask(before)  # hosts that boot later must not inherit the pipe
            _tell(host_keys=keys)
            if sys.stdin.readline() == "keep\n":
                threading.Event().wait()
    except (LabFault, OSError, subprocess.SubprocessError) as error:
        _tell(error=str(error))


if __name__ == "__main__":
    main()
