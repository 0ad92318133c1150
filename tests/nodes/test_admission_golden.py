"""A whole admission as a transcript to read: `golden/admission.txt`.

Four services on a bus of lists, with real keys, ledger and signatures; the gateway's part is the
test's. `pytest --rewrite-golden` writes it again; a changed transcript is reviewed as code. How the
request comes to the gateway, file by file, is in the top README ("Follow an access request").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from chain.block import Block, Head
from chain.ledger.auth_group import members
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item
from chain.ledger.operations import Enrol
from chain.ledger.statement import Statement, decode_leaf
from chain.pbft.messages import (
    Batch,
    ClientMessage,
    Endorsement,
    EndorseRequest,
    Seal,
    Submit,
    Subscribe,
    decode_body,
    decode_signed,
    encode,
)
from chain.proofs.client import Final, FinalityTracker
from chain.proofs.proof import Proof, ProofVerifier, make_inclusion
from nodes.events import NoEvents
from nodes.ports import Party
from nodes.replica.memory_store import MemoryStore
from nodes.replica.service import Service
from tests.chain.spelling import describe
from tests.chain.world import SECOND_US, START_US, Device, World

GATEWAY = "gateway"


class StillClock:
    """Nothing in this story depends on how much time passes."""

    def now_us(self) -> int:
        return START_US + SECOND_US

    def monotonic_us(self) -> int:
        return SECOND_US


class Story:
    """One admission, written down as it happens."""

    def __init__(self) -> None:
        self.world = World()
        self.genesis = self.world.genesis
        self.tracker = FinalityTracker(self.genesis.membership, self.genesis, self.world.scheme)
        self.lines: list[str] = []
        self.frames: deque[tuple[Party, Party, bytes]] = deque()
        self.contents: dict[bytes, str] = {}
        self.final: Final | None = None
        self._note = ""
        self.services = {each: self._service(each) for each in self.world.replicas}
        for each in self.services:
            self.frames.append((GATEWAY, each, encode(Subscribe(start=1, bodies=True))))
        self._run()
        self.lines.clear()

    def _service(self, me: int) -> Service:
        wire = _Wire(me, self.frames)
        service = Service(
            me=me,
            genesis=self.genesis,
            signer=self.world.replicas[me],
            scheme=self.world.scheme,
            store=MemoryStore(),
            wire=wire,
            clock=StillClock(),
            timers=wire,
            events=NoEvents(),
        )
        service.start()
        return service

    def write(self, line: str) -> None:
        self.lines.append(line)

    def _arrow(self, sender: Party, to: Party, what: str) -> None:
        """One message; a broadcast is one line."""
        before, after = f"{sender} -> ", f"  {what}"
        if self.lines and self.lines[-1].startswith(before) and self.lines[-1].endswith(after):
            self.lines[-1] = f"{self.lines[-1].removesuffix(after)} {to}{after}"
        else:
            self.write(f"{before}{to}{after}")

    def admit(self, device: Device) -> None:
        enrol = self.world.enrol(device)
        cose = sign_operation(enrol, device.signer)
        self.write(f"# the device signs an access request: {self._about(enrol)}")
        self.frames.append((GATEWAY, 0, encode(Submit(cose))))
        request = self.world.open(make_item(cose)).id
        size, accepts = self.genesis.policy.group(self.genesis.membership.quorum)
        group = " ".join(map(str, members(request, self.genesis.membership, size)))
        self._note = (
            f"# replica 0 judges it first (first authentication), then asks the authentication "
            f"group that the request's hash draws: {group}, of whom {accepts} must accept"
        )
        self._run()
        assert self.final is not None
        assert self.final.block is not None
        self._receipt(self.final, self.final.block)

    def _about(self, enrol: Enrol) -> str:
        assert enrol.head == self.services[0].ledger.head_hash
        return (
            f"{enrol.kind}, service {enrol.service}, privilege {enrol.privilege}, "
            f"its own new key, a voucher, the newest head (height 0)"
        )

    def _run(self) -> None:
        while self.frames:
            sender, to, frame = self.frames.popleft()
            if isinstance(to, str):
                self._heard(frame)
                continue
            self._arrow(sender, to, self._describe(sender, frame))
            service = self.services[to]
            service.step([(sender, service.verify(sender, frame))])
            if self._note and any(source == 0 for source, _, _ in self.frames):
                self.write(self._note)
                self._note = ""

    def _describe(self, sender: Party, frame: bytes) -> str:
        if isinstance(sender, str):
            message = msgspec.msgpack.decode(frame, type=ClientMessage)
            return "SUBMIT access request" if isinstance(message, Submit) else "SUBSCRIBE"
        body = decode_body(decode_signed(frame).body)
        match body:
            case EndorseRequest():
                return "ENDORSE-REQUEST access request"
            case Endorsement(accepted=accepted):
                return f"ENDORSEMENT {'accept' if accepted else 'reject'} of {body.sender}"
            case Batch():
                return "BATCH"
            case _:
                return describe(body, _OneBatch())

    def _heard(self, frame: bytes) -> None:
        """What the gateway does with a seal: f+1 of one head make the block final."""
        seal = msgspec.msgpack.decode(frame, type=ClientMessage)
        assert isinstance(seal, Seal), seal
        head = Head.decode(seal.head)
        self._arrow(seal.replica, GATEWAY, f"SEAL height {head.height}, {head.count} record")
        assert self.tracker.feed(seal) is None
        final = self.tracker.next_final()
        if final is not None:
            self.final = final
            who = " and ".join(str(each.replica) for each in final.seals)
            self.write(f"# the gateway: block {final.height} is final, sealed by {who} (f+1)")

    def _receipt(self, final: Final, block: Block) -> None:
        """What the device checks, from the genesis document alone."""
        inclusion = make_inclusion(block, 0, final.seals)
        statement = ProofVerifier(self.genesis).verify(Proof(record=inclusion, epochs=()))
        assert statement == decode_leaf(block.records[0].leaf)
        self.write(
            "# the device: the receipt is record, Merkle path, head and seals; it holds, "
            "checked from genesis"
        )
        self.write(f"# the record: {self._record(statement)}")

    def _record(self, statement: Statement) -> str:
        assert statement.not_after_us is not None
        assert statement.not_before_us is not None
        lasts_s = (statement.not_after_us - statement.not_before_us) // SECOND_US
        return (
            f"{statement.op} {statement.status}, privilege {statement.privilege}, "
            f"certificate valid for {lasts_s} s"
        )


class _OneBatch(dict[bytes, str]):
    """There is one batch in this story."""

    def get(self, _: bytes, __: object = None) -> str:
        return "[access request + endorsements]"


class _Wire:
    """One replica's outgoing frames, and timers that never fire."""

    def __init__(self, me: int, frames: deque[tuple[Party, Party, bytes]]) -> None:
        self._me = me
        self._frames = frames

    def send(self, party: Party, frame: bytes) -> None:
        self._frames.append((self._me, party, frame))

    def congested(self, party: Party) -> bool:
        return False

    def set(self, name: str, delay_us: int) -> None: ...

    def cancel(self, name: str) -> None: ...


def test_admission(golden: Callable[[str, str], None]) -> None:
    """Request, first authentication, endorsements, three phases, record, seals, receipt."""
    story = Story()
    story.admit(Device("phone"))
    golden("admission.txt", "\n".join(story.lines) + "\n")
