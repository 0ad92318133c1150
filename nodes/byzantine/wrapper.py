"""The wrapper around a replica's effects: it sends other messages than the honest replica would.

The simulator, campaigns and real processes use the same wrapper. One small function, an `Act`,
decides what it sends: see `tricks`, and `forgeries` for forged messages.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from chain.genesis import Membership
from chain.keys import Signer
from chain.pbft.effects import Broadcast, Durable, Effect, Persist, Send
from chain.pbft.messages import ReplicaMessage, Signed, decode_body, sign
from nodes.byzantine.conspiracy import Conspiracy
from nodes.replica.driver import Delayed

__all__ = ["Act", "Acted", "Misbehaviour", "Sent", "resigned"]

_REMEMBERED_MAX = 64  # own old messages, to be sent again

Sent = Send | Broadcast
Acted = Sequence[Effect | Delayed]
# (liar, honest send, its message) -> what leaves instead
Act = Callable[["Misbehaviour", Sent, ReplicaMessage], Acted]


class Misbehaviour:
    """One lying replica. `rewrite` is pure except for the random generator `rng`.

    `message` narrows it to messages of one tag (as "PP"). It is honest while `active` is false.
    `client` (a node id) narrows "censor", `delay_us` belongs to "delay" and "dribble",
    `conspiracy` to "conspire". `acts` counts the messages that it changed.
    """

    def __init__(
        self,
        act: Act,
        *,
        me: int,
        network: bytes,
        signer: Signer,
        membership: Callable[[], Membership],
        rng: random.Random,
        message: str | None = None,
        delay_us: int = 0,
        probability: float = 1.0,
        client: bytes | None = None,
        conspiracy: Conspiracy | None = None,
        active: Callable[[], bool] = lambda: True,
    ) -> None:
        self._act = act
        self.acts = 0
        self.me = me
        self.network = network
        self.delay_us = delay_us
        self.client = client
        self.conspiracy = conspiracy or Conspiracy()
        self.rng = rng
        self.old: deque[Signed] = deque(maxlen=_REMEMBERED_MAX)
        self._signer = signer
        self._membership = membership
        self._message = message
        self._probability = probability
        self._active = active

    def rewrite(self, effects: list[Effect]) -> list[Effect | Delayed]:
        """The effects to carry out instead of `effects`."""
        if not self._active():
            return list(effects)
        out: list[Effect | Delayed] = []
        for effect in effects:
            match effect:
                case Send() | Broadcast():
                    out += self._acted(effect)
                    continue
                case Persist(fact=Durable(kind="proposal", data=data)):
                    self.conspiracy.voted(data)
            out.append(effect)
        return out

    def _acted(self, effect: Sent) -> Acted:
        message = decode_body(effect.signed.body)
        wanted = self._message in (None, message.__struct_config__.tag)
        if not wanted or self.rng.random() >= self._probability:
            return [effect]
        acted = self._act(self, effect, message)
        self.acts += acted != [effect]
        self.old.append(effect.signed)
        return acted

    def others(self) -> list[int]:
        return [replica for replica in self._membership().ids if replica != self.me]

    def sign(self, message: ReplicaMessage, attachment: bytes = b"") -> Signed:
        return sign(self._signer, self.network, message, attachment)


def resigned(effect: Sent, signed: Signed) -> Sent:
    """The same send of another message."""
    return msgspec.structs.replace(effect, signed=signed)
