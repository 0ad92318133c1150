"""A device's life with real processes: board behind a PTY, broker, two gateways, four replicas.

From the board to the block, and from admission to refusal; then the same with a gateway gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import Signals
from typing import Any

import msgspec
import pytest

from chain.certificate import verify_carrier
from chain.operations import Data, board_node, read_operation
from chain.request import cose_of, read_item
from chain.statement import OK
from inventory.load import load_lab
from nodes.events import Event, read_events
from nodes.keygen import CERTIFICATE_FILE
from nodes.ledger_file import open_readonly
from nodes.tenure import ORDER_FILE, Order
from testbed.bringup import standing_bench
from testbed.operator import Operator, operating
from testbed.provision.deployment import Deployment
from testbed.standing import Bench

DEADLINE_S = 60.0  # generous: other tests share the machine
LAB = """
schema: testbed.inventory/1
lab: story
hosts:
  r1: {connection: local, roles: [replica]}
  r2: {connection: local, roles: [replica]}
  r3: {connection: local, roles: [replica]}
  r4: {connection: local, roles: [replica]}
  gw1: {connection: local, roles: [gateway, broker]}
  gw2: {connection: local, roles: [gateway]}
  env1: {connection: local, roles: [environment]}
  phones: {connection: local, roles: [mobile], mobiles: 2}
boards:
  th01: {host: env1, firmware: {board: unix}}
"""


class Story:
    """What the processes wrote, and what the operator verifies."""

    def __init__(self, bench: Bench, deployment: Deployment) -> None:
        self.bench, self.deployment = bench, deployment
        self.network = deployment.material.genesis.network

    def path(self, node: str, name: str) -> Path:
        return Path(str(self.bench.nodes[node].directory)) / name

    def events(self, node: str, kind: str, **fields: object) -> list[Event]:
        log = self.path(node, "events.jsonl")
        return [
            event
            for event in (read_events(log) if log.exists() else [])
            if event.event == kind and fields.items() <= event.fields.items()
        ]

    def event(self, node: str, kind: str, **fields: object) -> Event:
        """The first such event, as soon as it is there."""
        try:
            until(lambda: self.events(node, kind, **fields), f"{node}: {kind} {fields}")
        except AssertionError as late:
            told = [(e.event, e.fields) for e in read_events(self.path(node, "events.jsonl"))]
            raise AssertionError(f"{late}; it told: {told[-12:]}") from None
        return self.events(node, kind, **fields)[0]

    def operate(self, work: Callable[[Operator], Any]) -> Any:
        async def inside() -> Any:
            async with operating(self.bench) as operator:
                return await work(operator)

        return asyncio.run(inside())

    def order(self, node: str, order: Order) -> None:
        path = self.path(node, "state") / ORDER_FILE
        path.write_bytes(msgspec.json.encode(order))

    def kill(self, node: str) -> None:
        found = self.deployment.node(node)
        self.deployment.host(found).signal(found.unit, Signals.SIGKILL)
        self.deployment.host(found).stop(found.unit)

    def start(self, node: str) -> None:
        self.deployment.start_node(self.deployment.node(node))
        self.deployment.wait_ready(self.deployment.node(node))


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in {DEADLINE_S:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    inventory = tmp_path_factory.mktemp("story") / "story.yaml"
    inventory.write_text(LAB)
    with standing_bench(load_lab(inventory), every_s=0.5, progress=print) as (bench, deployment):
        yield Story(bench, deployment)


@pytest.mark.timeout(240)
def test_an_access_request_is_followed_from_device_to_block(story: Story) -> None:
    """Request, relay, gateway, group, block, receipt, ledger copy."""
    admitted = story.event("phones-1", "admitted")
    request = str(admitted.fields["id"])
    for gateway in ("gw1-gateway", "gw2"):  # both carry it; it is one request
        heard = story.event(gateway, "request", id=request)
        assert heard.fields["outcome"] in ("accepted", "repeat-final")
    assert heard.fields["relay"] == story.event("env1", "started").fields["id"]
    with open_readonly(story.path("r3", "ledger.sqlite")) as ledger:
        records = [
            (stored.block.head, record)
            for stored in ledger.blocks()
            for record in stored.block.records
        ]
    (item,) = [
        record.item
        for _, record in records
        if read_operation(cose_of(record.item), story.network).id.hex() == request
    ]
    endorsed: Any = read_item(item, story.network).operation
    assert len(endorsed.endorsers) >= 2, "k = f+1 members of the authentication group"
    assert int(str(story.event("phones-1", "ledger-verified").fields["height"])) > 0


@pytest.mark.timeout(240)
def test_a_reading_is_followed_from_the_board_to_the_block(story: Story) -> None:
    story.event("env1", "board", state="sponsored")
    told = story.event("env1", "data", source="th01", status=OK)

    async def reading(operator: Operator) -> Data:
        for sealed in operator.sync.sealed():
            for record in sealed.records or ():
                opened = read_operation(cose_of(record.item), story.network)
                if opened.id.hex() == told.fields["id"]:
                    assert isinstance(opened.operation, Data)
                    return opened.operation
        raise AssertionError("the operator's verified copy lacks the reading")

    found = story.operate(reading)
    assert found.board == board_node(story.network, b"th01")
    values = msgspec.json.decode(found.payload)
    assert (values["board"], values["number"]) == ("th01", values["number"])
    assert found.counter == told.fields["counter"]


@pytest.mark.timeout(240)
def test_admitted_renewed_under_a_new_key_revoked_and_refused(story: Story) -> None:
    story.event("phones-2", "data", status=OK)
    first = story.event("phones-2", "started").fields["id"]
    story.order("phones-2", Order(do="renew"))
    story.event("phones-2", "order", do="renew", status=OK)
    story.order("phones-2", Order(do="rollover"))
    story.event("phones-2", "order", do="rollover", status=OK)
    until(lambda: len(story.events("phones-2", "started")) == 2, "the next key in force")
    second = story.events("phones-2", "started")[1].fields["id"]
    assert first != second
    certificate = story.path("phones-2", "state") / CERTIFICATE_FILE
    certified = verify_carrier(certificate.read_bytes(), story.deployment.material.genesis)
    assert certified.node.hex() == second
    switched = story.events("phones-2", "started")[1].t
    until(
        lambda: [e for e in story.events("phones-2", "data", status=OK) if e.t > switched],
        "data under the new key",
    )
    story.event("gw1-gateway", "expelled", name=first)

    revoked = story.operate(
        lambda operator: operator.revoke(operator.find("phones-2")[1], "end of the story")
    )
    assert revoked.status == OK
    story.event("gw1-gateway", "expelled", name=second)
    gone = story.events("gw1-gateway", "expelled", name=second)[0].t

    async def after(operator: Operator) -> list[int]:
        await operator.refresh()
        _, identity = operator.find("phones-2")
        assert identity.ended == "revoked"
        return [
            statement.time_us
            for _, statement in operator.records(identity)
            if statement.op == "data" and statement.status == OK
        ]

    assert max(story.operate(after)) <= revoked.time_us
    late = [e for e in story.events("gw1-gateway", "request", device=second) if e.t > gone]
    assert all(str(e.fields["outcome"]).startswith("refused:revoked") for e in late)


@pytest.mark.timeout(240)
def test_killed_gateways_and_a_killed_primary_lose_nothing_that_was_admitted(story: Story) -> None:
    """One gateway gone, devices go on through the other; both gone, they wait and go on."""
    story.event("phones-1", "data", status=OK)

    def goes_on(since_ns: int) -> None:
        until(
            lambda: [e for e in story.events("phones-1", "data", status=OK) if e.t > since_ns],
            "data after the fault",
        )

    story.kill("gw1-gateway")
    goes_on(time.time_ns())
    story.kill("gw2")
    story.kill("r1")
    story.start("gw1-gateway")
    goes_on(time.time_ns())
    story.start("r1")
    for file in story.path("gw2", ".").glob("copy*"):
        file.unlink()
    before = int(str(story.events("gw1-gateway", "final")[-1].fields["height"]))
    story.start("gw2")
    goes_on(time.time_ns())
    story.event("gw2", "final", height=1)
    until(
        lambda: int(str(story.events("gw2", "final")[-1].fields["height"])) >= before,
        "a gateway without its copy of the ledger catches up",
    )
    counters = [e.fields["counter"] for e in story.events("phones-1", "data")]
    assert len(set(counters)) == len(counters)

    async def verified(operator: Operator) -> set[str]:
        await operator.refresh()
        _, identity = operator.find("phones-1")
        return {
            s.request.hex()
            for _, s in operator.records(identity)
            if (s.op, s.status) == ("data", OK)
        }

    told = {str(e.fields["id"]) for e in story.events("phones-1", "data", status=OK)}
    assert told <= story.operate(verified)
