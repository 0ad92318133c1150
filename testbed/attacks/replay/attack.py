"""How a replay is done: listen on the broker and the serial lines, send again what was heard."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from chain.errors import PeerFault
from chain.ledger.operations import read_operation
from gateway.bridge.edge import Stamped, ask_codec, stamped_codec
from gateway.mqtt.client import Message, MqttClient, MqttSettings
from gateway.mqtt.topics import Request, Up, parse
from testbed.boards.cable import has_cable, order_cable
from testbed.campaign.injection import Attack, Scene
from testbed.hosts.port import HostFault
from testbed.provision.layout import Node

__all__ = ["ReplayAttack"]

CAPTURED_MAX = 10_000
PER_ATTEMPT_MAX = 25
CONNECT_S_MAX = 10.0


class ReplayAttack(Attack):
    """Listens from `arm` on; each attempt sends a seeded choice of what was heard so far."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        wanted = scene.event.params["messages"]
        assert isinstance(wanted, list)
        self._wanted = frozenset(str(each) for each in wanted)
        self._random = scene.rng
        self._heard: dict[str, tuple[str, str, bytes]] = {}
        self._tries: dict[str, int] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="replay", daemon=True)
        self._network = scene.deployment.material.genesis.network
        self._net = self._network.hex()[:16]
        self._ear: MqttClient | None = None
        self._mouth: MqttClient | None = None
        self._numbered = 0

    def arm(self) -> None:
        deployment = self.scene.deployment
        broker = deployment.broker
        observer, rogue = deployment.material.observer, deployment.material.rogue
        self._rogue = rogue.node
        self._thread.start()
        subscriptions = (f"m2m/1/{self._net}/up/+/+/+", f"m2m/1/{self._net}/req/+")
        self._ear = MqttClient(
            MqttSettings(
                broker.host,
                broker.port,
                observer.name,
                observer.password,
                subscriptions,
                trust=broker.certificate,
            )
        )
        self._mouth = MqttClient(
            MqttSettings(
                broker.host, broker.port, rogue.name, rogue.password, trust=broker.certificate
            )
        )
        for client in (self._ear, self._mouth):
            self._in_loop(client.run())
            self._in_loop(client.ready(CONNECT_S_MAX)).result()
        self._in_loop(self._listen(self._ear))

    def apply(self) -> None:
        mqtt = self._replay_messages()
        serial = self._replay_frames() if "serial" in self._wanted else []
        self.sent(*mqtt, *serial, mqtt=len(mqtt), serial=len(serial))

    def close(self) -> None:
        if self._thread.is_alive():
            with suppress(TimeoutError):
                self._in_loop(_cancel_all()).result(timeout=5)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(timeout=5)

    # --- the broker -------------------------------------------------------------------------------

    async def _listen(self, ear: MqttClient) -> None:
        async for message in ear.messages():
            if len(self._heard) < CAPTURED_MAX:
                self._keep(message)

    def _keep(self, message: Message) -> None:
        try:
            topic = parse(message.topic)
            if isinstance(topic, Request):
                ask = ask_codec.decode(message.payload)
                device, kind, body = topic.device, str(ask.kind), ask.body
            elif isinstance(topic, Up) and topic.relay != self._rogue:
                device, kind = topic.device, topic.kind
                body = stamped_codec.decode(message.payload).body
            else:
                return
            if kind in ("enrol", "op"):
                request = read_operation(body, self._network).id.hex()
                self._heard[request] = (device, kind, body)
        except PeerFault:
            return  # not of this protocol: nothing to learn from it

    def _replay_messages(self) -> list[str]:
        kinds = {"admission": "enrol", "data": "op"}
        wanted = {kinds[each] for each in self._wanted if each in kinds}
        heard = sorted(name for name, (_, kind, _) in self._heard.items() if kind in wanted)
        chosen = self._random.sample(heard, min(len(heard), PER_ATTEMPT_MAX))
        trials = []
        for request in chosen:
            device, kind, body = self._heard[request]
            self._numbered += 1
            stamp = Stamped(n=self._numbered, boot=1, at_ms=time.time_ns() // 10**6, body=body)
            assert self._mouth is not None, "arm was not called"
            topic = str(Up(self._net, self._rogue, device, kind))
            self._in_loop(self._mouth.publish(topic, stamped_codec.encode(stamp))).result()
            trials.append(self._trial(f"{request}@{self._rogue}"))
        return trials

    def _trial(self, name: str) -> str:
        self._tries[name] = self._tries.get(name, 0) + 1
        return f"{name}#{self._tries[name]}"

    def _in_loop(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    # --- serial lines -----------------------------------------------------------------------------

    def _replay_frames(self) -> list[str]:
        trials: list[str] = []
        lab = self.scene.deployment.lab
        for board in self.scene.deployment.with_role("board"):
            if not has_cable(lab, board.name):
                continue  # nobody can cut into a real cable from here
            frames = self._frames_of(board)
            chosen = self._random.sample(frames, min(len(frames), PER_ATTEMPT_MAX))
            self._inject(board, chosen)
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
        return sorted(
            {each["frame"] for each in lines if each["dir"] == "from-board" and "frame" in each}
        )

    def _inject(self, board: Node, frames: list[str]) -> None:
        if not frames:
            return
        deployment = self.scene.deployment
        # A zero byte on both sides: the frame stands alone on the line, as it was.
        orders = [f"inject host 00{frame}00" for frame in frames]
        host, python = deployment.host(board), deployment.python(board)
        order_cable(deployment.lab, board.name, host, python, orders)


async def _cancel_all() -> None:
    mine = asyncio.current_task()
    tasks = [task for task in asyncio.all_tasks() if task is not mine]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
