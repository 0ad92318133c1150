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
from collections.abc import Callable, Sequence
from functools import partial
from random import Random

from chain.keys import Signer
from chain.pbft.effects import Broadcast, Effect, Send, SendBatch
from chain.pbft.messages import Batch, Bodies, Commit, PrePrepare, Signed, decode_body
from chain.pbft.transfer import SOURCE_TICKS_MAX
from nodes.byzantine.config import Trick
from nodes.byzantine.conspiracy import Conspiracy
from nodes.byzantine.seals import false_seal
from nodes.byzantine.tricks import ACTS
from nodes.byzantine.wrapper import Misbehaviour
from nodes.replica.driver import Delayed, Rewrite
from nodes.replica.service import Service
from testbed.simulate.scenario import Scenario
from testbed.simulate.small_scope import SmallScope

__all__ = ["APART", "TRICKS", "Cast"]

_SIMULATED = ("false-seal", "hoard", "slow-primary", "small-scope", "twins")
TRICKS: tuple[str, ...] = (*Trick, *_SIMULATED)
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

    def tricks(self, replica: int) -> Sequence[str]:
        return self._tricks.get(replica, ())

    @property
    def twins(self) -> list[int]:
        """Replicas that run twice."""
        return [replica for replica, tricks in sorted(self._tricks.items()) if "twins" in tricks]

    def hears(self, twin: bool, replica: int, other: int) -> bool:
        """Whether this twin talks with `other`. Other Byzantine replicas hear both twins."""
        if "twins" not in self.tricks(replica) or other in self._tricks:
            return True
        return (other in self._deceived) == twin

    def wrapper(self, replica: int, signer: Signer) -> Callable[[Service], Rewrite] | None:
        """The wrapper around a replica's effects, one per process. None if it is honest."""
        tricks = [Trick(name) for name in self.tricks(replica) if name not in _SIMULATED]
        hoards, small, slow = (
            name in self.tricks(replica) for name in ("hoard", "small-scope", "slow-primary")
        )
        if not tricks and not hoards and not small and not slow:
            return None
        others = [other for other in range(self._replicas) if other != replica]

        def wrap(service: Service) -> Rewrite:
            rewrites = [self._rewrite(trick, replica, signer, service) for trick in tricks]
            if hoards:
                rewrites.append(self._hoard)
            if slow:
                rewrites.append(partial(self._slow_primary, service))
            if small:
                rewrites.append(
                    SmallScope(
                        self._random,
                        service.ledger.network,
                        signer,
                        others=others,
                        acted=lambda: self.acts.update(["small-scope"]),
                    ).rewrite
                )

            def all_of(effects: list[Effect]) -> list[Effect | Delayed]:
                changed: list[Effect | Delayed] = list(effects)
                for rewrite in rewrites:
                    changed = [
                        out
                        for effect in changed
                        for out in ([effect] if isinstance(effect, Delayed) else rewrite([effect]))
                    ]
                return changed

            return all_of

        return wrap

    def _rewrite(self, trick: Trick, replica: int, signer: Signer, service: Service) -> Rewrite:
        timeout_us = self._consensus.view_timeout_us
        delay_us = self._random.randint(timeout_us // 2, timeout_us * 95 // 100)
        if trick is Trick.DRIBBLE:
            delay_us = self._consensus.status_interval_us * (SOURCE_TICKS_MAX - 1) * 2 // 3
        plain = Misbehaviour(
            ACTS[trick],
            me=replica,
            network=service.ledger.network,
            signer=signer,
            membership=lambda: service.core.membership,
            rng=self._random,
            delay_us=delay_us,
            conspiracy=Conspiracy(self._conspirators, self._deceived),
        ).rewrite

        def counted(effects: list[Effect]) -> list[Effect | Delayed]:
            out = plain(effects)
            if out != effects:
                self.acts[trick] += 1
            return out

        return counted

    def _slow_primary(self, service: Service, effects: list[Effect]) -> list[Effect | Delayed]:
        delay_us = service.core.view_timeout_us * 9 // 10
        out: list[Effect | Delayed] = []
        for effect in effects:
            if isinstance(effect, Broadcast) and _is_proposal(effect.signed):
                self.acts["slow-primary"] += 1
                out.append(Delayed(effect, delay_us))
            else:
                out.append(effect)
        return out

    def _hoard(self, effects: list[Effect]) -> list[Effect | Delayed]:
        kept: list[Effect | Delayed] = [e for e in effects if not _gives_away(e)]
        self.acts["hoard"] += len(kept) < len(effects)
        return kept

    def to_gateway(self, replica: int, signer: Signer, frame: bytes) -> bytes:
        """The frame that a gateway gets instead of `frame`."""
        if "false-seal" not in self.tricks(replica):
            return frame
        lie = false_seal(frame, signer)
        if lie != frame:
            self.acts["false-seal"] += 1
        return lie


def _is_proposal(signed: Signed) -> bool:
    return isinstance(decode_body(signed.body), PrePrepare)


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
