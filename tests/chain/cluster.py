"""A cluster in memory: real cores and verifiers, a message bag, virtual time, a small ledger.

For stories: `cluster.request("a"); cluster.isolate(3); cluster.settle(); ...`. Deterministic;
links keep their order and take one millisecond. On every step it checks what no fault may break:
agreement, exactly-once, and that no honest replica contradicts one of its own signed votes, also
across a restart. The whole system under seeded faults is `testbed.simulate`.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterable, Sequence

import msgspec

from chain.block import Block, Head, Record, genesis_head
from chain.errors import PeerFault
from chain.genesis import Consensus, Member, Membership
from chain.keys import digest
from chain.merkle import EMPTY_ROOT
from chain.pbft.effects import (
    Accuse,
    Broadcast,
    CancelTimer,
    Durable,
    Effect,
    Execute,
    Forget,
    Install,
    Observe,
    Persist,
    Refuse,
    Send,
    SendBatch,
    ServeBodies,
    ServeHeads,
    SetTimer,
    Sync,
    Timer,
)
from chain.pbft.inputs import (
    Executed,
    Input,
    Installed,
    InstallFailed,
    Submitted,
    TimerFired,
)
from chain.pbft.messages import (
    Batch,
    Bodies,
    Checkpoint,
    CheckpointProof,
    Commit,
    FetchBodies,
    FetchHeads,
    Heads,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    Signed,
    StatusMessage,
    ViewChange,
    decode_body,
    decode_proposal,
    decode_signed,
    encode,
    signed_bytes,
)
from chain.pbft.replica import Replica
from chain.pbft.state_machine import Screening, VerifiedRequest
from chain.pbft.verify import Verifier

__all__ = [
    "LINK_US",
    "NETWORK",
    "SMALL",
    "START_US",
    "Cluster",
    "FakeScheme",
    "FakeSigner",
    "Ledger",
    "Node",
    "item",
    "open_item",
    "open_items",
    "sign",
    "signer_of",
]

NETWORK = digest(b"a network for tests")
START_US = 1_700_000_000_000_000
LINK_US = 1000
PIECE_BYTES_MAX = 1 << 20

# Short intervals, so that stories reach checkpoints soon.
SMALL = Consensus(checkpoint_interval=8, pipeline_window=4, batch_requests_max=8)


class FakeSigner:
    """Cheap and deterministic; anybody could forge it, so only tests and simulations use it."""

    def __init__(self, name: str) -> None:
        self.public = f"key of {name}".encode().ljust(32, b".")

    def sign(self, data: bytes) -> bytes:
        return hashlib.sha512(self.public + data).digest()


def signer_of(replica: int) -> FakeSigner:
    return FakeSigner(f"replica {replica}")


class FakeScheme:
    def verify(self, public: bytes, data: bytes, signature: bytes) -> bool:
        return hashlib.sha512(public + data).digest() == signature


def item(text: str) -> bytes:
    """A request: "NAME", "client/NAME", "NAME>OTHER" (known once OTHER is executed),
    "!NAME" (refused), "+4" / "-3" (adds or removes a replica), "NAME@0" (endorsed in epoch 0, not
    valid in another)."""
    return b"ok " + text.encode()


def open_item(data: bytes) -> VerifiedRequest:
    if not data.startswith(b"ok "):
        raise PeerFault("bad-signature", "not signed by its client")
    text = data[3:].decode()
    client, _, _ = text.rpartition("/")
    return VerifiedRequest(digest(data), client.encode() or b"anybody", 0, data, text)


def open_items(items: Sequence[bytes]) -> list[VerifiedRequest | PeerFault]:
    opened: list[VerifiedRequest | PeerFault] = []
    for data in items:
        try:
            opened.append(open_item(data))
        except PeerFault as fault:
            opened.append(fault)
    return opened


class Ledger:
    """Blocks, and the operations above; screening by what is executed."""

    def __init__(self, membership: Membership, interval: int) -> None:
        self.interval = interval
        head = genesis_head(NETWORK, START_US)
        self.blocks = [Block(head, ())]
        self.names: list[list[str]] = [[]]
        self.done: dict[bytes, int] = {}
        self.membership = membership  # that decided the last block
        self.memberships = {membership.epoch: membership}
        self.pending: Membership | None = None

    @property
    def height(self) -> int:
        return len(self.blocks) - 1

    @property
    def deciding(self) -> Membership:
        """Who decides the next block."""
        changes = self.pending is not None and self.height % self.interval == 0
        return self.pending if changes and self.pending else self.membership

    @property
    def tip(self) -> tuple[int, bytes, int]:
        block = self.blocks[-1]
        return self.height, block.hash, Head.decode(block.head).time_us

    def screen(self, request: VerifiedRequest) -> Screening:
        if request.id in self.done:
            return Screening.DONE
        text = str(request.operation)
        if text.startswith("!"):
            return Screening.REFUSED
        _, _, epoch = text.partition("@")
        if epoch and int(epoch) != self.deciding.epoch:
            return Screening.INVALID
        _, _, needed = text.partition(">")
        if needed and digest(item(needed)) not in self.done:
            return Screening.LATER
        return Screening.READY

    def open(self, data: bytes) -> VerifiedRequest:
        return open_item(data)

    def execute(self, proposal: Proposal, requests: Iterable[VerifiedRequest], epoch: int) -> None:
        parent = Head.decode(self.blocks[-1].head)
        assert proposal.seq == self.height + 1
        records, names = [], []
        if epoch != self.membership.epoch:
            assert self.pending is not None
            assert self.height % self.interval == 0
            self.membership, self.pending = self.pending, None
        for request in requests:
            if request.id not in self.done:
                self.done[request.id] = proposal.seq
                names.append(str(request.operation))
                records.append(Record(b"", request.item))
                self._change(str(request.operation))
        head = Head(
            network=NETWORK,
            height=proposal.seq,
            time_us=max(proposal.time_us, parent.time_us + 1),
            parent=self.blocks[-1].hash,
            parent_root=parent.root,
            root=digest(b"".join(record.item for record in records)) if records else EMPTY_ROOT,
            epoch=epoch,
            view=proposal.view,
            count=len(records),
        )
        self.blocks.append(Block(head.encode(), tuple(records)))
        self.names.append(names)

    def append(self, block: Block) -> None:
        head = Head.decode(block.head)
        proposal = Proposal(head.height, head.time_us, head.view, ())
        requests = [open_item(record.item) for record in block.records]
        self.execute(proposal, requests, head.epoch)
        if self.blocks[-1].head != block.head:
            self.truncate(self.height - 1)
            raise PeerFault("bad-block", f"block {head.height} does not execute to its head")

    def truncate(self, height: int) -> None:
        """What a crash leaves: the blocks that were synced. (Not across a membership change.)"""
        for names in self.names[height + 1 :]:
            for name in names:
                self.done.pop(digest(item(name)), None)
        del self.blocks[height + 1 :], self.names[height + 1 :]

    def _change(self, text: str) -> None:
        if text[:1] not in "+-" or self.pending is not None:
            return
        member = int(text[1:])
        members = [m for m in self.membership.members if m.id != member]
        if text[0] == "+":
            members.append(Member(member, signer_of(member).public))
        self.pending = Membership(self.membership.epoch + 1, tuple(sorted(members)))
        self.memberships[self.pending.epoch] = self.pending


class Crash(Exception):
    """A power failure at a persist boundary."""


class Node:
    """A replica's host: ledger, durable facts, timers; carries out effects in order."""

    def __init__(self, cluster: Cluster, me: int, membership: Membership) -> None:
        self.cluster = cluster
        self.me = me
        self.signer = signer_of(me)
        self.ledger = Ledger(membership, cluster.consensus.checkpoint_interval)
        self.store: dict[tuple[str, int, int], Durable] = {}
        self.durable: dict[
            tuple[str, int, int], Durable
        ] = {}  # the part of it that is synced, and the height that is
        self.synced = 0
        self.keeps_unsynced = False  # when it crashes
        self.clock_skew_us = 0
        self.writes = 0
        self.crash_at: int | None = None  # the number of the persist or sync that is the last
        self.boot()

    def boot(self) -> None:
        self.alive = True
        self.timers: dict[str, int] = {}
        self.inbox: list[Input] = []
        ledger = self.ledger
        self.verifier = Verifier(NETWORK, FakeScheme(), ledger.memberships.get, open_items)
        self.replica = Replica(
            self.me,
            ledger.membership,
            self.cluster.consensus,
            NETWORK,
            self.signer,
            state_machine=ledger,
            holds=self.verifier.holds,
            executed=ledger.tip,
            durable=list(self.store.values()),
            pending=ledger.pending,
        )

    @property
    def now_us(self) -> int:
        return self.cluster.now_us + self.clock_skew_us

    def start(self) -> None:
        self._guarded(lambda: self._carry_out(self.replica.start(self.now_us)))

    def crash(self) -> None:
        """What was not synced is lost, unless `keeps_unsynced`."""
        self.alive = False
        self.timers = {}
        if self.keeps_unsynced:
            return
        self.store = dict(self.durable)
        if self.ledger.membership.epoch == 0 and self.ledger.pending is None:
            self.ledger.truncate(min(self.synced, self.ledger.height))

    def give(self, *inputs: Input) -> None:
        self.inbox += inputs
        self._guarded(self._work)

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
            self._work()
        except Crash:
            self.crash()

    def _work(self) -> None:
        while self.inbox:
            next_input = self.inbox.pop(0)
            self._carry_out(self.replica.handle(next_input, self.now_us))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            self._do(effect)

    def _do(self, effect: Effect) -> None:  # noqa: PLR0912 - one line per effect
        match effect:
            case Persist(fact):
                self.store[(fact.kind, fact.view, fact.seq)] = fact
                self._written()
            case Sync():
                self.synced, self.durable = self.ledger.height, dict(self.store)
                self._written()
            case Forget(seq):
                for key in [k for k in self.store if k[0] in ("proposal", "prepared")]:
                    if key[2] <= seq:
                        del self.store[key]
            case Send(to, signed):
                self.cluster.post(self.me, to, signed)
            case SendBatch(to, view, seq, pre_prepare):
                self._send_batch(to, self.store.get(("proposal", view, seq)), pre_prepare)
            case Broadcast(signed):
                for to in sorted(self.cluster.nodes):
                    if to != self.me:
                        self.cluster.post(self.me, to, signed)
            case SetTimer(timer, delay_us):
                self.timers[timer] = self.cluster.now_us + delay_us
            case CancelTimer(timer):
                self.timers.pop(timer, None)
            case Execute(proposal, requests, epoch):
                before = self.ledger.pending
                self.ledger.execute(proposal, requests, epoch)
                self.inbox.append(Executed(*self.ledger.tip, self._changed(before)))
                self.cluster.check_chain(self)
            case Install(blocks, source):
                self._install(blocks, source)
            case ServeHeads(to, start):
                self._serve_heads(to, start)
            case ServeBodies(to, start, stop):
                self._serve_bodies(to, start, stop)
            case Accuse():
                self.cluster.accusations.append((self.me, effect))
            case Refuse(request, reason):
                self.cluster.refusals.append((self.me, request, reason))
            case Observe(what, view, seq):
                self.cluster.note(f"{self.me} {what} view {view} seq {seq}")

    def _written(self) -> None:
        self.writes += 1
        if self.crash_at == self.writes:
            raise Crash

    def _changed(self, before: Membership | None) -> Membership | None:
        after = self.ledger.pending
        return after if after is not before else None

    def _install(self, blocks: tuple[Block, ...], source: int) -> None:
        before = self.ledger.pending
        for block in blocks:
            try:
                self.ledger.append(block)
            except PeerFault as fault:
                seq = self.ledger.height + 1
                if self.ledger.height > self.replica.executed:
                    self.inbox.append(Installed(*self.ledger.tip, self._changed(before)))
                self.inbox.append(InstallFailed(source, seq, str(fault)))
                return
            self.cluster.check_chain(self)
        self.inbox.append(Installed(*self.ledger.tip, self._changed(before)))

    def _send_batch(self, to: int, fact: Durable | None, pre_prepare: Signed | None) -> None:
        assert fact is not None, "a batch that is neither in memory nor in the store"
        batch = decode_signed(fact.data).attachment
        assert batch, "a fact without the batch that it is said to hold"
        if pre_prepare is None:
            self.answer(to, Batch(self.replica.epoch, self.me, batch))
        else:
            self.cluster.post(self.me, to, Signed(pre_prepare.body, pre_prepare.signature, batch))

    def _serve_heads(self, to: int, start: int) -> None:
        stable = sorted(k[2] for k in self.store if k[0] == "stable" and k[2] >= start)
        if not stable or stable[0] > self.ledger.height:
            return
        fact = self.store[("stable", 0, stable[0])]
        proof = msgspec.msgpack.decode(fact.data, type=CheckpointProof)
        heads = tuple(block.head for block in self.ledger.blocks[start : proof.seq + 1])
        self.answer(to, Heads(self.replica.epoch, self.me, start, heads, proof.votes))

    def _serve_bodies(self, to: int, start: int, stop: int) -> None:
        blocks = tuple(self.ledger.blocks[start : stop + 1])
        self.answer(to, Bodies(self.replica.epoch, self.me, start, blocks))

    def answer(self, to: int, message: ReplicaMessage) -> None:
        self.cluster.post(self.me, to, sign(self.signer, message))


def sign(signer: FakeSigner, message: ReplicaMessage, attachment: bytes = b"") -> Signed:
    body = encode(message)
    return Signed(body, signer.sign(signed_bytes(NETWORK, body)), attachment)


Filter = Callable[[int, int, ReplicaMessage], bool]


class Cluster:
    """N replicas. `lose` decides about each message (source, destination, message)."""

    def __init__(
        self, n: int = 4, consensus: Consensus = SMALL, byzantine: Iterable[int] = ()
    ) -> None:
        self.consensus = consensus
        self.now_us = START_US
        self.byzantine = set(byzantine)  # their votes may contradict each other
        members = tuple(Member(i, signer_of(i).public) for i in range(n))
        self.genesis = Membership(0, members)
        self.lose: Filter = lambda source, to, message: False
        self.delay: Callable[[int, int], int] = lambda source, to: LINK_US
        self.cut: set[frozenset[int]] = set()
        self.stopped: dict[int, list[tuple[int, bytes]]] = {}  # what waits: source, frame
        self.on_post: Callable[[int, int, Signed], Signed | None] | None = None
        self.accusations: list[tuple[int, Accuse]] = []
        self.refusals: list[tuple[int, bytes, str]] = []
        self.faults: list[tuple[int, str]] = []
        self.transcript: list[str] = []
        self.submitted: set[bytes] = set()
        self._bag: list[tuple[int, int, int, int, bytes]] = []
        self._posted = 0
        self._contents: dict[bytes, str] = {}
        self._votes: dict[tuple[object, ...], bytes] = {}
        self._heads: dict[int, bytes] = {}
        self.nodes: dict[int, Node] = {}
        for i in range(n):
            self.nodes[i] = Node(self, i, self.genesis)
        for node in list(self.nodes.values()):
            node.start()

    # --- what stories do -----------------------------------------------------------------------

    def request(self, *names: str, to: int | Iterable[int] | None = None) -> None:
        """Submits requests to one replica, to some, or (default) to the primary of replica 0."""
        if to is None:
            alive = [node for node in self.nodes.values() if node.alive]
            to = max(alive, key=lambda node: node.replica.view).replica.primary
        targets = [to] if isinstance(to, int) else list(to)
        for name in names:
            self.submitted.add(digest(item(name)))
            for target in targets:
                if self.nodes[target].alive:
                    self.nodes[target].give(Submitted(open_item(item(name))))

    def isolate(self, *ids: int) -> None:
        self.partition(ids, [i for i in self.nodes if i not in ids])
        self.partition(*[[i] for i in ids])

    def partition(self, *groups: Iterable[int]) -> None:
        sets = [set(group) for group in groups]
        for index, one in enumerate(sets):
            for other in sets[index + 1 :]:
                self.cut |= {frozenset((a, b)) for a in one for b in other}

    def heal(self) -> None:
        self.cut = set()
        self.lose = lambda source, to, message: False
        self.on_post = None

    def stop(self, i: int) -> None:
        """As SIGSTOP: its frames and its timers wait. The wire loses nothing."""
        self.stopped[i] = []

    def resume(self, i: int) -> None:
        """As SIGCONT: first all that has arrived, then the timers that are due by now."""
        for source, frame in self.stopped.pop(i):
            self._deliver(source, i, frame)

    def crash(self, *ids: int) -> None:
        for i in ids:
            self.nodes[i].crash()

    def restart(self, *ids: int) -> None:
        for i in ids:
            self.nodes[i].crash_at = None
            self.nodes[i].inbox = []
            self.nodes[i].boot()
            self.nodes[i].start()

    def join(self, i: int) -> None:
        """Starts a replica that knows the genesis only."""
        self.nodes[i] = Node(self, i, self.genesis)
        self.nodes[i].start()

    def run(self, duration_us: int) -> None:
        end_us = self.now_us + duration_us
        while self._step(end_us):
            pass
        self.now_us = end_us

    def settle(self, until: Callable[[], bool] | None = None, limit_us: int = 120_000_000) -> None:
        """Runs until a condition holds (default: every submitted request is executed by every
        living replica that nobody cut off)."""
        condition = until or self._all_executed
        end_us = self.now_us + limit_us
        while not condition():
            if not self._step(end_us):
                raise AssertionError(f"not within {limit_us} us:\n{self.summary()}")

    def _all_executed(self) -> bool:
        connected = [
            node
            for node in self.nodes.values()
            if node.alive
            and node.replica.membership.spki(node.me) is not None
            and node.me not in self.byzantine
            and sum(node.me in pair for pair in self.cut) < self.genesis.quorum.strong - 1
        ]
        return all(self.submitted <= node.ledger.done.keys() for node in connected)

    # --- what stories look at ------------------------------------------------------------------

    def chain(self, i: int) -> list[list[str]]:
        """The names of the requests of each block from height 1 on, empty blocks left out."""
        return [names for names in self.nodes[i].ledger.names[1:] if names]

    def executed(self, i: int) -> list[str]:
        return [name for names in self.nodes[i].ledger.names for name in names]

    def views(self) -> list[int]:
        return [node.replica.view for node in self.nodes.values() if node.alive]

    def heights(self) -> list[int]:
        return [node.ledger.height for node in self.nodes.values()]

    def accused(self) -> set[tuple[int, str]]:
        return {(accuse.culprit, accuse.reason) for _, accuse in self.accusations}

    def summary(self) -> str:
        lines = [
            f"{i}: {'alive' if node.alive else 'dead'} epoch {node.replica.epoch} "
            f"view {node.replica.view} {'active' if node.replica.active else 'changing'} "
            f"height {node.ledger.height} stable {node.replica.stable}"
            for i, node in sorted(self.nodes.items())
        ]
        return "\n".join([*lines, *self.transcript[-60:]])

    # --- the network ---------------------------------------------------------------------------

    def post(self, source: int, to: int, signed: Signed) -> None:
        if self.on_post is not None:
            replaced = self.on_post(source, to, signed)
            if replaced is None:
                return
            signed = replaced
        message = decode_body(signed.body)
        self._check_vote(message, signed)
        self.note_message(source, to, message, signed)
        if to not in self.nodes or frozenset((source, to)) in self.cut:
            return
        if self.lose(source, to, message):
            return
        self._posted += 1
        entry = (self.now_us + self.delay(source, to), self._posted, source, to, encode(signed))
        heapq.heappush(self._bag, entry)

    def _step(self, end_us: int) -> bool:
        """The next message or timer, if it is due by `end_us`."""
        due = [
            (deadline, i, name)
            for i, node in self.nodes.items()
            if node.alive and i not in self.stopped
            for name, deadline in node.timers.items()
        ]
        timer = min(due, default=None)
        if self._bag and (timer is None or self._bag[0][0] <= timer[0]):
            if self._bag[0][0] > end_us:
                return False
            due_us, _, source, to, frame = heapq.heappop(self._bag)
            self.now_us = max(self.now_us, due_us)
            self._deliver(source, to, frame)
            return True
        if timer is None or timer[0] > end_us:
            return False
        self.now_us = max(self.now_us, timer[0])
        node = self.nodes[timer[1]]
        del node.timers[timer[2]]
        node.give(TimerFired(Timer(timer[2])))
        return True

    def _deliver(self, source: int, to: int, frame: bytes) -> None:
        node = self.nodes[to]
        if not node.alive:
            return
        if to in self.stopped:
            self.stopped[to].append((source, frame))
            return
        try:
            received = node.verifier.verify(frame, source)
        except PeerFault as fault:
            self.faults.append((source, fault.code))
            return
        node.give(received)

    # --- what must always hold -----------------------------------------------------------------

    def check_chain(self, node: Node) -> None:
        """Agreement on every height, and no request twice."""
        head = self._heads.setdefault(node.ledger.height, node.ledger.blocks[-1].head)
        assert node.ledger.blocks[-1].head == head, f"fork at {node.ledger.height}"

    def _check_vote(self, message: ReplicaMessage, signed: Signed) -> None:
        """No honest replica contradicts itself, whatever it has been through."""
        kind = type(message).__name__
        what: bytes
        match message:
            case PrePrepare() | Prepare() | Commit():
                key: tuple[object, ...] = (kind, message.epoch, message.view, message.seq)
                what = message.digest
            case Checkpoint():
                key, what = (kind, message.epoch, message.seq), message.head
            case ViewChange() | NewView():
                key, what = (kind, message.epoch, message.view), signed.body
            case _:
                return
        if message.sender in self.byzantine:
            return
        known = self._votes.setdefault((message.sender, *key), what)
        assert known == what, f"{message.sender} contradicts its own {key}"

    # --- the transcript ------------------------------------------------------------------------

    def note(self, line: str) -> None:
        self.transcript.append(f"{(self.now_us - START_US) / 1000:9.1f} ms  {line}")

    def note_message(self, source: int, to: int, message: ReplicaMessage, signed: Signed) -> None:
        if isinstance(message, PrePrepare) and signed.attachment:
            items = decode_proposal(signed.attachment).items
            names = " ".join(str(open_item(data).operation) for data in items)
            self._contents.setdefault(message.digest, f"[{names}]")
        self.note(f"{source} -> {to}  {describe(message, self._contents)}")

    def story(self) -> str:
        """The transcript for people: without STATUS, broadcasts on one line."""
        lines: list[str] = []
        for line in self.transcript:
            if "  STATUS " in line:
                continue
            start, arrow, rest = line.partition(" -> ")
            to, _, what = rest.partition("  ")
            if arrow and lines:
                last_start, _, last_rest = lines[-1].partition(" -> ")
                last_to, _, last_what = last_rest.partition("  ")
                if (last_start, last_what) == (start, what):
                    lines[-1] = f"{start} -> {last_to} {to}  {what}"
                    continue
            lines.append(line)
        return "\n".join(lines) + "\n"


def describe(message: ReplicaMessage, contents: dict[bytes, str]) -> str:
    """One message in the paper's notation."""
    name = SPELLING.get(type(message).__name__, type(message).__name__.upper())
    match message:
        case PrePrepare() | Prepare() | Commit():
            null = Proposal.digest_of(Proposal.null(message.seq).encode())
            what = "null" if message.digest == null else contents.get(message.digest, "?")
            return f"{name} v{message.view} n{message.seq} {what} of {message.sender}"
        case Checkpoint():
            return f"{name} n{message.seq} of {message.sender}"
        case ViewChange():
            proofs = [decode_body(proof.pre_prepare.body) for proof in message.prepared]
            proven = [entry.seq for entry in proofs if isinstance(entry, PrePrepare)]
            detail = f"h{message.stable_seq} P{proven}"
            return f"{name} v{message.view} {detail} of {message.sender}"
        case NewView():
            votes = [decode_body(entry.body).sender for entry in message.view_changes]
            opened = [decode_body(entry.body) for entry in message.pre_prepares]
            ordered = ", ".join(
                describe(entry, contents).split()[2] + " " + contents.get(entry.digest, "null")
                for entry in opened
                if isinstance(entry, PrePrepare)
            )
            return f"{name} v{message.view} V{votes} O[{ordered}]"
        case StatusMessage():
            state = "active" if message.active else "pending"
            detail = f"h{message.stable_seq} e{message.executed}"
            return f"{name} v{message.view} {state} {detail}"
        case FetchHeads():
            return f"{name} from {message.start}"
        case Heads():
            return f"{name} {message.start}..{message.start + len(message.heads) - 1}"
        case FetchBodies():
            return f"{name} {message.start}..{message.stop}"
        case Bodies():
            return f"{name} {message.start}..{message.start + len(message.blocks) - 1}"
        case _:
            return name


SPELLING = {
    "PrePrepare": "PRE-PREPARE",
    "ViewChange": "VIEW-CHANGE",
    "NewView": "NEW-VIEW",
    "StatusMessage": "STATUS",
    "FetchHeads": "FETCH-HEADS",
    "FetchBodies": "FETCH-BODIES",
    "FetchBatch": "FETCH-BATCH",
}
