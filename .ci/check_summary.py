"""Fails unless the summary of a quick-start run says that everything worked."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def problems(summary: dict) -> list[str]:
    """What a quick-start summary must say, each thing that it does not."""
    wanted = {
        "schema is testbed.summary/2": summary.get("schema") == "testbed.summary/2",
        "verdict is passed": summary.get("verdict") == "passed",
        "stage is loopback": summary.get("stage") == "loopback",
        "4 replicas, f = 1": (summary.get("replicas"), summary.get("f")) == (4, 1),
        "devices were admitted": summary.get("devices_admitted", 0) >= 5,
        "at least 20 records": summary.get("records", 0) >= 20,
        "the ledger verified": summary.get("ledger_verified") is True,
        "latencies were measured": all(
            summary.get("latency_ms", {}).get(kind, {}).get("n", 0) > 0
            for kind in ("admission", "consensus", "data")
        ),
        "a fault was applied, seen and healed": any(
            0 < fault["injected"] == fault["applied"] == fault["observed"] == fault["healed"]
            for fault in summary.get("faults", [])
        ),
        "an attack was tried and held": any(
            attack["trials"] > 0 and attack["successes"] == 0 and attack["verdict"] == "held"
            for attack in summary.get("attacks", [])
        ),
    }
    return [promise for promise, kept in wanted.items() if not kept]


if __name__ == "__main__":
    broken = problems(json.loads(Path(sys.argv[1]).read_text()))
    for promise in broken:
        print(f"summary.json does not say: {promise}", file=sys.stderr)
    print("summary: as promised" if not broken else "summary: see above")
    sys.exit(bool(broken))
