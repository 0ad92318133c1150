"""The requests that the gateway refuses by its own verified ledger, before any replica gets them.

It refuses a request only if no later block can make it valid. The replicas would refuse it too, and
would not record it. If an admitted device asks for something that it may not do (privilege,
service), the replicas decide and record that. A gateway that lags refuses too little, never too
much.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.ledger.admission import voucher_id
from chain.ledger.envelope import Opened
from chain.ledger.item import make_item, read_item
from chain.ledger.operations import Enrol
from chain.ledger.reasons import LATER_REASONS
from chain.ledger.registry import Registry
from gateway.broker.security import bootstrap_id

__all__ = ["check_sender", "refusal"]

_HOPELESS_UNLESS_LAGGING = frozenset({"unknown-voucher"})


def check_sender(opened: Opened, kind: str, device: str) -> None:
    """The device named in the topic, which gets the answer, must have signed. An access request may
    also come from its voucher's login. Raises PeerFault("bad-kind" | "wrong-node")."""
    operation = opened.operation
    if isinstance(operation, Enrol) != (kind == "enrol"):
        raise PeerFault("bad-kind", f"{type(operation).__name__} as {kind}")
    allowed = {operation.node.hex()}
    if isinstance(operation, Enrol):
        allowed.add(bootstrap_id(voucher_id(operation.voucher)))
    if device not in allowed:
        raise PeerFault("wrong-node", "signed by another than who sent it")


def refusal(
    registry: Registry, opened: Opened, cose: bytes, time_us: int, *, lagging: bool
) -> str | None:
    """Why the request can never succeed, as a short stable word. Only "unknown-node" may be
    temporary.

    `time_us` is the time of the newest block; `lagging`: there are newer blocks.
    """
    operation = opened.operation
    if isinstance(operation, Enrol):
        reason = registry.judge(read_item(make_item(cose), operation.network))
        if reason in LATER_REASONS and (lagging or reason not in _HOPELESS_UNLESS_LAGGING):
            return None
        return reason
    identity = registry.identity(operation.node)
    if identity is None:
        return "unknown-node"
    if identity.ended is not None:
        return identity.ended
    if operation.counter <= identity.counter:
        return "counter"
    return "expired" if identity.not_after_us < time_us else None
