"""Mean time to consensus as the number of replicas grows: the paper's Fig. 4, as a small model.

It follows the paper's reference (H. Sukhwani et al., "Performance Modeling of PBFT Consensus
Process for Permissioned Blockchain Network", SRDS 2017: stochastic reward nets), but is solved by
hand: each phase is a Markov chain of two counts, and its mean time to absorption is summed exactly.
`README.md` says what this reproduces and what it does not. `calibrate` takes measured times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from chain.quorum import Quorum
from testbed.errors import ConfigurationError

__all__ = [
    "PAPER_RATIO",
    "PAPER_WORK_PER_DELAY",
    "ModelFit",
    "Observation",
    "Parameters",
    "Times",
    "calibrate",
    "consensus_times",
    "phase_ms",
]

PAPER_RATIO = 5.34  # mean time at N = 100 over that at N = 4 (section "Performance model")
# Work per message, in units of the delay, with which the model has that ratio: fitted.
PAPER_WORK_PER_DELAY = 0.10644
_RATIO_MIN, _RATIO_MAX = 1e-4, 1e4  # range of work per delay that `calibrate` searches
_AT_BOUND = 0.1  # step, in the logarithm of that ratio


class Parameters(msgspec.Struct, frozen=True, kw_only=True):
    """Both times are exponentially distributed and independent. `delay_ms`: mean time from sending
    a message to its arrival. `work_ms`: mean time for which an arrived message keeps its receiver
    busy (decode, verify, store). A replica does one message at a time; the others queue."""

    delay_ms: float
    work_ms: float


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Mean times for which the primary of `replicas` replicas waits in the three phases."""

    replicas: int
    pre_prepare_ms: float
    prepare_ms: float
    commit_ms: float

    @property
    def total_ms(self) -> float:
        return self.pre_prepare_ms + self.prepare_ms + self.commit_ms


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """Means over `blocks` blocks, on the clocks of their proposers: from proposal to prepared, and
    from prepared to committed."""

    replicas: int
    blocks: int
    prepared_ms: float
    committed_ms: float


class ModelFit(msgspec.Struct, frozen=True, kw_only=True):
    """`error` is the root mean square of (model - measured) / measured over all measured times.
    `separated`: False if work and delay cannot be distinguished, so that one of them is at its
    bound; then runs with other numbers of replicas are needed. `replicas`: the sizes that it
    was fitted to."""

    parameters: Parameters
    blocks: int
    replicas: tuple[int, ...]
    error: float
    separated: bool

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know before believing figures for other N."""
        more = "give runs with other numbers of replicas too"
        if not self.separated:
            what = "these runs cannot separate work from delay"
            return (f"{what}, so the figures for other N mean nothing; {more}",)
        if len(self.replicas) == 1:
            what = f"all runs have N = {self.replicas[0]}, and cannot show which terms grow with N"
            return (f"{what}, so the figures for other N are a guess; {more}",)
        return ()


def phase_ms(senders: int, needed: int, parameters: Parameters, *, one_queue: bool = True) -> float:
    """Mean time until `needed` of `senders` messages, all sent at 0, have arrived and been
    processed: by one receiver in turn (`one_queue`), or each by a receiver of its own.

    With a messages arrived and p processed, the next event is an arrival at rate (senders - a) /
    delay or an end of work at rate 1 / work (times a - p if each has its own receiver), so

        E[a, p] = (1 + arrivals E[a+1, p] + ends E[a, p+1]) / (arrivals + ends), E[a, needed] = 0.

    Without work this is the order statistic of exponentials, delay * (1/senders + 1/(senders-1) +
    ... + 1/(senders-needed+1)); without delay, needed * work.
    """
    assert 1 <= needed <= senders
    delay_ms, work_ms = parameters.delay_ms, parameters.work_ms
    if work_ms == 0:
        return delay_ms * sum(1 / (senders - a) for a in range(needed))
    if delay_ms == 0 and one_queue:
        return needed * work_ms
    if delay_ms == 0:
        return work_ms * sum(1 / (senders - p) for p in range(needed))
    following = [0.0] * (senders + 1)  # E[., p+1]
    for p in range(needed - 1, -1, -1):
        expected = [0.0] * (senders + 1)
        for a in range(senders, p - 1, -1):
            arrivals = (senders - a) / delay_ms
            busy = min(a - p, 1) if one_queue else a - p
            ends = busy / work_ms
            later = arrivals * expected[a + 1] if arrivals else 0.0
            expected[a] = (1 + later + ends * following[a]) / (arrivals + ends)
        following = expected
    return following[0]


def consensus_times(replicas: int, parameters: Parameters) -> Times:
    """Three phases, one after the other. The primary's own votes count at once, so each phase waits
    for q-1 of n-1 others (q = 2f+1 for n = 3f+1): first q-1 backups must have the PRE-PREPARE, then
    q-1 PREPAREs and then q-1 COMMITs must have gone through the primary's queue."""
    quorum = Quorum.of(replicas)
    others, needed = replicas - 1, quorum.strong - 1
    votes = phase_ms(others, needed, parameters)
    return Times(
        replicas=replicas,
        pre_prepare_ms=phase_ms(others, needed, parameters, one_queue=False),
        prepare_ms=votes,
        commit_ms=votes,
    )


def calibrate(observations: Sequence[Observation]) -> ModelFit:
    """The parameters whose model is nearest to what was measured, in relative least squares.

    Times scale with both parameters together. So for each ratio of work to delay the best scale is
    known in closed form, and only this one ratio must be searched. Raises ConfigurationError if a
    time is 0.
    """
    measured = [time for each in observations for time in (each.prepared_ms, each.committed_ms)]
    if not measured or min(measured) <= 0:
        raise ConfigurationError("nothing to calibrate with: no block with both phases timed")

    def fitted(exponent: float) -> tuple[float, Parameters]:
        shape = Parameters(delay_ms=1.0, work_ms=math.exp(exponent))
        shares = [
            model / time
            for model, time in zip(_modelled(observations, shape), measured, strict=True)
        ]
        scale = sum(shares) / sum(share * share for share in shares)
        error = math.sqrt(sum((scale * share - 1) ** 2 for share in shares) / len(shares))
        return error, Parameters(delay_ms=scale, work_ms=scale * shape.work_ms)

    from scipy.optimize import minimize_scalar  # noqa: PLC0415 - takes a second to import

    bounds = (math.log(_RATIO_MIN), math.log(_RATIO_MAX))
    best = minimize_scalar(lambda exponent: fitted(exponent)[0], bounds=bounds, method="bounded")
    error, parameters = fitted(float(best.x))
    separated = min(best.x - bounds[0], bounds[1] - best.x) > _AT_BOUND
    return ModelFit(
        parameters=parameters,
        blocks=sum(each.blocks for each in observations),
        replicas=tuple(sorted({each.replicas for each in observations})),
        error=error,
        separated=bool(separated),
    )


def _modelled(observations: Sequence[Observation], parameters: Parameters) -> list[float]:
    modelled = []
    for each in observations:
        times = consensus_times(each.replicas, parameters)
        modelled += [times.pre_prepare_ms + times.prepare_ms, times.commit_ms]
    return modelled
