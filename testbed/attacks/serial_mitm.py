"""A man in the middle of a sensor board's line: `serial.mitm`.

He takes the place of the cable (`nodes.board.middle`), so the board must be a process, in loopback
or in the emulated lab; software cannot cut into a real cable. A trial's id is
`serial/<board>/<SHA-256 of the frame>/<value>`, with the value that he put into a reading. It is
observed if the tap on the host's side logged that frame. It succeeds if that value is recorded. A
dropped or delayed frame is observed if the tap lacks a frame of the board, or got it late. It
succeeds if the chain lacks a reading in the middle of the board's others, or has one twice.
"""

from __future__ import annotations

import json

from pydantic import Field

from chain.ledger.operations import Data
from inventory.model import Lab
from testbed.attacks.mitm import Mitm
from testbed.campaign.injection import Attack, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, register
from testbed.checks.evidence import Evidence
from testbed.checks.properties import repeated_readings
from testbed.checks.records import board_readings
from testbed.checks.tap import Tap
from testbed.checks.trials import Tried, refused_on_lines
from testbed.grouped import grouped

__all__ = ["SerialMitm"]


class SerialMitm(Mitm):
    """Stand on the line of boards `on` until `for` has passed. `alter`: before each frame of the
    board, `copies` altered ones with a good CRC reach its host; the seed draws bytes, counters and
    values. `downgrade`: they name another suite, or have no tag. `reflect`: the host's frames come
    back to it. `drop`: the board's frames are taken away. `delay`: each waits for `by`."""

    copies: int = Field(default=3, ge=1, le=20)


class SerialMitmAttack(Attack):
    """If the orchestrator is gone, the cable ends the attack by itself. `heal` sends `off` once to
    each board, also when the run is cut off."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._ordered: list[str] = []

    def apply(self) -> None:
        params = self.scene.event.params
        what = f"{params['copies']} {params['by_ms']} {round(self.scene.undo_after_s * 1000)}"
        for board in self.scene.nodes("on"):
            seed = self.scene.rng.getrandbits(31)
            self._ordered.append(board.name)
            self._order(board.name, f"middle {params['how']} {seed} {what}")
        self.sent()

    def heal(self) -> None:
        ordered, self._ordered = self._ordered, []
        for board in ordered:
            sent = self._order(board, "middle off")
            self.sent(*(f"serial/{board}/{each}" for each in sent), frames=len(sent))

    def _order(self, board: str, order: str) -> list[str]:
        from testbed.boards.cable import order_cable  # noqa: PLC0415 - only a run needs it

        deployment = self.scene.deployment
        answer = order_cable(deployment, deployment.node(board), order)
        return [str(each) for each in answer.get("sent", [])]


def judge(evidence: Evidence, attack: str) -> Judgement:
    tried = Tried(evidence, attack)
    boards = {trial.split("/")[1] for trial in tried.trials}
    taps = {board: Tap(evidence.serial(board)) for board in boards}
    for line in tried.lines:
        seen = []
        for board, sent in grouped(line.trials, lambda trial: trial.split("/")[1]).items():
            event, tap = tried.events.get(line.event), taps[board]
            match event and event.params["how"]:
                case "drop":
                    seen += sent[: tap.missing(tried.begun_ns(line), line.t)]
                case "delay":
                    late_ms = float(str(event.params["by_ms"])) if event else 0.0
                    seen += [each for each in sent if tap.is_late(each.split("/")[2], late_ms)]
                case _:
                    seen += [each for each in sent if each.split("/")[2] in tap.digests]
        tried.see(line, seen)
    if tried.params("how") & {"drop", "delay"}:
        successes = _lost_or_twice(evidence, boards)
    else:
        wrong = {trial.split("/")[3] for trial in tried.trials}
        successes = len(wrong & _values(evidence, boards))
    tried.refused.update(refused_on_lines(evidence, boards, tried.since_ns))
    return tried.judgement(successes)


def _values(evidence: Evidence, boards: set[str]) -> set[str]:
    """All values that are recorded as readings of these boards."""
    found: set[str] = set()
    for entry, (board, _, _) in board_readings(evidence.longest.entries):
        if board in boards and isinstance(entry.operation, Data):
            found.update(map(str, json.loads(entry.operation.payload).get("values", ())))
    return found


def _lost_or_twice(evidence: Evidence, boards: set[str]) -> int:
    numbers: dict[tuple[str, int], set[int]] = {}
    for _, (board, boot, number) in board_readings(evidence.longest.entries):
        if board in boards:
            numbers.setdefault((board, boot), set()).add(number)
    lost = sum(max(each) - min(each) + 1 - len(each) for each in numbers.values())
    again = repeated_readings(evidence.longest)
    return lost + sum(count - 1 for (board, _, _), count in again.items() if board in boards)


def on_a_process(lab: Lab, _hosts: tuple[str, ...]) -> str | None:
    from testbed.boards.cable import has_cable  # noqa: PLC0415 - only a plan or a run needs it

    boards = lab.boards_in_use()
    if boards and all(has_cable(lab, board) for board in boards):
        return None
    return "nobody can cut into a real cable: a board that is a process is needed"


register(
    Kind(
        "serial.mitm",
        SerialMitm,
        category="attack",
        layer="serial",
        summary="somebody on a board's line alters, reflects, drops, delays or downgrades",
        mechanisms=(Mechanism("cable", SerialMitmAttack, available=on_a_process),),
        judge=judge,
        seen="the tap on the line logs each frame",
    )
)
