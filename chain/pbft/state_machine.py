"""The core's interface to the replicated state machine. The product's state machine is
`chain.ledger.ledger`."""

from __future__ import annotations

from enum import Enum
from typing import Protocol

import msgspec

__all__ = ["Screening", "StateMachine", "VerifiedRequest"]


class VerifiedRequest(msgspec.Struct, frozen=True, gc=False):
    """A client's request. Its signature, and those of its endorsements, have been verified.

    `id` is the SHA-256 of the signed content: it identifies the request, the signature does not.
    `client` and `counter` make it exactly-once. `item` is its bytes in a batch. `operation` belongs
    to the state machine and is opaque here.

    It holds nothing that could form a cycle. So the garbage collector need not look at it
    (`gc=False`); otherwise the collector took a tenth of our time.
    """

    id: bytes
    client: bytes
    counter: int
    item: bytes
    operation: object


class Screening(Enum):
    """Whether a request may stand in a batch, judged on the state executed so far.

    A request only moves forward, as blocks are executed: LATER -> READY -> REFUSED or DONE. A
    request that may move back is UNSETTLED whenever it is not READY.
    """

    READY = "ready"
    LATER = "later"  # not yet known here; may become known when earlier blocks are executed
    REFUSED = "refused"  # can never become READY again
    UNSETTLED = "unsettled"  # not READY; may have been READY before, and may become READY
    INVALID = "invalid"  # no state makes it acceptable: a primary that proposes it is faulty
    DONE = "done"  # this very request (by id) has been executed


class StateMachine(Protocol):
    def screen(self, request: VerifiedRequest) -> Screening:
        """Pure in the executed state; cheap (a look-up or two), no signature checks."""

    def open(self, item: bytes) -> VerifiedRequest:
        """A batch item that this replica verified before and kept. For the restart only."""
