"""A bundle is handed on: whole or not, and what is derived follows from what was measured."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from testbed import cli
from testbed.bundle import Bundle, find_bundle
from testbed.hosts.files import digest
from testbed.manifest import Attempt, RunState, code_sha256
from testbed.report.archive import SUMS, files, is_derived, read_sums
from testbed.report.derive import derive, derive_run, rebuild
from testbed.report.verify import verify_bundle
from tests.testbed.bundles import Story


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = Story(tmp_path_factory.mktemp("story")).bundle
    # As if made by the code that checks it; other code may judge and draw differently.
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, code_sha256=code_sha256()))
    derive_run(bundle.runs[0])
    derive(bundle)
    return bundle


@pytest.fixture
def bundle(sealed: Bundle, tmp_path: Path) -> Bundle:
    subprocess.run(["cp", "-r", str(sealed.path), str(tmp_path / "sent")], check=True)
    return Bundle(tmp_path / "sent")


def test_a_bundle_is_whole_whatever_its_folder_is_called(bundle: Bundle) -> None:
    """The lock and a half-written file are no part of it."""
    with bundle.locked():
        (bundle.path / ".report.html.part").touch()
        assert list(verify_bundle(bundle)) == []
    checked = subprocess.run(
        ["sha256sum", "--check", "--quiet", SUMS], cwd=bundle.path, check=False
    )
    assert checked.returncode == 0


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def added(path: Path) -> None:
    path.parent.mkdir()
    path.touch()


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "raw changed": (lambda top: flip(top / "run/0000-faults/raw/gateway.jsonl"), "was changed"),
    "raw lost": (lambda top: (top / "run/0000-faults/raw/gateway.jsonl").unlink(), "is missing"),
    "raw added": (lambda top: (top / "run/0000-faults/raw/x.jsonl").touch(), "was added"),
    "hidden file added": (
        lambda top: (top / "run/0000-faults/raw/ledger/.r9.sqlite").touch(),
        "was added",
    ),
    "hidden folder added": (lambda top: added(top / "run/.x/.lock"), "was added"),
    "schedule": (lambda top: flip(top / "inputs/schedule.json"), "is not what was run"),
    "summary": (lambda top: flip(top / "summary.json"), "is not what its raw files give"),
}


@pytest.mark.parametrize("what", SPOILT)
def test_what_was_spoilt_is_named(bundle: Bundle, what: str) -> None:
    spoil, named = SPOILT[what]
    spoil(bundle.path)
    assert any(named in problem for problem in verify_bundle(bundle)), what


def test_a_bundle_that_has_no_room_for_a_copy_is_not_copied(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "testbed.report.verify.shutil.disk_usage", lambda _: SimpleNamespace(free=1)
    )
    assert any("a copy needs" in problem for problem in verify_bundle(bundle))


@pytest.mark.parametrize("state", ["planned", "running", "failed"])
def test_a_campaign_that_did_not_end_is_not_whole_even_after_a_report(
    bundle: Bundle, state: RunState
) -> None:
    """A report seals what is there."""
    (bundle.path / SUMS).unlink()
    bundle.update(0, state=state, reason="killed")
    rebuild(bundle)
    (problem,) = verify_bundle(bundle)
    assert problem == (f"run/0000-faults is {state} (killed); fix: testbed resume {bundle.path}")


def test_a_report_made_again_hides_no_raw_file_that_was_changed_added_or_lost(
    bundle: Bundle,
) -> None:
    """No judgement needs these, so nothing else would tell."""
    raw = "run/0000-faults/raw"
    changed = bundle.path / raw / "gateway.jsonl"
    changed.write_bytes(changed.read_bytes() + b"\n")
    lost = f"{raw}/serial/th01.log"
    (bundle.path / lost).unlink()
    added = [f"{raw}/x.jsonl", "attempts/0000-faults-1/x"]
    for name in added:
        bundle.write(name, "{}\n")
    rebuild(bundle)
    assert set(verify_bundle(bundle)) == {
        f"{raw}/gateway.jsonl was changed",
        f"{lost} is missing",
        *(f"{name} was added" for name in added),
    }


def test_the_command_says_so_with_its_exit_code(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["verify-bundle", str(bundle.path), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["problems"], printed["rebuilt"]) == ([], True)
    (bundle.path / SUMS).unlink()
    assert cli.main(["verify-bundle", str(bundle.path)]) == 1
    assert "NOT whole" in capsys.readouterr().out


def test_who_did_not_compare_what_is_derived_says_so(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, code_sha256="0" * 64))
    assert cli.main(["verify-bundle", str(bundle.path)]) == 1
    assert "made by another version" in capsys.readouterr().out


def test_a_derived_file_that_is_gone_with_its_sum_is_missed(bundle: Bundle) -> None:
    gone = "run/0000-faults/derived/blocks.csv"
    (bundle.path / gone).unlink()
    lines = (bundle.path / SUMS).read_text().splitlines(keepends=True)
    (bundle.path / SUMS).write_text("".join(line for line in lines if gone not in line))
    assert list(verify_bundle(bundle)) == [f"{gone} is missing, and not in {SUMS}"]
    (bundle.path / SUMS).unlink()
    (problem,) = verify_bundle(bundle)
    assert problem.startswith(f"no {SUMS}")


def lose(bundle: Bundle, *gone: str) -> None:
    """These files and folders, with their sums; nobody rebuilds what is derived, because another
    version made the bundle."""
    for name in gone:
        subprocess.run(["rm", "-r", str(bundle.path / name)], check=True)
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, code_sha256="0" * 64))
    sums = {"manifest.json": digest(bundle.path / "manifest.json")}
    sums = {
        name: sums.get(name, before)
        for name, before in read_sums(bundle).items()
        if not name.startswith(gone)
    }
    bundle.write(SUMS, "".join(f"{value}  {name}\n" for name, value in sums.items()))


def test_a_bundle_of_another_version_is_whole(bundle: Bundle) -> None:
    lose(bundle)
    assert list(verify_bundle(bundle)) == []


@pytest.mark.parametrize("state", ["done", "invalid"])
def test_a_run_that_is_gone_with_its_sums_is_missed(
    bundle: Bundle, state: RunState, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle.update(0, state=state)
    lose(bundle, "run/0000-faults")
    assert cli.main(["verify-bundle", str(bundle.path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"run/0000-faults is {state}, but nothing of it is there"
    assert said[-1] == f"{bundle.path}: NOT whole"


PROMISED = {
    "run/0000-faults/genesis.json": f"is missing, and not in {SUMS}",
    "run/0000-faults/raw/run.jsonl": f"is missing, and not in {SUMS}",
    "run/0000-faults/raw/ledger/r3.sqlite": "is done, but lacks 1 of 4 ledgers",
    "run/0000-faults/raw/ledger": "is done, but lacks 4 of 4 ledgers",
    "run/0000-faults/raw/r3.jsonl": "is done, but lacks the log of r3",
    "run/0000-faults/raw/phones-1.jsonl": "is done, but lacks the log of phones-1",
    "run/0000-faults/summary.json": f"is missing, and not in {SUMS}",
    "run/0000-faults/report.html": f"is missing, and not in {SUMS}",
    "summary.json": f"is missing, and not in {SUMS}",
    "report.html": f"is missing, and not in {SUMS}",
    "junit.xml": f"is missing, and not in {SUMS}",
    "inputs/schedule.json": f"is missing, and not in {SUMS}",
    "inputs/campaign.yaml": f"is missing, and not in {SUMS}",
}


@pytest.mark.parametrize("gone", PROMISED)
def test_what_the_manifest_promises_is_missed_also_without_its_sum(
    bundle: Bundle, gone: str
) -> None:
    lose(bundle, gone)
    named = gone if "missing" in PROMISED[gone] else "run/0000-faults"
    assert list(verify_bundle(bundle)) == [f"{named} {PROMISED[gone]}"]


def test_a_run_of_which_nothing_can_be_said_may_lack_what_could_not_be_collected(
    bundle: Bundle,
) -> None:
    bundle.update(0, state="invalid", reason="not collected: 1 of 4 ledgers")
    lose(bundle, "run/0000-faults/raw/ledger/r3.sqlite")
    assert list(verify_bundle(bundle)) == []


def test_an_attempt_that_was_set_aside_is_missed(bundle: Bundle) -> None:
    gone = Attempt(path="attempts/0000-faults-1", reason="killed")
    bundle.update(0, attempts=(gone,))
    lose(bundle)
    assert list(verify_bundle(bundle)) == ["attempts/0000-faults-1 is missing"]


def test_an_inventory_that_was_changed_with_its_sum_is_found(bundle: Bundle) -> None:
    wanted = digest(bundle.path / "inputs/inventory.yaml")
    bundle.write_manifest(msgspec.structs.replace(bundle.manifest, inventory_sha256=wanted))
    lose(bundle)
    assert list(verify_bundle(bundle)) == []
    bundle.write("inputs/inventory.yaml", b"lab: another")
    (bundle.path / SUMS).unlink()
    assert "inputs/inventory.yaml is not what was run" in [*verify_bundle(bundle)]


def test_why_nothing_can_be_derived_names_files_of_the_bundle(bundle: Bundle) -> None:
    (bundle.path / "run/0000-faults/genesis.json").unlink()
    assert f"nothing can be derived from it: {bundle.path}" in "".join(verify_bundle(bundle))


@pytest.mark.parametrize("folder", ["runs", "my results"])
def test_commands_in_messages_find_the_bundle_wherever_it_lies(
    bundle: Bundle,
    folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Only in runs/ its name is enough. No derived file depends on where it lies."""
    monkeypatch.chdir(tmp_path)
    place = Path(folder) / "moved"
    place.parent.mkdir()
    bundle.path.rename(place)
    moved = Bundle(place)
    commands = {"watch": "report", "verify-bundle": "resume", "report": "resume"}
    moved.update(0, state="failed")
    for command, named in commands.items():
        cli.main([command, "moved" if folder == "runs" else str(place)])
        said = "".join(capsys.readouterr())
        (found,) = re.findall(f"testbed {named} ('.*'|[^\\s`]+)", said)
        assert find_bundle(shlex.split(found)[0]).path.samefile(place), command
    assert "testbed resume BUNDLE" in moved.read_json("summary.json")["notes"][-1]
    for derived in filter(is_derived, files(moved)):
        assert str(tmp_path).encode() not in moved.read(derived), derived


def test_the_commands_of_the_page_work_in_the_folder_of_the_bundle(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = bundle.read("report.html").decode()
    monkeypatch.chdir(bundle.path)
    for command in ("report .", "ledger verify run/0000-faults"):
        assert f"<code>testbed {command}</code>" in page
        assert cli.main(command.split()) == 0


def test_metadata_and_readme_name_what_there_is(bundle: Bundle) -> None:
    graph = json.loads(bundle.read("ro-crate-metadata.json"))["@graph"]
    described = {each["@id"] for each in graph} - {"./", "ro-crate-metadata.json"}
    assert all((bundle.path / name).exists() for name in described)
    readme = bundle.read("README.md").decode()
    summary = bundle.read_json("summary.json")
    for each in (*summary["properties"], *summary["figures"]):
        assert each["name"] in readme
    assert "testbed run quick-start" in readme


def test_an_archive_has_to_be_unpacked_first_and_the_command_is_printed(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = tmp_path / "my results.tgz"
    subprocess.run(["tar", "-czf", packed, "-C", tmp_path, bundle.name], check=True)
    assert cli.main(["report", str(packed)]) == 2
    said = capsys.readouterr().err
    assert "unpack an archive first" in said
    (elsewhere := tmp_path / "elsewhere").mkdir()
    subprocess.run(shlex.split(said.splitlines()[-1]), cwd=elsewhere, check=True)
    assert find_bundle(str(elsewhere / bundle.name)).manifest == bundle.manifest


def test_a_folder_of_bundles_is_not_a_bundle_and_one_in_it_is_named(
    bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the folder of `--out` is."""
    place = tmp_path / "my results" / "moved"
    place.parent.mkdir()
    bundle.path.rename(place)
    assert cli.main(["verify-bundle", str(place.parent)]) == 2
    assert f"is a folder of bundles; name one, as '{place}'" in capsys.readouterr().err
