"""The desk where access requests are judged before they are ordered.

Pure, like the core: inputs in, effects out, no clock. Any replica that a gateway hands a request
works the desk for it: normally the primary (first authentication), and a backup when the gateway
tries all, so that a silent primary cannot keep anybody out. Members answer with signed verdicts;
k accepts make a request that the core orders and every replica checks again.

Nothing is retried here: a request that is submitted again asks the silent members again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from chain.errors import PeerFault
from chain.genesis import Membership, Policy
from chain.keys import Signer
from chain.ledger.admission import LATER_REASONS
from chain.ledger.auth_group import members
from chain.ledger.operations import Enrol, EnrolBoard
from chain.ledger.request import Authenticated, endorse
from chain.pbft.application import Request
from chain.pbft.effects import Send
from chain.pbft.inputs import Received, Submitted
from chain.pbft.messages import (
    Busy,
    Denied,
    Endorsement,
    EndorseRequest,
    Signed,
    encode,
    signed_bytes,
)

__all__ = ["CASES_MAX", "CASE_BLOCKS_MAX", "LATER_MAX", "Desk", "DeskEffect", "is_access_request"]

CASES_MAX = 1024  # requests under judgement here
CASE_BLOCKS_MAX = 64  # blocks until an undecided case is given up
ANSWERS_MAX = 4096  # own verdicts remembered
LATER_MAX = 256  # requests of one asker that wait for a block to come
LATER_BLOCKS_MAX = 4

DeskEffect = Send | Submitted | Denied | Busy


def is_access_request(request: Request) -> bool:
    """True for what must pass the authentication group and has not yet."""
    authenticated = request.operation
    return (
        isinstance(authenticated, Authenticated)
        and isinstance(authenticated.opened.operation, Enrol | EnrolBoard)
        and not authenticated.endorsers
    )


class _Case(msgspec.Struct):
    """A request that this replica collects verdicts for."""

    request: Request
    group: tuple[int, ...]
    verdicts: dict[int, tuple[Endorsement, Signed]]
    blocks: int = 0


class _Later(msgspec.Struct):
    """A request that wants a block to come first. `asker` is the replica that wants our verdict,
    None if the request was submitted here."""

    request: Request
    asker: int | None
    blocks: int = 0


class Desk:
    """`judge` is `Registry.judge`, `open_item` verifies an item without endorsements."""

    def __init__(
        self,
        me: int,
        network: bytes,
        policy: Policy,
        *,
        signer: Signer,
        judge: Callable[[Request], str | None],
        open_item: Callable[[bytes], Request],
    ) -> None:
        self._me = me
        self._network = network
        self._policy = policy
        self._signer = signer
        self._judge = judge
        self._open_item = open_item
        self._epoch = 0
        self._cases: dict[bytes, _Case] = {}
        self._answers: OrderedDict[bytes, Signed] = OrderedDict()
        self._later: dict[tuple[bytes, int | None], _Later] = {}

    # --- inputs ----------------------------------------------------------------------------------

    def submit(self, request: Request, membership: Membership) -> list[DeskEffect]:
        """A gateway handed us an access request (`is_access_request`)."""
        self._enter(membership)
        case = self._cases.get(request.id)
        if case is not None:
            return self._ask(case, membership)
        if len(self._cases) >= CASES_MAX:
            return [Busy(request.id)]
        reason = self._judge(request)
        if reason in LATER_REASONS and self._wait(request, None):
            return []
        if reason is not None:
            verdict = self._sign(request.id, reason)
            return [Denied(request=request.id, reason=reason, endorsement=verdict)]
        size, _ = self._policy.group(membership.quorum)
        case = _Case(request, members(request.id, membership, size), {})
        self._cases[request.id] = case
        effects = self._ask(case, membership)
        if self._me in case.group:
            signed = self._sign(request.id, "")
            effects += self._count(case, self._endorsement(request.id, ""), signed, membership)
        return effects

    def receive(self, received: Received, membership: Membership) -> list[DeskEffect]:
        """A verified EndorseRequest or Endorsement. Raises PeerFault for a senseless one."""
        self._enter(membership)
        message = received.message
        if isinstance(message, EndorseRequest):
            return self._asked(message, membership)
        if isinstance(message, Endorsement):
            case = self._cases.get(message.request)
            if case is None or message.epoch != membership.epoch:
                return []  # decided already, or an old epoch's
            if message.sender not in case.group:
                raise PeerFault("bad-endorsement", f"{message.sender} is not in the group")
            return self._count(case, message, received.signed, membership)
        raise PeerFault("bad-endorsement", "another kind of message")

    def executed(self, membership: Membership) -> list[DeskEffect]:
        """A block was executed: what waited for one is judged again, what is too old is dropped."""
        self._enter(membership)
        for case in list(self._cases.values()):
            case.blocks += 1
            if case.blocks > CASE_BLOCKS_MAX:
                del self._cases[case.request.id]
        effects: list[DeskEffect] = []
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
                verdict = self._sign(later.request.id, reason)
                effects.append(Denied(later.request.id, reason, verdict))
        return effects

    # --- as a member of the group ----------------------------------------------------------------

    def _asked(self, message: EndorseRequest, membership: Membership) -> list[DeskEffect]:
        request = self._open_item(message.request)
        if not is_access_request(request):
            raise PeerFault("bad-request", "not an access request without endorsements")
        size, _ = self._policy.group(membership.quorum)
        if self._me not in members(request.id, membership, size):
            raise PeerFault("bad-request", "this replica is not in the group")
        known = self._answers.get(request.id)
        if known is not None:
            return [Send(to=message.sender, signed=known)]
        reason = self._judge(request)
        if reason in LATER_REASONS and self._wait(request, message.sender):
            return []
        return [self._answer(request.id, reason, message.sender)]

    def _answer(self, request: bytes, reason: str | None, to: int) -> Send:
        signed = self._sign(request, reason or "")
        if reason not in LATER_REASONS:
            if len(self._answers) >= ANSWERS_MAX:
                self._answers.popitem(last=False)
            self._answers[request] = signed
        return Send(to=to, signed=signed)

    # --- as the one that collects ----------------------------------------------------------------

    def _ask(self, case: _Case, membership: Membership) -> list[DeskEffect]:
        """Asks the members that have not answered."""
        message = EndorseRequest(membership.epoch, self._me, request=case.request.item)
        body = encode(message)
        signed = Signed(body, self._signer.sign(signed_bytes(self._network, body)))
        silent = (each for each in case.group if each != self._me and each not in case.verdicts)
        return [Send(to=each, signed=signed) for each in silent]

    def _count(
        self, case: _Case, endorsement: Endorsement, signed: Signed, membership: Membership
    ) -> list[DeskEffect]:
        case.verdicts.setdefault(endorsement.sender, (endorsement, signed))
        size, needed = self._policy.group(membership.quorum)
        accepts = sorted((e.sender, s) for e, s in case.verdicts.values() if e.accepted)
        rejects = [(e, s) for e, s in case.verdicts.values() if not e.accepted]
        if len(accepts) >= needed:
            del self._cases[case.request.id]
            endorsements = tuple(frame for _, frame in accepts)
            return [Submitted(endorse(case.request, membership, endorsements))]
        if len(rejects) > size - needed:
            del self._cases[case.request.id]
            verdict, frame = rejects[0]
            return [Denied(case.request.id, verdict.reason, frame)]
        return []

    # --- common ----------------------------------------------------------------------------------

    def _enter(self, membership: Membership) -> None:
        """In a new epoch all is judged anew: gateways submit again."""
        if membership.epoch != self._epoch:
            self._epoch = membership.epoch
            self._cases, self._answers, self._later = {}, OrderedDict(), {}

    def _wait(self, request: Request, asker: int | None) -> bool:
        if sum(of == asker for _, of in self._later) >= LATER_MAX:
            return False
        self._later.setdefault((request.id, asker), _Later(request, asker))
        return True

    def _endorsement(self, request: bytes, reason: str) -> Endorsement:
        return Endorsement(
            self._epoch, self._me, request=request, accepted=not reason, reason=reason
        )

    def _sign(self, request: bytes, reason: str) -> Signed:
        body = encode(self._endorsement(request, reason))
        return Signed(body, self._signer.sign(signed_bytes(self._network, body)))
