"""A device's life with real processes: board behind a PTY, broker, two gateways, four replicas.

Read `test_a_device_s_life` first: admitted, data, renewed, revoked, refused. The others follow one
message from its source to the block, and kill what stands between.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import Signals
from typing import Any, TypeVar

import msgspec
import pytest

from chain.ledger.envelope import read_operation
from chain.ledger.identity import Board
from chain.ledger.item import cose_of, read_item
from chain.ledger.operations import Data
from chain.ledger.statement import OK, Statement, decode_leaf
from inventory.load import load_lab
from nodes.events import LoggedEvent
from nodes.replica.ledger_file import open_readonly
from testbed.errors import LabFault
from testbed.hosts.port import UnitStatus
from testbed.provision.deployment import Deployment
from testbed.standing.bringup import running_lab
from testbed.standing.operator import Operator, operating
from testbed.standing.running_lab import RunningLab, newest_running
from tests.nodes.device_support import Log, Phone, until

T = TypeVar("T")
FULL_DISK_BYTES = 4096  # what one file may have while the disk is full
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
  phone: {connection: local, roles: [mobile]}
boards:
  th01: {host: env1, firmware: {board: unix}}
"""


class Story:
    """What the processes wrote, and what the operator verifies."""

    def __init__(self, running: RunningLab, deployment: Deployment) -> None:
        self.running, self.deployment = running, deployment
        self.genesis = deployment.material.genesis
        self.network = self.genesis.network

    def path(self, node: str, name: str) -> Path:
        return Path(str(self.running.nodes[node].directory)) / name

    def log(self, node: str) -> Log:
        return Log(self.path(node, "events.jsonl"))

    def operate(self, work: Callable[[Operator], Any]) -> Any:
        """What the administrator does, with an up-to-date ledger that it verified itself."""

        async def inside() -> Any:
            async with operating(self.running) as operator:
                return await work(operator)

        return asyncio.run(inside())

    def records(self, device: str) -> list[Statement]:
        """All that the chain says of a device, whatever key it had, in order."""

        async def look(operator: Operator) -> list[Statement]:
            keys = {identity.node for name, identity in operator.devices if name == device}
            leaves = (r.leaf for block in operator.sync.sealed() for r in block.records or ())
            statements = (decode_leaf(leaf) for leaf in leaves)
            return [each for each in statements if keys & {each.node, each.by}]

        found: list[Statement] = self.operate(look)
        return found

    @contextmanager
    def phone(self, name: str, directory: Path, *, validity_s: int) -> Iterator[Phone]:
        """A device beside the lab's own, with a voucher that the administrator issued."""
        voucher = self.operate(lambda operator: operator.new_voucher(name, 3))
        self.running = msgspec.structs.replace(
            self.running, vouchers={**self.running.vouchers, voucher.id.hex(): name}
        )
        phone = Phone(name, directory, self.running)
        phone.prepare(voucher.pem, validity_s=validity_s)
        with phone.running():
            yield phone

    def kill(self, node: str) -> None:
        found = self.deployment.node(node)
        self.deployment.host(found).signal(found.unit, Signals.SIGKILL)
        self.deployment.host(found).stop(found.unit)

    def signal(self, node: str, number: Signals) -> None:
        found = self.deployment.node(node)
        self.deployment.host(found).signal(found.unit, number)

    def process(self, node: str) -> UnitStatus:
        found = self.deployment.node(node)
        return self.deployment.host(found).status(found.unit)

    def printed(self, node: str) -> str:
        return self.deployment.log_tail(self.deployment.node(node))

    def goes_on(self) -> None:
        """The phone's readings still reach the chain."""
        since_ns = time.time_ns()
        until(
            lambda: [
                each for each in self.log("phone").all("data", status=OK) if each.t > since_ns
            ],
            "data after the fault",
        )

    def start(self, node: str) -> None:
        self.deployment.start_node(self.deployment.node(node))
        self.deployment.wait_ready(self.deployment.node(node))


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    inventory = tmp_path_factory.mktemp("story") / "story.yaml"
    inventory.write_text(LAB)
    with running_lab(load_lab(inventory), every_ms=500, progress=print) as (running, deployment):
        yield Story(running, deployment)


def test_commands_leave_a_lab_alone_that_no_inventory_names(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`down` and others do not find the lab of a bench or of `refusals`."""
    home = Path(story.running.home)
    monkeypatch.setattr("testbed.standing.running_lab.workspaces", lambda: [home])
    assert newest_running(None) is None


def test_a_device_s_life(story: Story, tmp_path: Path) -> None:
    """Admitted, data, renewed by itself, renewed under a new key, revoked, refused."""
    with story.phone("traveller", tmp_path, validity_s=12) as phone:  # due 4 s before its end
        # Admitted: by a voucher, for the key that it made; it verified the whole ledger itself.
        first = phone.log.first("started").fields["id"]
        phone.log.first("admitted")
        assert phone.log.first("ledger-verified").fields["height"] != 0
        assert story.records("traveller")[0].op == "enrol"

        # Data: signed, ordered, proven to it.
        phone.log.first("data", status=OK)

        # Renewed by itself, at two thirds of its validity by the chain's time, again and again.
        phone.log.first("order", do="renew", status=OK)
        expiry_us = story.records("traveller")[0].not_after_us or 0
        until(
            lambda: [
                each
                for each in phone.log.all("data", status=OK)
                if int(str(each.fields["intended_ns"])) > expiry_us * 1000
            ],
            "it lives longer than its first certificate",
        )
        phone.must_carry_certificate_of(first, story.genesis)

        # Renewed under a new key, at its operator's word; the data goes on, the old login ends.
        phone.order("rollover")
        phone.log.first("order", do="rollover", status=OK)
        second = phone.log.nth("started", 2)
        assert first != second.fields["id"]
        until(lambda: phone.log.after(second, "data", status=OK), "data under the new key")
        phone.must_carry_certificate_of(second.fields["id"], story.genesis)
        story.log("gw1-gateway").first("expelled", name=first)

        # Revoked, by an administrator.
        revocation = story.operate(
            lambda operator: operator.revoke(operator.find("traveller")[1], "end of the story")
        )
        gone = story.log("gw1-gateway").first("expelled", name=second.fields["id"])

    phone.must_have_left_no_reading_out()

    # Refused: nothing of it counts after that block, and the gateway took nothing more.
    data = [each for each in story.records("traveller") if each.op == "data"]
    assert all(each.status == OK for each in data), "renewals came in time"
    assert max(each.time_us for each in data) <= revocation.time_us
    assert {each.node.hex() for each in data} == {first, second.fields["id"]}
    late = story.log("gw1-gateway").after(gone, "request", device=second.fields["id"])
    assert all(str(each.fields["outcome"]).startswith("refused:revoked") for each in late)

    # Even with a new voucher: its key is revoked for good.
    voucher = story.operate(lambda operator: operator.new_voucher("again", 3))
    phone.forget_its_login()
    phone.prepare(voucher.pem, validity_s=60)
    with phone.running():
        assert phone.log.first("denied").fields["reason"] == "revoked"


def test_an_access_request_is_followed_from_device_to_block(story: Story) -> None:
    """Request, relay, gateway, group, block, receipt, ledger copy."""
    admitted = story.log("phone").first("admitted")
    request = str(admitted.fields["id"])
    for gateway in ("gw1-gateway", "gw2"):  # both carry it; it is one request
        heard = story.log(gateway).first("request", id=request)
        assert heard.fields["outcome"] in ("accepted", "repeat-final")
    assert heard.fields["relay"] == story.log("env1").first("started").fields["id"]
    with open_readonly(story.path("r3", "ledger.sqlite")) as ledger:
        items = [record.item for stored in ledger.blocks() for record in stored.block.records]
    (item,) = [
        item for item in items if read_operation(cose_of(item), story.network).id.hex() == request
    ]
    endorsed: Any = read_item(item, story.network).operation
    assert len(endorsed.endorsers) >= 2, "k = f+1 members of the authentication group"
    assert int(str(story.log("phone").first("ledger-verified").fields["height"])) > 0


def test_a_reading_is_followed_from_the_board_to_the_block(story: Story) -> None:
    story.log("env1").first("board", state="sponsored")
    stored = story.log("env1").first("data", source="th01", status=OK)

    async def reading(operator: Operator) -> Data:
        for sealed in operator.sync.sealed():
            for record in sealed.records or ():
                opened = read_operation(cose_of(record.item), story.network)
                if opened.id.hex() == stored.fields["id"]:
                    assert isinstance(opened.operation, Data)
                    return opened.operation
        raise AssertionError("the operator's verified copy lacks the reading")

    found = story.operate(reading)
    assert found.board is not None
    node = found.board

    async def sponsored(operator: Operator) -> Board | None:
        ledger = operator.sync.copy.ledger
        assert ledger is not None
        return ledger.registry.board(node)

    sponsor = story.operate(sponsored)
    assert sponsor is not None
    assert sponsor.service == "telemetry"
    values = msgspec.json.decode(found.payload)
    assert (values["board"], values["boot"]) == ("th01", 1)
    assert found.counter == stored.fields["counter"]


def test_killed_gateways_and_a_killed_primary_lose_nothing_that_was_admitted(story: Story) -> None:
    """One gateway gone, devices go on through the other; both gone, they wait and go on."""
    phone = story.log("phone")
    phone.first("data", status=OK)
    story.kill("gw1-gateway")
    story.goes_on()
    story.kill("gw2")
    story.kill("r1")
    story.start("gw1-gateway")
    story.goes_on()
    story.start("r1")
    for file in story.path("gw2", ".").glob("copy*"):
        file.unlink()

    def height(event: LoggedEvent) -> int:
        return int(str(event.fields["height"]))

    before = height(story.log("gw1-gateway").all("final")[-1])
    story.start("gw2")
    story.goes_on()
    story.log("gw2").first("final", height=1)
    until(
        lambda: height(story.log("gw2").all("final")[-1]) >= before,
        "a gateway without its copy of the ledger catches up",
    )
    counters = [each.fields["counter"] for each in phone.all("data")]
    assert len(set(counters)) == len(counters)
    answered = {str(each.fields["id"]) for each in phone.all("data", status=OK)}
    recorded = {
        each.request.hex()
        for each in story.records("phone")
        if (each.op, each.status) == ("data", OK)
    }
    assert answered <= recorded


def test_a_full_disk_under_all_processes_is_waited_for_and_loses_nothing(story: Story) -> None:
    """No process ends. With room again, devices and boards are served as before."""
    phone, env = story.log("phone"), story.log("env1")
    phone.first("data", status=OK)
    processes = {name: story.process(name) for name in story.running.nodes if name != "th01"}

    def limit(size: int) -> None:
        for process in processes.values():
            assert process.pid is not None
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    limit(FULL_DISK_BYTES)
    until(
        lambda: sum("has room" in story.printed(name) for name in processes) > 1,
        "those who write say that they wait",
    )
    limit(resource.RLIM_INFINITY)
    story.goes_on()
    since_ns = time.time_ns()
    until(
        lambda: [each for each in env.all("data", source="th01", status=OK) if each.t > since_ns],
        "the board's readings go on",
    )
    again = [name for name in processes if story.process(name) != processes[name]]
    assert not again, f"started again: {[story.printed(name) for name in again]}"
    answered = {str(each.fields["id"]) for each in phone.all("data", status=OK)}
    assert answered <= {each.request.hex() for each in story.records("phone")}


def test_an_operator_s_full_disk_is_one_clear_line(story: Story) -> None:
    """No traceback, and nothing is broken: with room the next command works."""

    async def devices(operator: Operator) -> list[str]:
        return [name for name, _ in operator.devices]

    known = story.operate(devices)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(LabFault, match="the disk is full") as raised:
            story.operate(devices)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(raised.value)
    assert story.operate(devices) == known


def test_a_replica_that_hangs_with_its_links_open_stops_no_gateway(story: Story) -> None:
    """Neither primary nor source of blocks may be able to, by saying nothing at all. (A gateway
    takes the blocks from whom it reached first.)"""
    story.log("phone").first("data", status=OK)
    story.kill("gw2")
    story.kill("gw1-gateway")
    restarted = story.log("gw1-gateway").all("link", up=True)[-1]
    story.start("gw1-gateway")
    story.goes_on()
    source = story.log("gw1-gateway").after(restarted, "link", up=True)[0].fields["replica"]
    hung = f"r{int(str(source)) + 1}"
    story.signal(hung, Signals.SIGSTOP)
    try:
        story.goes_on()
        story.goes_on()
    finally:
        story.signal(hung, Signals.SIGCONT)
        story.start("gw2")
