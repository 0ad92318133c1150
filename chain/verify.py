"""From bytes on a link to a message that the core may trust: signatures, digests, certificates.

Pure and thread-safe, so that the host may verify in bulk, in threads, before its loop. What a
true message means to a replica is in `chain.pbft`.
"""

from __future__ import annotations

from collections.abc import Callable

from chain.genesis import Membership
from chain.keys import Scheme
from chain.pbft.application import Request
from chain.pbft.inputs import Received

__all__ = ["Verifier"]


class Verifier:
    """Verifies each signature once and remembers it, within a bound.

    `membership(epoch)` gives the membership of a past, the current or the pending epoch, None if
    it is not known here. `open_item(item)` opens a batch item: Request, or raises PeerFault.
    """

    def __init__(
        self,
        network: bytes,
        scheme: Scheme,
        membership: Callable[[int], Membership | None],
        open_item: Callable[[bytes], Request],
    ) -> None:
        raise NotImplementedError

    def verify(self, frame: bytes, sender: int) -> Received:
        """The message in `frame`, which came over the link of replica `sender`.

        Raises PeerFault. The code "unknown-epoch" means that this replica is behind (or the
        sender is): drop the frame without blaming anyone.
        """
        raise NotImplementedError

    def open(self, item: bytes) -> Request:
        """`open_item`, remembered: a request that was submitted here is not verified again when
        it comes in a batch. Raises PeerFault."""
        raise NotImplementedError
