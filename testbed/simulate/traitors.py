"""The Byzantine replicas of a run: which replica plays which tricks.

Most tricks are those of `nodes.byzantine.config.Trick`, played by the wrapper of real processes.
This module decides who plays them (with `conspire`, f+1 conspirators fork the chain; fewer must
not). It also has the tricks that need more than one process, or see more than effects:

- `twins`: two whole replicas with one key, each heard by a part of the others.
- `false-seal`: replies to gateways with blocks that do not exist.
- `hoard`: sends no batch and no COMMIT, so after a power cut only this replica knows what all
  others have lost. Only the profile `power` draws it.
- `small-scope`: makes small changes to few messages. Only the strategy `byzzfuzz` draws it.
- `slow-primary`: `delay` of proposals only, by 9/10 of the current timeout.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random

from chain.keys import Signer
from chain.pbft.effects import Broadcast, Effect, Send, SendBatch
from chain.pbft.messages import Batch, Bodies, Commit, PrePrepare, Signed, decode_body
from chain.pbft.transfer import SOURCE_TICKS_MAX
from nodes.byzantine.config import Trick
from nodes.byzantine.conspiracy import Conspiracy
from nodes.byzantine.forgeries import false_seal
from nodes.byzantine.tricks import ACTS
from nodes.byzantine.wrapper import Misbehaviour
from nodes.replica.driver import Delayed, Rewrite
from nodes.replica.service import Service
from testbed.simulate.scenario import Scenario
from testbed.simulate.small_scope import SmallScope

__all__ = ["APART", "TRICKS", "Cast"]

_REWRITING = ("hoard", "slow-primary", "small-scope")  # played after those of `Trick`
TRICKS: tuple[str, ...] = (*Trick, "false-seal", *_REWRITING, "twins")
# Only special profiles and strategies draw these.
APART = ("dribble", "hoard", "late-equivocation", "slow-primary", "small-scope")


class Cast:
    """Knows how each replica misbehaves. `acts` counts acts by trick."""

    def __init__(self, scenario: Scenario, random: Random) -> None:
        self._random = random
        self._consensus = scenario.consensus
        self._replicas = scenario.replicas
        self._tricks = {traitor.replica: traitor.tricks for traitor in scenario.traitors}
        self.acts: Counter[str] = Counter()
        order = random.sample(range(scenario.replicas), scenario.replicas)
        loyal = [r for r in order if r not in self._tricks]
        # Conspirators and twins tell one story to the deceived and another to the rest.
        self._deceived = frozenset(loyal[: (len(loyal) + 1) // 2])
        self._conspirators = frozenset(r for r, of in self._tricks.items() if "conspire" in of)

    def _plays(self, replica: int, trick: str) -> bool:
        return trick in self._tricks.get(replica, ())

    @property
    def twins(self) -> list[int]:
        """Replicas that run twice."""
        return [replica for replica in sorted(self._tricks) if self._plays(replica, "twins")]

    def hears(self, twin: bool, replica: int, other: int) -> bool:
        """Whether this twin talks with `other`. Other Byzantine replicas hear both twins."""
        if not self._plays(replica, "twins") or other in self._tricks:
            return True
        return (other in self._deceived) == twin

    def wrapper(self, replica: int, signer: Signer) -> Callable[[Service], Rewrite] | None:
        """The wrapper around a replica's effects, one per process. None if it is honest."""
        tricks = [name for name in self._tricks.get(replica, ()) if name in [*Trick]]
        tricks += [name for name in _REWRITING if self._plays(replica, name)]
        if not tricks:
            return None

        def wrap(service: Service) -> Rewrite:
            rewrites = [(name, self._rewrite(name, replica, signer, service)) for name in tricks]

            def all_of(effects: list[Effect]) -> list[Effect | Delayed]:
                sent: list[Effect | Delayed] = list(effects)
                for name, rewrite in rewrites:
                    before, sent = sent, []
                    for effect in before:
                        acted = [effect] if isinstance(effect, Delayed) else rewrite([effect])
                        self.acts[name] += acted != [effect]
                        sent += acted
                return sent

            return all_of

        return wrap

    def _rewrite(self, name: str, replica: int, signer: Signer, service: Service) -> Rewrite:
        match name:
            case "hoard":
                return _hoard
            case "slow-primary":
                return partial(_slow_primary, service)
            case "small-scope":
                others = [other for other in range(self._replicas) if other != replica]
                return SmallScope(self._random, service.ledger.network, signer, others).rewrite
            case _:
                return self._misbehaviour(Trick(name), replica, signer, service).rewrite

    def _misbehaviour(
        self, trick: Trick, replica: int, signer: Signer, service: Service
    ) -> Misbehaviour:
        timeout_us = self._consensus.view_timeout_us
        delay_us = self._random.randint(timeout_us // 2, timeout_us * 95 // 100)
        if trick is Trick.DRIBBLE:
            delay_us = self._consensus.status_interval_us * (SOURCE_TICKS_MAX - 1) * 2 // 3
        return Misbehaviour(
            ACTS[trick],
            me=replica,
            network=service.ledger.network,
            signer=signer,
            membership=lambda: service.core.membership,
            rng=self._random,
            delay_us=delay_us,
            conspiracy=Conspiracy(self._conspirators, self._deceived),
        )

    def to_gateway(self, replica: int, signer: Signer, frame: bytes) -> bytes:
        """The frame that a gateway gets instead of `frame`."""
        if not self._plays(replica, "false-seal"):
            return frame
        lie = false_seal(frame, signer)
        if lie != frame:
            self.acts["false-seal"] += 1
        return lie


def _slow_primary(service: Service, effects: list[Effect]) -> list[Effect | Delayed]:
    delay_us = service.core.view_timeout_us * 9 // 10
    return [
        Delayed(each, delay_us)
        if isinstance(each, Broadcast) and _is_proposal(each.signed)
        else each
        for each in effects
    ]


def _is_proposal(signed: Signed) -> bool:
    return isinstance(decode_body(signed.body), PrePrepare)


def _hoard(effects: list[Effect]) -> list[Effect | Delayed]:
    return [each for each in effects if not _gives_away(each)]


def _gives_away(effect: Effect) -> bool:
    """Whether others learn from this effect the content of an old batch, or that a batch is
    prepared."""
    match effect:
        case SendBatch():
            return True
        case Send(signed=signed):
            return isinstance(decode_body(signed.body), PrePrepare | Batch | Bodies | Commit)
        case Broadcast(signed=signed):
            return isinstance(decode_body(signed.body), Commit)
        case _:
            return False
