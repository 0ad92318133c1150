"""The consensus survives many seeds; the simulator repeats itself and can fail.

`make soak` runs thousands of seeds.

Every property is checked at every step by `testbed.simulate.properties`; a break prints the seed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from testbed import cli
from testbed.cli import app_of
from testbed.errors import ConfigurationError, LabFault
from testbed.simulate.draw import PROFILES, Options, draw
from testbed.simulate.outcome import Outcome, SweepSummary
from testbed.simulate.scenario import Scenario
from testbed.simulate.strategies import STRATEGIES
from testbed.simulate.sweep import open_executor, sweep
from testbed.simulate.traitors import TRICKS
from testbed.simulate.transcript import Transcript
from testbed.simulate.world import run

ROOT = Path(__file__).resolve().parents[2]


more_seeds = pytest.mark.parametrize(
    "seeds",
    [range(1), pytest.param(range(1, 20), marks=pytest.mark.soak)],
    ids=["one", "more"],
)


def _seed(seed: int, **options: object) -> Outcome:
    return run(draw(Options(**options), seed))  # type: ignore[arg-type]


def _clean_sweep(seeds: range) -> SweepSummary:
    """Every fault. A failure names the seed and the command that replays it."""
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        summary = sweep(Options(), seeds, pool, failures_max=10)
    broken = [
        f"testbed simulate --faults all --from {outcome.seed} --seeds 1: {outcome.finding}"
        for outcome in summary.failures
    ]
    assert not broken, "\n".join(broken)
    assert summary.seeds == len(seeds)
    return summary


def test_twenty_seeds_with_every_fault_break_nothing() -> None:
    summary = _clean_sweep(range(20))
    # Nothing was proven by standing still.
    assert summary.requests > 200
    assert summary.view_changes > 40
    assert {"crash-lost", "crash-torn", "block", "skew", "conspire", "lost"} <= set(summary.faults)
    assert {"add", "remove", "wipe", "full", "stopped-full"} <= set(summary.faults)
    assert summary.accusations


@pytest.mark.soak
def test_five_thousand_seeds_with_every_fault_break_nothing() -> None:
    _clean_sweep(range(20, 5_020))


@pytest.mark.parametrize("replicas", [5, 6, 7, 10])
@more_seeds
def test_other_sizes_hold_too(replicas: int, seeds: range) -> None:
    for seed in seeds:
        assert _seed(seed, replicas=replicas).finding is None, f"seed {seed}"


@pytest.mark.parametrize("faults", PROFILES)
@more_seeds
def test_each_profile_alone(faults: str, seeds: range) -> None:
    for seed in seeds:
        outcome = _seed(seed, faults=faults)
        assert outcome.finding is None, f"seed {seed}: {outcome.finding}"


@pytest.mark.parametrize("trick", TRICKS)
@more_seeds
def test_one_traitor_of_four_is_borne(trick: str, seeds: range) -> None:
    for seed in seeds:
        outcome = _seed(seed, faults="network", byzantine=((trick, 1),))
        assert outcome.finding is None, f"seed {seed}: {outcome.finding}"


def test_f_plus_one_conspirators_are_reported_as_a_fork() -> None:
    """A checker that cannot fail is no checker: two of four, the first primary among them."""
    found = [_seed(seed, faults="none", byzantine=(("conspire", 2),)).finding for seed in range(12)]
    assert all(finding is not None for finding in found)
    properties = {finding.property for finding in found if finding is not None}
    assert "agreement" in properties
    assert properties <= {"agreement", "certificate"}
    assert any(finding and finding.message.startswith("fork: ") for finding in found)


_TRACES = """
from testbed.simulate.draw import Options, draw
from testbed.simulate.world import run
print([run(draw(Options(), seed)).trace for seed in range(2)])
"""


def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    """Sets and dicts must not show: hash seeds differ, traces do not."""
    hash_seed = "0" if os.environ.get("PYTHONHASHSEED") != "0" else "4242"
    done = subprocess.run(
        [sys.executable, "-c", _TRACES],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{[_seed(seed).trace for seed in range(2)]}\n"


def test_a_transcript_changes_nothing_and_lists_the_messages() -> None:
    scenario = draw(Options(faults="none", byzantine=(("conspire", 2),)), 0)
    transcript = Transcript(scenario)
    outcome = run(scenario, transcript)
    assert outcome == run(scenario)
    text = transcript.text()
    assert "PrePrepare v0 n1" in text
    assert "r3 executes 1 head=" in text
    assert "traitors: r0 conspire" in text


def test_real_signatures_run_the_same_scenarios() -> None:
    for seed in range(2):
        assert _seed(seed, es256=True).finding is None


def test_a_quorum_alone_must_go_on_when_the_rest_is_broken_for_good() -> None:
    """The liveness mode: some seeds leave only q survivors, and they make it."""
    scenarios = [draw(Options(), seed) for seed in range(60)]
    left_alone = [s for s in scenarios if len(s.survivors) == 3 and not s.traitors]
    assert len(left_alone) > 5
    assert any(event.end_us is None for event in left_alone[0].events)
    assert run(left_alone[0]).finding is None


def test_any_executor_will_do() -> None:
    with ThreadPoolExecutor(2) as threads:
        summary = sweep(Options(faults="none"), range(10), threads)
    assert summary.seeds == 10
    assert not summary.failures


def test_a_sweep_stops_when_enough_has_failed() -> None:
    with ThreadPoolExecutor(1) as threads:
        options = Options(faults="none", byzantine=(("conspire", 2),))
        summary = sweep(options, range(100_000), threads, failures_max=3)
    assert 3 <= len(summary.failures) < 100


def test_a_dead_worker_is_reported_with_the_seeds_it_had() -> None:
    with (
        ProcessPoolExecutor(1, initializer=os._exit, initargs=(3,)) as pool,
        pytest.raises(LabFault, match=r"seeds 8 to 1[15] .* go on with --from 8"),
    ):
        sweep(Options(), range(8, 16), pool)


def test_an_interrupted_sweep_says_where_to_go_on() -> None:
    def interrupt(summary: SweepSummary) -> None:
        if summary.seeds >= 8:
            raise KeyboardInterrupt

    with ThreadPoolExecutor(1) as threads:
        summary = sweep(Options(faults="none"), range(100, 1000), threads, interrupt)
    assert summary.resume_at is not None
    assert 100 + summary.seeds >= summary.resume_at == 108


def test_a_real_dask_cluster_gives_the_same_outcome() -> None:
    """Scheduler and a worker process on loopback; they behave as a pool does."""
    distributed = pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    options = Options()
    with ThreadPoolExecutor(1) as threads:
        here = sweep(options, range(4), threads)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
        ) as cluster,
        open_executor(1, cluster.scheduler_address) as executor,
    ):
        there = sweep(options, range(4), executor)
    here.new_state_at = there.new_state_at = 0  # counts in the order in which outcomes arrive
    assert there.as_json(1.0) == here.as_json(1.0)


def test_a_cluster_that_is_not_there_is_reported() -> None:
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    with (
        pytest.raises(ConfigurationError, match=r"no Dask scheduler at tcp://127\.0\.0\.1:1"),
        open_executor(1, "tcp://127.0.0.1:1", connect_s=0.2),
    ):
        pass


def test_what_is_no_address_of_a_cluster_is_refused_at_once() -> None:
    with (
        pytest.raises(ConfigurationError, match=r"--cluster scheduler: not an address; use tcp://"),
        open_executor(1, "scheduler"),
    ):
        pass


def test_a_cluster_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with (
        pytest.raises(ConfigurationError, match=r"m2m-testbed\[cluster\]"),
        open_executor(1, "tcp://127.0.0.1:1"),
    ):
        pass


@pytest.mark.parametrize(
    "options",
    [
        Options(replicas=3),
        Options(faults="weather"),
        Options(byzantine=(("charm", 1),)),
        Options(byzantine=(("silent", 0),)),
        Options(byzantine=(("silent", 5),)),
    ],
)
def test_impossible_options_are_refused(options: Options) -> None:
    with pytest.raises(ConfigurationError):
        options.check()


def test_the_command_reports_and_a_failure_can_be_replayed(tmp_path: Path) -> None:
    clean = CliRunner().invoke(
        app_of("simulate"), ["--seeds", "4", "--faults", "none", "--jobs", "1", "--json"]
    )
    assert clean.exit_code == 0
    assert json.loads(clean.stdout)["seeds"] == 4

    saved = tmp_path / "shortest.json"
    arguments = ["--seeds", "2", "--faults", "none", "--byzantine", "conspire:2", "--jobs", "1"]
    broken = CliRunner().invoke(app_of("simulate"), [*arguments, "--save", str(saved)])
    assert broken.exit_code == 1
    assert "replay: testbed simulate --replicas 4 --faults none --byzantine conspire:2" in (
        broken.stdout
    )
    shortest = Scenario.decode(saved.read_bytes())
    assert len(shortest.events) <= 2
    again = CliRunner().invoke(app_of("simulate"), ["--scenario", str(saved)])
    assert again.exit_code == 1
    assert "fork" in again.stdout
    for_machines = CliRunner().invoke(app_of("simulate"), ["--scenario", str(saved), "--json"])
    assert for_machines.exit_code == 1
    (failure,) = json.loads(for_machines.stdout)["failures"]
    assert "fork" in str(failure)


def test_a_place_where_nothing_can_be_saved_is_named_before_hours_of_seeds(
    tmp_path: Path,
) -> None:
    assert cli.main(["simulate", "--seeds", "1", "--save", str(tmp_path / "no" / "s.json")]) == 2
    assert cli.main(["simulate", "--seeds", "1", "--save", str(tmp_path)]) == 2


@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "random"])
def test_a_strategy_breaks_nothing_and_repeats(strategy: str) -> None:
    options = Options(faults="crash", strategy=strategy)
    for seed in range(2):
        scenario = draw(options, seed)
        assert Scenario.decode(scenario.encode()) == scenario == draw(options, seed)
        outcome = run(scenario)
        assert outcome.finding is None, outcome.finding
    assert run(scenario).trace == outcome.trace


def test_a_sweep_says_which_states_of_the_protocol_it_saw() -> None:
    """A run with crashes reaches some that a quiet one does not."""
    quiet = run(draw(Options(faults="none"), 0)).states
    crashed = run(draw(Options(faults="crash"), 0)).states
    assert "Prepare backup same accepted" in quiet
    assert not any("later" in state for state in quiet)
    assert any(state.startswith("ViewChange") for state in set(crashed) - set(quiet))
