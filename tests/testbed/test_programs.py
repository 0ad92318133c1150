"""Programs that run on hosts are files that tools can check."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from testbed import programs

TESTBED = Path(programs.__file__).parent
SHELL = sorted(str(path.relative_to(TESTBED)) for path in TESTBED.rglob("*.sh"))


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_shell_programs_pass_shellcheck() -> None:
    """As POSIX sh: a host's sh is dash, or busybox."""
    assert SHELL
    checked = subprocess.run(
        ["shellcheck", "--shell=sh", *SHELL],
        cwd=TESTBED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout


def test_a_hosts_python_variables_do_not_reach_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROS exports PYTHONPATH at login, and may have a module of any name there."""
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    argv = programs.python("python3", "care/on_host.py")
    done = subprocess.run(argv, input=b"", capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
