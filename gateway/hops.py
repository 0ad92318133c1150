"""Hops: the points that a request and a block pass on their way, and the port that notes them.

A process notes when a sampled request or a block was at each hop. The file is `nodes.trace_file`;
`testbed.traces` reads it. The pure parts have no clock: their callers note the hop.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

__all__ = ["NO_TRACE", "REQUEST_HOPS", "Hop", "Trace", "request_key"]


class Hop(IntEnum):
    """In the order in which a request and then its block pass them.

    The numbers are in trace files: a number is never given to another hop.
    """

    # At the device.
    INTENDED = 16
    """When it was due; what follows is measured from here."""
    SENT = 17
    """Signed, kept on disk and handed to the broker for the first time."""

    # At the environmental device that carries it.
    RELAY_IN = 18
    RELAY_OUT = 19

    # At the gateway.
    GATEWAY_IN = 20
    ADMITTED = 21
    """The limits let it in, its signature is valid, and it is new."""
    DURABLE = 22
    """In the outbox, on disk."""
    GATEWAY_OUT = 23

    # At the replica that the gateway chose, normally the primary.
    ARRIVED = 24
    VERIFIED = 25
    FIRST_AUTHENTICATED = 26
    """An access request: this replica accepts it and asks the group."""
    ENDORSED = 27
    """An access request: the group's quorum of endorsements is here."""

    # Of a block, at every replica.
    PROPOSED = 32
    """At the primary: the batch wait is over."""
    PRE_PREPARED = 33
    """At a backup: it accepts the proposal."""
    PREPARED = 34
    SYNCED = 35
    """The prepared certificate is on disk."""
    COMMIT_SENT = 36
    COMMITTED = 37
    EXECUTED = 38
    SEALED = 39
    """The signed head has left for the gateways."""

    # Back again.
    RECEIPT = 48
    """At the gateway: final by f+1 seals, and the answer is made."""
    ANSWERED = 49
    """At the device: it has verified the receipt."""


REQUEST_HOPS: Final = frozenset(hop for hop in Hop if not Hop.PROPOSED <= hop <= Hop.SEALED)
"""Hops of one request; the others are of a block."""

_KEY_BYTES = 8


def request_key(request: bytes) -> int:
    """Stands for a request's id in a trace: its first eight bytes."""
    return int.from_bytes(request[:_KEY_BYTES], "big")


class Trace:
    """Where hops are noted; this one notes nothing. Times are ns of the machine's monotonic clock;
    0 stands for now. `view` and `epoch` are the replica's, 0 in other processes."""

    on = False
    """Whether anything is noted. Callers for whom a note means work ask first."""

    def now_ns(self) -> int:
        return 0

    def request(
        self, hop: Hop, request: bytes, at_ns: int = 0, view: int = 0, epoch: int = 0
    ) -> None:
        """`request` is the id. Notes nothing if it is not in the sample."""

    def block(self, hop: Hop, height: int, at_ns: int = 0, view: int = 0, epoch: int = 0) -> None:
        """Every block is noted."""

    def flush(self) -> None:
        """Writes the waiting records. Call it now and then."""

    def close(self) -> None:
        """Writes the last records."""


NO_TRACE: Final = Trace()
