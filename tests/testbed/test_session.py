"""One sitting with a lab: a run that breaks does not take the campaign with it, a dirty host does.

The hosts are real (directories of this machine); what a run would do on them, the test does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed.bundle import RunFolder
from testbed.campaign.book import Inputs, new_bundle
from testbed.campaign.expand import expand
from testbed.campaign.file import load_campaign
from testbed.campaign.schedule import Schedule
from testbed.campaign.screen import QuietScreen
from testbed.campaign.session import FAILED_IN_A_ROW_MAX, Session
from testbed.errors import ConfigurationError, LabFault, RestoreIncompleteError
from testbed.hosts.port import Host, Unit

LAB = load_lab()
Work = Callable[[int, Mapping[str, Host]], None]


class Sitting:
    """A campaign of five runs, in which a function stands for deploying and running."""

    def __init__(self, tmp_path: Path) -> None:
        path = tmp_path / "c.yaml"
        path.write_text(
            "campaign: five\ntrials: {count: 5}\nworkload: {kind: enrol+data, rate: 1/s}\n"
            "phases: {warmup: 1s}\n"
        )
        self._schedule = expand(load_campaign(path), LAB)
        self.bundle = new_bundle(Inputs(LAB, self._schedule, path.read_bytes()), tmp_path / "out")

    def make(self, work: Work, judge: Callable[[RunFolder], str | None] = lambda _: None) -> None:
        class WorkingSession(Session):
            def deploy_and_run(
                self, run: RunFolder, schedule: Schedule, hosts: Mapping[str, Host], _: object
            ) -> None:
                run.write("raw/run.jsonl", "{}\n")
                work(schedule.runs[0].index, hosts)

        with QuietScreen() as screen:
            session = WorkingSession(LAB, self._schedule, self.bundle, screen, judge)
            session.make(self.bundle.manifest.runs)

    @property
    def states(self) -> list[str]:
        return [entry.state for entry in self.bundle.manifest.runs]


@pytest.fixture
def sitting(tmp_path: Path) -> Sitting:
    return Sitting(tmp_path)


def test_a_run_in_which_the_lab_fails_is_marked_and_the_next_begins(
    sitting: Sitting,
) -> None:
    def work(index: int, _: Mapping[str, Host]) -> None:
        if index in (1, 2):
            raise LabFault("r3 is not ready")

    sitting.make(work, lambda run: "too hot" if "0003" in run.path.name else None)
    assert sitting.states == ["done", "failed", "failed", "invalid", "done"]
    reasons = [entry.reason for entry in sitting.bundle.manifest.runs]
    assert reasons == [None, "r3 is not ready", "r3 is not ready", "too hot", None]
    assert all(entry.started and entry.ended for entry in sitting.bundle.manifest.runs)


def test_too_many_failures_in_a_row_stop_the_campaign(sitting: Sitting) -> None:
    def work(index: int, _: Mapping[str, Host]) -> None:
        raise LabFault("the switch is off")

    with pytest.raises(LabFault, match="switch"):
        sitting.make(work)
    assert sitting.states == ["failed"] * FAILED_IN_A_ROW_MAX + ["planned"] * (
        5 - FAILED_IN_A_ROW_MAX
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConfigurationError("board th01 is not flashed"), "board th01 is not flashed"),
        (ConfigurationError(), "ConfigurationError"),
        (ConfigurationError("a\n  fix: ssh pi@10.0.0.1\nb\n  fix: ssh pi@10.0.0.2"), "a\nb"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_would_happen_again_or_was_wanted_stops_at_once(
    sitting: Sitting, error: BaseException, reason: str
) -> None:
    def work(index: int, _: Mapping[str, Host]) -> None:
        if index == 1:
            raise error

    with pytest.raises(type(error)):
        sitting.make(work)
    assert sitting.states == ["done", "failed", "planned", "planned", "planned"]
    assert sitting.bundle.manifest.runs[1].reason == reason


def test_who_stops_it_while_the_last_run_is_judged_is_told_how_to_go_on(
    sitting: Sitting, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(run: RunFolder) -> None:
        if "0004" in run.path.name:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sitting.make(lambda *_: None, judge)
    assert sitting.states == ["done"] * 5
    assert f"testbed resume {sitting.bundle.typed}" in capsys.readouterr().err


@pytest.mark.parametrize(("dirty", "error"), [(1, LabFault), (4, RestoreIncompleteError)])
def test_a_host_that_is_not_clean_stops_the_campaign(
    sitting: Sitting, dirty: int, error: type[Exception]
) -> None:
    """Before the next run, or after the last: no plausible number comes of it."""

    def work(index: int, hosts: Mapping[str, Host]) -> None:
        if index == dirty:
            hosts["r2"].start(Unit("stray", ("sleep", "600")))

    with pytest.raises(error, match=r"r2 is not clean: unit stray\n  fix: testbed restore"):
        sitting.make(work)
    assert sitting.states == ["done"] * (dirty + 1) + ["planned"] * (4 - dirty)
