"""Reads the clocks and conditions of a run's hosts: before, every few seconds during, and after it.

One connection and one small process per host. It writes facts only: to raw/clock.jsonl,
raw/conditions.jsonl and, for hosts with a meter, raw/energy.jsonl. `testbed.checks.conditions`
judges the first two. Elsewhere: what is asked (`testbed.care.clock`, `conditions`, `energy`);
`testbed.campaign.watch` follows the processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Literal

import msgspec

from testbed.care.clock import ClockReading, read_clock
from testbed.care.conditions import Conditions, HostLimits, open_facts, read_facts
from testbed.care.energy import EnergySample
from testbed.errors import LabFault
from testbed.fleet import at_once
from testbed.hosts.port import Dialogue, Host

__all__ = ["HostWatch"]

EVERY_S = 5.0
"""Between two readings of a host during a run."""

When = Literal["before", "during", "after"]


class HostWatch:
    """Reads each host that has `limits` before, during and after a run; `write(file, **fields)`
    keeps each reading. Hosts that are this machine have no limits: all their processes share its
    clock.

    If a host does not answer (it may be powered off on purpose), that is written, and the host is
    asked again next time. `answered` and `silent` are called with the name of a host.
    """

    def __init__(
        self,
        hosts: Mapping[str, Host],
        python: Mapping[str, str],
        write: Callable[..., None],
        limits: Mapping[str, HostLimits],
        every_s: float = EVERY_S,
        *,
        meters: Mapping[str, Callable[[], EnergySample]] = {},
        answered: Callable[[str], None] = lambda _: None,
        silent: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._hosts = {name: hosts[name] for name in limits}
        self._python = python
        self._write = write
        self._limits = limits
        self._meters = meters
        self._every_s = every_s
        self._answered = answered
        self._silent = silent
        self._dialogues: dict[str, Dialogue] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._during, name="host-watch", daemon=True)

    def start(self) -> dict[str, ClockReading]:
        """Read all once ("before"), then every few seconds until `stop`."""
        readings = self._read_all("before")
        self._thread.start()
        return readings

    def stop(self) -> None:
        """The last readings ("after")."""
        if self._thread.ident is None:
            return
        self._stop.set()
        self._thread.join()
        self._read_all("after")
        for dialogue in self._dialogues.values():
            dialogue.close()
        self._dialogues.clear()

    def _during(self) -> None:
        while not self._stop.wait(self._every_s):
            self._read_all("during")

    def _read_all(self, when: When) -> dict[str, ClockReading]:
        at_once(self._read_meter, self._meters)
        readings = at_once(lambda name: self._read(name, when), self._hosts)
        return {n: r for n, r in zip(self._hosts, readings, strict=True) if r is not None}

    def _read_meter(self, name: str) -> None:
        try:
            reading = self._meters[name]()
        except LabFault as fault:
            self._write("energy", host=name, problem=str(fault))
        else:
            self._write("energy", host=name, **msgspec.structs.asdict(reading))

    def _read(self, name: str, when: When) -> ClockReading | None:
        fields: dict[str, Any] = {"when": when, "host": name}
        try:
            if name not in self._dialogues:
                self._dialogues[name] = open_facts(self._hosts[name], self._python[name])
            reading = read_clock(self._dialogues[name])
            self._write(
                "clock",
                **fields,
                offset_ms=round(reading.offset_ms, 4),
                bound_ms=round(reading.bound_ms, 4),
                wall_minus_monotonic_ns=reading.wall_minus_monotonic_ns,
            )
            seen = read_facts(self._dialogues[name], "conditions", Conditions)
            limits = msgspec.to_builtins(self._limits[name])
            self._write("conditions", **fields, limits=limits, seen=msgspec.to_builtins(seen))
        except LabFault as fault:
            if (dialogue := self._dialogues.pop(name, None)) is not None:
                with suppress(OSError):
                    dialogue.close()
            self._write("clock", **fields, problem=getattr(fault, "problem", str(fault)))
            self._silent(name)
            return None
        self._answered(name)
        return reading
