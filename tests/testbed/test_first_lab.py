"""The pytest example of "your first lab" is run as it is printed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.testbed.operator_support import Operator

README = Path(__file__).parents[2] / "testbed/provision/README.md"
INVENTORY = """\
schema: testbed.inventory/1
lab: first
hosts:
  pi01: {connection: local, roles: [replica, gateway, broker]}
  pi02: {connection: local, roles: [replica, environment]}
  pi03: {connection: local, roles: [replica]}
  pi04: {connection: local, roles: [replica, mobile], mobiles: 3}
"""


def test_the_example_for_ones_own_tests_runs_as_printed(tmp_path: Path) -> None:
    """With the names of that chapter, on hosts of this machine."""
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "test_example.py").write_text(example)
    inventory = tmp_path / "my-lab.yaml"
    inventory.write_text(INVENTORY)
    operator = Operator(tmp_path)
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with operator.lab(inventory):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "test_example.py"],
            cwd=tmp_path,
            env=operator.environment | {"PATH": programs},
            capture_output=True,
            text=True,
            check=False,
        )
        operator.does("down")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
