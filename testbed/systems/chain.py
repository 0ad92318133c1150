"""The paper's scheme: replicas that agree on a ledger. Its parts are where they always were; here
they are only named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.provision.configs import files_of
from testbed.provision.material import make_material
from testbed.systems.system import System

if TYPE_CHECKING:
    from testbed.checks.evidence import Evidence
    from testbed.checks.ledger import LedgerReport
    from testbed.checks.properties import Property

__all__ = ["CHAIN"]


def _admitted(evidence: Evidence) -> int:
    from testbed.checks.admissions import admitted  # noqa: PLC0415 - only judging needs it

    return admitted(evidence)


def _verify(evidence: Evidence) -> LedgerReport:
    from testbed.checks.ledger import verify_ledgers  # noqa: PLC0415 - only judging needs it

    return verify_ledgers(evidence.ledgers, evidence.genesis)


def _properties(evidence: Evidence, ledger: LedgerReport) -> tuple[Property, ...]:
    from testbed.checks.properties import safety  # noqa: PLC0415 - see above

    return safety(evidence, ledger)


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
    admitted=_admitted,
    verify=_verify,
    properties=_properties,
)
