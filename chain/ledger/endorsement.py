"""First authentication of access requests, and the endorsements of the authentication group.

Pure, like the core: inputs in, effects out, no clock. A gateway submits a request to one replica,
normally the primary. That replica judges it first (first authentication) and then asks the members
of its group. If the primary stays silent, the gateway tries the other replicas, and each of them
does the same: a silent primary cannot keep anybody out. Members answer with signed endorsements,
accept or reject. k accepts make a request that the core orders and every replica checks again.

Nothing is retried here. If a gateway submits a request again, the silent members are asked again.
`auth_group` draws the group, `registry` has the rules.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from chain.errors import PeerFault
from chain.genesis import Membership, Policy
from chain.keys import Signer
from chain.ledger.auth_group import members
from chain.ledger.item import Authenticated, endorse
from chain.ledger.operations import Enrol, EnrolBoard
from chain.ledger.reasons import LATER_REASONS, Reason
from chain.pbft.effects import Send
from chain.pbft.inputs import Received, Submitted
from chain.pbft.messages import (
    Busy,
    Denied,
    Endorsement,
    EndorseRequest,
    ReplicaMessage,
    Signed,
    sign,
)
from chain.pbft.state_machine import VerifiedRequest

__all__ = [
    "LATER_MAX",
    "OPEN_BLOCKS_MAX",
    "OPEN_MAX",
    "Endorser",
    "EndorserEffect",
    "is_access_request",
]

OPEN_MAX = 1024  # requests that this replica collects endorsements for
OPEN_BLOCKS_MAX = 64  # blocks until an undecided request is dropped
OWN_MAX = 4096  # own endorsements remembered
LATER_MAX = 256  # requests of one asker that wait for a later block
LATER_BLOCKS_MAX = 4
_ACCESS = frozenset({Enrol, EnrolBoard})

EndorserEffect = Send | Submitted | Denied | Busy


def is_access_request(request: VerifiedRequest) -> bool:
    """True for a request that must pass the authentication group and has not passed it yet."""
    authenticated = request.operation
    return (
        isinstance(authenticated, Authenticated)
        and type(authenticated.opened.operation) in _ACCESS
        and not authenticated.endorsers
    )


class _Open(msgspec.Struct):
    """A request that this replica collects endorsements for."""

    request: VerifiedRequest
    group: tuple[int, ...]
    endorsements: dict[int, tuple[Endorsement, Signed]]
    blocks: int = 0


class _Later(msgspec.Struct):
    """A request that may become acceptable with a later block. `asker` is the replica that wants
    our endorsement, None if the request was submitted here."""

    request: VerifiedRequest
    asker: int | None
    blocks: int = 0


class Endorser:
    """One replica's part in judging access requests.

    `judge` is `Registry.judge`, `open_item` verifies an item without endorsements.
    """

    def __init__(
        self,
        me: int,
        network: bytes,
        policy: Policy,
        *,
        signer: Signer,
        judge: Callable[[VerifiedRequest], Reason | None],
        open_item: Callable[[bytes], VerifiedRequest],
    ) -> None:
        self._me = me
        self._network = network
        self._policy = policy
        self._signer = signer
        self._judge = judge
        self._read = open_item
        self._epoch = 0
        self._open: dict[bytes, _Open] = {}
        self._own: OrderedDict[bytes, Signed] = OrderedDict()
        self._later: dict[tuple[bytes, int | None], _Later] = {}

    # --- inputs ----------------------------------------------------------------------------------

    def submit(self, request: VerifiedRequest, membership: Membership) -> list[EndorserEffect]:
        """A gateway handed us an access request (`is_access_request`)."""
        self._enter(membership)
        pending = self._open.get(request.id)
        if pending is not None:
            return self._ask(pending, membership)
        if len(self._open) >= OPEN_MAX:
            return [Busy(request.id)]
        reason = self._judge(request)
        if reason in LATER_REASONS and self._wait(request, None):
            return []
        if reason is not None:
            return [Denied(request.id, reason, self._sign(request.id, reason))]
        size, _ = self._policy.group(membership.quorum)
        pending = _Open(request, members(request.id, membership, size), {})
        self._open[request.id] = pending
        effects = self._ask(pending, membership)
        if self._me in pending.group:
            signed = self._sign(request.id, "")
            effects += self._count(pending, self._endorsement(request.id, ""), signed, membership)
        return effects

    def receive(
        self, received: Received[ReplicaMessage], membership: Membership
    ) -> list[EndorserEffect]:
        """A verified EndorseRequest or Endorsement.

        Raises PeerFault for another message, or if its sender is not in the group.
        """
        self._enter(membership)
        message = received.message
        if isinstance(message, EndorseRequest):
            return self._asked(message, membership)
        if isinstance(message, Endorsement):
            pending = self._open.get(message.request)
            if pending is None or message.epoch != membership.epoch:
                return []  # decided already, or of an old epoch
            if message.sender not in pending.group:
                raise PeerFault("bad-endorsement", f"{message.sender} is not in the group")
            return self._count(pending, message, received.signed, membership)
        raise PeerFault("bad-endorsement", "another kind of message")

    def executed(self, membership: Membership) -> list[EndorserEffect]:
        """A block was executed: requests that waited for it are judged again, old ones dropped."""
        self._enter(membership)
        for pending in list(self._open.values()):
            pending.blocks += 1
            if pending.blocks > OPEN_BLOCKS_MAX:
                del self._open[pending.request.id]
        effects: list[EndorserEffect] = []
        waiting, self._later = self._later, {}
        for key, later in waiting.items():
            later.blocks += 1
            reason = self._judge(later.request)
            if reason in LATER_REASONS and later.blocks < LATER_BLOCKS_MAX:
                self._later[key] = later
            elif later.asker is not None:
                effects.append(self._answer(later.request.id, reason, later.asker))
            elif reason is None:
                effects += self.submit(later.request, membership)
            else:
                request = later.request.id
                effects.append(Denied(request, reason, self._sign(request, reason)))
        return effects

    # --- as a member of the group ----------------------------------------------------------------

    def _asked(self, message: EndorseRequest, membership: Membership) -> list[EndorserEffect]:
        request = self._read(message.request)
        if not is_access_request(request):
            raise PeerFault("bad-request", "not an access request without endorsements")
        size, _ = self._policy.group(membership.quorum)
        if self._me not in members(request.id, membership, size):
            raise PeerFault("bad-request", "this replica is not in the group")
        known = self._own.get(request.id)
        if known is not None:
            return [Send(to=message.sender, signed=known)]
        reason = self._judge(request)
        if reason in LATER_REASONS and self._wait(request, message.sender):
            return []
        return [self._answer(request.id, reason, message.sender)]

    def _answer(self, request: bytes, reason: Reason | None, to: int) -> Send:
        signed = self._sign(request, reason or "")
        if reason not in LATER_REASONS:
            if len(self._own) >= OWN_MAX:
                self._own.popitem(last=False)
            self._own[request] = signed
        return Send(to=to, signed=signed)

    # --- as the collector ------------------------------------------------------------------------

    def _ask(self, pending: _Open, membership: Membership) -> list[EndorserEffect]:
        """Asks the members that have not answered."""
        message = EndorseRequest(membership.epoch, self._me, request=pending.request.item)
        signed = sign(self._signer, self._network, message)
        silent = (
            each for each in pending.group if each != self._me and each not in pending.endorsements
        )
        return [Send(to=each, signed=signed) for each in silent]

    def _count(
        self, pending: _Open, endorsement: Endorsement, signed: Signed, membership: Membership
    ) -> list[EndorserEffect]:
        pending.endorsements.setdefault(endorsement.sender, (endorsement, signed))
        size, needed = self._policy.group(membership.quorum)
        accepts = sorted((e.sender, s) for e, s in pending.endorsements.values() if e.accepted)
        rejects = [(e, s) for e, s in pending.endorsements.values() if not e.accepted]
        if len(accepts) >= needed:
            del self._open[pending.request.id]
            endorsements = tuple(frame for _, frame in accepts)
            return [Submitted(endorse(pending.request, membership, endorsements))]
        if len(rejects) > size - needed:
            del self._open[pending.request.id]
            reject, frame = rejects[0]
            return [Denied(pending.request.id, reject.reason, frame)]
        return []

    # --- common ----------------------------------------------------------------------------------

    def _enter(self, membership: Membership) -> None:
        """Nothing is kept from one epoch to the next: gateways submit again."""
        if membership.epoch != self._epoch:
            self._epoch = membership.epoch
            self._open, self._own, self._later = {}, OrderedDict(), {}

    def _wait(self, request: VerifiedRequest, asker: int | None) -> bool:
        if sum(of == asker for _, of in self._later) >= LATER_MAX:
            return False
        self._later.setdefault((request.id, asker), _Later(request, asker))
        return True

    def _endorsement(self, request: bytes, reason: str) -> Endorsement:
        return Endorsement(
            self._epoch, self._me, request=request, accepted=not reason, reason=reason
        )

    def _sign(self, request: bytes, reason: str) -> Signed:
        return sign(self._signer, self._network, self._endorsement(request, reason))
