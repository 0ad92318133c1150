"""Faults of boards and their lines: `serial.noise`, `serial.unplug`, `serial.wrong-baud` and
`board.boot-loop`.

A board that is a process, or one of the emulated lab, gets its faults from its cable
(`testbed.boards.cable`). Each order has a time limit, after which the cable undoes it by itself. A
real board is cut off from USB on its host, and its port's settings and lines are changed there.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import Field

from inventory.entries import Board
from inventory.model import Lab
from testbed import programs
from testbed.boards.cable import has_cable, order_cable
from testbed.boards.flash import is_plugged
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, OnProcesses, register
from testbed.campaign.quantities import Duration, SpanField
from testbed.campaign.watch import Since
from testbed.care.dead_man import arm, disarm
from testbed.errors import LabFault
from testbed.faults.repeating import Repeating
from testbed.hosts.port import Host, NodeCommand
from testbed.provision.layout import Node

__all__ = ["BoardFault"]

WRONG_BAUD: Final = 1200
AGAIN_S: Final = 0.5
"""How often the wrong rate is set, because the device opens its port again and corrects the
rate."""
_READY: Final = ("connected", "sponsored")


class OnBoard(OnProcesses):
    """Disturbs sensor boards until `for` has passed."""


class Noise(OnBoard):
    """A share of the bytes on the line, in both directions, are other bytes."""

    share: Annotated[float, Field(gt=0, le=1)] = 0.05


class Unplug(OnBoard):
    """The cable is pulled, and plugged in again when `for` has passed. The board loses its power,
    except with the mechanism `usb`."""


class WrongBaud(OnBoard):
    """The two ends use different rates, so nothing that arrives makes sense."""


class BootLoop(OnBoard):
    """The board is reset every `period`."""

    period: SpanField = Duration.parse("500ms")


class BoardFault(Injection):
    """`strike` and `repair` act on one board. Seen when the device at the other end of the line
    loses the board, or counts noise. Healed when it has the board again."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._since: dict[str, Since] = {}  # by name of each board that was hit
        self._noise: dict[str, int] = {}
        self._strikes = Repeating("boards", self._strike_all)

    @abstractmethod
    def strike(self, board: Node) -> None: ...

    def arm(self) -> None:
        for node in self.scene.candidates("on"):
            if node.role != "board":
                raise LabFault(f"{node.name} is no board; use on: board or board(NAME)")

    def repair(self, board: Node) -> None:
        """Undo it. Repeatable."""

    def read_back(self, board: Node) -> object:
        """What the mechanism itself reports of the effect; false if there is none."""
        return True

    def apply(self) -> None:
        boards = self.scene.nodes("on")
        for board in boards:
            self._noise[board.name] = self._noise_of(board)
            self._since[board.name] = Since(self.scene.watch)
            self.strike(board)
        if (again_s := self._again_s()) is not None:
            self._strikes.start(lambda: again_s)

    def _again_s(self) -> float | None:
        """How often to strike again; None: never."""
        period_ms = self.scene.event.params.get("period_ms")
        return None if period_ms is None else float(str(period_ms)) / 1000

    def _strike_all(self) -> None:
        for board in self.scene.nodes("on"):
            self.strike(board)

    def observe(self, within_s: float) -> Seen | None:
        self._strikes.check()
        boards = self.scene.nodes("on")
        if not self.scene.watch.wait_for(lambda: all(map(self._is_noticed, boards)), within_s):
            return None
        read = {board.name: self.read_back(board) for board in boards}
        if not all(read.values()):
            return None
        return Seen("the device lost its board, or counts noise on the line", read)

    def heal(self) -> None:
        self._strikes.end()
        for board in self.scene.candidates("on"):
            if board.name in self._since:
                self.repair(board)

    def verify(self, within_s: float) -> bool:
        """Whether the devices have every hit board again."""
        self._strikes.check()
        hit = [board for board in self.scene.nodes("on") if board.name in self._since]
        return self.scene.watch.wait_for(
            lambda: all(self._state(board) in _READY for board in hit), within_s
        )

    def _is_noticed(self, board: Node) -> bool:
        if self._noise_of(board) > self._noise[board.name]:
            return True
        new = self._since[board.name].logged(self._sponsor(board).name, "board")
        states = [event["state"] for event in _about(board, new)]
        return any(state.startswith("lost") for state in states) or states.count("connected") > 1

    def _noise_of(self, board: Node) -> int:
        """How much noise the device has counted since its start, by its newest count."""
        counts: dict[str, int] = self._newest(board, "serial-counts").get("counts", {})
        return sum(number for what, number in counts.items() if what.startswith("noise"))

    def _state(self, board: Node) -> str:
        """The state of the board that the device logged last."""
        return str(self._newest(board, "board").get("state", ""))

    def _newest(self, board: Node, kind: str) -> dict[str, Any]:
        """The device's newest event of a kind about the board; empty if there is none."""
        view = self.scene.watch.nodes[self._sponsor(board).name]
        found = _about(board, view.logged(kind))
        return found[-1] if found else {}

    def _sponsor(self, board: Node) -> Node:
        return self.scene.deployment.sponsor(board)


def _about(board: Node, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [event for event in events if event["board"] == board.name]


# --- cables that we hold ------------------------------------------------------------------------


class CableFault(BoardFault):
    """A fault by orders to the process that simulates the cable."""

    def order(self, board: Node, order: str) -> dict[str, Any]:
        return order_cable(self.scene.deployment, board, order)

    @property
    def spell_ms(self) -> int:
        """After this time the cable undoes it by itself."""
        return round(self.scene.undo_after_s * 1000)


class NoisyCable(CableFault):
    """Noise on the line. A wrong baud rate is noise in every byte."""

    def strike(self, board: Node) -> None:
        share = self.scene.event.params.get("share", 1.0)
        self.order(board, f"noise {share} {self.spell_ms} {self.scene.rng.getrandbits(31)}")

    def read_back(self, board: Node) -> object:
        return self.order(board, "status")["spoilt_bytes"]

    def repair(self, board: Node) -> None:
        self.order(board, "noise off")


class PulledCable(CableFault):
    def strike(self, board: Node) -> None:
        self.order(board, f"unplug {self.spell_ms}")

    def read_back(self, board: Node) -> object:
        return not self.order(board, "status")["plugged"]

    def repair(self, board: Node) -> None:
        self.order(board, "plug")


class ResetByCable(CableFault):
    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._first: dict[str, int] = {}

    def strike(self, board: Node) -> None:
        starts = self.order(board, "reset")["starts"]
        self._first.setdefault(board.name, starts)

    def read_back(self, board: Node) -> object:
        """Its starts since the first reset. A single one is no loop."""
        starts = self.order(board, "status")["starts"] - self._first[board.name]
        return starts if starts > 1 else 0


# --- real boards --------------------------------------------------------------------------------


class OnHostFault(BoardFault):
    """A fault on the board's host, at its port."""

    def host(self, board: Node) -> Host:
        return self.scene.deployment.host(board)

    def usb(self, board: Node, *words: str) -> str:
        return self.host(board).run(programs.shell(_USB, *words)).stdout.strip()

    def port(self, board: Node, *words: str) -> str:
        verb, *rest = words
        argv = programs.python("python3", _PORT, verb, board.file("port"), *rest)
        return self.host(board).run(argv).stdout.strip()


class Deauthorized(OnHostFault):
    """The kernel releases the USB device. `arm` finds its place, because later it is gone."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._places: dict[str, str] = {}

    def arm(self) -> None:
        super().arm()
        for board in self.scene.candidates("on"):
            place = self._places[board.name] = self.usb(board, "find", board.file("port"))
            undo = NodeCommand(tuple(programs.shell(_USB, "set", place, "1")))
            arm(self.host(board), f"plug-{board.name}", self.scene.undo_after_s, undo)

    def strike(self, board: Node) -> None:
        self.usb(board, "set", self._places[board.name], "0")

    def read_back(self, board: Node) -> object:
        return self.usb(board, "show", self._places[board.name]) == "0"

    def heal(self) -> None:
        super().heal()
        for board in self.scene.candidates("on"):
            disarm(self.host(board), f"plug-{board.name}")

    def repair(self, board: Node) -> None:
        self.usb(board, "set", self._places[board.name], "1")


class WrongRate(OnHostFault):
    """Sets the wrong rate again and again. It needs no undo: the device opens the port again with
    the right rate."""

    def strike(self, board: Node) -> None:
        if self.port(board, "baud", str(WRONG_BAUD)) != "1":
            raise LabFault(f"{board.name}: its port does not take {WRONG_BAUD} baud")

    def repair(self, board: Node) -> None:
        self.port(board, "baud", str(self.scene.deployment.lab.boards[board.name].line.baud))

    def _again_s(self) -> float:
        return AGAIN_S


class ResetByLines(OnHostFault):
    def strike(self, board: Node) -> None:
        self.port(board, "reset")


_USB: Final = "faults/on_host/usb.sh"
_PORT: Final = "faults/on_host/serial_port.py"


def _unfit(
    lab: Lab, hosts: tuple[str, ...], unfit: Callable[[str, Board], bool], why: str
) -> str | None:
    boards = {name: board for name, board in lab.boards_in_use().items() if board.host in hosts}
    if not boards:
        return f"{', '.join(hosts)}: no board"
    found = ", ".join(name for name, board in boards.items() if unfit(name, board))
    return f"{found}: {why}" if found else None


def _has_cables(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    why = "nothing in a real cable could spoil it"
    return _unfit(lab, hosts, lambda name, _: not has_cable(lab, name), why)


def _on_usb(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    def is_not(_: str, board: Board) -> bool:
        return board.match is None or board.match.device is not None

    return _unfit(lab, hosts, is_not, "on no USB")


def _is_real(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    return _unfit(lab, hosts, lambda _, board: not is_plugged(board), "no real port")


def _reset_by_lines(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    why = "DTR resets only boards with line: {reset_on_open: true}"
    unfit = _unfit(lab, hosts, lambda _, board: not board.line.reset_on_open, why)
    return unfit or _is_real(lab, hosts)


def _mechanisms(cable: Callable[[Scene], Injection], *others: Mechanism) -> tuple[Mechanism, ...]:
    return (Mechanism("cable", cable, _has_cables), *others)


for _name, _params, _summary, _ways in (
    (
        "serial.noise",
        Noise,
        "bytes on a board's line are spoilt",
        _mechanisms(NoisyCable),
    ),
    (
        "serial.unplug",
        Unplug,
        "a board's cable is pulled, and plugged in again when `for` has passed",
        _mechanisms(PulledCable, Mechanism("usb", Deauthorized, _on_usb)),
    ),
    (
        "serial.wrong-baud",
        WrongBaud,
        "a board's line has the wrong baud rate",
        _mechanisms(NoisyCable, Mechanism("termios", WrongRate, _is_real)),
    ),
    (
        "board.boot-loop",
        BootLoop,
        "a board is reset again and again",
        _mechanisms(ResetByCable, Mechanism("dtr", ResetByLines, _reset_by_lines)),
    ),
):
    register(
        Kind(
            _name,
            _params,
            category="fault",
            layer="serial",
            summary=_summary,
            mechanisms=_ways,
            seen="the device lost its board, or counts noise on the line",
        )
    )
