"""The result bundle of a campaign of one or more runs: the place of each file.

    runs/<utc>-<campaign>-<hash>/
      manifest.json   the plan, its commit, the machine; the state of each run (`manifest`)
      inputs/         campaign, whole schedule, redacted inventory
      run/0001-faults/            one directory for each run, also if there is only one
        genesis.json              the run's own network
        env/<host>.json           the kind of machine of each host
        raw/                      <node>.jsonl events, ledger/<replica>.sqlite, serial/<board>.log,
                                  run.jsonl (phases), faults.jsonl, attacks.jsonl, clock.jsonl
        summary.json, derived/, plots/, report.html    rebuilt from raw by `testbed report`
      attempts/0001-faults-1/     the files of a broken attempt
      summary.json, derived/, plots/, report.html, junit.xml    the results of all runs together

Nothing secret is ever written here: key files stay in the hosts' own trees, the inventory is
redacted. Files are written whole or not at all, so that an interrupted run can still be read.
"""

from __future__ import annotations

import json
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from testbed.bundle_lock import is_locked, locked
from testbed.errors import ConfigurationError, LabFault
from testbed.manifest import SCHEMA, Attempt, Manifest, RunEntry

__all__ = ["LIVE", "RUNS_DIR", "Bundle", "Folder", "RunFolder", "find_bundle", "find_run"]

RUNS_DIR = Path("runs")
LIVE = "live.json"  # while it is being written: the state of the run (`testbed.campaign.live`)
LEDGER_BYTES_MAX = 64 * 2**30  # of one replica's database
FILE_BYTES_MAX = 2**30  # of any other file
_REPORT = "report.html"  # the last of all derived files


class Folder:
    """A directory of a bundle, whose files are read and written whole."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_derived(self) -> bool:
        """Whether `testbed report` has made all its files here."""
        return (self.path / _REPORT).exists()

    def clear(self) -> None:
        """Removes the files of an earlier report, because a new report may not make all of them."""
        for name in ("derived", "plots"):
            directory = self.path / name
            if directory.is_symlink():  # a link in a bundle from a stranger is not followed
                directory.unlink()
            for path in directory.glob("*"):
                if path.is_symlink() or not path.is_dir():
                    path.unlink()
        (self.path / _REPORT).unlink(missing_ok=True)

    def write_json(self, name: str, value: object) -> Path:
        """Write `name` as readable JSON, whole or not at all."""
        return self.write(name, json.dumps(value, indent=1, sort_keys=False) + "\n")

    def write(self, name: str, data: str | bytes) -> Path:
        """Write `name`, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)  # a link in a bundle from a stranger is not followed
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
        return path

    def read(self, name: str) -> bytes:
        """The content of `name`; ConfigurationError names the file if it cannot be read."""
        path = self.path / name
        try:
            return path.read_bytes()
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}; is this a bundle?") from error

    def read_json(self, name: str) -> Any:
        """The JSON value in `name`; ConfigurationError names the file if it cannot be read."""
        try:
            return json.loads(self.read(name), parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            path = self.path / name
            raise ConfigurationError(f"{path}: not JSON ({error}); the file is damaged") from error

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a .jsonl file. A torn last line (a process was killed) is left out."""
        path = self.path / name
        if not path.exists():
            return
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise ConfigurationError(f"{path}:{number}: not JSON ({error})") from error


class RunFolder(Folder):
    """The directory of one run in its bundle."""

    def __init__(self, bundle: Bundle, entry: RunEntry) -> None:
        super().__init__(bundle.path / entry.path)
        self.bundle = bundle
        self.entry = entry

    @property
    def name(self) -> str:
        """The name that a user may type, relative to runs/."""
        return f"{self.bundle.name}/{self.entry.path}"

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def ledgers(self) -> list[Path]:
        """The replicas' databases, in the order of their names."""
        return sorted((self.raw / "ledger").glob("*.sqlite"))

    @property
    def was_collected(self) -> bool:
        """Whether a failed run has left files that can be read."""
        return self.entry.state == "failed" and (self.path / "genesis.json").exists()

    def prepare(self) -> None:
        """Make the directories that a run writes into."""
        for part in ("env", "raw/ledger", "raw/serial"):
            (self.path / part).mkdir(parents=True, exist_ok=True)


class Bundle(Folder):
    """The directory of a campaign."""

    @classmethod
    def create(cls, out: Path, campaign: str, schedule_hash: str, now: datetime) -> Bundle:
        """Make a new, empty bundle. A second one in the same second gets a number."""
        stem = f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{campaign}-{schedule_hash[:8]}"
        for attempt in range(1, 1000):
            path = out / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigurationError(
                    f"cannot write results to {out}: {error.strerror}; choose another --out"
                ) from error
            return cls(path)
        raise ConfigurationError(f"{out}: a thousand bundles named {stem}; choose another --out")

    @property
    def name(self) -> str:
        return self.path.absolute().name

    @property
    def typed(self) -> str:
        """As commands find it, for a shell: its name if it is in runs/, or else its path."""
        is_in_runs = self.path.absolute().parent == RUNS_DIR.absolute()
        text = self.name if is_in_runs else str(self.path)
        # A word that begins with a dash would be an option.
        return shlex.quote(str(self.path.absolute()) if text.startswith("-") else text)

    # --- manifest and runs -----------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """Raises ConfigurationError if this is no bundle."""
        plain = self.read_json("manifest.json")
        path = self.path / "manifest.json"
        if isinstance(plain, dict) and plain.get("schema") != SCHEMA:
            raise ConfigurationError(
                f"{path}: made by another version of the testbed (schema {plain.get('schema')}, "
                f"this one reads {SCHEMA}); check out the commit that it names, or run it again"
            )
        try:
            return msgspec.convert(plain, type=Manifest)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{path}: {error}") from error

    @property
    def runs(self) -> tuple[RunFolder, ...]:
        """Every run of the schedule, made or not."""
        return tuple(RunFolder(self, entry) for entry in self.manifest.runs)

    def altered(self, manifest: Manifest) -> tuple[str, ...]:
        """The inputs that differ from the manifest: edited, or from another bundle."""
        return tuple(
            name
            for name, digest in manifest.inputs.items()
            if sha256(self.read(name)).hexdigest() != digest
        )

    def write_manifest(self, manifest: Manifest) -> None:
        self.write_json("manifest.json", msgspec.to_builtins(manifest))

    def update(self, index: int, **changes: Any) -> RunEntry:
        """Change the entry of one run in the manifest; returns the new entry."""
        manifest = self.manifest
        entry = next(each for each in manifest.runs if each.index == index)
        changed = msgspec.structs.replace(entry, **changes)
        runs = tuple(changed if each is entry else each for each in manifest.runs)
        self.write_manifest(msgspec.structs.replace(manifest, runs=runs))
        return changed

    def set_aside(self, entry: RunEntry, reason: str) -> None:
        """Move what an incomplete run left to `attempts/`. It is kept, but no figure uses it.

        An earlier call may have been killed between the move and the change of the manifest. Then
        this call ends its work.
        """
        run = RunFolder(self, entry)
        number = len(entry.attempts) + 1
        while True:
            kept = self.path / "attempts" / f"{run.path.name}-{number}"
            if not (run.path.exists() and kept.exists()):
                break
            number += 1  # not ours: somebody else made it
        if run.path.exists():
            kept.parent.mkdir(exist_ok=True)
            run.path.rename(kept)
        elif not kept.exists():
            return  # it ended before it wrote anything
        attempt = Attempt(
            path=str(kept.relative_to(self.path)), reason=reason, started=entry.started
        )
        self.update(entry.index, state="planned", attempts=(*entry.attempts, attempt))

    @property
    def is_being_written(self) -> bool:
        """Whether a process has it `locked`. Raises ConfigurationError if this user may not know:
        the bundle is another user's, for example root's."""
        return is_locked(self.path)

    @property
    def was_cut_off(self) -> bool:
        """Whether the process that wrote it ended without saying so: it was killed."""
        if self.is_being_written:
            return False
        runs = self.manifest.runs
        return (self.path / LIVE).exists() or any(each.state == "running" for each in runs)

    def require_not_cut_off(self) -> None:
        """Raises LabFault that says how to go on."""
        if self.was_cut_off:
            raise LabFault(
                f"{self.path}: the campaign was cut off (its process ended); continue with:\n"
                f"  testbed resume {self.typed}"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the bundle for writing runs. Raises LockedError if another process has it."""
        with locked(self.path):
            (self.path / LIVE).unlink(missing_ok=True)  # of a process that was killed
            yield


def find_bundle(text: str) -> Bundle:
    """The bundle that a user names: a path, or a name below runs/, or "last"."""
    if text == "last":
        found = sorted(path for path in RUNS_DIR.glob("*") if (path / "manifest.json").exists())
        if not found:
            raise ConfigurationError("no run below runs/ yet: `testbed run quick-start` makes one")
        return _plain(Bundle(found[-1]))
    for path in (Path(text), RUNS_DIR / text):
        if (path / "manifest.json").exists():
            return _plain(Bundle(path))
        if (above := _bundle_of(path)) is not None:
            raise ConfigurationError(f"{text} is one run of a bundle; name the bundle: {above}")
        if path.is_file():
            unpack = f"{'unzip' if path.suffix == '.zip' else 'tar -xf'} {shlex.quote(str(path))}"
            raise ConfigurationError(
                f"{text} is a file, and a bundle is a folder; unpack an archive first, and name "
                f"the folder in it:\n  {unpack}"
            )
    if inside := sorted(Path(text).glob("*/manifest.json")):
        newest = shlex.quote(str(inside[-1].parent))
        raise ConfigurationError(f"{text} is a folder of bundles; name one, as {newest}")
    raise ConfigurationError(f"{text}: no bundle there (no manifest.json); see `ls runs`")


def find_run(text: str) -> RunFolder:
    """One run for commands that need raw files: BUNDLE/run/0001-faults, or a bundle with one run.

    Raises ConfigurationError that lists the runs of a bundle with several.
    """
    for path in (Path(text), RUNS_DIR / text):
        if (above := _bundle_of(path)) is not None:
            runs = [run for run in _plain(Bundle(above)).runs if run.path.name == path.name]
            if runs:
                return runs[0]
    bundle = find_bundle(text)
    runs = list(bundle.runs)
    if len(runs) == 1:
        return runs[0]
    paths = [f"{bundle.typed}/{run.entry.path}" for run in runs if run.entry.complete]
    shown = ", ".join(paths[:4]) or "none is complete yet"
    more = f" ... {paths[-1]}" if len(paths) > len(paths[:4]) else ""
    raise ConfigurationError(f"{text} has {len(runs)} runs; name one of them: {shown}{more}")


def _plain(bundle: Bundle) -> Bundle:
    """Raises ConfigurationError unless everything below it is a file or a directory, and no file is
    huge. A bundle from a stranger must not make us read or write other files by a link, nor fill
    memory and disk with the zeros of a sparse file."""
    for folder, names, files in os.walk(bundle.path):
        for name in (*names, *files):
            path = Path(folder, name)
            if "\n" in name or not _is_utf8(name):
                raise ConfigurationError(f"{str(path)!r}: no list can have this name; rename it")
            try:
                found = path.lstat()
            except FileNotFoundError:  # a campaign that goes on has just moved it
                continue
            if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
                raise ConfigurationError(f"{path} is a link or a device; a bundle has files only")
            bytes_max = LEDGER_BYTES_MAX if path.suffix == ".sqlite" else FILE_BYTES_MAX
            if found.st_size > bytes_max:
                raise ConfigurationError(f"{path} has {found.st_size} bytes: at most {bytes_max}")
    return bundle


def _is_utf8(name: str) -> bool:
    """Python has surrogates for bytes of a name that are not UTF-8."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _no_number(text: str) -> Any:
    """JSON has no NaN and no Infinity, but Python's parser takes them."""
    raise ValueError(f"{text} is no number")


def _bundle_of(run: Path) -> Path | None:
    """The bundle that holds the directory of a run; None if `run` is no such directory."""
    above = run.absolute().parent
    inside = above.name == "run" and (above.parent / "manifest.json").exists()
    return above.parent if inside else None
