"""`python -m nodes.switch.replica --config FILE`: a replica with a switch (`orders`).

It is the process of an honest replica with wrappers put around its parts. Campaigns that need it
start it in place of `nodes.replica.process`.
"""

from __future__ import annotations

from pathlib import Path

from chain.keys import Signer
from nodes.byzantine.config import Byzantine
from nodes.byzantine.tricks import misbehaviour
from nodes.config import ReplicaConfig
from nodes.ports import Clock, Events, Store, Wire
from nodes.replica.around import Around
from nodes.replica.driver import Rewrite
from nodes.replica.process import ReplicaProcess, replica_main
from nodes.replica.service import Service
from nodes.switch.clock import ClockOrder, ClockSeam
from nodes.switch.effects import EffectsSeam
from nodes.switch.links import LinkOrder, LinksSeam, ShapedWire
from nodes.switch.orders import orders_in
from nodes.switch.seals import LyingWire, SealOrder
from nodes.switch.store import StoreOrder, StoreSeam

__all__ = ["SwitchedReplicaConfig", "main"]


class SwitchedReplicaConfig(ReplicaConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`switch` is the directory of orders."""

    switch: str


class _Switched(Around):
    def __init__(self, config: SwitchedReplicaConfig) -> None:
        self._config = config
        self._orders = orders_in(Path(config.switch))

    def store(self, store: Store) -> Store:
        seam = StoreSeam(store)
        self._orders.add("store", StoreOrder, seam.take)
        return seam

    def clock(self, clock: Clock) -> Clock:
        seam = ClockSeam(clock)
        self._orders.add("clock", ClockOrder, seam.take)
        return seam

    def effects(self, service: Service, signer: Signer, events: Events) -> Rewrite:
        seam = EffectsSeam(
            lambda wanted: misbehaviour(
                wanted,
                me=self._config.replica,
                network=service.ledger.network,
                signer=signer,
                membership=lambda: service.core.membership,
            ),
            events,
        )
        self._orders.add("effects", Byzantine, seam.take)
        return seam.rewrite

    def wire(self, wire: Wire, signer: Signer, events: Events) -> Wire:
        links = LinksSeam(events)
        self._orders.add("wire", LinkOrder, links.take)
        lying = LyingWire(ShapedWire(wire, links), signer)
        self._orders.add("seals", SealOrder, lying.take)
        return lying

    async def follow(self, events: Events) -> None:
        await self._orders.follow(events)


def main() -> None:
    replica_main(
        SwitchedReplicaConfig, lambda config: ReplicaProcess(config, _Switched(config)), __doc__
    )


if __name__ == "__main__":
    main()
