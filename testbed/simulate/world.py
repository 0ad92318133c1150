"""One run: machines, gateways and devices in virtual time, driven by a scenario, under a checker.

One thread takes events from one heap, in order. All dice come from one `random.Random`. So a
scenario always gives the same run (`Outcome.trace`).
"""

from __future__ import annotations

import hashlib
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from chain.block import genesis_head
from chain.genesis import Genesis, Member, Policy
from chain.keys import digest
from chain.ledger.ledger import Ledger
from chain.proofs.client import Final
from nodes.ports import Party, Stored
from testbed.simulate.administrator import Administrator
from testbed.simulate.coverage import state_of
from testbed.simulate.devices import SimulatedDevice
from testbed.simulate.disk import Disk
from testbed.simulate.evidence import Accusation, fault_of
from testbed.simulate.gateway import Gateway
from testbed.simulate.machine import EPOCH_US, Machine
from testbed.simulate.memory import values_held, values_held_max
from testbed.simulate.network import Network, healthy
from testbed.simulate.outcome import Outcome, Violation
from testbed.simulate.properties import BrokenError, Checker
from testbed.simulate.reference import Reference, request_id
from testbed.simulate.scenario import (
    GATEWAY,
    NETWORK_KINDS,
    ORDERS,
    Event,
    EventKind,
    KeptWrites,
    Scenario,
)
from testbed.simulate.scheme import CHEAP, REAL, Meter
from testbed.simulate.timeline import Timeline
from testbed.simulate.traitors import Cast
from testbed.simulate.transcript import Transcript

__all__ = ["Hardware", "run"]

STEPS_MAX = 400_000  # a run with more steps is livelocked
_LOOK_STEPS = 64  # how often the run checks whether it is over
_MEASURE_STEPS = 2048  # how often memory is measured


def run(
    scenario: Scenario,
    transcript: Transcript | None = None,
    hardware: Hardware | None = None,
) -> Outcome:
    """Runs to the end or to the first property that breaks. With `hardware` the run is timed: it
    may take any number of steps, and memory is not measured."""
    world = _World(scenario, transcript, hardware)
    finding: Violation | None = None
    try:
        world.play()
    except BrokenError as broken:
        finding = broken.finding
    except Exception as error:  # whatever the product raises is a finding
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = f"{Path(last.filename).name}:{last.lineno} in {last.name}"
        text = f"{type(error).__name__}: {error} ({at})"
        finding = Violation("no-crash", world.timeline.now_us, text)
    return world.outcome(finding)


class Hardware(NamedTuple):
    """`machine` makes each machine from the arguments of `Machine`; `delay_us` draws the delay of a
    healthy link."""

    machine: Callable[..., Machine]
    delay_us: Callable[[Random], int]


class _World:
    def __init__(
        self,
        scenario: Scenario,
        transcript: Transcript | None,
        hardware: Hardware | None,
    ) -> None:
        self.timeline = Timeline()
        self._timed = hardware is not None
        self._hardware = hardware or Hardware(Machine, healthy(scenario.spread_us))
        self._scenario = scenario
        self._transcript = transcript
        self._random = Random(f"run {scenario.seed}")  # noqa: S311 - must repeat
        self._trace = hashlib.sha256()
        self._faults: Counter[str] = Counter()
        self._accusations: Counter[str] = Counter()
        self._states: set[str] = set()
        self._views = 0
        self._grew_us = 0  # when a gateway last had a new final block
        self._requests = 0
        self._network = Network(self.timeline, self._random, self._deliver, self._hardware.delay_us)
        self._signatures = REAL if scenario.es256 else CHEAP
        self._scheme = self._signatures.scheme
        self._signers = [self._signatures.signer(f"replica {r}") for r in range(scenario.machines)]
        self._cast = Cast(scenario, self._random)
        self._make_genesis()
        self._make_checker()
        self._make_machines()
        self._make_gateways()

    # --- setting up ------------------------------------------------------------------------------

    def _make_genesis(self) -> None:
        # Tokens come first: devices need the network id, which is a hash over their vouchers.
        grants = tuple(
            SimulatedDevice.grant_of(d, self._signatures) for d in range(self._scenario.devices)
        )
        admin = self._signatures.signer("administrator")
        size, accepts = self._scenario.group or (None, None)
        self._genesis = Genesis(
            name="simulated",
            time_us=EPOCH_US - 1_000_000,
            members=tuple(
                Member(r, s.public) for r, s in enumerate(self._signers[: self._scenario.replicas])
            ),
            policy=Policy(
                vouchers=grants,
                admins=(admin.public,),
                admins_needed=1,
                group_size=size,
                group_accepts=accepts,
            ),
            consensus=self._scenario.consensus,
        )
        self._genesis.check()
        network = self._genesis.network
        self._devices = [
            SimulatedDevice(number, network, self._random, self._signatures)
            for number in range(self._scenario.devices)
        ]
        self._clients: list[SimulatedDevice | Administrator] = [*self._devices]
        self._administrator: Administrator | None = None
        if any(event.kind in ORDERS for event in self._scenario.events):
            self._administrator = Administrator(
                network,
                admin,
                key_of=lambda replica: self._signers[replica].public,
                node_of=lambda device: self._devices[device].node,
                membership=lambda: self._gateways[0].membership,
            )
            self._clients.append(self._administrator)

    def _make_checker(self) -> None:
        scenario, genesis = self._scenario, self._genesis
        traitors = {traitor.replica for traitor in scenario.traitors}
        self._reference = Reference(
            genesis.time_us,
            vouchers={
                grant.id: (grant.kind, grant.not_after_us) for grant in genesis.policy.vouchers
            },
            administrators=genesis.policy.admins,
            replicas={member.id: member.spki for member in genesis.members},
            checkpoint_interval=genesis.consensus.checkpoint_interval,
            accepts=scenario.group[1] if scenario.group else None,
        )
        self._honest = frozenset(range(scenario.machines)) - traitors
        genesis_hash = digest(genesis_head(genesis.network, genesis.time_us))
        skewed = {r for e in scenario.events if e.kind is EventKind.SKEW for r in e.nodes}
        few = len(skewed | traitors) <= scenario.quorum.faulty
        self._checker = Checker(
            self.timeline,
            self._honest,
            genesis_hash,
            self._reference,
            self._time_us_max if few else None,
        )

    def _time_us_max(self) -> int:
        """The latest time that a block may have now: no honest backup accepts a time that is
        further ahead of its own clock."""
        ahead_us = self._scenario.consensus.precision_us + max(self._scenario.skews_us)
        return EPOCH_US + self.timeline.now_us + ahead_us

    def _make_machines(self) -> None:
        scenario = self._scenario
        places = [*range(scenario.machines), *self._cast.twins]
        keys = frozenset(signer.public for signer in self._signers)
        self._machines = [
            self._hardware.machine(
                number=number,
                me=replica,
                genesis=self._genesis,
                scheme=Meter(self._scheme, keys),
                signer=self._signers[replica],
                timeline=self.timeline,
                disk=Disk(self._random, partial(self._wrote, replica)),
                on_send=self._send,
                on_event=self._emitted,
                skew_us=scenario.skews_us[replica],
                turn_us=scenario.turn_us,
                wrap=self._cast.wrapper(replica, self._signers[replica]),
                keep_data_blocks=scenario.keep_data_blocks,
            )
            for number, replica in enumerate(places)
        ]
        self._bodies = [
            [machine for machine in self._machines if machine.me == replica]
            for replica in range(scenario.machines)
        ]

    def _make_gateways(self) -> None:
        self._gateways = [
            Gateway(
                self.timeline,
                self._scheme,
                self._genesis,
                send=partial(self._network.send, GATEWAY + number),
                on_final=partial(self._final, number),
                copy=Ledger(self._genesis, self._scheme) if self._administrator else None,
                retry_us=self._scenario.retry_us,
            )
            for number in range(self._scenario.gateways)
        ]

    # --- playing ---------------------------------------------------------------------------------

    def play(self) -> None:
        """Runs until every request is final everywhere where it must be. Raises BrokenError."""
        scenario, timeline = self._scenario, self.timeline
        for event in scenario.events:
            timeline.at(event.at_us, self._begin, event)
        for machine in self._machines:
            if machine.me < scenario.replicas:
                machine.install()
        for gateway in self._gateways:
            gateway.start()
        for client in self._clients:
            self._next(client)
        end_us = scenario.heal_us + scenario.patience_us
        target: int | None = None
        while timeline.run(end_us, _LOOK_STEPS):
            if timeline.steps % _MEASURE_STEPS == 0 and not self._timed:
                self._measure()
            if timeline.now_us < scenario.heal_us:
                self._must_grow(timeline.now_us - self._grew_us)
                continue
            if timeline.steps > STEPS_MAX and not self._timed:
                raise self._checker.broken("liveness", f"{STEPS_MAX} steps, and no end")
            if target is None and all(client.idle for client in self._clients):
                target = self._checker.height
            if target is not None and self._caught_up(target):
                return
        if not scenario.beyond_bound:
            raise self._checker.broken("liveness", self._what_is_missing(target))

    def _must_grow(self, gap_us: int) -> None:
        if self._scenario.gap_us_max and gap_us > self._scenario.gap_us_max:
            raise self._checker.broken("progress", f"no final block for {gap_us / 1e6:.3f} s")

    def _measure(self) -> None:
        for machine in self._machines:
            if machine.process is not None:
                service = machine.process.service
                self._checker.holds(machine.me, values_held(service), values_held_max(service))

    def _caught_up(self, height: int) -> bool:
        members = self._reference.newest_members
        wanted = [r for r in self._scenario.survivors if r in members]
        return all(self._checker.height_of(r) >= height for r in wanted)

    def _what_is_missing(self, target: int | None) -> str:
        places = ", ".join(
            f"r{m.me} {self._checker.height_of(m.me) if m.me in self._honest else '?'} "
            f"v{m.process.service.core.view}{'' if m.process.service.core.active else ' pending'}"
            if m.process is not None
            else f"r{m.me} down"
            for m in self._machines
        )
        waiting = ", ".join(c.doing or "nothing" for c in self._clients if not c.idle)
        wanted = f"height {target}" if target is not None else f"what clients wait for ({waiting})"
        return f"{wanted} not reached in {self._scenario.patience_us / 1e6:.0f} s: {places}"

    def _tell(self, text: str) -> None:
        if self._transcript is not None:
            self._transcript.line(self.timeline.now_us, text)

    # --- events of the scenario ------------------------------------------------------------------

    def _begin(self, event: Event) -> None:
        if event.kind is EventKind.REQUEST:
            self._ask(event)
            return
        self._faults[event.kind.value] += 1
        if self._transcript is not None:
            self._transcript.fault(self.timeline.now_us, event, over=False)
        if event.kind in ORDERS:
            self._order(event)
            return
        if event.kind in NETWORK_KINDS:
            self._network.disturb(event)
        for machine in self._of(event.nodes):
            self._strike(machine, event)
        if event.end_us is not None:
            self.timeline.at(event.end_us, self._end, event)

    def _strike(self, machine: Machine, event: Event) -> None:
        match event.kind:
            case EventKind.CRASH:
                machine.crash(event.amount, KeptWrites(event.detail))
            case EventKind.PAUSE:
                machine.pause()
            case EventKind.SKEW:
                machine.skew_us += event.amount
            case EventKind.SLOW:
                machine.work_us += event.amount
            case EventKind.FULL:
                machine.disk.fill(event.amount)
            case EventKind.WIPE:
                machine.wipe()
                self._checker.wiped(machine.me)
            case _:
                raise AssertionError(f"{event.kind} strikes links")

    def _end(self, event: Event) -> None:
        if self._transcript is not None:
            self._transcript.fault(self.timeline.now_us, event, over=True)
        if event.kind in NETWORK_KINDS:
            self._network.lift(event)
        for machine in self._of(event.nodes):
            match event.kind:
                case EventKind.CRASH | EventKind.WIPE:
                    machine.recover()
                case EventKind.PAUSE:
                    machine.resume()
                case EventKind.FULL:
                    machine.disk.drain()
                case EventKind.SLOW:
                    machine.work_us -= event.amount
                case _:
                    machine.skew_us -= event.amount

    def _of(self, replicas: tuple[int, ...]) -> list[Machine]:
        return [machine for machine in self._machines if machine.me in replicas]

    def _order(self, event: Event) -> None:
        """Gives the administrator an order. The process of an added replica starts by the
        scenario's own time."""
        assert self._administrator is not None
        (whom,) = event.nodes
        self._administrator.order(event.kind.value, whom)
        self._next(self._administrator)
        if event.kind is EventKind.ADD:
            for machine in self._bodies[whom]:
                self.timeline.after(event.amount, machine.install)

    # --- devices ---------------------------------------------------------------------------------

    def _ask(self, event: Event) -> None:
        device = self._devices[event.nodes[0]]
        name = event.detail
        if name in ("data", "renew", "revoke") and not device.revoked:
            device.plan(name)
            self._next(device)
            return
        if device.revoked and name in ("data", "renew", "revoke"):
            cose: bytes | None = device.after_revocation(event.amount)
        elif name == "outrun":
            cose = device.outrun(event.amount)
        else:
            cose = device.mischief(name, event.amount, self._gateway_of(device).head_hash)
        if cose is not None:
            self._faults[name if not device.revoked else "revoked"] += 1
            if name != "forged":
                self._reference.signed.add(request_id(cose))
            self._gateway_of(device).once(cose)

    def _next(self, device: SimulatedDevice | Administrator) -> None:
        gateway = self._gateway_of(device)
        cose = device.next(gateway.head_hash)
        if cose is not None:
            device.wanted_id = request_id(cose)
            self._reference.signed.add(device.wanted_id)
            gateway.submit(device.wanted_id, cose)

    def _gateway_of(self, device: SimulatedDevice | Administrator) -> Gateway:
        return self._gateways[device.number % len(self._gateways)]

    def _final(self, number: int, final: Final) -> None:
        self._grew_us = self.timeline.now_us
        signers = [seal.replica for seal in final.seals]
        self._checker.final(number, final.height, digest(final.head), signers)
        self._tell(f"g{number} holds {final.height} final")
        for device in self._clients:
            if self._gateway_of(device) is not self._gateways[number]:
                continue
            if device.wanted is None:
                self._next(device)  # an order may have come into force
                continue
            status, height = self._reference.executed.get(device.wanted_id, ("", 0))
            if not status or height > final.height:
                continue
            if status != "ok":
                raise self._checker.broken(
                    "service", f"client {device.number}'s {device.doing} ended as {status}"
                )
            self._requests += 1
            self._gateways[number].settled(device.wanted_id)
            device.done()
            self._next(device)

    # --- what machines, their disks and links bring ----------------------------------------------

    def _send(self, machine: Machine, party: Party, frame: bytes) -> None:
        replica = machine.me
        if isinstance(party, int):
            if not self._cast.hears(machine.number != replica, replica, party):
                return
            to = party
            self._checker.sent(replica, frame, machine.disk)
        else:
            to = GATEWAY + int(party)
            frame = self._cast.to_gateway(replica, self._signers[replica], frame)
        if self._transcript is not None:
            self._transcript.sent(self.timeline.now_us, replica, to, frame)
        self._network.send(replica, to, frame)

    def _emitted(self, machine: Machine, event: str, fields: dict[str, object]) -> None:
        match event:
            case "accuse":
                self._accused(machine.me, msgspec.convert(fields, Accusation))
            case "view":
                self._views += 1
            case "peer-fault":
                self._checker.blamed(machine.me, fields["party"], fields["code"])
            case "diverged" if machine.me in self._honest:
                raise self._checker.broken("agreement", f"r{machine.me} diverged from a quorum")
            case "starts":
                self._checker.restarted(machine.me, machine.disk.height)
            case "loses-power":
                self._faults[f"crash-{fields['keeps']}"] += 1
            case "stopped-full":
                self._faults[event] += 1
            case _:
                pass
        if self._transcript is not None and event != "block":
            text = " ".join(f"{name}={value}" for name, value in fields.items())
            self._tell(f"r{machine.me} {event} {text}")

    def _accused(self, accuser: int, accusation: Accusation) -> None:
        culprit, reason = accusation.culprit, accusation.reason
        self._accusations[reason] += 1
        prefix = b"m2m/1/replica\0" + self._genesis.network
        public = self._signers[culprit].public
        fault = fault_of(
            accusation,
            verify=lambda body, sign: self._scheme.verify(public, prefix + body, sign),
            chain=self._checker.agreed,
            log_window=self._scenario.consensus.log_window,
        )
        self._checker.accused(accuser, culprit, reason, fault)

    def _wrote(self, replica: int, height: int, stored: Stored) -> None:
        self._checker.wrote_block(replica, height, stored.block)
        self._tell(f"r{replica} executes {height} head={stored.block.hash.hex()[:6]}")

    def _deliver(self, to: int, sender: int, frame: bytes) -> None:
        self._trace.update(b"%d %d %d " % (self.timeline.now_us, to, sender))
        self._trace.update(frame)
        if to >= GATEWAY:
            self._gateways[to - GATEWAY].receive(sender, frame)
            return
        party: Party = sender if sender < GATEWAY else str(sender - GATEWAY)
        for machine in self._bodies[to]:
            if sender >= GATEWAY or self._cast.hears(machine.number != to, to, sender):
                if sender < GATEWAY and to in self._honest and machine.process is not None:
                    self._states.add(state_of(machine.process.service.core, to, frame))
                machine.receive(party, frame)

    # --- the end ---------------------------------------------------------------------------------

    def outcome(self, finding: Violation | None) -> Outcome:
        faults = self._faults + self._network.counts + self._cast.acts
        return Outcome(
            seed=self._scenario.seed,
            finding=finding,
            trace=self._trace.hexdigest(),
            simulated_us=self.timeline.now_us,
            steps=self.timeline.steps,
            blocks=self._checker.height,
            requests=self._requests,
            views=self._views,
            faults=dict(sorted(faults.items())),
            states=tuple(sorted(self._states - {""})),
            accusations=dict(sorted(self._accusations.items())),
        )
