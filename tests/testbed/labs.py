"""Labs on this machine for campaigns of tests, with fewer processes than the packaged one has."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests.testbed.command_line import run_testbed

__all__ = ["local_lab", "run_campaign"]


def local_lab(
    *, mobiles: int = 2, boards: int = 1, spare: str = "", chain: dict[str, int] | None = None
) -> str:
    """The inventory of four replicas, a gateway with its broker, and devices; `spare` is the name
    of one more replica, `chain` the section of that name."""
    replicas = [f"  r{n}: {{connection: local, roles: [replica]}}" for n in (1, 2, 3, 4)]
    spares = [f"  {spare}: {{connection: local, roles: [spare]}}"] if spare else []
    return "\n".join(
        [
            "schema: testbed.inventory/1",
            "lab: small",
            f"chain: {json.dumps(chain or {})}",
            "hosts:",
            *replicas,
            *spares,
            "  gw1: {connection: local, roles: [gateway, broker]}",
            "  env1: {connection: local, roles: [environment]}",
            f"  phones: {{connection: local, roles: [mobile], mobiles: {mobiles}}}",
            "boards:" if boards else "boards: {}",
            *(f"  th0{n + 1}: {{host: env1, firmware: {{board: unix}}}}" for n in range(boards)),
            "",
        ]
    )


def run_campaign(
    home: Path, campaign: str, lab: str
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """`testbed run`; its end, and the summary (empty if there is none)."""
    (home / "lab.yaml").write_text(lab)
    (home / "campaign.yaml").write_text(campaign)
    argv = ["run", str(home / "campaign.yaml"), "-i", str(home / "lab.yaml")]
    ended = run_testbed(*argv, "--out", str(home / "runs"))
    summaries = list(home.glob("runs/*/summary.json"))
    return ended, json.loads(summaries[0].read_bytes()) if summaries else {}
