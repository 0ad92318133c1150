"""A run as people read it: one line per fault, message, block and reply.

Only replays make it, because it slows a run down. Lines beyond `LINES_MAX` are dropped from the
middle, because causes are at the start and the break is at the end.
"""

from __future__ import annotations

from collections import deque

from chain.errors import PeerFault
from chain.pbft.messages import (
    Batch,
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    StatusMessage,
    ViewChange,
    decode_body,
    decode_proposal,
    decode_signed,
)
from testbed.simulate.scenario import GATEWAY, ORDERS, Event, EventKind, Scenario

__all__ = ["Transcript", "describe"]

LINES_MAX = 400


def describe(frame: bytes) -> str:
    """A replica frame in a few words."""
    try:
        signed = decode_signed(frame)
        message = decode_body(signed.body)
    except PeerFault:
        return f"{len(frame)} bytes of garbage"
    name = type(message).__name__
    match message:
        case PrePrepare() | Prepare() | Commit():
            items = ""
            if signed.attachment:
                items = f" ({len(decode_proposal(signed.attachment).items)} requests)"
            return f"{name} v{message.view} n{message.seq} d={message.digest.hex()[:6]}{items}"
        case Checkpoint():
            return f"{name} n{message.seq} head={message.head.hex()[:6]}"
        case ViewChange():
            proposals = [decode_body(proof.pre_prepare.body) for proof in message.prepared]
            held = ",".join(f"n{m.seq}" for m in proposals if isinstance(m, PrePrepare))
            return f"{name} to v{message.view} stable {message.stable_seq} prepared [{held}]"
        case NewView():
            return (
                f"{name} v{message.view}, {len(message.view_changes)} view changes, "
                f"{len(message.pre_prepares)} pre-prepares"
            )
        case StatusMessage():
            state = "active" if message.active else "pending"
            return f"{name} v{message.view} {state}, executed {message.executed}"
        case Batch():
            return f"{name} n{decode_proposal(message.proposal).seq}"
        case _:
            parts = [
                f"{f}={getattr(message, f)}"
                for f in ("start", "stop", "seq")
                if hasattr(message, f)
            ]
            return f"{name} {' '.join(parts)}".strip()


class Transcript:
    """Collects lines. `world` calls it if a transcript is wanted."""

    def __init__(self, scenario: Scenario) -> None:
        self._first: list[str] = []
        self._last: deque[str] = deque(maxlen=LINES_MAX // 2)
        self._dropped = 0
        self._last_sent: tuple[int, bytes] | None = None
        c = scenario.consensus
        traitors = ", ".join(f"r{t.replica} {'+'.join(t.tricks)}" for t in scenario.traitors)
        self._header = [
            f"seed {scenario.seed}: {scenario.replicas} replicas, checkpoint every "
            f"{c.checkpoint_interval}, pipeline {c.pipeline_window}, batch {c.batch_requests_max}, "
            f"view timeout {c.view_timeout_us // 1000} ms",
            f"traitors: {traitors or 'none'}; survivors: "
            + ", ".join(f"r{r}" for r in scenario.survivors),
            f"{len(scenario.events)} events, healed at {scenario.heal_us / 1e6:.3f} s:",
            *(f"  {_event(event)}" for event in scenario.events),
            "",
        ]

    def line(self, now_us: int, text: str) -> None:
        line = f"{now_us / 1e6:11.6f}  {text}"
        if len(self._first) < LINES_MAX // 2:
            self._first.append(line)
            return
        if len(self._last) == self._last.maxlen:
            self._dropped += 1
        self._last.append(line)

    def fault(self, now_us: int, event: Event, *, over: bool) -> None:
        self.line(now_us, f"{'OVER' if over else 'FAULT'} {_event(event)}")

    def sent(self, now_us: int, sender: int, to: int, frame: bytes) -> None:
        """One line per broadcast. STATUS is left out because it says nothing new."""
        if self._last_sent is not None and self._last_sent == (sender, frame):
            return
        self._last_sent = (sender, frame)
        text = describe(frame)
        if not text.startswith("StatusMessage"):
            self.line(now_us, f"r{sender} -> {name(to)}  {text}")

    def text(self) -> str:
        dropped = [f"  ... {self._dropped} lines ..."] if self._dropped else []
        return "\n".join([*self._header, *self._first, *dropped, *self._last])


def name(node: int) -> str:
    return f"g{node - GATEWAY}" if node >= GATEWAY else f"r{node}"


def _event(event: Event) -> str:
    when = f"{event.at_us / 1e6:.3f} s"
    if event.kind is EventKind.REQUEST:
        return f"{when}: device {event.nodes[0]} does {event.detail}"
    if event.kind in ORDERS:
        whom = (
            f"device {event.nodes[0]}" if event.kind is EventKind.REVOKE else name(event.nodes[0])
        )
        return f"{when}: the administrator orders to {event.kind.value} {whom}"
    lasting = f" for {event.duration_us / 1e6:.3f} s" if event.duration_us else " for good"
    where = ", ".join(name(node) for node in event.nodes)
    where += " ".join(f"{name(a)}>{name(b)}" for a, b in event.links)
    amount = f" {event.amount}" if event.amount else ""
    detail = f" {event.detail}" if event.detail else ""
    return f"{when}: {event.kind.value}{amount}{detail}{lasting}: {where}"
