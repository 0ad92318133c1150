"""`testbed bench revocation`: the time from an administrator's order to the last message accepted
from the device.

It uses a loopback lab under data load. Mobile devices are revoked one after the other while they
send. In between, the privileges of other devices are changed: such a grant goes the same way
through gateway and consensus, so revocations are compared with it. Everything is read from the
processes' own events, on one machine's clock:

- chain: the block that holds the device's last data,
- gateway: the last message of the device that it accepted,
- broker: when the device was off, and could not come back.

All times count from the order. Below zero means that nothing of the kind came after it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import msgspec

from chain.ledger.identity import Identity
from chain.ledger.statement import OK, Statement, decode_leaf
from inventory.load import load_lab
from nodes.events import FLUSH_AGE_MS, LoggedEvent, read_events
from testbed.bench.figures import Spread
from testbed.errors import LabFault
from testbed.provision.configs import EVENTS
from testbed.provision.deployment import Progress
from testbed.standing.bringup import running_lab
from testbed.standing.operator import Operator, operating
from testbed.standing.running_lab import RunningLab

__all__ = ["BenchPlan", "BenchResult", "measure"]

ADMITTED_S_MAX = 60.0
EXPELLED_S_MAX = 30.0
POLL_S = 0.1
WRITTEN_S = 2 * FLUSH_AGE_MS / 1000  # until the other processes' events are in their files
PRIVILEGE = 2
READINGS_FIRST = 3  # of every device, before the first order


class BenchPlan(msgspec.Struct, frozen=True, kw_only=True):
    devices: int = 6  # to revoke; as many more stay
    rate_per_s: float = 5.0  # readings of each


class RevocationTimes(msgspec.Struct, frozen=True, kw_only=True):
    """The times of one revocation, in ms from its order."""

    device: str
    in_block_ms: float
    chain_last_ms: float
    gateway_last_ms: float
    broker_off_ms: float


class BenchResult(msgspec.Struct, frozen=True, kw_only=True):
    schema: str = "testbed.bench.revocation/1"
    plan: BenchPlan
    readings_per_s: float  # recorded while the orders were given
    ordinary_ms: Spread  # a grant: from the order until it is in a final block
    in_block_ms: Spread
    chain_last_ms: Spread
    gateway_last_ms: Spread
    broker_off_ms: Spread
    block_ratio: float  # median in_block_ms / median ordinary_ms
    broker_ratio: float  # median broker_off_ms / median ordinary_ms
    orders: list[RevocationTimes]


class _Given(msgspec.Struct, frozen=True):
    """An order, and the request that carried it. `t_ns` is wall time, as in events."""

    name: str
    node: bytes
    t_ns: int
    request: bytes


def measure(plan: BenchPlan, progress: Progress) -> BenchResult:
    """Raises LabFault."""
    lab = load_lab(None)
    phones = lab.hosts["phones"].model_copy(update={"mobiles": 2 * plan.devices})
    lab = lab.model_copy(update={"hosts": {**lab.hosts, "phones": phones}})
    with running_lab(lab, 1000 / plan.rate_per_s, progress) as (running, _):
        return asyncio.run(_measure(running, plan, progress))


async def _measure(running: RunningLab, plan: BenchPlan, progress: Progress) -> BenchResult:
    async with operating(running) as operator:
        progress("waiting for data of every device")
        mobiles = await _busy(operator, 2 * plan.devices)
        leaving, staying = mobiles[: plan.devices], mobiles[plan.devices :]
        progress(f"revoking {plan.devices} devices, a grant before each")
        given = []
        begun_us = time.time_ns() // 1000
        for (name, gone), (_, kept) in zip(leaving, staying, strict=True):
            granted = await _give(name, kept, partial(operator.grant, kept, PRIVILEGE))
            revoked = await _give(name, gone, partial(operator.revoke, gone, "bench"))
            given.append((granted, revoked))
        ended_us = time.time_ns() // 1000
        await _until_off(running, {revoked.node.hex() for _, revoked in given})
        await operator.refresh()
        return _concluded(plan, operator, given, begun_us, ended_us)


async def _until_off(running: RunningLab, nodes: set[str]) -> None:
    deadline_s = time.monotonic() + EXPELLED_S_MAX
    while not nodes <= _expelled(running).keys():
        if time.monotonic() > deadline_s:
            raise LabFault("revoked devices stay at the broker")
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(WRITTEN_S)


async def _busy(operator: Operator, count: int) -> list[tuple[str, Identity]]:
    """Waits until each mobile device has added data, and returns them."""
    deadline_s = time.monotonic() + ADMITTED_S_MAX
    while time.monotonic() < deadline_s:
        await operator.refresh()
        mobiles = [pair for pair in operator.devices if pair[1].kind == "mobile"]
        if len(mobiles) == count and all(
            operator.readings(identity) >= READINGS_FIRST for _, identity in mobiles
        ):
            return mobiles
        await asyncio.sleep(POLL_S)
    raise LabFault(f"not all of {count} devices add data")


async def _give(name: str, identity: Identity, order: Callable[[], Awaitable[Statement]]) -> _Given:
    t_ns = time.time_ns()
    statement = await order()
    return _Given(name, identity.node, t_ns, statement.request)


class _Evidence:
    """The processes' events and the verified ledger copy, by height, device and request."""

    def __init__(self, operator: Operator) -> None:
        running = operator.running
        self.executed_ns: dict[int, int] = {}  # when the last replica had the block
        for event in _events(running, "replica", "block"):
            height = int(str(event.fields["height"]))
            self.executed_ns[height] = max(self.executed_ns.get(height, 0), event.t)
        self.accepted_ns = {
            str(event.fields["device"]): event.t
            for event in _events(running, "gateway", "request")
            if event.fields["outcome"] == "accepted"
        }
        self.expelled_ns = _expelled(running)
        records = [
            (height, decode_leaf(record.leaf))
            for height, sealed in enumerate(operator.sync.sealed(), 1)
            for record in sealed.records or ()
        ]
        self.heights = {record.request: height for height, record in records}
        data = [each for each in records if (each[1].op, each[1].status) == ("data", OK)]
        self.data_us = [record.time_us for _, record in data]
        self.last_data = {record.node: height for height, record in data}

    def in_block_ms(self, given: _Given) -> float:
        return _ms(self.executed_ns[self.heights[given.request]] - given.t_ns)

    def order(self, given: _Given) -> RevocationTimes:
        node = given.node.hex()
        return RevocationTimes(
            device=given.name,
            in_block_ms=self.in_block_ms(given),
            chain_last_ms=_ms(self.executed_ns[self.last_data[given.node]] - given.t_ns),
            gateway_last_ms=_ms(self.accepted_ns[node] - given.t_ns),
            broker_off_ms=_ms(self.expelled_ns[node] - given.t_ns),
        )


def _concluded(
    plan: BenchPlan,
    operator: Operator,
    given: list[tuple[_Given, _Given]],
    begun_us: int,
    ended_us: int,
) -> BenchResult:
    evidence = _Evidence(operator)
    orders = [evidence.order(revoked) for _, revoked in given]
    ordinary = Spread.of([evidence.in_block_ms(granted) for granted, _ in given])
    in_block = Spread.of([each.in_block_ms for each in orders])
    broker_off = Spread.of([each.broker_off_ms for each in orders])
    meanwhile = sum(begun_us <= each <= ended_us for each in evidence.data_us)
    return BenchResult(
        plan=plan,
        readings_per_s=round(meanwhile / (ended_us - begun_us) * 1e6, 1),
        ordinary_ms=ordinary,
        in_block_ms=in_block,
        chain_last_ms=Spread.of([each.chain_last_ms for each in orders]),
        gateway_last_ms=Spread.of([each.gateway_last_ms for each in orders]),
        broker_off_ms=broker_off,
        block_ratio=round(in_block.p50 / ordinary.p50, 2),
        broker_ratio=round(broker_off.p50 / ordinary.p50, 2),
        orders=orders,
    )


def _events(running: RunningLab, role: str, name: str) -> Iterator[LoggedEvent]:
    """The events of this name in the logs of all processes in a role."""
    for node in running.nodes.values():
        if node.role == role:
            assert node.directory is not None, "the loopback lab is here"
            for event in read_events(Path(node.directory) / EVENTS):
                if event.event == name:
                    yield event


def _expelled(running: RunningLab) -> dict[str, int]:
    """When the broker had confirmed to the last gateway that the device is off, by node id."""
    found: dict[str, int] = {}
    for event in _events(running, "gateway", "expelled"):
        name = str(event.fields["name"])
        found[name] = max(found.get(name, 0), event.t)
    return found


def _ms(ns: int) -> float:
    return round(ns / 1e6, 2)
