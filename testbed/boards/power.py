"""Switching hosts and boards off and on, by whatever switches their power.

One small class per driver of the inventory's `power:`. Nothing here waits for a host to come back:
whoever switched it looks for that over SSH.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Protocol, assert_never

from inventory.model import CommandPower, EmulatedPower, Lab, UhubctlPower
from nodes.board.control import ControlError, command
from testbed.boards.driver import Reset
from testbed.emulate.lab import EmulatedLab, find
from testbed.errors import ConfigurationError, LabFault

__all__ = ["POWER_S_MAX", "Power", "board_reset", "power_of"]

POWER_S_MAX = 60.0


class Power(Protocol):
    """One host's switch. Both verbs may be repeated; LabFault if it does not obey."""

    def off(self) -> None: ...
    def on(self) -> None: ...


class _Uhubctl(Power):
    """A USB hub that switches its ports: "1-1.2" is port 2 of the hub at 1-1."""

    def __init__(self, name: str, settings: UhubctlPower) -> None:
        hub, _, port = settings.port.rpartition(".")
        if not hub or not port.isdigit():
            raise ConfigurationError(
                f"{name}: power port {settings.port!r}: hub and port as uhubctl prints them: 1-1.2"
            )
        self._name = name
        self._argv = ("uhubctl", "-l", hub, "-p", port, "-a")

    def off(self) -> None:
        _run(self._name, (*self._argv, "off"))

    def on(self) -> None:
        _run(self._name, (*self._argv, "on"))


class _Command(Power):
    """Any program of this machine, run without a shell."""

    def __init__(self, name: str, settings: CommandPower) -> None:
        self._name = name
        self._settings = settings

    def off(self) -> None:
        _run(self._name, self._settings.off)

    def on(self) -> None:
        _run(self._name, self._settings.on)


class _Emulated(Power):
    """A host of the emulated lab whose files stand beside the inventory."""

    def __init__(self, name: str, lab: EmulatedLab) -> None:
        self._name = name
        self._lab = lab

    def off(self) -> None:
        self._lab.power(self._name, "off")

    def on(self) -> None:
        self._lab.power(self._name, "on")


def power_of(lab: Lab, name: str, inventory: Path) -> Power:
    """The switch of a host. Raises ConfigurationError if the inventory names none."""
    settings = lab.hosts[name].power
    match settings:
        case None:
            fix = "add power: {driver: uhubctl, port: ...} or {driver: command, off: .., on: ..}"
            raise ConfigurationError(f"{name} has no power switch in the inventory; {fix}")
        case UhubctlPower():
            return _Uhubctl(name, settings)
        case CommandPower():
            return _Command(name, settings)
        case EmulatedPower():
            return _Emulated(name, find(inventory.parent))
        case _:
            assert_never(settings)


def board_reset(lab: Lab, board: str, inventory: Path) -> Reset | None:
    """What restarts a board from here, or None: then a person has to press its reset."""
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


def _run(name: str, argv: tuple[str, ...]) -> None:
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
