"""The description of a system under test. The instances are `chain` and `baseline`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from inventory.model import Lab
from testbed.campaign.event import Layer, SystemName
from testbed.campaign.schedule import ScheduledDevice
from testbed.provision.layout import Node, NodeRole

if TYPE_CHECKING:
    from nodes.keygen import PublicKeys
    from testbed.checks.evidence import Evidence
    from testbed.checks.ledger import LedgerReport
    from testbed.checks.properties import Property
    from testbed.provision.configs import File, LabNetwork
    from testbed.provision.material import Material

__all__ = ["Checks", "System"]

MakeMaterial = Callable[
    [Lab, Sequence[Node], "Mapping[str, PublicKeys]", Mapping[str, bytes]], "Material"
]
FilesOf = Callable[[Node, "LabNetwork"], "Iterator[File]"]


class Checks(Protocol):
    """The judge of a run: a module of `testbed.checks`."""

    def admitted(self, evidence: Evidence) -> int:
        """How many devices were admitted."""

    def report(self, evidence: Evidence) -> LedgerReport:
        """What the collected stores contain, and how much of it is proven."""

    def safety(self, evidence: Evidence, ledger: LedgerReport) -> tuple[Property, ...]:
        """The safety properties that can be judged from them."""


@dataclass(frozen=True)
class System:
    """A system under test.

    Before a run: `lab` is the part of a lab that it uses; `devices` are the devices of a schedule
    as they run in it. `lacks` has the layers (of kinds of fault) that do not exist here, each with
    the reason. `has_switch`: its processes have the switch of `nodes.switch`. `bears_faults`: some
    of its replicas may be faulty, so a campaign's guard counts them; otherwise the guard is off,
    because every fault is beyond the bound.

    To run it: `programs` by role (a provider has the role of a replica), `material` makes keys and
    tokens, `files` are the files with which each process starts. Processes of the roles `traced`
    can write traces.

    After a run: `checks` loads its judge.
    """

    name: SystemName
    lab: Callable[[Lab], Lab]
    devices: Callable[[tuple[ScheduledDevice, ...]], tuple[ScheduledDevice, ...]]
    lacks: Mapping[Layer, str]
    has_switch: bool
    bears_faults: bool
    programs: Mapping[NodeRole, str]
    material: MakeMaterial
    files: FilesOf
    traced: frozenset[NodeRole]
    checks: Callable[[], Checks]
