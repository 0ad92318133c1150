"""Everything that was written down about a run: manifest, schedule, events, faults, attacks.

Read once, leniently: a log that a killed process left torn, or a run that was cut short, is still
evidence; lines that could not be read are counted in `unreadable`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from chain.errors import PeerFault
from chain.genesis import Genesis
from inventory.load import InvalidFile
from testbed.bundle import Bundle
from testbed.campaign.file import Expect, load_campaign
from testbed.campaign.schedule import Phase, Schedule, Trial
from testbed.checks.logs import (
    AttackLine,
    Event,
    FaultLine,
    RunLine,
    SerialFrame,
    read_events,
    read_lines,
)
from testbed.checks.records import Chain, read_chain
from testbed.errors import ConfigurationError

__all__ = ["Evidence", "Manifest"]

ORCHESTRATOR_LOGS = frozenset({"run", "faults", "attacks", "clock"})

E = TypeVar("E", bound=Event)
T = TypeVar("T", bound=msgspec.Struct)


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a report needs of manifest.json."""

    argv: tuple[str, ...]
    seed: int
    schedule_sha256: str
    stage: Literal["loopback", "emulated", "lab", "simulation"]
    started: str
    exclusions: dict[str, str] = {}
    git: dict[str, str | bool | None] = {}
    python: str = ""
    packages: dict[str, str] = {}


class Evidence:
    """The files of one bundle. Raises ConfigurationError if the manifest or the inputs are not
    there: then it is not a run that began."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        try:
            self.manifest = msgspec.convert(bundle.read_json("manifest.json"), type=Manifest)
            self.schedule = Schedule.from_json(_input(bundle, "schedule.json"))
            self.genesis = Genesis.decode(_input(bundle, "genesis.json"))
            self.expect: Expect = load_campaign(bundle.path / "inputs/campaign.yaml").expect
        except (PeerFault, InvalidFile, msgspec.ValidationError) as error:
            raise ConfigurationError(f"{bundle.path}: {error}; is this a bundle?") from error
        self.unreadable: Counter[str] = Counter()
        self.run = self._log("run.jsonl", RunLine)
        self.faults = self._log("faults.jsonl", FaultLine)
        self.attacks = self._log("attacks.jsonl", AttackLine)
        self._events = self._read_events()

    @property
    def start_ns(self) -> int | None:
        """Wall time that the schedule counts from; None if the run never started."""
        return next((line.start_ns for line in self.run if line.what == "start"), None)

    @property
    def completed(self) -> bool:
        """All phases were passed."""
        return any(line.what == "end" for line in self.run)

    @property
    def trial(self) -> Trial:
        index = next((line.trial for line in self.run if line.what == "start"), 0)
        return self.schedule.trials[index]

    @cached_property
    def liars(self) -> frozenset[str]:
        """Replicas that the campaign made lie: what they store proves nothing."""
        kinds = {event.id: event.kind for event in self.trial.events}
        return frozenset(
            name
            for line in self.faults
            if kinds.get(line.event, "").startswith("byzantine.")
            for names in line.targets.values()
            for name in names
        )

    @property
    def ledgers(self) -> list[Path]:
        """The collected databases of honest replicas, in the order of their names."""
        return [path for path in self.bundle.ledgers if path.stem not in self.liars]

    @cached_property
    def chains(self) -> tuple[Chain, ...]:
        """What stands in `ledgers`."""
        return tuple(read_chain(path) for path in self.ledgers)

    @cached_property
    def longest(self) -> Chain:
        """The reference where replicas agree (`properties` says whether they do)."""
        nothing = Chain(name="", heads=(), entries=())
        return max(self.chains, key=lambda chain: chain.height, default=nothing)

    def events(self, kind: type[E]) -> Iterator[E]:
        """Of all processes, in the order of their wall clocks."""
        return (event for event in self._events if isinstance(event, kind))

    def serial(self, board: str) -> list[SerialFrame]:
        """What passed on a board's line."""
        return self._log(f"serial/{board}.log", SerialFrame)

    def phase_at(self, t_ns: int) -> Phase | None:
        """The phase of a wall time."""
        at_ms = self.at_ms(t_ns)
        found = (each for each in self.schedule.phases if each.start_ms <= at_ms < each.end_ms)
        return None if self.start_ns is None else next(found, None)

    def at_ms(self, t_ns: int) -> float:
        """Milliseconds from the start of the schedule."""
        return (t_ns - (self.start_ns or 0)) / 1e6

    def _log(self, name: str, kind: type[T]) -> list[T]:
        path = self.bundle.raw / name
        lines, unreadable = read_lines(path, kind)
        self.unreadable[name] += unreadable
        return lines

    def _read_events(self) -> list[Event]:
        found: list[Event] = []
        for path in sorted(self.bundle.raw.glob("*.jsonl")):
            if path.stem not in ORCHESTRATOR_LOGS:
                events, unreadable = read_events(path)
                self.unreadable[path.name] += unreadable
                found += events
        return sorted(found, key=lambda event: event.t)


def _input(bundle: Bundle, name: str) -> bytes:
    path: Path = bundle.path / "inputs" / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}; was this run started?") from error
