"""One soak: the lab comes up, is disturbed, used and watched. Then it settles and is judged."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from inventory.load import load_lab, packaged
from testbed.checks.evidence import Evidence
from testbed.errors import LabFault
from testbed.hosts.port import UnitState
from testbed.report.archive import seal
from testbed.soak.disk import lacking
from testbed.soak.disturb import Disturber
from testbed.soak.draw import draw
from testbed.soak.judge import (
    SoakResult,
    away,
    block_times_ns,
    commands_at_fault,
    growth,
    judge,
    orphans,
    unsettled,
)
from testbed.soak.operator import SoakOperator
from testbed.soak.readings import forgotten, waiting
from testbed.standing.bringup import running_lab
from testbed.standing.bundle import collect_running
from testbed.standing.running_lab import RunningLab
from testbed.standing.state import NodeState, look

__all__ = ["run_soak"]

EVERY_MS = 500
SAMPLE_S = 5.0
ADMITTED_S_MAX = 120.0
SETTLE_S_MAX = 60.0
LAG_BLOCKS_MAX = 30  # behind the replicas, while readings are sent
ENDED_S_MAX = 10.0
POLL_S = 0.2
POWER_NOTE = "unsynced writes of a power cut: no file system here drops them; processes die only"

Say = Callable[[str], None]


def run_soak(seed: int, duration_s: float, out: Path, disk: Path | None, say: Say) -> SoakResult:
    """Raises LabFault if the lab does not come up or the machine fails."""
    path = packaged("soak")
    problems: list[str] = []
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="guests-")))
        running, deployment = stack.enter_context(
            running_lab(load_lab(path), EVERY_MS, say, str(path.resolve()))
        )
        devices = tuple(n for n, e in running.nodes.items() if e.role in ("mobile", "environment"))
        if missing := _left(lambda: _not_admitted(running, devices), ADMITTED_S_MAX):
            raise LabFault(f"not admitted within {ADMITTED_S_MAX:.0f} s: {', '.join(missing)}")
        disturber = Disturber(deployment, disk, say)
        operator = SoakOperator(seed, path, scratch, devices)
        with _sampled(running) as samples:
            operator.start()
            try:
                disturber.run(draw(seed, duration_s, deployment.nodes, disk=disk is not None))
                operator.stop()
            except BaseException:
                operator.abandon()
                raise
        say("settling")
        for name in _given_up(running):
            problems.append(f"given up: {name}")
            operator.run("restart", name)
        lagging = _left(lambda: unsettled(look(running), LAG_BLOCKS_MAX), SETTLE_S_MAX)
        problems += [f"not back after {SETTLE_S_MAX:.0f} s: {each}" for each in lagging]
        samples.append(look(running))
        looked_ns, waits = time.time_ns(), waiting(deployment)
        bundle = collect_running(running, out, say, deployment)
        roots = [Path(running.home), *(Path(str(h.root)) for h in deployment.hosts.values())]
    # Killed processes need a moment to disappear.
    problems += _left(lambda: list(orphans(roots)), ENDED_S_MAX)
    blocks, records, acknowledged, breaches = judge(bundle)
    problems += [*breaches, *commands_at_fault(operator.commands)]
    board_readings, lost = forgotten(Evidence(bundle.runs[0]), waits, looked_ns)
    problems += lost
    skipped = [POWER_NOTE] + ([f"disk-full: {lacking()}"] if disk is None else [])
    result = SoakResult(
        seed=seed,
        duration_s=duration_s,
        skipped=tuple(skipped),
        bundle=str(bundle.path),
        blocks=blocks,
        records=records,
        acknowledged=acknowledged,
        board_readings=board_readings,
        commands=len(operator.commands),
        restarts=sum(state.process.restarts for state in samples[-1]),
        away=away(block_times_ns(bundle), disturber.done),
        growth=growth(samples),
        problems=tuple(problems),
    )
    bundle.write_json("soak.json", msgspec.to_builtins(result))
    seal(bundle, measured=True)
    return result


def _left(find: Callable[[], list[str]], within_s: float) -> list[str]:
    """Waits until `find` finds nothing. Returns what it still finds when the time is over."""
    deadline_s = time.monotonic() + within_s
    while (found := find()) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)
    return found


def _not_admitted(running: RunningLab, devices: tuple[str, ...]) -> list[str]:
    """An admitted device has a copy of the ledger."""
    return [state.name for state in look(running) if state.name in devices and not state.height]


@contextmanager
def _sampled(running: RunningLab) -> Iterator[list[list[NodeState]]]:
    """Samples the state of each process every `SAMPLE_S`, for the length of a `with` block."""
    samples = [look(running)]
    over = threading.Event()

    def work() -> None:
        while not over.wait(SAMPLE_S):
            samples.append(look(running))

    thread = threading.Thread(target=work, name="samples", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _given_up(running: RunningLab) -> list[str]:
    return [each.name for each in look(running) if each.process.state is UnitState.FAILED]
