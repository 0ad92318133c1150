"""Is a proposal acceptable to a backup? Its size, its time, its requests.

`normal` calls it in sequence order, so that times rise and a request is in one proposal only. Only
the size check runs on arrival.
"""

from __future__ import annotations

from enum import Enum

from chain.genesis import Consensus
from chain.pbft.log import Offer
from chain.pbft.state import ReplicaState
from chain.pbft.state_machine import Screening

__all__ = ["Verdict", "check_proposal", "oversize"]

# MessagePack around a batch (seq, time, view, array) and around each item.
BATCH_OVERHEAD_BYTES = 64
ITEM_OVERHEAD_BYTES = 5


class Verdict(Enum):
    ACCEPT = "accept"
    WAIT = "wait"
    LATE = "late"  # too old for our vote; may be the fault of our clock
    REFUSE = "refuse"  # the primary is faulty


def check_proposal(s: ReplicaState, offer: Offer) -> Verdict:
    consensus, last_time_us = s.consensus, s.view.last_time_us
    time_us = offer.proposal.time_us
    if time_us <= last_time_us:
        return Verdict.REFUSE
    # As in CometBFT's proposer-based time stamps, the time must be near our clock: within
    # precision, and within message delay if it is earlier. A step of 1 us is always acceptable:
    # otherwise a chain that wrong clocks took into the future would stand still until right clocks
    # get there.
    if time_us > max(s.now_us + consensus.precision_us, last_time_us + 1):
        return Verdict.WAIT
    # Slow replicas need longer for a batch: what a message may take grows with the timeout.
    delay_us = consensus.message_delay_us * s.timeout.us // consensus.view_timeout_us
    if time_us < offer.arrived_us - consensus.precision_us - delay_us:
        return Verdict.LATE
    return _check_requests(s, offer)


def oversize(consensus: Consensus, requests: int, attachment: int) -> bool:
    """Whether these are more bytes than a batch of this many requests may have. Asked on arrival: a
    batch that is too large is not even kept until its turn."""
    size = attachment - BATCH_OVERHEAD_BYTES - ITEM_OVERHEAD_BYTES * requests
    return requests > consensus.batch_requests_max or size > consensus.batch_bytes_max


def _check_requests(s: ReplicaState, offer: Offer) -> Verdict:
    seq, seen, proposed, screen = offer.message.seq, set(), s.pool.proposed, s.state_machine.screen
    verdict = Verdict.ACCEPT
    for request in offer.requests:
        if request.id in proposed or request.id in seen:
            return Verdict.REFUSE
        seen.add(request.id)
        screening = screen(request)
        if screening is Screening.READY or screening is Screening.UNSETTLED:
            continue  # whatever state the primary saw, execution decides
        if screening is Screening.DONE or screening is Screening.INVALID:
            return Verdict.REFUSE
        if screening is Screening.LATER:
            if s.executed >= seq - 1:
                return Verdict.REFUSE  # the primary cannot have known it either
            verdict = Verdict.WAIT
        elif s.executed <= seq - s.consensus.pipeline_window:
            return Verdict.REFUSE  # an honest primary had executed up to here, so it knew
        # Otherwise the request lost a race in the pipeline, which its client may have arranged. The
        # primary is not to blame, and execution decides.
    return verdict
