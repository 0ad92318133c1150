"""One replica of the consensus: takes inputs, gives effects.

This file holds the public face and finds the handler of an input; what the handlers decide is in
`normal`, `checkpoint`, `view_change`, `status`, `transfer` and `membership`.
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.genesis import Consensus, Membership
from chain.keys import Signer
from chain.pbft.application import Application
from chain.pbft.effects import Durable, Effect
from chain.pbft.inputs import Input

__all__ = ["Replica"]


class Replica:
    """The pure core. Deterministic in its arguments and inputs; holds no clock and no randomness.

    `me`: own replica id (need not be a member yet: a replica that is being added follows).
    `membership`: the membership that decided the block `executed` (epoch 0 at genesis).
    `pending`: the next epoch's membership if a block up to `executed` changed it and it is not in
    force for `executed` (it comes into force with the first block after the next checkpoint).
    `executed`: (height, head hash, block time in microseconds) of the last block in the ledger.
    `durable`: everything persisted and not forgotten, in any order (see `effects.Durable`).
    """

    def __init__(
        self,
        me: int,
        membership: Membership,
        consensus: Consensus,
        network: bytes,
        signer: Signer,
        application: Application,
        executed: tuple[int, bytes, int],
        durable: Sequence[Durable] = (),
        pending: Membership | None = None,
    ) -> None:
        raise NotImplementedError

    def start(self, now_us: int) -> list[Effect]:
        """To be called once, first: arms timers and sends again what was sent before a crash."""
        raise NotImplementedError

    def handle(self, item: Input, now_us: int) -> list[Effect]:
        """What to do about `item`, in order. `now_us` is the wall time, microseconds since 1970."""
        raise NotImplementedError

    # What the host may look at, never change.

    @property
    def membership(self) -> Membership:
        """Of the current epoch."""
        raise NotImplementedError

    @property
    def epoch(self) -> int:
        raise NotImplementedError

    @property
    def view(self) -> int:
        raise NotImplementedError

    @property
    def active(self) -> bool:
        """False from sending a VIEW-CHANGE until its NEW-VIEW is accepted."""
        raise NotImplementedError

    @property
    def primary(self) -> int:
        """The primary of `view`."""
        raise NotImplementedError

    @property
    def executed(self) -> int:
        """Height of the last block that the host reported as executed or installed."""
        raise NotImplementedError

    @property
    def stable(self) -> int:
        """Sequence number of the highest proven checkpoint (may be above `executed`)."""
        raise NotImplementedError
