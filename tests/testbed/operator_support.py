"""`testbed up`, `device` and `down` as somebody at a terminal, or a script, runs them.

`up` is a process of its own. The commands are called in this process, which saves half a second
each; `program` starts one as its users do.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from testbed.standing.running_lab import RUNNING_FILE, read_running
from tests.testbed.command_line import run_testbed

__all__ = ["Operator"]

UP_S_MAX = 90.0


class Operator:
    """Somebody at a terminal; labs of others are not seen."""

    def __init__(self, tmp_path: Path) -> None:
        self.home = tmp_path
        self.scratch = tmp_path / "tmp"
        self.scratch.mkdir()
        self.environment = {**os.environ, "TMPDIR": str(self.scratch)}

    def directory(self, node: str) -> str:
        """Where a process of the one lab that is up has its files."""
        (path,) = self.scratch.glob(f"m2m-*/{RUNNING_FILE}")
        return str(read_running(path).nodes[node].directory)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TMPDIR", str(self.scratch))
            return run_testbed(*words)

    def program(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same as a process of its own: for two at once, and for what only a process shows."""
        return subprocess.run(
            [sys.executable, "-m", "testbed.cli", *words],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def does(self, *words: str) -> Any:
        """What a command that must succeed prints as JSON."""
        done = self.run(*words, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def fails(self, code: int, *words: str) -> str:
        """The message of a command that must end with this exit code."""
        done = self.run(*words, "--json")
        assert done.returncode == code, done.stdout + done.stderr
        assert done.stderr == ""
        error = json.loads(done.stdout)["error"]
        assert error["exit_code"] == code
        return str(error["message"])

    @contextmanager
    def lab(self, inventory: Path) -> Iterator[dict[str, Any]]:
        """`testbed up`, in a terminal of its own."""
        said = self.home / "up.json"
        argv = [sys.executable, "-m", "testbed.cli", "up", "-i", str(inventory), "--json"]
        argv += ["--every", "1s"]
        with said.open("wb") as out, (self.home / "up.log").open("wb") as log:
            process = subprocess.Popen(argv, stdout=out, stderr=log, env=self.environment)
            try:
                deadline_s = time.monotonic() + UP_S_MAX
                while not said.read_bytes().endswith(b"}\n"):
                    assert process.poll() is None, (self.home / "up.log").read_text()
                    assert time.monotonic() < deadline_s, (self.home / "up.log").read_text()
                    time.sleep(0.1)
                up = json.loads(said.read_bytes())
                assert "error" not in up, up
                yield up
                assert process.wait(60) == 0
            finally:
                process.terminate()
                process.wait(60)
