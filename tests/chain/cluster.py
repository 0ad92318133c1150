"""A cluster in memory: real cores and verifiers, a message bag, virtual time, a small ledger.

For stories: `cluster.request("a"); cluster.isolate(3); cluster.settle(); ...`. Deterministic;
links keep their order and take one millisecond. On every step it checks what no fault may break:
agreement, exactly-once, and that no honest replica contradicts one of its own signed votes, also
across a restart. The whole system under seeded faults is `testbed.simulate`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable

from chain.errors import PeerFault
from chain.genesis import Consensus, Member, Membership
from chain.keys import digest
from chain.pbft.effects import (
    Accuse,
    Timer,
)
from chain.pbft.inputs import (
    Submitted,
    TimerFired,
)
from chain.pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    ReplicaMessage,
    Signed,
    ViewChange,
    decode_body,
    decode_proposal,
    encode,
)
from tests.chain.fakes import START_US, item, open_item, signer_of, verified
from tests.chain.node import Node
from tests.chain.spelling import describe

__all__ = ["LINK_US", "SMALL", "Cluster"]

LINK_US = 1000
# Short intervals, so that stories reach checkpoints soon.
SMALL = Consensus(checkpoint_interval=8, pipeline_window=4, batch_requests_max=8)
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
            received = verified(node.verifier, frame, source)
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
