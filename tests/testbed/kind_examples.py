"""One event of every kind of fault and action, as a campaign file says it.

What a kind needs beyond the usual parameters stands in `NEEDS`; whoever adds such a kind adds a
line there. So whatever holds of all kinds is tested of all kinds.
"""

from __future__ import annotations

import json

from testbed.campaign.kinds import Kind, kinds
from testbed.campaign.selectors import Selector, means_hosts

__all__ = ["NEEDS", "campaign", "event", "lasting"]

_BOARD: dict[str, object] = {"on": "board(th01)"}
NEEDS: dict[str, dict[str, object]] = {
    "byzantine.delay": {"by": "10ms"},
    "byzantine.conspire": {"with": "replica(2)"},
    "process.memory": {"mb": 16},
    "clock.step": {"by": "60s"},
    "clock.drift": {"ppm": 100_000},
    "disk.slow": {"by": "50ms"},
    "net.corrupt": {"share": 0.1, "to": "replica(2)"},
    "net.delay": {"by": "10ms", "to": "replica(2)"},
    "net.duplicate": {"share": 0.1, "to": "replica(2)"},
    "net.flap": {"period": "2s", "to": "replica(2)"},
    "net.jitter": {"by": "10ms", "to": "replica(2)"},
    "net.loss": {"share": 0.1, "to": "replica(2)"},
    "net.partition": {"shape": "one-way", "from": "replica(1)", "to": "replica(2)"},
    "net.rate": {"kbit": 500.0, "to": "replica(2)"},
    "net.reorder": {"share": 0.1, "by": "10ms", "to": "replica(2)"},
    "net.slow-link": {"by": "10ms"},
    "relay.delay": {"by": "10ms"},
    "board.boot-loop": _BOARD,
    "device.flood": {"rate": "20/s"},
    "device.mitm": {"on": "environment"},
    "sensor.false-data": _BOARD,
    "serial.mitm": _BOARD,
    "serial.noise": _BOARD,
    "serial.unplug": _BOARD,
    "serial.wrong-baud": _BOARD,
}
"""Parameters that have no default and are no selector of one replica, by kind."""

CAMPAIGN = """
schema: testbed.campaign/1
campaign: killed
seed: 7
workload: {{kind: enrol+data, rate: 5/s, arrivals: uniform, timeout: 5s}}
phases: {{warmup: 2s, fault: 5m}}
faults: {faults}
guard: none
"""


def lasting() -> list[Kind]:
    """Every kind that something is left of until it is healed."""
    return [kind for kind in kinds().values() if "for_" in kind.params.model_fields]


def event(kind: Kind, on: str | None = None, for_: str = "4m") -> dict[str, object]:
    """One event that begins with its phase; `on` stands in for its targets."""
    said: dict[str, object] = {"id": kind.name.replace(".", "-"), "do": kind.name, "at": "0s"}
    for name, field in kind.params.model_fields.items():
        key = field.alias or name
        if key in NEEDS.get(kind.name, {}):
            said[key] = NEEDS[kind.name][key]
        elif name == "for_":
            said[key] = for_
        elif field.annotation is Selector and field.is_required():
            said[key] = on or ("host(r2)" if means_hosts(field) else "replica(1)")
    return said


def campaign(events: list[dict[str, object]]) -> str:
    """A file with these events in a phase of five minutes."""
    return CAMPAIGN.format(faults=json.dumps(events))
