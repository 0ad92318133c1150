"""The bench runs real replicas and reports figures that hang together."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from typer.testing import CliRunner

from testbed.bench import catch_up, limit, memory, overhead
from testbed.bench.consensus import BenchPlan
from testbed.bench.hops import HOPS
from testbed.bench.limit import verification_limit
from testbed.bench.load import BenchDevice
from testbed.bench.saturation import BenchPlan as Rising
from testbed.bench.saturation import measure as measure_saturation
from testbed.bench.stage import until
from testbed.bench.table import HEADER, measure_table, row
from testbed.commands.bench import app
from testbed.errors import ConfigurationError, LabFault


def test_the_limit_takes_every_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One key in 256 ends in a zero byte: padding it with zeros once cut that byte off."""

    class LastByteIsZero(BenchDevice):
        def __init__(self) -> None:
            while True:
                super().__init__()
                if self.signer.public.endswith(b"\0"):
                    return

    monkeypatch.setattr(limit, "BenchDevice", LastByteIsZero)
    assert verification_limit(1, 512, 0.05).requests_per_s > 0


def test_what_stands_still_is_given_up_and_says_where_it_stood() -> None:
    class Client:
        state_text = "3 requests in flight, height 7, view 2"

    said: list[str] = []

    async def story() -> None:
        forever = asyncio.Event()

        async def wait() -> None:
            await forever.wait()

        await until("enrolling", Client(), lambda: 28, wait(), said.append, stall_s=0.1)

    with pytest.raises(LabFault, match=r"enrolling: at 28 .* height 7, view 2"):
        asyncio.run(story())


def test_what_goes_on_is_awaited_and_its_error_is_passed_on() -> None:
    class Client:
        state_text = ""

    progress = [0]

    async def story() -> None:
        async def work() -> None:
            for _ in range(20):
                progress[0] += 1
                await asyncio.sleep(0.02)
            raise ValueError("at the end")

        await until("work", Client(), lambda: progress[0], work(), print, stall_s=0.3)

    with pytest.raises(ValueError, match="at the end"):
        asyncio.run(story())
    assert progress == [20]


@pytest.mark.soak
def test_a_table_has_a_row_for_each_load_of_one_network() -> None:
    plan = BenchPlan(requests=20, limit=False, alone_requests=5)
    found = list(measure_table(plan, (4,), (1, 8), 2, lambda _: None))
    for result, _ in found:
        assert 0 < result.blocks <= result.requests
        assert result.requests >= 20
        assert 0 < result.latency_ms.p50 <= result.latency_ms.p99 <= result.latency_ms.max
        assert len(result.rss_mb_start) == len(result.rss_mb_end) == 4
        assert result.cpu_us_per_request > 0
    rows = [row(result, load) for result, load in found]
    assert [each[:3] for each in rows] == [
        ("4", "1", "sqlite"),
        ("4", "8", "sqlite"),
        ("4", "1", "memory"),
        ("4", "8", "memory"),
    ]
    assert all(len(each) == len(HEADER) for each in rows)


@pytest.mark.soak
@pytest.mark.parametrize("peer", ["suspended", "slow"])
def test_memory_is_sampled_to_the_end_beside_a_bad_peer(peer: str) -> None:
    said: list[str] = []
    result = memory.measure(memory.BenchPlan(in_flight=8, requests=100, peer=peer), said.append)
    assert result.samples[-1].requests >= 100
    assert [len(sample.rss_mb) for sample in result.samples] == [4] * (memory.SAMPLES + 1)
    assert len(said) >= memory.SAMPLES
    assert 0 < result.largest_mb < 200


@pytest.mark.soak
def test_a_replica_that_was_down_catches_up_while_the_others_go_on() -> None:
    result = catch_up.measure(catch_up.BenchPlan(blocks=100), lambda _: None)
    assert result.behind_blocks >= 90
    assert result.caught_up_per_s > 0
    assert result.live_per_s > 0


def test_the_command_prints_json_for_machines_and_writes_profiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("testbed.bench.consensus.WARM_UP_S", 0.1)
    monkeypatch.setattr("testbed.bench.consensus.LIMIT_S", 0.1)
    plan = partial(BenchPlan, alone_requests=10)
    monkeypatch.setattr("testbed.commands.bench_consensus.BenchPlan", plan)
    profiles = tmp_path / "new" / "profiles"
    options = ["--in-flight", "2", "--requests", "20", "--store", "memory", "--json"]
    ended = CliRunner().invoke(app, ["consensus", *options, "--profile", str(profiles)])
    assert ended.exit_code == 0, ended.output
    assert {each.name for each in profiles.iterdir()} == {f"replica-{n}.pstats" for n in range(4)}
    printed = json.loads(ended.stdout)
    assert printed["schema"] == "testbed.bench.consensus/3"
    assert printed["requests"] >= 20
    assert printed["limit_per_s"] > 0
    assert printed["ratio"] > 0
    assert printed["cpu_ratio"] > 0
    assert [hop["until"] for hop in printed["alone_hops"]] == [
        hop.name.lower().replace("_", "-") for hop in HOPS[1:]
    ]
    assert all(hop["p50_ms"] >= 0 for hop in printed["alone_hops"])
    assert sum(hop["p50_ms"] for hop in printed["alone_hops"]) > 0


@pytest.mark.soak
@pytest.mark.parametrize("what", ["traces", "switch"])
def test_the_cost_of_traces_and_of_a_switch_is_a_ratio_of_pairs(
    what: Literal["traces", "switch"],
) -> None:
    plan = overhead.BenchPlan(what=what, in_flight=8, pairs=2, turn_requests=60, every=2)
    result = overhead.measure(plan, lambda _: None)
    assert len(result.without_us) == len(result.with_us) == result.ratio.n == 2
    assert result.ratio.value is not None
    assert result.ratio.value > 0
    assert (result.trace_bytes > 0) == (what == "traces")


def test_a_profile_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = CliRunner().invoke(app, ["consensus", "--profile", str(tmp_path / "file" / "below")])
    assert isinstance(ended.exception, ConfigurationError)
    assert "below: Not a directory" in str(ended.exception)


@pytest.mark.soak
def test_a_start_takes_up_the_kept_state_whatever_the_ledger_s_age() -> None:
    said = CliRunner().invoke(app, ["restart", "--blocks", "400", "--blocks", "700", "--json"])
    found = json.loads(said.stdout)
    who = ("device list", "device", "gateway", "replica")
    assert [(each["who"], each["blocks"]) for each in found] == [
        (each, blocks) for blocks in (400, 700) for each in who
    ]
    for each in found:
        assert (each["kept_s"] is None) == (each["who"] == "replica")
        assert each["genesis_s"] > 0


@pytest.mark.soak
def test_offered_load_rises_until_it_is_too_much_or_enough() -> None:
    plan = Rising(devices=40, from_per_s=10, to_per_s=25, growth=2.0, step_s=1.0, seed=3)
    found = measure_saturation(plan)
    steps = found.saturation.steps
    assert 1 <= len(steps) <= 2
    assert len(found.client_late_ms) == len(steps)
    for step in steps:
        assert 0 < step.p50_ms <= step.p99_ms <= 1000 * plan.timeout_s * 1.01
        assert 0 < step.goodput_per_s <= step.offered_per_s
