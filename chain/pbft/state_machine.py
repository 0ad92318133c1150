"""What the core asks of the state machine above it. `chain.ledger.ledger` answers in the
product."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

__all__ = ["Screening", "StateMachine", "VerifiedRequest"]


class VerifiedRequest(msgspec.Struct, frozen=True, gc=False):
    """A client's request whose signature (and endorsements' signatures) have been verified.

    Like everything that is made once per request it holds nothing that could form a cycle, and
    is hidden from the collector, which else took a tenth of our time (`gc=False`).

    `id` is the SHA-256 of the signed content: it identifies the request, the signature does not.
    `client` and `counter` make it exactly-once; `item` are its bytes in a batch; `operation` is
    the application's own and opaque here.
    """

    id: bytes
    client: bytes
    counter: int
    item: bytes
    operation: object


class Screening(Enum):
    """Whether a request may stand in a batch, judged on the state executed so far.

    A request only moves forward: LATER -> READY -> REFUSED or DONE, as blocks are executed. What
    may come and go is UNSETTLED whenever it is not READY.
    """

    READY = "ready"
    LATER = "later"  # not yet known here; may become known when earlier blocks are executed
    REFUSED = "refused"  # can never become READY again
    UNSETTLED = "unsettled"  # not READY; may have been, and may become so
    INVALID = "invalid"  # no state makes it acceptable: a primary that proposes it is faulty
    DONE = "done"  # this very request (by id) has been executed


class StateMachine(Protocol):
    def screen(self, request: VerifiedRequest) -> Screening:
        """Pure in the executed state; cheap (a look-up or two), no signature checks."""

    def open(self, item: bytes) -> VerifiedRequest:
        """A batch item that this replica verified before and kept; for the restart only."""
