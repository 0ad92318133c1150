"""The kinds of error that the chain, the gateway and the nodes raise.

Lab faults (hardware, network, hosts) are the orchestrator's and live in `testbed.errors`.
"""

from __future__ import annotations

__all__ = ["Misuse", "PeerFault"]


class Misuse(Exception):
    """We called something wrongly: a bug on our side, never caused by bytes from outside."""


class PeerFault(Exception):
    """Somebody else broke the protocol.

    `code` is a short stable word for counters (`bad-signature`), the message is for people.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}" if message else code)
        self.code = code
