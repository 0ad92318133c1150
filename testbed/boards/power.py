"""Switches hosts and boards off and on, by the driver that the inventory names.

One case per driver of the inventory's `power:`. Nothing here waits until a host is back: the caller
checks that over SSH.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import assert_never

from inventory.entries import CommandPower, EmulatedPower, UhubctlPower
from inventory.model import Lab
from nodes.board.control import ControlError, command
from testbed.boards.micropython import Reset
from testbed.emulate.lab import find
from testbed.errors import ConfigurationError, LabFault

__all__ = ["POWER_S_MAX", "Power", "board_reset", "is_on", "power_of"]

POWER_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Power:
    """One host's switch. `on` and `off` may be repeated. They raise LabFault if it does not
    obey."""

    off: Callable[[], object]
    on: Callable[[], object]


def power_of(lab: Lab, name: str, inventory: Path) -> Power:
    """The switch of a host. Raises ConfigurationError if the inventory names none."""
    settings = lab.hosts[name].power
    match settings:
        case None:
            fix = "add power: {driver: uhubctl, port: ...} or {driver: command, off: .., on: ..}"
            raise ConfigurationError(f"{name} has no power switch in the inventory; {fix}")
        case UhubctlPower():
            hub, _, port = settings.port.rpartition(".")  # `inventory.checks` has made sure of both
            argv = ("uhubctl", "-l", hub, "-p", port, "-a")
            return Power(partial(_run, name, (*argv, "off")), partial(_run, name, (*argv, "on")))
        case CommandPower():
            return Power(partial(_run, name, settings.off), partial(_run, name, settings.on))
        case EmulatedPower():
            emulated = find(inventory.parent)
            return Power(partial(emulated.power, name, "off"), partial(emulated.power, name, "on"))
        case _:
            assert_never(settings)


def is_on(lab: Lab, name: str, inventory: Path) -> bool | None:
    """Whether a host has power; None if there is no switch or the switch cannot tell."""
    settings = lab.hosts[name].power
    match settings:
        case UhubctlPower():
            hub, _, port = settings.port.rpartition(".")
            try:
                said = _run(name, ("uhubctl", "-l", hub, "-p", port))
            except LabFault:  # no switch is needed for this question: the host itself is asked
                return None
            found = re.search(rf"Port {port}: (.*)", said)
            return None if found is None else "power" in found[1].split()
        case EmulatedPower():
            return bool(find(inventory.parent).ask(do="status")["hosts"][name]["on"])
        case CommandPower() | None:
            return None
        case _:
            assert_never(settings)


def board_reset(lab: Lab, board: str, inventory: Path) -> Reset | None:
    """How to restart a board from here; None if a person has to press its reset."""
    power = lab.hosts[lab.boards[board].host].power
    if not isinstance(power, EmulatedPower):
        return None
    control = find(inventory.parent).board_control(board)

    def reset() -> None:
        try:
            command(control, "reset")
        except ControlError as error:
            raise LabFault(f"{board}: cannot reset it: {error}") from error

    return reset


def _run(name: str, argv: tuple[str, ...]) -> str:
    """Runs a command; returns what it printed."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",  # any program, in any language
            timeout=POWER_S_MAX,
            check=False,
        )
    except FileNotFoundError as error:
        raise LabFault(f"{name}: power: no program {argv[0]} here; install it") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabFault(f"{name}: power: {argv[0]}: {error}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip()[-500:]
        raise LabFault(f"{name}: power: {argv[0]}: exit code {done.returncode}: {said}")
    return done.stdout
