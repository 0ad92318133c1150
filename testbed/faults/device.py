"""An operator's actions on devices during a run: `device.revoke` and `device.admit`.

The operator of `testbed.standing.operator` does them, as `testbed device` would: with the
administrator's key, through the gateway. It believes only proofs of the chain, so an action is seen
when the chain proves it.
"""

from __future__ import annotations

import asyncio
import threading
import time
import weakref
from abc import abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from nodes.disk import write_atomically
from testbed.campaign.injection import Injection, Scene, Seen
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.campaign.selectors import SelectorField
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.workspace import workspace

if TYPE_CHECKING:
    from chain.ledger.identity import Identity
    from testbed.standing.operator import Operator

__all__ = ["AdmitAction", "RevokeAction", "operator_of"]


class RevokeDevice(Params):
    """An administrator revokes devices: the chain records it, and from then on accepts nothing from
    them."""

    on: SelectorField


class AdmitDevice(Params):
    """An administrator makes a voucher for one more mobile device. The device makes its key on this
    machine, asks for admission through the broker and the gateway, and verifies the ledger."""


class _DeploymentOperator:
    """The operator of one deployment. It does one action after the other, because its counters must
    rise. Its key and its verified state are in a private directory that disappears with the
    deployment."""

    def __init__(self, deployment: Deployment) -> None:
        from testbed.standing.running_lab import describe  # noqa: PLC0415 - kinds must be light

        stack = ExitStack()
        weakref.finalize(deployment, stack.close)
        self.home = stack.enter_context(workspace())
        self._lock = threading.Lock()
        now_ns = time.time_ns()
        self._running = describe(deployment, self.home, inventory="", start_ns=now_ns, period_ms=1)

    def operate(
        self, work: Callable[[Operator], Awaitable[None]], within_s: float | None = None
    ) -> None:
        """Log in, verify what is new in the ledger, and do `work`. Raises LabFault, also if it
        takes longer than `within_s`."""
        from testbed.standing.operator import operating  # noqa: PLC0415 - kinds must be light

        async def session() -> None:
            async with asyncio.timeout(within_s), operating(self._running) as operator:
                await operator.refresh()
                await work(operator)
                self._running = operator.running

        with self._lock:
            try:
                asyncio.run(session())
            except TimeoutError:
                raise LabFault(f"the chain decides nothing within {within_s:.0f} s") from None


_operators: WeakKeyDictionary[Deployment, _DeploymentOperator] = WeakKeyDictionary()
_making = threading.Lock()


def operator_of(deployment: Deployment) -> _DeploymentOperator:
    """The operator of a deployment. Each deployment has one."""
    with _making:
        if deployment not in _operators:
            _operators[deployment] = _DeploymentOperator(deployment)
        return _operators[deployment]


class OperatorAction(Injection):
    """An action of the operator."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self.operator = operator_of(scene.deployment)
        self._proven: dict[str, object] = {}

    @abstractmethod
    async def act(self, operator: Operator) -> None:
        """Do it; raises RefusedError or LabFault."""

    @abstractmethod
    def proven(self, operator: Operator) -> dict[str, object]:
        """What the chain proves of the action; empty if nothing."""

    def apply(self) -> None:
        self.operator.operate(self.act)

    def observe(self, within_s: float) -> Seen | None:
        async def look(operator: Operator) -> None:
            self._proven = self.proven(operator)

        self.operator.operate(look)
        return Seen("the chain proves it to the operator", self._proven) if self._proven else None


class RevokeAction(OperatorAction):
    async def act(self, operator: Operator) -> None:
        for identity in self._those(operator):
            await operator.revoke(identity, self.scene.event.id)

    def proven(self, operator: Operator) -> dict[str, object]:
        found = self._those(operator)
        if any(identity.ended is None for identity in found):
            return {}
        return {identity.node.hex()[:16]: "ended" for identity in found}

    def _those(self, operator: Operator) -> list[Identity]:
        return [operator.find(node.name)[1] for node in self.scene.nodes("on")]


class AdmitAction(OperatorAction):
    @property
    def _name(self) -> str:
        return f"new-{self.scene.event.id}".replace(".", "-")

    async def act(self, operator: Operator) -> None:
        from testbed.standing.newcomer import (  # noqa: PLC0415 - kinds must be light
            VOUCHER,
            run_until_admitted,
            write_device,
        )

        voucher = await operator.new_voucher(self._name, 1)
        directory = self.operator.home / self._name
        directory.mkdir(mode=0o700)
        write_device(directory, self._name, 1, operator.running, None)
        write_atomically(directory / VOUCHER, voucher.pem, mode=0o600)
        await asyncio.to_thread(run_until_admitted, self._name, directory)

    def proven(self, operator: Operator) -> dict[str, object]:
        found = [identity for name, identity in operator.devices if name == self._name]
        return {identity.node.hex()[:16]: "admitted" for identity in found}


register(
    Kind(
        "device.revoke",
        RevokeDevice,
        category="action",
        layer="identity",
        summary="an administrator revokes devices",
        mechanisms=(Mechanism("operator", RevokeAction, systems=("chain",)),),
        seen="the chain proves it",
    )
)
register(
    Kind(
        "device.admit",
        AdmitDevice,
        category="action",
        layer="identity",
        summary="an administrator admits one more device",
        mechanisms=(Mechanism("operator", AdmitAction, systems=("chain",)),),
        seen="the chain proves it",
    )
)
