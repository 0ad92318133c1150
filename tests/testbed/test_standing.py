"""Which lab later commands take for one that runs."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
import typer

from testbed import cli
from testbed.errors import ConfigurationError
from testbed.standing.operator import ID_DIGITS_MIN, meant
from testbed.standing.running_lab import (
    RunningLab,
    find_running,
    marked_running,
    newest_running,
)
from tests.chain.world import World


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def left(scratch: Path, number: int, inventory: Path) -> RunningLab:
    """The files of a lab; whether it runs is another matter."""
    home = scratch / f"m2m-{number}-left"
    home.mkdir()
    running = RunningLab(
        pid=os.getpid(),
        inventory=str(inventory),
        home=str(home),
        start_ns=0,
        period_ms=1000,
        broker_host="127.0.0.1",
        broker_port=1,
        broker_admin="",
        nodes={},
        vouchers={},
    )
    running.file.write_bytes(msgspec.json.encode(running))
    return running


def test_a_lab_whose_process_is_gone_is_not_taken_for_whoever_has_its_number_now(
    scratch: Path,
) -> None:
    """kill -9 of `testbed up` leaves its files. `testbed down` signals the process that they name,
    so it must not be one that came later: only the lock, which the kernel takes back, counts."""
    running = left(scratch, 1, scratch / "a.yaml")
    assert newest_running(None) is None
    with marked_running(Path(running.home)):
        assert newest_running(None) == find_running(None) == running
    assert newest_running(None) is None
    with pytest.raises(ConfigurationError, match="no lab is up"):
        find_running(None)


def test_minus_i_names_one_of_several_labs(scratch: Path) -> None:
    first, second = (left(scratch, n, scratch / f"{n}.yaml") for n in (1, 2))
    with marked_running(Path(first.home)), marked_running(Path(second.home)):
        with pytest.raises(ConfigurationError, match=r"several labs are up(.|\n)*-i .*2.yaml"):
            find_running(None)
        assert find_running(scratch / "2.yaml") == second
        assert find_running(scratch / "1.yaml") == first
        with pytest.raises(ConfigurationError, match=r"-i .*1.yaml") as caught:
            find_running(scratch / "3.yaml")
    assert "testbed up" in str(caught.value)


@pytest.mark.parametrize("command", ["collect", "down", "logs"])
def test_a_command_that_was_told_no_lab_names_the_one_that_it_takes(
    scratch: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    def end(*_: object) -> None:
        raise typer.Exit

    running = left(scratch, 1, scratch / "1.yaml")
    monkeypatch.setattr("testbed.commands.down._end", end)
    monkeypatch.setattr("testbed.commands.collect.collect_running", end)
    with marked_running(Path(running.home)):
        for named in ([], ["-i", running.inventory]):
            cli.main([command, *named])
            said = capsys.readouterr().err
            assert (said == f"up: {running.inventory}, process {os.getpid()}\n") == (not named)


def test_an_exact_name_wins_over_the_digits_of_a_node_id() -> None:
    """Names are free text: one may look like the first digits of another device."""
    world = World()
    identities = []
    for name in ("one", "two"):
        found = world.ledger.registry.identity(world.admit(name).node)
        assert found is not None
        identities.append(found)
    one, two = identities
    digits = one.node.hex()[:ID_DIGITS_MIN]
    devices = [("one", one), (digits, two)]
    assert meant(devices, digits) == [(digits, two)]
    assert meant(devices[:1], digits.upper()) == devices[:1]
    assert meant(devices, digits[:-1]) == []
