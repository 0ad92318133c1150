"""The result bundle of a run: where each file stands, and its manifest.

    runs/<utc>-<campaign>-<hash>/
      manifest.json   what ran, from which commit, with which packages, where
      summary.json    verdicts and headline figures (`testbed.report.summary`)
      inputs/         campaign, schedule, inventory, genesis
      env/<host>.json what kind of machine each host was
      raw/            <node>.jsonl events, ledger/<replica>.sqlite, serial/<board>.log,
                      run.jsonl (phases), faults.jsonl, attacks.jsonl, clock.jsonl
      derived/, plots/, report.html, junit.xml   rebuilt from the above by `testbed report`

Nothing secret is ever written here: key files stay in the hosts' own trees. Files are written
whole or not at all, so that an interrupted run leaves a bundle that can still be read.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from testbed.errors import ConfigurationError

__all__ = ["RUNS_DIR", "Bundle", "find_bundle"]

RUNS_DIR = Path("runs")


class Bundle:
    """One run's directory."""

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
            for part in ("inputs", "env", "raw/ledger", "raw/serial", "derived", "plots"):
                (path / part).mkdir(parents=True)
            return cls(path)
        raise ConfigurationError(f"{out}: a thousand runs named {stem}; choose another --out")

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def raw(self) -> Path:
        return self.path / "raw"

    @property
    def ledgers(self) -> list[Path]:
        """The replicas' databases, in the order of their names."""
        return sorted((self.raw / "ledger").glob("*.sqlite"))

    def write_json(self, name: str, value: object) -> Path:
        """Write `name` below the bundle as readable JSON, whole or not at all."""
        return self.write(name, json.dumps(value, indent=1, sort_keys=False) + "\n")

    def write(self, name: str, data: str | bytes) -> Path:
        """Write `name` below the bundle, whole or not at all."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
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

    def write_manifest(
        self,
        *,
        stage: str,
        seed: int,
        schedule_hash: str,
        hosts: Sequence[str],
        exclusions: dict[str, str],
        started: datetime,
    ) -> None:
        """Everything needed to run it again, and to know what it ran on."""
        self.write_json(
            "manifest.json",
            {
                "schema": "testbed.manifest/1",
                "run": self.name,
                "argv": ["testbed", *sys.argv[1:]],
                "seed": seed,
                "schedule_sha256": schedule_hash,
                "stage": stage,
                "started": started.astimezone(UTC).isoformat(),
                "hosts": list(hosts),
                "exclusions": exclusions,
                "git": git_state(),
                "python": platform.python_version(),
                "packages": {
                    dist.name: dist.version
                    for dist in sorted(distributions(), key=lambda d: d.name.lower())
                },
            },
        )


@cache
def git_state() -> dict[str, object]:
    """Commit and whether the tree differs from it; nulls outside a checkout."""
    top = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *args],  # noqa: S607 - whichever git the user has
                cwd=top,
                capture_output=True,
                text=True,
                timeout=10,
                check=True,
                env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    status = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if status is None else bool(status)}


def find_bundle(text: str) -> Bundle:
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
