"""Is a denial true? No unsigned message ends a device.

One of two things proves a denial to a device. Either f+1 members of the newest epoch that it knows
have signed that they reject this request for the same reason (one of them is honest). Or a record
on the chain ended its key. A refusal on the chain has a receipt as its proof (`proof`).
"""

from __future__ import annotations

from collections.abc import Sequence

from chain.errors import PeerFault
from chain.genesis import Membership
from chain.keys import Scheme
from chain.ledger.identity import Ended
from chain.ledger.statement import OK, Statement
from chain.pbft.messages import Endorsement, Signed, decode_body, signed_bytes

__all__ = ["check_verdicts", "ended_by", "verdict_of"]


def verdict_of(
    signed: Signed, request: bytes, membership: Membership, network: bytes, scheme: Scheme
) -> Endorsement:
    """A member's rejection of this request. Raises PeerFault("bad-denial") for anything else."""
    if signed.attachment:  # of any size, and no signature covers it
        raise PeerFault("bad-denial", "an attachment")
    message = decode_body(signed.body)
    if not isinstance(message, Endorsement) or message.accepted or message.request != request:
        raise PeerFault("bad-denial", "not a rejection of this request")
    spki = membership.spki(message.sender)
    if message.epoch != membership.epoch or spki is None:
        raise PeerFault("bad-denial", "not by a member of this epoch")
    if not scheme.verify(spki, signed_bytes(network, signed.body), signed.signature):
        raise PeerFault("bad-denial", f"signature of replica {message.sender} is not valid")
    return message


def check_verdicts(
    verdicts: Sequence[Signed],
    request: bytes,
    membership: Membership,
    network: bytes,
    scheme: Scheme,
    *,
    reason: str,
) -> None:
    """Raises PeerFault("bad-denial") unless f+1 distinct members reject the request for `reason`.

    Some reasons pass with time, and others end a device. So f+1 must give the same one:
    otherwise one liar could choose it, beside an honest verdict for a reason that passes.
    """
    if len(verdicts) > len(membership.members):
        raise PeerFault("bad-denial", f"{len(verdicts)} verdicts")
    checked = [verdict_of(each, request, membership, network, scheme) for each in verdicts]
    agreed = {each.sender for each in checked if each.reason == reason}
    if len(agreed) < membership.quorum.weak:
        raise PeerFault("bad-denial", f"{len(agreed)} of {membership.quorum.weak} give the reason")


def ended_by(statement: Statement, node: bytes) -> Ended | None:
    """How a proven record ended the key with this node id; None if it did not."""
    if statement.status != OK:
        return None
    if statement.op == "revoke" and statement.node == node:
        return "revoked"
    return "renewed" if statement.op == "renew" and statement.by == node else None
