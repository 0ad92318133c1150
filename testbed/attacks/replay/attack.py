"""Carries out a replay: listens on the broker and the serial lines, and sends again what it
heard."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import NamedTuple

from chain.errors import PeerFault
from chain.ledger.envelope import read_operation
from chain.ledger.operations import OpenSession
from gateway.bridge.edge import ask_codec, stamped_codec
from gateway.mqtt.client import Message
from gateway.mqtt.topics import Request, Role, Up, parse
from testbed.attacker.attacker import new_login
from testbed.attacker.with_attacker import WithAttacker
from testbed.boards.cable import has_cable, order_cable
from testbed.campaign.injection import Scene
from testbed.errors import LabFault
from testbed.hosts.port import HostFault
from testbed.provision.layout import Node

__all__ = ["ReplayAttack"]

CAPTURED_MAX = 10_000
NEW_SESSION_S_MAX = 10.0
RESTART_S_MAX = 10.0  # that he waits for a restart
STRANGERS_MAX = 1_000


class _Heard(NamedTuple):
    """An overheard request, with the chain's height and the wall time at that moment."""

    device: str
    kind: str
    body: bytes
    height: int
    at_ns: int


class ReplayAttack(WithAttacker):
    """Listens from `arm` on; each attempt sends a seeded choice of what was heard so far."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        params = scene.event.params
        wanted = params["messages"]
        assert isinstance(wanted, list)
        self._wanted = frozenset(str(each) for each in wanted)
        self._window = str(params["window"])
        self._heard: dict[str, _Heard] = {}
        self._opened_ns: dict[str, int] = {}  # by device: when its newest session began
        self._tries: dict[str, int] = {}
        self._relays: set[str] = set()  # those of the lab
        self._strangers: set[str] = set()  # other attackers

    def arm(self) -> None:
        super().arm()
        attacker = self.attacker
        observer = new_login(Role.OBSERVER)
        attacker.let_in(observer)
        topics = (f"m2m/1/{attacker.net}/up/+/+/+", f"m2m/1/{attacker.net}/req/+")
        attacker.connect(observer, topics, self._keep)

    def apply(self) -> None:
        mqtt = self._replay_messages()
        serial = self._replay_frames() if "serial" in self._wanted else []
        self.sent(*mqtt, *serial, mqtt=len(mqtt), serial=len(serial))

    # --- the broker -------------------------------------------------------------------------------

    def _keep(self, message: Message) -> None:
        attacker = self.attacker
        if len(self._heard) >= CAPTURED_MAX:
            return
        try:
            topic = parse(message.topic)
            if isinstance(topic, Request):
                ask = ask_codec.decode(message.payload)
                device, kind, body = topic.device, str(ask.kind), ask.body
            elif isinstance(topic, Up) and self._is_honest(topic.relay):
                device, kind = topic.device, topic.kind
                body = stamped_codec.decode(message.payload).body
            else:
                return
            if kind in ("enrol", "op"):
                asked = read_operation(body, attacker.network)
                now_ns = time.time_ns()
                heard = _Heard(device, kind, body, self.scene.watch.tip(), now_ns)
                self._heard.setdefault(asked.id.hex(), heard)
                if isinstance(asked.operation, OpenSession):
                    self._opened_ns[device] = now_ns
        except PeerFault:
            return  # not of this protocol

    def _is_honest(self, relay: str) -> bool:
        """Whether it is a device of the lab. What other attackers send is not captured."""
        if relay not in self._relays | self._strangers:
            for view in self.scene.watch.devices:
                self._relays |= {str(event["id"]) for event in view.logged("started")}
            if relay not in self._relays and len(self._strangers) < STRANGERS_MAX:
                self._strangers.add(relay)
        return relay in self._relays

    def _replay_messages(self) -> list[str]:
        attacker = self.attacker
        kinds = {"admission": "enrol", "data": "op"}
        wanted = {kinds[each] for each in self._wanted if each in kinds}
        fits = self._fitting()
        heard = sorted(
            name for name, each in self._heard.items() if each.kind in wanted and fits(each)
        )
        chosen = self.scene.rng.sample(heard, min(len(heard), self.batch))
        attacker.up_each([self._heard[name][:3] for name in chosen])
        return [self._trial(f"{name}@{attacker.relay.node}") for name in chosen]

    def _fitting(self) -> Callable[[_Heard], bool]:
        """A test whether a request was heard in the wanted window."""
        tip = self.scene.watch.tip()
        window = self.scene.deployment.material.genesis.policy.enrol_window_blocks
        match self._window:
            case "inside":
                return lambda each: tip - each.height < window
            case "beyond":
                return lambda each: tip - each.height > window
            case "other-session":
                return lambda each: each.at_ns < self._opened_ns.get(each.device, 0)
            case "after-restart":
                self.scene.watch.wait_for(lambda: self._restarted_ns() > 0, RESTART_S_MAX)
                since_ns = self._restarted_ns()
                return lambda each: each.at_ns < since_ns
        return lambda each: True

    def _restarted_ns(self) -> int:
        """When a gateway or a replica was last started again; 0 if none was."""
        views = self.scene.watch.nodes.values()
        starts = [
            max(int(event["t"]) for event in view.logged("started"))
            for view in views
            if view.role in ("gateway", "replica") and view.counts["started"] > 1
        ]
        return max(starts, default=0)

    def _trial(self, name: str) -> str:
        self._tries[name] = self._tries.get(name, 0) + 1
        return f"{name}#{self._tries[name]}"

    # --- serial lines -----------------------------------------------------------------------------

    def _replay_frames(self) -> list[str]:
        trials: list[str] = []
        lab = self.scene.deployment.lab
        for board in self.scene.deployment.with_role("board"):
            if not has_cable(lab, board.name):
                continue  # software cannot cut into a real cable
            frames = self._frames_of(board)
            chosen = self.scene.rng.sample(frames, min(len(frames), self.batch))
            try:
                self._inject(board, chosen)
            except LabFault:
                continue  # for example its host has no power: nobody can speak on that line now
            for frame in chosen:
                digest = hashlib.sha256(bytes.fromhex(frame)).hexdigest()
                trials.append(self._trial(f"serial/{board.name}/{digest}"))
        return trials

    def _frames_of(self, board: Node) -> list[str]:
        """Frames that the board has sent, in hex, as somebody on the line would see them."""
        try:
            log = self.scene.deployment.host(board).get(board.file("line.log"))
        except HostFault:
            return []
        lines = [json.loads(line) for line in log.splitlines(keepends=True) if line.endswith(b"\n")]
        fits = self._fitting_line(board)
        return sorted(
            {
                each["frame"]
                for each in lines
                if each["dir"] == "from-board" and "frame" in each and fits(each["t"])
            }
        )

    def _fitting_line(self, board: Node) -> Callable[[int], bool]:
        """A test whether a frame that passed at this wall time (ns) is in the wanted window."""
        if self._window == "other-session":
            before_ns = self._new_session(board)
        elif self._window == "after-restart":
            before_ns = self._restarted_ns()
        else:
            return lambda _: True
        return lambda t: t < before_ns

    def _new_session(self, board: Node) -> int:
        """Resets the board, waits until it and its host have new keys, and returns the wall time of
        the reset."""
        deployment, watch = self.scene.deployment, self.scene.watch
        device = watch.nodes[deployment.sponsor(board).name]

        def sessions() -> int:
            return sum(
                event["board"] == board.name and event["state"] == "connected"
                for event in device.logged("board")
            )

        reset_ns, before = time.time_ns(), sessions()
        order_cable(deployment, board, "reset")
        watch.wait_for(lambda: sessions() > before, NEW_SESSION_S_MAX)
        return reset_ns

    def _inject(self, board: Node, frames: list[str]) -> None:
        if not frames:
            return
        # A zero byte on both sides: the frame stands alone on the line, as it was.
        orders = [f"inject host 00{frame}00" for frame in frames]
        order_cable(self.scene.deployment, board, *orders)
