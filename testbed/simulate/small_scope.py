"""The trick `small-scope`: few messages with small changes (ByzzFuzz, OOPSLA 2023).

A traitor follows the protocol except in a few of its rounds. In such a round it leaves a message
out, changes a number in it by one, or gives it the digest of its previous message, but only for
some receivers. All its messages are properly signed. A round is a kind of message and the number of
such messages sent so far.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

import msgspec

from chain.keys import Signer
from chain.pbft.effects import Broadcast, Effect, Send
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    ReplicaMessage,
    ViewChange,
    decode_body,
    sign,
)
from nodes.replica.driver import Delayed

__all__ = ["SmallScope"]

_KINDS: tuple[type, ...] = (PrePrepare, Prepare, Commit, Checkpoint, ViewChange, NewView)
_FAULTS_MAX = 6
_ROUNDS = 30  # rounds of each kind in which faults are drawn
_CHANGES = ("omit", "seq+1", "seq-1", "view+1", "view-1", "digest")


class SmallScope:
    """`others` are the possible receivers."""

    def __init__(
        self, random: Random, network: bytes, signer: Signer, others: Sequence[int]
    ) -> None:
        self._network = network
        self._signer = signer
        self._others = others
        self._sent: Counter[type] = Counter()
        self._digest = bytes(32)  # of its previous vote
        self._faults = {
            (random.choice(_KINDS), random.randrange(_ROUNDS)): (
                random.choice(_CHANGES),
                frozenset(random.sample(others, random.randint(1, len(others)))),
            )
            for _ in range(random.randint(1, _FAULTS_MAX))
        }

    def rewrite(self, effects: list[Effect]) -> list[Effect | Delayed]:
        changed: list[Effect | Delayed] = []
        for effect in effects:
            changed += self._one(effect) if isinstance(effect, Send | Broadcast) else [effect]
        return changed

    def _one(self, effect: Send | Broadcast) -> list[Effect | Delayed]:
        message = decode_body(effect.signed.body)
        kind = type(message)
        fault = self._faults.get((kind, self._sent[kind]))
        self._sent[kind] += isinstance(effect, Broadcast)
        before, self._digest = self._digest, getattr(message, "digest", self._digest)
        if fault is None:
            return [effect]
        change, deceived = fault
        to = self._others if isinstance(effect, Broadcast) else (effect.to,)
        out: list[Effect | Delayed] = [
            Send(other, effect.signed) for other in to if other not in deceived
        ]
        lie = _changed(message, change, before)
        if lie is not None:
            signed = sign(self._signer, self._network, lie, effect.signed.attachment)
            out += [Send(other, signed) for other in to if other in deceived]
        return out


def _changed(message: ReplicaMessage, change: str, before: bytes) -> ReplicaMessage | None:
    """The changed message; None if it is left out, also if it has no such field."""
    if change == "digest":
        return msgspec.structs.replace(message, digest=before) if _has(message, "digest") else None
    field = change[:-2]
    if change == "omit" or not _has(message, field):
        return None
    number = max(getattr(message, field) + (1 if change.endswith("+1") else -1), 0)
    return msgspec.structs.replace(message, **{field: number})


def _has(message: ReplicaMessage, field: str) -> bool:
    return field in message.__struct_fields__
