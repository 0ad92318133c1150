"""`python -m nodes.provider.device --config FILE`: a device of the baseline.

It enrols with its token, gets the key that the provider made for it, and sends a reading at each
time of its plan, one after the other, each until it is answered. It logs what a device of the chain
logs (`nodes.device`), with the same latencies from the intended times.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from chain.errors import PeerFault
from gateway.bridge.edge import Stamped, stamped_codec
from gateway.mqtt.client import BrokerUnavailableError, MqttClient
from gateway.mqtt.topics import Up
from gateway.refusing import refusing
from gateway.tasks import Tasks, first_of
from nodes.config import ConfigError, load_config
from nodes.device.sensor import RoomSensor
from nodes.device.workload import Go, until, wait_for_go
from nodes.disk import write_atomically
from nodes.edge_config import load_secrets
from nodes.events import EventLog
from nodes.exits import EXIT_BAD_CONFIG, Trouble, fail
from nodes.metrics import serving_metrics
from nodes.process import arguments, housekeeping, run, write_ready
from nodes.provider.config import DeviceToken, ProviderDeviceConfig
from nodes.provider.protocol import (
    CALL,
    OK,
    CallKind,
    Reply,
    answer_codec,
    call,
    call_codec,
    is_genuine,
    open_key,
    request_id,
)

__all__ = ["main"]

ANSWERS_WAITING_MAX = 64  # it waits for one answer; more than these are dropped
KEY_FILE = "device.key"


class ProviderDevice:
    """One device. Its key is on disk before it is used; its counter is the time of a reading, so
    it rises over restarts too."""

    def __init__(self, config: ProviderDeviceConfig, token: DeviceToken, events: EventLog) -> None:
        self._config = config
        self._me = token.device
        self._token = bytes.fromhex(token.key)
        self._events = events
        self._key_path = Path(config.state) / KEY_FILE
        self._key = self._key_path.read_bytes() if self._key_path.exists() else None
        self._began_ns = time.time_ns() if self._key else 0
        self._counter = 0
        self._stamps, self._boot = 0, time.time_ns() // 1_000_000
        self._answers: asyncio.Queue[Reply] = asyncio.Queue(ANSWERS_WAITING_MAX)
        answers = f"m2m/1/{config.net}/rsp/{token.device}/+"
        self._client = MqttClient(config.broker.login(token.device, token.password, (answers,)))

    async def run(self) -> None:
        """The whole plan; then it waits to be stopped."""
        self._events.emit("started", id=self._me)
        go = await wait_for_go(Path(self._config.go))
        async with Tasks() as tasks:
            tasks.start(self._client.run())
            tasks.start(self._listen())
            if self._key is None:
                self._key = await self._enrol(go)
            self._events.emit("state", state="admitted")
            await self._send_all(self._key, go)
            self._events.emit("done")
            self._events.flush()
            await asyncio.Event().wait()

    async def _enrol(self, go: Go) -> bytes:
        due_ns = go.due_ns(go.enrol_at_ms)
        await until(due_ns)
        self._events.emit("state", state="enrolling")
        found = await self._ask(self._token, "enrol", 0, b"")
        key = open_key(self._token, self._me, found.body)
        self._key_path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._key_path, key, mode=0o600)
        self._events.emit(
            "admitted",
            id=request_id(self._me, 0).hex(),
            latency_ms=(time.time_ns() - due_ns) / 1e6,
        )
        return key

    async def _send_all(self, key: bytes, go: Go) -> None:
        """A reading is due at each time of the plan, even if earlier ones are not answered. A
        restarted device leaves out readings that were due before its start."""
        sensor = RoomSensor(go.seed, self._config.name)
        due = [due_ns for each in go.sends_ms if (due_ns := go.due_ns(each)) >= self._began_ns]
        for number, due_ns in enumerate(due, 1):
            await until(due_ns)
            self._counter = max(self._counter + 1, due_ns)
            reading = {"due_ns": due_ns, "number": number, "values": sensor.read()}
            body = msgspec.json.encode(reading)
            left_s = go.timeout_ms / 1000 - (time.time_ns() - due_ns) / 1e9
            late = asyncio.get_running_loop().call_later(max(0.0, left_s), self._late, due_ns)
            found = await self._ask(key, "data", self._counter, body)
            late.cancel()
            if found.status != OK:
                self._events.emit("denied", reason=found.status.removeprefix("refused:"))
                continue
            self._events.emit(
                "data",
                id=request_id(self._me, self._counter).hex(),
                latency_ms=(time.time_ns() - due_ns) / 1e6,
                intended_ns=due_ns,
                counter=self._counter,
                status=found.status,
                sha256=sha256(body).hexdigest(),
            )
        await until(go.due_ns(go.end_ms))

    def _late(self, due_ns: int) -> None:
        self._events.emit("late", intended_ns=due_ns)

    async def _ask(self, key: bytes, kind: CallKind, counter: int, body: bytes) -> Reply:
        """Sends until there is an answer that a holder of the key made. A refusal under another
        key is not an answer, and neither is one to another call."""
        topic = str(Up(self._config.net, self._me, self._me, CALL))
        message = call_codec.encode(call(key, self._me, kind, counter, body))
        resend_s = self._config.resend_ms / 1000
        while True:
            with contextlib.suppress(TimeoutError, BrokerUnavailableError):
                async with asyncio.timeout(resend_s):
                    await self._client.publish(topic, self._stamp(message), deadline_s=resend_s)
                    while True:
                        found = await self._answers.get()
                        same = (found.kind, found.counter) == (kind, counter)
                        if same and is_genuine(key, self._me, found):
                            return found

    def _stamp(self, message: bytes) -> bytes:
        self._stamps += 1
        at_ms = time.time_ns() // 1_000_000
        return stamped_codec.encode(Stamped(self._stamps, self._boot, at_ms, message))

    async def _listen(self) -> None:
        async for message in self._client.messages():
            with contextlib.suppress(PeerFault), refusing():
                self._answers.put_nowait(answer_codec.decode(message.payload))


def main() -> None:
    args = arguments("nodes.provider.device", __doc__)
    try:
        config = load_config(args.config, ProviderDeviceConfig)
        token = load_secrets(Path(config.voucher), DeviceToken)
    except ConfigError as error:
        fail(EXIT_BAD_CONFIG, str(error))

    async def serve(stopping: asyncio.Event) -> None:
        with contextlib.ExitStack() as stack:
            events = stack.enter_context(EventLog(Path(config.events or "/dev/null"), config.name))
            stack.enter_context(serving_metrics(config.metrics, config.name))
            try:
                write_ready(config.ready, {})
                await first_of(
                    ProviderDevice(config, token, events).run(),
                    housekeeping(events),
                    stopping.wait(),
                )
            except (PeerFault, OSError) as error:
                raise Trouble(str(error)) from error

    run(serve, directory=Path(config.state).parent, exit_on_stdin_eof=args.exit_on_stdin_eof)


if __name__ == "__main__":
    main()
