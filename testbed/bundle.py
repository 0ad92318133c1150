"""The result bundle of a campaign: where each file stands.

    runs/<utc>-<campaign>-<hash>/
      manifest.json   what ran, from which commit, where; the state of each run (`manifest`)
      summary.json    verdicts and headline figures (`testbed.report`)
      inputs/         campaign, schedule, redacted inventory, genesis
      env/<host>.json what kind of machine each host was
      raw/            <node>.jsonl events, ledger/<replica>.sqlite, serial/<board>.log,
                      run.jsonl (phases), faults.jsonl, attacks.jsonl, clock.jsonl
      derived/, plots/, report.html, junit.xml   rebuilt from the above by `testbed report`

So it is for a campaign of one run. With several, each run has such a directory of its own below
`run/` (`run/0002-faults/`), and the campaign's holds manifest, inputs and what is derived over all
runs. `attempts/` has what tries that did not become a run left.

Nothing secret is ever written here: key files stay in the hosts' own trees, the inventory is
redacted. Files are written whole or not at all, so that an interrupted run can still be read.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from testbed.errors import ConfigurationError, LockedError
from testbed.manifest import Attempt, Manifest, RunEntry

__all__ = ["RUNS_DIR", "Bundle", "find_bundle", "find_results"]

RUNS_DIR = Path("runs")
RUN_DIR = "run"
_OF_ONE_RUN = ("env", "inputs/genesis.json", "raw")  # in the order in which they are moved
_DERIVED = ("derived", "plots", "summary.json", "report.html", "junit.xml")


class Bundle:
    """The directory of a campaign, or of one run of several."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, out: Path, campaign: str, schedule_hash: str, now: datetime) -> Bundle:
        """Make a new, empty bundle; a second run in the same second gets a number."""
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
        raise ConfigurationError(f"{out}: a thousand runs named {stem}; choose another --out")

    @property
    def name(self) -> str:
        """As a user may type it below runs/."""
        above = self.path.absolute().parent
        return f"{above.parent.name}/{RUN_DIR}/{self.path.name}" if self.is_part else self.path.name

    @property
    def is_part(self) -> bool:
        """Whether it is one run of several."""
        above = self.path.absolute().parent
        return above.name == RUN_DIR and (above.parent / "manifest.json").exists()

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def ledgers(self) -> list[Path]:
        """The replicas' databases, in the order of their names."""
        return sorted((self.raw / "ledger").glob("*.sqlite"))

    @property
    def is_derived(self) -> bool:
        """Whether all that is derived is there: the page is written last."""
        return (self.path / "report.html").exists()

    # --- manifest and runs -----------------------------------------------------------------------

    @property
    def manifest(self) -> Manifest:
        """Raises ConfigurationError if this is no bundle."""
        try:
            return msgspec.convert(self.read_json("manifest.json"), type=Manifest)
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{self.path}/manifest.json: {error}") from error

    def altered(self, manifest: Manifest) -> tuple[str, ...]:
        """The inputs that are not what the manifest says was run: edited, or of another bundle.
        (An older manifest does not say it of the campaign.)"""
        wanted = {
            "inputs/schedule.json": manifest.schedule_sha256,
            "inputs/campaign.yaml": manifest.campaign_sha256,
        }
        return tuple(
            name
            for name, digest in wanted.items()
            if digest and sha256((self.path / name).read_bytes()).hexdigest() != digest
        )

    def write_manifest(self, manifest: Manifest) -> None:
        self.write_json("manifest.json", msgspec.to_builtins(manifest))

    def update(self, index: int, **changes: Any) -> RunEntry:
        """Change the entry of one run in the manifest; answers what it is now."""
        manifest = self.manifest
        before = next(each for each in manifest.runs if each.index == index)
        entry = msgspec.structs.replace(before, **changes)
        self.write_manifest(manifest.with_run(entry))
        return entry

    def of_run(self, entry: RunEntry) -> Bundle:
        """Where a run's files are: here, or below `run/`."""
        return self if entry.path == "." else Bundle(self.path / entry.path)

    def prepare(self) -> None:
        """The directories that a run writes into."""
        for part in ("inputs", "env", "raw/ledger", "raw/serial"):
            (self.path / part).mkdir(parents=True, exist_ok=True)

    def set_aside(self, entry: RunEntry, reason: str) -> None:
        """Move what an incomplete run left to `attempts/`: kept, and in no figure.

        An earlier call may have been killed in its middle: what it began is then ended. `raw` is
        moved last, and only then the manifest says where it is.
        """
        run = self.of_run(entry)
        stem = f"{entry.index:04}-{entry.arm}"
        number = len(entry.attempts) + 1
        kept = Bundle(self.path / "attempts" / f"{stem}-{number}")
        if not run.raw.exists() and not kept.raw.exists():
            return  # it ended before it had written anything
        taken = kept.raw if run is self else kept.path
        while run.raw.exists() and taken.exists():  # somebody else's
            number += 1
            kept = Bundle(kept.path.with_name(f"{stem}-{number}"))
            taken = kept.raw if run is self else kept.path
        if run.raw.exists():
            kept.path.parent.mkdir(exist_ok=True)
            if run is not self:
                run.path.rename(kept.path)
            else:
                for name in (*_DERIVED, *_OF_ONE_RUN):
                    if (self.path / name).exists():
                        (kept.path / name).parent.mkdir(parents=True, exist_ok=True)
                        (self.path / name).rename(kept.path / name)
        attempt = Attempt(
            path=str(kept.path.relative_to(self.path)), reason=reason, started=entry.started
        )
        self.update(entry.index, state="planned", attempts=(*entry.attempts, attempt))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Have the bundle to write runs into. Ends with the process, however that ends.

        Raises LockedError if another process has it.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                owner = file.read(100).strip() or "another process"
                raise LockedError(f"{self.path} is being written by {owner}") from error
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            yield

    # --- files -----------------------------------------------------------------------------------

    def write_json(self, name: str, value: object) -> Path:
        """Write `name` below the bundle as readable JSON, whole or not at all."""
        return self.write(name, json.dumps(value, indent=1, sort_keys=False) + "\n")

    def write(self, name: str, data: str | bytes) -> Path:
        """Write `name` below the bundle, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        part.unlink(missing_ok=True)  # a link of a bundle that somebody sent is not followed
        part.write_bytes(data.encode() if isinstance(data, str) else data)
        part.replace(path)
        return path

    def read_json(self, name: str) -> Any:
        """The JSON value in `name`; ConfigurationError names the file if it cannot be read."""
        path = self.path / name
        try:
            return json.loads(path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"{path}: {error.strerror}; is this a bundle?") from error
        except ValueError as error:
            raise ConfigurationError(f"{path}: not JSON ({error}); the file is damaged") from error

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """The objects of a .jsonl file; a torn last line (a process was killed) is left out."""
        path = self.path / name
        if not path.exists():
            return
        with path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise ConfigurationError(f"{path}:{number}: not JSON ({error})") from error


def find_results(text: str) -> Bundle:
    """The bundle that a user names: a path, or the name of a run below runs/, or "last"."""
    if text == "last":
        found = sorted(path for path in RUNS_DIR.glob("*") if (path / "manifest.json").exists())
        if not found:
            raise ConfigurationError("no run below runs/ yet: `testbed run quick-start` makes one")
        return Bundle(found[-1])
    for path in (Path(text), RUNS_DIR / text):
        if (path / "manifest.json").exists():
            return Bundle(path)
    raise ConfigurationError(f"{text}: no bundle there (no manifest.json); see `ls runs`")


def find_bundle(text: str) -> Bundle:
    """As `find_results`, for who needs the raw files of one run."""
    bundle = find_results(text)
    manifest = bundle.manifest
    if manifest.several:
        paths = [str(bundle.path / each.path) for each in manifest.runs if each.complete]
        raise ConfigurationError(
            f"{text} has {len(manifest.runs)} runs; name one of them: {_some(paths)}"
        )
    return bundle


def _some(paths: Sequence[str]) -> str:
    shown = ", ".join(paths[:4]) or "none is complete yet"
    return shown + (f" ... {paths[-1]}" if len(paths) > len(paths[:4]) else "")
