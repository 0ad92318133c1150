"""`sensor.false-data`: compromised sensors lie, and their devices sign it.

The chain accepts it by design: a signature proves the sender, not the truth. The judge runs a
filter over redundant sensors on the ledger (`testbed.checks.sensor_filter`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from inventory.model import Lab
from testbed.campaign.injection import Attack, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.quantities import SpanField
from testbed.campaign.selectors import SensorField
from testbed.checks.false_data import FALSE_DATA, judge_false_data

if TYPE_CHECKING:
    from testbed.faults.switch import SwitchOrder
    from testbed.provision.deployment import Deployment
    from testbed.provision.layout import Node

__all__ = ["FalseData"]

BY_MAX = 1_000_000_000


class FalseData(Params):
    """Sensors `on` (mobile devices or boards; `sensors(K)`: K of all, drawn by the seed) lie until
    `for` has passed, and their devices sign it. `bias`: `by` is added to each value, in the
    sensor's unit (m°C of the simulated ones). `drift`: `by` more each second. `freeze`: the first
    value again and again. All sensors of the lab are taken as redundant; the attack succeeds for
    each sensor of which the filter finds no lie. `details` has lies found, false alarms, both with
    95 % bounds, and the delay until the first lie was found."""

    on: SensorField
    for_: SpanField = Field(alias="for")
    how: Literal["bias", "drift", "freeze"] = "bias"
    by: int = Field(default=1_000, ge=-BY_MAX, le=BY_MAX)


class FalseDataAttack(Attack):
    """The switch of the process that signs for a sensor makes it lie."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._orders: list[SwitchOrder] = []

    def apply(self) -> None:
        from testbed.faults.switch import SwitchOrder  # noqa: PLC0415 - only a run needs it

        params, liars = self.scene.event.params, self.scene.nodes("on")
        by_signer: dict[Node, list[str]] = {}
        for liar in liars:
            board = liar.name if liar.role == "board" else ""
            by_signer.setdefault(self._signer(liar), []).append(board)
        for signer, sensors in by_signer.items():
            order = SwitchOrder(self.scene, signer, "sensor")
            self._orders.append(order)
            order.arm()
            order.give({"lie": params["how"], "by": params["by"], "sensors": sensors})
        self.sent(*(f"sensor/{liar.name}" for liar in liars))

    def heal(self) -> None:
        orders, self._orders = self._orders, []
        for order in orders:
            order.take_back()

    def _signer(self, sensor: Node) -> Node:
        return self.scene.deployment.sponsor(sensor) if sensor.role == "board" else sensor


def _with_sensors(lab: Lab, hosts: tuple[str, ...]) -> str | None:
    sensing = {mobile.host for mobile in lab.mobiles()}
    sensing |= {board.host for board in lab.boards_in_use().values()}
    return None if sensing & {*hosts} else f"{', '.join(hosts)}: no sensor"


def _equip(deployment: Deployment) -> None:
    from testbed.faults.switch import equip  # noqa: PLC0415 - only a run needs it

    equip(deployment)


register(
    Kind(
        FALSE_DATA,
        FalseData,
        category="attack",
        layer="device",
        summary="compromised sensors lie by a bias, a drift or a freeze, well signed",
        mechanisms=(Mechanism("switch", FalseDataAttack, available=_with_sensors, equip=_equip),),
        judge=judge_false_data,
        seen="their devices log each lie, and it is on the chain",
    )
)
