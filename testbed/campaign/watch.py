"""Follows the event logs of a running network's processes live.

One thread per process reads its log through the host's port; waiting is on conditions. The live
view and the faults use it. Verdicts do not: they are made from the collected files.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from testbed.campaign.reach import Reach
from testbed.hosts.port import Follow, HostFault
from testbed.provision.configs import EVENTS
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node, NodeRole

__all__ = ["NodeView", "Since", "Watch"]

FOLLOW_AGAIN_S = 0.5
LATENCIES_MAX = 4096
EVENTS_MAX = 4096


@dataclass
class NodeView:
    """The newest facts about one process. `counts` counts its events by kind; `events` are the
    newest ones as they were logged."""

    name: str
    role: NodeRole
    height: int = 0
    epoch: int = 0
    view: int = 0
    phase: str = ""
    state: str = "starting"
    counts: Counter[str] = field(default_factory=Counter)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=LATENCIES_MAX))
    events: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=EVENTS_MAX))

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """The newest events of one kind, oldest first."""
        return [event for event in list(self.events) if event["event"] == kind]


class Watch:
    """Follows the event logs of a deployment's processes until closed.

    It reports to `reach` which hosts answer. `trouble` has the problems that end a run.
    """

    def __init__(self, deployment: Deployment, reach: Reach) -> None:
        self._reach = reach
        self._deployment = deployment
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._interrupted = False
        self._follows: dict[str, Follow] = {}
        self._threads: list[threading.Thread] = []
        self.trouble: list[str] = []
        self.nodes = {
            node.name: NodeView(node.name, node.role)
            for node in deployment.nodes
            if node.role not in ("board", "broker")
        }
        self._members = {node.name for node in deployment.with_role("replica")}
        self.boards: dict[str, str] = {
            node.name: "starting" for node in deployment.with_role("board")
        }

    def start(self) -> None:
        for node in self._deployment.nodes:
            if node.name in self.nodes:
                thread = threading.Thread(
                    target=self._keep_reading, args=(node,), name=f"watch-{node.name}", daemon=True
                )
                thread.start()
                self._threads.append(thread)

    def close(self) -> None:
        self._closing.set()
        for follow in list(self._follows.values()):
            follow.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def wait_for(self, what: Callable[[], bool], timeout_s: float) -> bool:
        """Whether `what` became true in time. It is tested whenever an event arrives. Ends early
        when the run is cut off (`interrupt`)."""
        with self._changed:
            self._changed.wait_for(lambda: self._interrupted or what(), timeout_s)
            return what()

    def interrupt(self) -> None:
        """End all waiting, now and later."""
        with self._changed:
            self._interrupted = True
            self._changed.notify_all()

    @property
    def replicas(self) -> list[NodeView]:
        """The members of the newest epoch."""
        return [view for view in self.nodes.values() if view.name in self._members]

    def join(self, node: Node) -> None:
        """Note that a spare is a member from now on."""
        self._members.add(node.name)

    def leave(self, node: Node) -> None:
        """Note that a replica is no member any more."""
        self._members.discard(node.name)

    @property
    def epoch(self) -> int:
        """The newest epoch that any member has entered."""
        return max((replica.epoch for replica in self.replicas), default=0)

    @property
    def devices(self) -> list[NodeView]:
        return [view for view in self.nodes.values() if view.role in ("mobile", "environment")]

    def current_view(self, apart_from: Iterable[str] = ()) -> int:
        """The highest view of the newest epoch that any replica (except those given) has
        entered."""
        away, epoch = set(apart_from), self.epoch
        there = (r for r in self.replicas if r.name not in away and r.epoch == epoch)
        return max((r.view for r in there), default=0)

    def tip(self, apart_from: Iterable[str] = ()) -> int:
        """The greatest height that any replica (except those given) has executed."""
        away = set(apart_from)
        return max((r.height for r in self.replicas if r.name not in away), default=0)

    def primary(self) -> Node:
        """The primary of the current view: members take turns in the order of ids."""
        there = [node for node in self._deployment.nodes if node.name in self._members]
        members = sorted(there, key=lambda node: node.index)
        return members[self.current_view() % len(members)]

    def _keep_reading(self, node: Node) -> None:
        """Runs until closed. A lost host (for example after a power cut) is followed again when it
        is back. What the loss means for the run is judged from the collected files."""
        seen = 0
        while not self._closing.is_set():
            try:
                if self.nodes[node.name].phase == "unreachable":
                    self._deployment.revive(node)
                with self._deployment.host(node).follow(node.file(EVENTS)) as follow:
                    self._follows[node.name] = follow
                    for number, line in enumerate(follow, 1):
                        if number > seen:  # a new follow begins at the file's beginning
                            seen = number
                            self.take(node, line)
            except HostFault:
                self._on_lost(node)
            self._closing.wait(FOLLOW_AGAIN_S)

    def take(self, node: Node, line: str) -> None:
        """Takes one line of a process's event log."""
        self._reach.answered(node.host)
        try:
            event = json.loads(line)
        except ValueError:
            return  # a line cut by kill -9; the collected file has the same
        with self._changed:
            self._apply(self.nodes[node.name], event)
            self._changed.notify_all()

    def _on_lost(self, node: Node) -> None:
        with self._changed:
            self.nodes[node.name].phase = "unreachable"
            self._changed.notify_all()
        self._reach.silent(node.host)

    def _apply(self, seen: NodeView, event: dict[str, Any]) -> None:
        kind = event.get("event", "")
        seen.counts[kind] += 1
        seen.events.append(event)
        match kind:
            case "block":
                seen.height = max(seen.height, event["height"])
                seen.phase = "executed"
            case "installed":
                seen.height = max(seen.height, event["height"])
                seen.phase = "caught up"
            case "epoch":
                seen.epoch, seen.view = event["epoch"], 0
                seen.phase = "new epoch"
            case "view":
                seen.view = max(seen.view, event["view"])
                seen.phase = "new view"
            case "view-change" | "fetching" | "checkpoint" | "caught-up":
                seen.phase = kind
            case "started":
                seen.state = "up"
                seen.height = max(seen.height, event.get("height", 0))
            case "state":
                seen.state = event["state"]
            case "admitted" | "data":
                seen.latencies_ms.append(event["latency_ms"])
                if kind == "admitted":
                    seen.state = "admitted"
            case "ledger-verified":
                seen.height = event["height"]
            case "board":
                self.boards[event["board"]] = event["state"]


class Since:
    """What processes have logged since this object was made."""

    def __init__(self, watch: Watch) -> None:
        self._nodes = watch.nodes
        self._before = {name: view.counts.total() for name, view in watch.nodes.items()}
        self._began_s = time.monotonic()

    @property
    def age_s(self) -> float:
        return time.monotonic() - self._began_s

    def logged(self, name: str, kind: str) -> list[dict[str, Any]]:
        """The new events of one kind of the process `name`, oldest first."""
        view = self._nodes[name]
        count = view.counts.total() - self._before[name]
        new = list(view.events)[-count:] if count else []
        return [event for event in new if event["event"] == kind]
