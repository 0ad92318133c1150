"""Result bundles in a test's hand: a real chain with real keys in real databases, and the logs that
processes and orchestrator would have written around it, at times that the test knows.

`Story` is a quick-start run in which all went well; a test then spoils what it wants to spoil.
"""

from __future__ import annotations

import csv
import json
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from chain.block import Block
from chain.pbft.effects import Durable
from chain.pbft.messages import Checkpoint, CheckpointProof, Signed, encode, signed_bytes
from chain.pbft.state_machine import VerifiedRequest
from inventory.load import load_lab, packaged
from nodes.device.sender import Reading
from nodes.ports import Stored
from nodes.replica.ledger_copy import copy_ledger
from nodes.replica.ledger_file import block_sum
from nodes.replica.sqlite_store import SqliteStore
from testbed.bundle import Bundle, RunFolder
from testbed.campaign.expand import expand
from testbed.campaign.file import find_campaign, load_campaign
from testbed.campaign.schedule import Schedule
from testbed.checks.evidence import Evidence
from testbed.checks.ledger import LedgerReport, verify_ledgers
from testbed.manifest import Manifest, RunEntry
from testbed.report.conclude import conclude
from testbed.report.summary import RunSummary
from tests.chain.world import START_US, Device, World

BLOCK_MS = 250
ANSWER_MS = 40.0
START_NS = START_US * 1000

__all__ = [
    "START_NS",
    "Story",
    "edit",
    "judged",
    "lines",
    "reschedule",
    "store",
    "traced_to_the_end",
    "write_lines",
]


def store(world: World, path: Path, replica: int, blocks: Sequence[Block]) -> Path:
    """A replica's database: its own signatures over the heads, and checkpoint proofs."""
    database = SqliteStore(path, world.genesis.encode(), replica)
    for height, block in enumerate(blocks, start=1):
        database.put_block(height, Stored(block, world.replicas[replica].sign(block.head)))
        if height % world.genesis.consensus.checkpoint_interval == 0:
            database.put_fact(Durable("stable", 0, height, checkpoint(world, height, block)))
    database.commit()
    database.close()
    return path


def checkpoint(world: World, height: int, block: Block) -> bytes:
    votes = []
    for replica in range(3):
        body = encode(Checkpoint(0, replica, height, block.hash))
        signature = world.replicas[replica].sign(signed_bytes(world.network, body))
        votes.append(Signed(body, signature))
    return encode(CheckpointProof(height, block.hash, tuple(votes)))


def edit(path: Path, height: int, *, mend_sum: bool = False, **columns: bytes) -> None:
    """Overwrites columns of a stored block; with `mend_sum` the row's checksum fits again."""
    with sqlite3.connect(path) as database:
        for name, value in columns.items():
            database.execute(f"UPDATE blocks SET {name} = ? WHERE height = ?", (value, height))
        if mend_sum:
            row = database.execute(
                "SELECT head, records, signature FROM blocks WHERE height = ?", (height,)
            ).fetchone()
            total = block_sum(height, *row)
            database.execute("UPDATE blocks SET sum = ? WHERE height = ?", (total, height))
    database.close()


_verified: dict[tuple[bytes, ...], LedgerReport] = {}


def judged(run: RunFolder, of_traces: Sequence[str] = ()) -> RunSummary:
    """The verdicts on a run, without drawing. Ledgers with the same bytes are verified once."""
    evidence = Evidence(run)
    parts = [evidence.genesis.encode()]
    for path in evidence.ledgers:
        parts += (path.name.encode(), sha256(path.read_bytes()).digest())
    key = tuple(parts)
    if key not in _verified:
        _verified[key] = verify_ledgers(evidence.ledgers, evidence.genesis)
    return conclude(evidence, _verified[key], of_traces)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_lines(path: Path, entries: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(each) + "\n" for each in entries))


def reschedule(run: RunFolder, change: Callable[[dict[str, Any]], None]) -> None:
    """As if another schedule had been made and run."""
    schedule = json.loads(run.bundle.read("inputs/schedule.json"))
    change(schedule)
    made = json.dumps(schedule, sort_keys=True, separators=(",", ":")).encode()
    run.bundle.write("inputs/schedule.json", made)
    run.bundle.write_manifest(
        msgspec.structs.replace(run.bundle.manifest, schedule_sha256=sha256(made).hexdigest())
    )


class Story:
    """The quick-start campaign, as if run on loopback: the one `run` of the bundle `bundle`."""

    def __init__(self, out: Path) -> None:
        lab = load_lab()
        campaign = find_campaign("quick-start")
        self.schedule: Schedule = expand(load_campaign(campaign), lab)
        self.trial = self.schedule.trials[0]
        self.world = World()
        digest = self.schedule.schedule_hash
        now = datetime.fromtimestamp(START_US / 1e6, UTC)
        self.bundle = Bundle.create(out, "quick-start", digest, now)
        self.bundle.write_manifest(
            Manifest(
                run=self.bundle.name,
                campaign="quick-start",
                argv=("testbed", "run", "quick-start"),
                stage="loopback",
                seed=self.schedule.seed,
                schedule_sha256=digest,
                campaign_sha256=sha256(campaign.read_bytes()).hexdigest(),
                hosts=("here",),
                started=now.isoformat(),
                runs=(RunEntry(index=0, trial=0, arm="faults", state="done"),),
            )
        )
        self.bundle.write("inputs/campaign.yaml", campaign.read_bytes())
        self.bundle.write("inputs/schedule.json", self.schedule.canonical_json())
        (self.run,) = self.bundle.runs
        self.run.prepare()
        self.run.write("genesis.json", self.world.genesis.encode())
        self.bundle.write("inputs/inventory.yaml", packaged("loopback").read_bytes())
        self.logs: dict[str, list[dict[str, Any]]] = {}
        self.devices: dict[str, Device] = {}
        self.requests: list[VerifiedRequest] = []
        self._chain()
        self._replicas(out)
        self._orchestrator()
        for name, entries in self.logs.items():
            entries.sort(key=lambda each: each["t"])
            write_lines(self.run.raw / f"{name}.jsonl", entries)

    def event(self, node: str, event: str, at_ms: float, **fields: Any) -> None:
        """A line of a process's log."""
        t = START_NS + round(at_ms * 1e6)
        entry = {"t": t, "m": t, "boot": "b", "node": node, "n": 1, "event": event, **fields}
        self.logs.setdefault(node, []).append(entry)

    def note(self, log: str, at_ms: float, **fields: Any) -> None:
        """A line of the orchestrator's."""
        self.logs.setdefault(log, []).append({"t": START_NS + round(at_ms * 1e6), **fields})

    # --- what the network did ---

    def _chain(self) -> None:
        """Blocks at regular times, each with what was due since the one before."""
        due = sorted(self._due(), key=lambda each: each[0])
        for at_ms in range(BLOCK_MS, self.schedule.run_ms + 2 * BLOCK_MS, BLOCK_MS):
            batch = []
            while due and due[0][0] < at_ms:
                intended_ms, device, board = due.pop(0)
                batch.append(self._request(intended_ms, device, board))
            self.world.block(*batch, after_us=BLOCK_MS * 1000)

    def _due(self) -> Iterator[tuple[int, str, str | None]]:
        environments = [each.name for each in self.trial.devices if each.role == "environment"]
        for number, device in enumerate(self.trial.devices):
            if device.enrol_at_ms is not None:
                yield device.enrol_at_ms, device.name, None
            sponsor = environments[number % 2] if device.role == "board" else device.name
            board = device.name if device.role == "board" else None
            if board is not None:
                yield 4000, sponsor, board
            for times in device.sends_ms.values():
                yield from ((at, sponsor, board) for at in times)

    def _request(self, at_ms: int, name: str, board: str | None) -> VerifiedRequest:
        world = self.world
        device = self.devices.get(name)
        if device is None:
            self.devices[name] = device = Device(name)
            kind = "environment" if name.startswith("env") else "mobile"
            request = world.request(world.enrol(device, kind=kind), device)
            self._answered(request, name, "admitted", at_ms)
            return self._seen(request, at_ms, name)
        if board is not None and at_ms == 4000:
            operation = world.board(device, board.encode())
            return self._seen(world.request(operation, device), at_ms, name)
        due_ns = START_NS + at_ms * 1_000_000
        reading = Reading(
            due_ns=due_ns,
            number=device.counter,
            values=(21,),
            board=board,
            boot=None if board is None else 1,
        )
        node = None if board is None else world.board_node(board.encode())
        data = world.data(device, msgspec.json.encode(reading), board=node)
        request = world.request(data, device)
        self._answered(request, name, "data", at_ms, intended_ns=due_ns, source=board)
        return self._seen(request, at_ms, name)

    def _answered(
        self, request: VerifiedRequest, node: str, event: str, at_ms: int, **more: Any
    ) -> None:
        self.event(
            node, event, at_ms + ANSWER_MS, id=request.id.hex(), latency_ms=ANSWER_MS, **more
        )

    def _seen(self, request: VerifiedRequest, at_ms: int, device: str) -> VerifiedRequest:
        self.requests.append(request)
        self._at_gateway(request.id.hex(), at_ms + 5, device, "accepted")
        return request

    def _at_gateway(
        self, request: str, at_ms: float, device: str, outcome: str, relay: str = "r"
    ) -> None:
        self.event(
            "gateway", "request", at_ms, id=request, device=device, relay=relay, outcome=outcome
        )

    def _replicas(self, scratch: Path) -> None:
        """Four equal databases, and what the replicas said of their blocks."""
        for replica, name in enumerate(self.schedule.replicas):
            database = store(self.world, scratch / f"{name}.db", replica, self.world.blocks)
            copy_ledger(database, self.run.raw / "ledger" / f"{name}.sqlite")
            for height, block in enumerate(self.world.blocks, start=1):
                mine = {"proposed_us": 0} if replica == 0 else {"pre_prepared_us": 0}
                self.event(
                    name,
                    "block",
                    height * BLOCK_MS + 8,
                    height=height,
                    view=0,
                    count=len(block.records),
                    time_us=START_US + height * BLOCK_MS * 1000,
                    prepared_us=4000,
                    committed_us=6000,
                    executed_us=7000 + replica,
                    **mine,
                )
            self.event(name, "view", 13500, view=1, seq=1)
            self.event(name, "link-up", 1, party="gateway", reason="")

    # --- what the orchestrator did ---

    def _orchestrator(self) -> None:
        self.note("run", -500, what="start", start_ns=START_NS)
        for phase in self.schedule.phases:
            self.note("run", phase.start_ms, what="phase", phase=phase.name)
        self.note("run", self.schedule.run_ms, what="end")
        self.note("run", self.schedule.run_ms + 300, what="settled", settled=True)
        for event in self.trial.events:
            same = {"id": event.fault, "event": event.id, "kind": event.kind}
            if event.category == "attack":
                trials = list(self._replay(event.at_ms))
                self.note("attacks", event.at_ms + 90, trials=trials, details={}, **same)
                continue
            on: dict[str, Any] = {**same, "targets": {"on": [self.schedule.replicas[0]]}}
            steps = {"planned": 0, "applied": 2, "observed": 900, "healed": event.for_ms}
            for step, after_ms in steps.items():
                who = {"impaired": [self.schedule.replicas[0]]} if step == "applied" else {}
                self.note("faults", event.at_ms + after_ms, step=step, seen=True, **on, **who)
            end_ms = event.at_ms + event.for_ms + 700
            self.note("faults", end_ms, step="verified", whole=True, **on)

    def _replay(self, at_ms: int) -> Iterator[str]:
        """Every message so far and one frame of each board, once more."""
        before = [each for each in self.logs["gateway"] if each["outcome"] == "accepted"]
        ids = [each["id"] for each in before if each["t"] < START_NS + at_ms * 1_000_000]
        for request in ids:
            self._at_gateway(request, at_ms + 20, "attacker", "repeat-final", relay="rogue")
            yield f"{request}@rogue#{at_ms}"
        for board in (each.name for each in self.trial.devices if each.role == "board"):
            frame = sha256(board.encode()).digest()
            with (self.run.raw / "serial" / f"{board}.log").open("a") as log:
                for t_ms in (5000, at_ms + 30):
                    entry = {"t": START_NS + t_ms * 1_000_000, "dir": "from-board"}
                    log.write(json.dumps(entry | {"frame": frame.hex()}) + "\n")
            for count in (1, 2, 1000):
                refused = {"board": board, "reason": "old", "count": count}
                self.event("env1", "serial-refused", at_ms + 30 + count / 1000, **refused)
            yield f"serial/{board}/{sha256(frame).hexdigest()}#{at_ms}"

    # --- for tests that spoil it ---

    def copy(self, out: Path) -> RunFolder:
        """The one run of a copy of the bundle."""
        (run,) = Bundle(Path(shutil.copytree(self.bundle.path, out / self.bundle.name))).runs
        return run


def traced_to_the_end(derived: Path) -> None:
    """Every answered operation has its way from the device and back in the traces, most of them
    through every hop: only what was in the buffer of a replica that was killed is gone."""
    with (derived / "operations.csv").open() as file:
        answered = {each["request"] for each in csv.DictReader(file) if each["latency_ms"]}
    ways: dict[str, set[str]] = {}
    with (derived / "hops.csv").open() as file:
        for step in csv.DictReader(file):
            ways.setdefault(step["request"], set()).add(step["hop"])
            assert step["state"] == "known"  # one machine, one clock
    assert ways.keys() == answered
    assert all({"sent", "gateway-in", "receipt", "answered"} <= hops for hops in ways.values())
    consensus = {"proposed", "prepared", "synced", "commit-sent", "committed", "executed", "sealed"}
    whole = [hops for hops in ways.values() if consensus <= hops]
    assert len(whole) > len(ways) * 2 / 3
