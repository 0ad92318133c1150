"""A running lab for the attacker of campaigns (`testbed.attacker`), and the answers of its layers.

Each layer's refusals are read where they are visible. The broker closes the connection and logs.
The gateway logs its own refusals and those of the authentication group. Refusals in the ledger are
read from the operator's verified copy.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from chain.ledger.admission import voucher_id
from chain.ledger.envelope import read_operation
from chain.ledger.operations import Enrol, Operation
from chain.proofs.proof import Proof
from gateway.broker.security import User, bootstrap_id
from gateway.mqtt.topics import Up
from nodes.board.control import command
from nodes.events import read_events
from testbed.attacker.door import Act, knock
from testbed.attacker.forgery import Hand
from testbed.attacker.manufacturer import Manufacturer
from testbed.attacker.puppet import Puppet
from testbed.checks.evidence import broker_refusals
from testbed.errors import LabFault
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from testbed.provision.material import Voucher
from testbed.standing.operator import Operator

__all__ = ["Refusal", "RefusalTrial"]

ANSWER_S_MAX = 30.0
POLL_S = 0.05
NOISE = frozenset({"noise-cobs", "noise-crc", "noise-short", "noise-long"})  # only counted
NOBODY = "nobody"
_ALLOWED = frozenset({"ok", "accepted"})


class Refusal(msgspec.Struct, frozen=True):
    """What was tried, who refused it (`NOBODY` if it was accepted) and for which reason."""

    tried: str
    layer: str
    reason: str

    @classmethod
    def of(cls, tried: str, layer: str, reason: str) -> Refusal:
        return cls(tried, NOBODY if reason in _ALLOWED else layer, reason)

    @property
    def refused(self) -> bool:
        return self.layer != NOBODY


class RefusalTrial:
    """An attacker with a relay's login on the running lab, and the refusals that he met."""

    def __init__(
        self,
        deployment: Deployment,
        operator: Operator,
        manufacturer: Manufacturer,
        hand: Hand,
    ) -> None:
        self.deployment = deployment
        self.manufacturer = manufacturer
        self.operator = operator
        self.hand = hand
        self.attacker = attacker = hand.attacker
        self.material = deployment.material
        self.network, self.net = attacker.network, attacker.net
        self.found: list[Refusal] = []
        self.spent: list[tuple[str, User]] = []  # logins that were taken away, and why
        gateway = deployment.with_role("gateway")[0]
        broker = deployment.with_role("broker")[0]
        self._gateway_log = self._path(gateway.name) / "events.jsonl"
        self._broker_log = Path(str(deployment.host(broker).log_path(broker.unit)))

    def _path(self, name: str) -> Path:
        directory = self.operator.running.nodes[name].directory
        if directory is None:
            raise LabFault(f"{name} must run on this machine for its log to be read")
        return Path(directory)

    def add(self, tried: str, layer: str, reason: str) -> None:
        self.found.append(Refusal.of(tried, layer, reason))

    @property
    def head(self) -> bytes:
        return self.operator.sync.copy.head_hash

    def proof_of(self, cose: bytes) -> Proof:
        """The chain's proof of a signed request, from the operator's verified copy."""
        return self.operator.proof_of(read_operation(cose, self.network).id)

    async def later(self, s: float) -> None:
        """Waits until the chain's own time is so much later and the gateway knows all that the
        operator knows."""
        begun_us, deadline_s = self._chain_us, time.monotonic() + ANSWER_S_MAX
        while self._chain_us <= begun_us + s * 1e6:
            if time.monotonic() > deadline_s:
                raise LabFault("the chain makes no blocks")
            await asyncio.sleep(POLL_S)
            await self.operator.refresh()

    @property
    def _chain_us(self) -> int:
        ledger = self.operator.sync.copy.ledger
        assert ledger is not None, "a whole copy"
        return ledger.time_us

    # --- gateway, group, ledger -------------------------------------------------------------------

    async def up(self, kind: str, body: bytes, device: str, raw: bytes | None = None) -> str:
        """Send as a relay does. Returns the outcome that the gateway logs."""
        before = len(self._requests())
        if raw is None:
            await asyncio.to_thread(self.attacker.up, device, kind, [body])
        else:
            topic = str(Up(self.net, self.attacker.relay.node, device, kind))
            await asyncio.to_thread(self.attacker.do, self.attacker.publish_raw(topic, raw))
        await _until(lambda: len(self._requests()) > before, f"the gateway says nothing to {kind}")
        return str(self._requests()[before].fields["outcome"])

    async def at_gateway(
        self, tried: str, kind: str, body: bytes, device: str, raw: bytes | None = None
    ) -> None:
        """As `up`, for what is no operation: notes how the gateway refuses it."""
        outcome = await self.up(kind, body, device, raw)
        self.add(tried, "gateway", outcome.removeprefix("refused:"))

    def _requests(self) -> list[Any]:
        mine = self.attacker.relay.node
        return [
            event
            for event in read_events(self._gateway_log)
            if event.event == "request" and event.fields["relay"] == mine
        ]

    async def request(self, tried: str, operation: Operation, by: Puppet) -> str:
        """Sign it, send it, and note which layer refused it. Returns the reason; "" if none did."""
        cose = by.sign(operation)
        kind = "enrol" if isinstance(operation, Enrol) else "op"
        return await self.signed(tried, cose, _name(operation), kind)

    async def signed(self, tried: str, cose: bytes, device: str, kind: str) -> str:
        outcome = await self.up(kind, cose, device)
        layer, reason = "gateway", outcome.removeprefix("refused:")
        if outcome == "accepted":
            layer, reason = await self._decided(read_operation(cose, self.network).id)
        if tried:
            self.add(tried, layer, reason)
        return reason

    async def _decided(self, request: bytes) -> tuple[str, str]:
        deadline_s = time.monotonic() + ANSWER_S_MAX
        while time.monotonic() < deadline_s:
            for event in read_events(self._gateway_log):
                if event.event == "denied" and event.fields["id"] == request.hex():
                    return "group", str(event.fields["reason"])
            await self.operator.refresh()
            status = self.operator.status_of(request)
            if status is not None:
                return "ledger", status.removeprefix("refused:")
            await asyncio.sleep(POLL_S)
        raise LabFault("a request was accepted but never decided")

    # --- broker -----------------------------------------------------------------------------------

    async def at_broker(self, tried: str, user: User, act: Act | None, client_id: str = "") -> None:
        """Connect, `act`, and note what the broker answered, or logged of this sender when it
        closed the connection."""
        begun_ns = time.time_ns()
        knocked = await asyncio.to_thread(
            knock, self.deployment, user, client_id or user.name, act, ANSWER_S_MAX
        )
        reason = knocked.answer

        def refused() -> str:
            # By time, as the line about the case before may be written only now.
            new = (each for each in broker_refusals(self._broker_log) if each.t >= begun_ns)
            return next((each.reason for each in new if each.may_be(knocked.senders)), "")

        if not reason:
            await _until(lambda: bool(refused()), f"{tried}: the broker says nothing")
            reason = refused()
        self.add(tried, "broker", reason)

    # --- serial lines -----------------------------------------------------------------------------

    async def frame_of(self, board: Node) -> bytes:
        """A reading that the board has sent, as the frame on the line."""
        log = self._path(board.name) / "line.log"
        lines = [msgspec.json.decode(line) for line in log.read_bytes().splitlines()]
        sent = [bytes.fromhex(line["frame"]) for line in lines if _is_sent(line)]
        if not sent:
            raise LabFault(f"{log}: the board has sent nothing")
        return sent[-1]

    async def on_the_line(self, tried: str, board: Node, frame: bytes) -> None:
        """Put bytes between two zeros on the line towards the board's host, and note how the host
        refuses them."""
        log = self._path(self.deployment.sponsor(board).name) / "events.jsonl"
        before = _serial_counts(log)
        control = self._path(board.name) / "control.sock"
        # A zero byte on both sides separates the frame from all others.
        await asyncio.to_thread(command, control, "inject", "host", f"00{frame.hex()}")
        deadline_s = time.monotonic() + ANSWER_S_MAX
        while not (more := _serial_counts(log) - before) and time.monotonic() < deadline_s:
            await asyncio.sleep(POLL_S)
        self.add(tried, "serial", next(iter(more), "accepted"))

    # --- puppets ----------------------------------------------------------------------------------

    async def admit(self, name: str, **changes: Any) -> tuple[Puppet, Voucher, bytes]:
        """Admits a device of ours. Returns it, its voucher and its signed access request."""
        voucher = await self.operator.new_voucher(name, 3)
        puppet = Puppet(self.network)
        cose = puppet.sign(puppet.enrol(voucher, self.head, **changes))
        reason = await self.signed("", cose, bootstrap_id(voucher.id), "enrol")
        if reason != "ok":
            raise LabFault(f"{name} is not admitted: {reason}")
        return puppet, voucher, cose

    async def login_of(self, puppet: Puppet) -> User:
        """The device's own login at the broker. It must not be connected in another way."""
        node = puppet.node.hex()

        def known() -> bool:
            return any(
                each.event == "login" and each.fields["name"] == node
                for each in read_events(self._gateway_log)
            )

        await _until(known, f"the broker does not know {node}")
        return self.attacker.login_of(puppet)


def _is_sent(line: dict[str, Any]) -> bool:
    return line["dir"] == "from-board" and bool(line.get("frame"))


def _serial_counts(log: Path) -> Counter[str]:
    """Counts of refused frames and noise on the lines of a device, by reason."""
    found: dict[tuple[object, str], int] = {}
    for event in read_events(log):
        if event.event == "serial-refused":
            found[event.fields["board"], str(event.fields["reason"])] = msgspec.convert(
                event.fields["count"], int
            )
        elif event.event == "serial-counts":
            counts = msgspec.convert(event.fields["counts"], dict[str, int])
            found.update({(event.fields["board"], w): n for w, n in counts.items() if w in NOISE})
    total: Counter[str] = Counter()
    for (_, reason), count in found.items():
        total[reason] += count
    return total


def _name(operation: Operation) -> str:
    if isinstance(operation, Enrol):
        return bootstrap_id(voucher_id(operation.voucher))
    return operation.node.hex()


async def _until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + ANSWER_S_MAX
    while not condition():
        if time.monotonic() > deadline_s:
            raise LabFault(what)
        await asyncio.sleep(POLL_S)
