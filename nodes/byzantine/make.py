"""From a config or an order to the wrapper that it asks for."""

from __future__ import annotations

import random
from collections.abc import Callable

from chain.genesis import Membership
from chain.keys import Signer
from nodes.byzantine.config import Byzantine
from nodes.byzantine.conspiracy import Conspiracy
from nodes.byzantine.tricks import ACTS
from nodes.byzantine.wrapper import Misbehaviour

__all__ = ["misbehaviour"]


def misbehaviour(
    wanted: Byzantine,
    *,
    me: int,
    network: bytes,
    signer: Signer,
    membership: Callable[[], Membership],
    active: Callable[[], bool] = lambda: True,
) -> Misbehaviour:
    """The wrapper that a config or an order asks for."""
    return Misbehaviour(
        ACTS[wanted.trick],
        me=me,
        network=network,
        signer=signer,
        membership=membership,
        rng=random.Random(wanted.seed),  # noqa: S311 - repeatable on purpose
        message=wanted.message,
        delay_us=wanted.delay_ms * 1000,
        probability=wanted.probability,
        client=bytes.fromhex(wanted.client) if wanted.client else None,
        conspiracy=Conspiracy(frozenset(wanted.accomplices), frozenset(wanted.deceived)),
        active=active,
    )
