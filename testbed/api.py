"""The testbed from Python, for notebooks, scripts and the pytest plugin (`testbed.pytest_plugin`).

    with running_testbed() as bench:                      # this machine; or a file: "my-lab.yaml"
        bench.wait_for(lambda: bench.height >= 5)
        with bench.inject("process.crash", on="primary") as seen:
            print(seen.what)
        bench.revoke("phones-1", "lost")
        result = bench.collect()
    result = run_campaign("quick-start", seed=7)
    result.verdict, result.table("results")               # a Parquet file: pandas reads it

The names in `__all__` here stay. Everything else in the package may change from version to version.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from signal import Signals
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

from inventory.duration import duration_ms
from inventory.load import load_lab
from inventory.model import Lab
from testbed.bundle import RUNS_DIR, Bundle
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.event import ScheduledEvent, SystemName
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.injection import Scene, Seen
from testbed.campaign.kinds import equip, kinds
from testbed.campaign.reach import Reach
from testbed.campaign.screen import QuietScreen
from testbed.campaign.session import Session
from testbed.campaign.watch import Watch
from testbed.errors import ConfigurationError, LabFault
from testbed.provision.deployment import Deployment
from testbed.report.derive import rebuild
from testbed.report.judging import Judging
from testbed.report.summary import Summary
from testbed.standing.bringup import running_lab
from testbed.standing.bundle import collect_running
from testbed.standing.operator import Operator, operating
from testbed.standing.running_lab import RunningLab, inventory_path
from testbed.systems.chain import CHAIN
from testbed.systems.known import find_system

__all__ = ["CampaignResult", "Device", "RunningTestbed", "Seen", "run_campaign", "running_testbed"]

T = TypeVar("T")
LASTS = "10m"  # of an injection: it lasts until its `with` block ends, but at most so long
SEEN_S_MAX = 60.0
WHOLE_S_MAX = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Device:
    """A device as the ledger has it. `state` is "admitted", "revoked" or "renewed"."""

    name: str
    node: str
    kind: str
    privilege: int
    state: str


@dataclass(frozen=True)
class CampaignResult:
    """A result bundle: what `testbed report` shows."""

    path: Path
    summary: Summary

    @property
    def verdict(self) -> str:
        """ "passed", "degraded", "failed", "partial" or "invalid"."""
        return self.summary.verdict

    def table(self, name: str, run: int | None = None) -> Path:
        """The Parquet file of a table over all runs, or of one run by its index.

        Raises ConfigurationError with the names that there are.
        """
        folder = self.path
        if run is not None:
            folder /= next(row.path for row in self.summary.runs if row.index == run)
        path = folder / "derived" / f"{name}.parquet"
        if not path.exists():
            there = ", ".join(sorted(p.stem for p in path.parent.glob("*.parquet")))
            raise ConfigurationError(f"{folder}: no table {name}; there are: {there}")
        return path

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a bundle's directory. Makes the derived files again from the raw files."""
        bundle = Bundle(Path(path))
        return cls(bundle.path, rebuild(bundle))


class RunningTestbed:
    """A lab that runs, for the length of a `with` block: see `running_testbed`."""

    def __init__(self, running: RunningLab, deployment: Deployment, watch: Watch, say: Say) -> None:
        self._running = running
        self._deployment = deployment
        self._watch = watch
        self._say = say
        self._number = 0

    @property
    def lab(self) -> Lab:
        """The inventory."""
        return self._deployment.lab

    @property
    def processes(self) -> tuple[str, ...]:
        return tuple(node.name for node in self._deployment.processes)

    @property
    def height(self) -> int:
        """The greatest height that any replica has executed."""
        return self._watch.tip()

    @property
    def view(self) -> int:
        """The highest view that any replica has entered."""
        return self._watch.current_view()

    @property
    def primary(self) -> str:
        return self._watch.primary().name

    def events(self, process: str) -> list[dict[str, Any]]:
        """The newest events of a process (a few thousand), as it logged them."""
        if process not in self._watch.nodes:
            there = ", ".join(self._watch.nodes)
            raise ConfigurationError(f"no process {process}; there are: {there}")
        return list(self._watch.nodes[process].events)

    def wait_for(self, condition: Callable[[], bool], within: str = "30s") -> None:
        """Wait until it is true. It is tested whenever a process logs something. Raises
        TimeoutError."""
        if not self._watch.wait_for(condition, duration_ms(within) / 1000):
            raise TimeoutError(f"not true within {within}")

    # --- faults and processes --------------------------------------------------------------

    def kill(self, process: str) -> None:
        """Kill a process with `kill -9`. Its supervisor starts it again."""
        node = self._deployment.node(process)
        self._deployment.host(node).signal(node.unit, Signals.SIGKILL)

    def restart(self, process: str) -> None:
        """End a process and start it again. Returns when it serves."""
        self._deployment.restart(self._deployment.node(process))

    @contextmanager
    def inject(self, kind: str, **parameters: Any) -> Iterator[Seen]:
        """A fault of `testbed campaign kinds` for the length of a `with` block.

        Parameters as in a campaign file; `from`, `with` and `for` take a trailing underscore. Gives
        what was seen of it. Raises ConfigurationError. Raises LabFault if the fault was not seen to
        take effect, or if the target did not recover.
        """
        event = self._event(kind, parameters)
        mechanism = kinds()[kind].mechanism(event.mechanism)
        if mechanism is None:
            raise ConfigurationError(f"{kind} cannot be done in this lab: {event.skipped}")
        with closing(mechanism.make(self._scene(event))) as injection:
            try:
                injection.arm()
                injection.apply()
                seen, until_s = None, time.monotonic() + SEEN_S_MAX
                while seen is None and (left_s := until_s - time.monotonic()) > 0:
                    seen = injection.observe(left_s)
                if seen is None:
                    raise LabFault(f"{kind} was not seen to take effect within {SEEN_S_MAX:g} s")
                yield seen
            finally:
                injection.heal()
        if not injection.verify(WHOLE_S_MAX):
            raise LabFault(f"{kind}: the target did not recover within {WHOLE_S_MAX:g} s")

    def _event(self, kind: str, parameters: dict[str, Any]) -> ScheduledEvent:
        """Makes the event by a campaign with one fault, so that parameters are checked as in a
        file."""
        known = kinds().get(kind)
        if known is None or known.category == "attack":
            raise ConfigurationError(f"{kind} is no fault; `testbed campaign kinds` lists them")
        self._number += 1
        fault: dict[str, Any] = {"id": f"injected-{self._number}", "do": kind}
        fault |= {name.rstrip("_"): value for name, value in parameters.items()}
        if "for_" in known.params.model_fields:
            fault.setdefault("for", LASTS)
        campaign = {
            "campaign": "injected",
            "workload": {"kind": "enrol", "rate": "1/h"},
            "phases": {"fault": "24h"},
            "faults": [fault],
            "guard": "none",
        }
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / "injected.yaml"
            path.write_text(json.dumps(campaign))  # which is YAML too
            (trial,) = expand(load_campaign(path), self.lab).trials
        return trial.events[0]

    def _scene(self, event: ScheduledEvent) -> Scene:
        return Scene(
            event=event,
            deployment=self._deployment,
            watch=self._watch,
            primary=self._watch.primary,
            rng=Random(event.id),  # noqa: S311 - repeatable, not secret
            captures=Path(self._running.home),
            undo_after_s=event.for_ms / 1000,
        )

    # --- devices ----------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """Every device that was ever admitted, by name, from a ledger that is verified here."""

        async def read(operator: Operator) -> dict[str, Device]:
            return {
                name: Device(
                    name,
                    identity.node.hex(),
                    identity.kind,
                    identity.privilege,
                    identity.ended or "admitted",
                )
                for name, identity in operator.devices
            }

        return self._operate(read)

    def revoke(self, device: str, reason: str = "revoked") -> None:
        """Revoke a device for ever. Returns when the ledger has it."""
        self._operate(lambda operator: operator.revoke(operator.find(device)[1], reason))

    def grant(self, device: str, privilege: int) -> None:
        """Returns when the ledger has it."""
        self._operate(lambda operator: operator.grant(operator.find(device)[1], privilege))

    def _operate(self, work: Callable[[Operator], Coroutine[Any, Any, T]]) -> T:
        async def operate() -> T:
            async with operating(self._running) as operator:
                return await work(operator)

        return asyncio.run(operate())

    def collect(self, out: str | Path = RUNS_DIR) -> CampaignResult:
        """A result bundle of the lab as it is now. The lab continues."""
        bundle = collect_running(self._running, Path(out), self._say, self._deployment)
        return CampaignResult.read(bundle.path)


@contextmanager
def running_testbed(
    inventory: str | Path | None = None, *, period: str = "1s", say: Say = lambda _: None
) -> Iterator[RunningTestbed]:
    """A lab for the length of a `with` block: the hosts of an inventory file, or this machine.

    It is brought up, and its devices are admitted, before the block begins; each sends a reading
    every `period`. Any fault can be injected. `say` gets a line for each step. Raises
    ConfigurationError, LabFault.
    """
    file = None if inventory is None else Path(inventory)
    lab = load_lab(file)
    with ExitStack() as stack:
        running, deployment = stack.enter_context(
            running_lab(
                lab,
                duration_ms(period),
                say,
                str(inventory_path(file)),
                prepare=lambda deployment: equip(_mechanisms(lab), deployment),
            )
        )
        watch = Watch(deployment, Reach(say, lambda *_, **__: None))
        stack.callback(watch.close)
        watch.start()
        bench = RunningTestbed(running, deployment, watch, say)
        bench.wait_for(lambda: all(d.state == "admitted" for d in watch.devices), "2m")
        yield bench


def _mechanisms(lab: Lab) -> set[tuple[str, str]]:
    """(kind, mechanism) of every fault that this lab can have."""
    found = set()
    for kind in kinds().values():
        chosen, _ = kind.choose(lab, tuple(lab.active), CHAIN)
        if chosen is not None and kind.category != "attack":
            found.add((kind.name, chosen.name))
    return found


def run_campaign(
    campaign: str | Path,
    inventory: str | Path | None = None,
    *,
    seed: int | None = None,
    system: SystemName = "chain",
    out: str | Path = RUNS_DIR,
) -> CampaignResult:
    """Runs a campaign as `testbed run` does: a shipped one by name, or a file. Raises
    ConfigurationError and LabFault; then the bundle has what was collected before."""
    file = None if inventory is None else Path(inventory)
    lab, path = load_lab(file), find_campaign(str(campaign))
    schedule = expand(load_campaign(path), lab, seed, find_system(system))
    inputs = Inputs(
        lab=lab,
        schedule=schedule,
        campaign_yaml=path.read_bytes(),
        campaign_file=str(campaign),
        inventory_file=None if inventory is None else str(inventory),
    )
    bundle = new_bundle(inputs, Path(out))

    judging = Judging(bundle)
    with bundle.locked():
        with QuietScreen() as screen:
            Session(lab, schedule, bundle, screen, judging.run).make(bundle.manifest.runs)
        return CampaignResult(bundle.path, judging.whole())
