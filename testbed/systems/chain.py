"""The paper's scheme: replicas that agree on a ledger. Its parts are in other modules; this one
only names them."""

from __future__ import annotations

from testbed.provision.configs import files_of
from testbed.provision.material import make_material
from testbed.systems.system import Checks, System

__all__ = ["CHAIN"]


def _checks() -> Checks:
    from testbed.checks import chain  # noqa: PLC0415 - only judging needs it

    return chain


CHAIN = System(
    name="chain",
    lab=lambda lab: lab,
    devices=lambda devices: devices,
    lacks={},
    has_switch=True,
    bears_faults=True,
    programs={
        "broker": "nodes.gateway.broker",
        "board": "nodes.board",
        "replica": "nodes.replica.process",
        "spare": "nodes.replica.process",
        "gateway": "nodes.gateway.process",
        "environment": "nodes.device.environment",
        "mobile": "nodes.device.mobile",
    },
    material=make_material,
    files=files_of,
    traced=frozenset({"replica", "gateway", "environment", "mobile"}),
    checks=_checks,
)
