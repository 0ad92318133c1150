"""`testbed bench admission`: admissions/s, and changes of the broker's logins.

It uses a loopback lab without devices of its own. The measured devices run the product's code, all
in this one process, and ask at the same time. Each request is checked by its authentication group,
ordered and recorded; then the broker lets the device in, and the device verifies its proof. For
comparison, the same devices send as many signed readings at once, through the same gateway and
consensus, and get a proof for each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from chain.ledger.operations import Data, Operation
from chain.ledger.statement import OK
from gateway.broker.security import User, new_password
from gateway.mqtt.topics import Request, Role
from inventory.load import load_lab
from nodes.device.device import Device, Refused
from nodes.device.login import Login
from nodes.disk import write_atomically
from nodes.edge_config import BrokerAddress, DeviceConfig
from nodes.events import EventLog
from testbed.bench.figures import Spread
from testbed.errors import LabFault
from testbed.provision.deployment import Progress
from testbed.standing.bringup import running_lab
from testbed.standing.direct_uplink import DirectUplink
from testbed.standing.operator import Operator, operating
from testbed.standing.running_lab import RunningLab

__all__ = ["BenchPlan", "BenchResult", "measure"]

ALL_S_MAX = 120.0
ROUNDS = 3  # of readings, for the comparison
PRIVILEGE = 1


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 32
    logins: int = 50


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "testbed.bench.admission/1"
    plan: BenchPlan
    admissions_per_s: float
    admission_ms: Spread  # from the request until the device holds its proof and password
    readings_per_s: float  # of the same devices, all at once
    ratio: float  # admissions_per_s / readings_per_s
    publish_ms: Spread  # one QoS 1 message, until it is acknowledged
    login_added_ms: Spread
    login_removed_ms: Spread
    login_ratio: float  # median login_added_ms / median publish_ms


def measure(plan: BenchPlan, progress: Progress) -> BenchResult:
    """Raises LabFault."""
    lab = load_lab(None)
    kept = {n: h for n, h in lab.hosts.items() if {"replica", "gateway"} & set(h.roles)}
    lab = lab.model_copy(update={"hosts": kept, "boards": {}})
    with (
        running_lab(lab, 60_000, progress) as (running, _),
        TemporaryDirectory(prefix="bench-") as scratch,
    ):
        return asyncio.run(_measure(running, plan, Path(scratch), progress))


async def _measure(
    running: RunningLab, plan: BenchPlan, scratch: Path, progress: Progress
) -> BenchResult:
    async with operating(running) as operator, AsyncExitStack() as stack:
        progress(f"issuing {plan.devices} vouchers")
        devices = [
            stack.enter_context(closing(await _newcomer(operator, scratch / f"d{number}")))
            for number in range(plan.devices)
        ]
        progress("admitting")
        admission_ms, admission_s = await _all_at_once([device.enrol for device in devices])
        logins = [await stack.enter_async_context(device.logged_in()) for device in devices]
        progress("readings for comparison")
        pairs = list(zip(devices, logins, strict=True))
        _, readings_s = await _all_at_once([partial(_readings, *pair) for pair in pairs])
        progress("changing logins")
        publish_ms = await _publishes(devices[0], logins[0], plan.logins)
        added_ms, removed_ms = await _logins(operator, plan.logins)
        admissions_per_s = plan.devices / admission_s
        readings_per_s = ROUNDS * plan.devices / readings_s
        return BenchResult(
            plan=plan,
            admissions_per_s=round(admissions_per_s, 1),
            admission_ms=Spread.of(admission_ms),
            readings_per_s=round(readings_per_s, 1),
            ratio=round(admissions_per_s / readings_per_s, 2),
            publish_ms=(publishes := Spread.of(publish_ms)),
            login_added_ms=(added := Spread.of(added_ms)),
            login_removed_ms=Spread.of(removed_ms),
            login_ratio=round(added.p50 / publishes.p50, 2),
        )


async def _newcomer(operator: Operator, directory: Path) -> Device:
    """A device with a voucher, as it comes out of its box."""
    voucher = await operator.new_voucher(directory.name, PRIVILEGE)
    directory.mkdir()
    write_atomically(directory / "voucher.pem", voucher.pem, mode=0o600)
    running = operator.running
    config = DeviceConfig(
        name=directory.name,
        genesis=str(running.genesis),
        state=str(directory / "state"),
        voucher=str(directory / "voucher.pem"),
        broker=BrokerAddress(running.broker_host, running.broker_port),
        go="",
    )
    genesis = operator.genesis
    uplink = DirectUplink(genesis.network.hex()[:16])
    return Device(config, genesis, "mobile", uplink, EventLog(directory / "events.jsonl", "bench"))


async def _all_at_once(
    work: Sequence[Callable[[], Awaitable[object]]],
) -> tuple[list[float], float]:
    """Returns (ms that each took, s until all were done). Raises LabFault."""
    begun_s = time.perf_counter()
    try:
        async with asyncio.timeout(ALL_S_MAX):
            took_ms = await asyncio.gather(*(_took_ms(each()) for each in work))
    except TimeoutError:
        raise LabFault(f"not all were answered within {ALL_S_MAX:.0f} s") from None
    except Refused as refused:
        raise LabFault(str(refused)) from refused
    return took_ms, time.perf_counter() - begun_s


async def _took_ms(work: Awaitable[object]) -> float:
    begun_s = time.perf_counter()
    await work
    return (time.perf_counter() - begun_s) * 1000


async def _readings(device: Device, login: Login) -> None:
    """Sends ROUNDS readings of one device, and waits for the proof of each before the next one."""

    def reading(counter: int) -> Operation:
        network, node = device.genesis.network, device.node
        return Data(
            network=network, node=node, counter=counter, service="telemetry", payload=b"21.5"
        )

    for _ in range(ROUNDS):
        async with device.asking(login, reading) as answer:
            if isinstance(answer, Refused) or answer.status != OK:
                raise LabFault(f"a reading was refused: {answer}")


async def _publishes(device: Device, login: Login, count: int) -> list[float]:
    """How long the broker takes for one message that nobody answers."""
    # Only relays would receive it, and this lab has none.
    topic = str(Request(device.genesis.network.hex()[:16], device.node.hex()))
    return [await _took_ms(login.client.publish(topic, b"")) for _ in range(count)]


async def _logins(operator: Operator, count: int) -> tuple[list[float], list[float]]:
    """Returns (ms until a login works, ms until it is gone), both durable at the broker."""
    users = [User(Role.DEVICE, f"{number:064x}", new_password()) for number in range(count)]
    async with operator.at_broker() as security:
        added = [await _took_ms(security.ensure(user)) for user in users]
        removed = [await _took_ms(security.remove(user.name)) for user in users]
    return added, removed
