"""Environments are made here for machines of another kind, from pinned and hashed wheels alone."""

from __future__ import annotations

import importlib.util
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from testbed.errors import ConfigurationError, LabFault
from testbed.wheelhouse import Archive, Target, Wheelhouse, lock_file

MAGIC = importlib.util.MAGIC_NUMBER.hex()
PI = Target("aarch64", "3.13", "2.41", "00")


def small_lock(directory: Path, *names: str) -> Path:
    """The real lock's entries of a few packages, so that little is fetched."""
    entries = re.split(r"^(?=[a-z0-9])", lock_file().read_text(), flags=re.MULTILINE)
    wanted = [entry for entry in entries if entry.partition("==")[0] in names]
    assert len(wanted) == len(names)
    path = directory / "small.lock"
    path.write_text("".join(wanted))
    return path


def members(archive: Archive) -> list[str]:
    with tarfile.open(archive.path) as tar:
        return tar.getnames()


def test_wheels_are_those_of_the_host_not_of_this_machine(tmp_path: Path) -> None:
    """An aarch64 machine with another Python gets its own binaries, with nothing built here."""
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "msgspec", "six"))
    (common,) = wheelhouse.dependencies(PI)
    binaries = [name for name in members(common) if name.endswith(".so")]
    assert binaries
    assert all("cpython-313-aarch64-linux-gnu" in name for name in binaries)
    assert "six.py" in members(common)
    assert not any(name.endswith(".pyc") for name in members(common)), "not its kind of byte code"


def test_what_only_some_hosts_need_goes_only_there(tmp_path: Path) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "six", "pybind11"))
    assert len(wheelhouse.dependencies(PI)) == 1
    common, special = wheelhouse.dependencies(replace(PI, unix_boards=True))
    assert "six.py" in members(common)
    assert "pybind11/__init__.py" in members(special)
    assert common == wheelhouse.dependencies(PI)[0], "shared by both kinds of host"


def test_many_who_ask_at_once_get_one_archive_and_the_next_time_none_is_made(
    tmp_path: Path,
) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache", small_lock(tmp_path, "six"))
    with ThreadPoolExecutor(6) as pool:
        made = set(pool.map(lambda _: wheelhouse.dependencies(PI), range(6)))
    assert len(made) == 1
    ((archive,),) = made
    inode = archive.path.stat().st_ino
    assert wheelhouse.dependencies(PI) == (archive,)
    assert archive.path.stat().st_ino == inode
    assert [path.name for path in (tmp_path / "cache").glob("*.tar.gz")] == [archive.name]


def test_a_wheel_with_another_hash_is_refused(tmp_path: Path) -> None:
    lock = small_lock(tmp_path, "six")
    lock.write_text(re.sub(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64, lock.read_text()))
    with pytest.raises(LabFault, match=r"(?i)hash"):
        Wheelhouse(tmp_path / "cache", lock).dependencies(PI)
    assert not list((tmp_path / "cache").glob("*.tar.gz"))


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (replace(PI, machine="armv7l"), "64-bit"),
        (replace(PI, machine="riscv64"), "x86_64 and aarch64"),
        (replace(PI, python="3.9"), "3.11 or newer"),
        (replace(PI, glibc=""), "C library"),
        (replace(PI, glibc="2.12"), "C library"),
    ],
)
def test_a_machine_without_wheels_is_told_so_before_anything_is_fetched(
    tmp_path: Path, target: Target, says: str
) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Wheelhouse(tmp_path / "cache").dependencies(target)


def test_our_code_goes_without_the_orchestrator(tmp_path: Path) -> None:
    wheelhouse = Wheelhouse(tmp_path / "cache")
    archive = wheelhouse.code(replace(PI, magic=MAGIC))
    tops = {name.partition("/")[0] for name in members(archive)}
    assert tops == {"chain", "gateway", "nodes"}
    assert "nodes/board/firmware/main.py" in members(archive)
    assert any(name.endswith(".pyc") for name in members(archive)), "ready to run there"
    assert wheelhouse.code(PI).key != archive.key


def test_the_lock_covers_what_boards_import() -> None:
    """Every requirement of the project is pinned with hashes, and is one with the main lock."""
    pinned = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock_file().read_text(), re.MULTILINE))
    everything = lock_file().parent.parent.joinpath("requirements.lock").read_text()
    whole = dict(re.findall(r"^([a-z0-9-]+)==(\S+)", everything, re.MULTILINE))
    assert {"cryptography", "msgspec", "cbor2", "mpremote"} <= set(pinned)
    assert {name: whole.get(name) for name in pinned} == pinned, "make lock"
