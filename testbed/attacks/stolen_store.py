"""A stolen store: somebody reads all that the service keeps, and acts as its devices with it.

With a provider that keeps the devices' keys, each device can be impersonated. On the chain the
thief has every ledger, and no key in it: he can only sign with a key of his own.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pydantic import Field

from testbed import programs
from testbed.attacks.impersonate import ImpersonateAttack
from testbed.campaign.injection import Attack, Injection, Judgement, Scene
from testbed.campaign.kinds import Kind, Mechanism, Params, register
from testbed.checks.evidence import Evidence
from testbed.checks.logs import Requested
from testbed.checks.trials import Tried, judge_recorded

if TYPE_CHECKING:
    from testbed.attacker.attacker import Attacker

__all__ = ["StolenStore"]


class StolenStore(Params):
    """Read everything that the service stores, and send data as its devices. With an escrow he has
    each device's key. On the chain he has ids of devices and no key, and signs with one of his own.
    `batch` messages per event."""

    batch: int = Field(default=10, ge=1, le=500)


class LedgerTheft(ImpersonateAttack):
    """Looks for keys in the ledgers, then does what a thief without keys can do."""

    def apply(self) -> None:
        from testbed.provision.configs import STORE  # noqa: PLC0415 - only a run needs it

        deployment = self.scene.deployment
        found = 0
        for node in deployment.with_role("replica"):
            argv = programs.python(
                deployment.python(node), "attacks/on_host/count_keys.py", node.file(STORE)
            )
            found += int(deployment.host(node).run(argv).stdout)
        self.sent(keys_found=found)
        super().apply()

    def _wanted(self) -> list[str]:
        return ["stolen-id"]


class EscrowTheft(Attack):
    """Takes the keys of all devices and sends readings that each of them could have sent."""

    def __init__(self, scene: Scene) -> None:
        super().__init__(scene)
        self._attacker: Attacker | None = None

    def arm(self) -> None:
        from testbed.attacker.attacker import Attacker  # noqa: PLC0415 - only a run needs it

        self._attacker = Attacker(self.scene.deployment)
        self._attacker.become_relay()

    def apply(self) -> None:
        from nodes.provider.protocol import CALL, call, call_codec, request_id  # noqa: PLC0415

        attacker, count = self._attacker, self.scene.event.params["batch"]
        assert attacker is not None, "arm was not called"
        assert isinstance(count, int)
        stolen = self._stolen()
        messages, trials = [], []
        for number in range(count if stolen else 0):
            device = self.scene.rng.choice(sorted(stolen))
            key, highest = stolen[device]
            counter = highest + 1 + number  # below what the device itself says next
            body = json.dumps({"values": [self.scene.rng.randrange(10**6)]}).encode()
            said = call(bytes.fromhex(key), device, "data", counter, body)
            messages.append((device, CALL, call_codec.encode(said)))
            trials.append(request_id(device, counter).hex())
        attacker.up_each(messages)
        self.sent(*trials, keys_found=len(stolen))

    def close(self) -> None:
        if self._attacker is not None:
            self._attacker.close()

    def _stolen(self) -> dict[str, tuple[str, int]]:
        from testbed.provision.configs import STORE  # noqa: PLC0415 - only a run needs it
        from testbed.systems.baseline import ESCROW  # noqa: PLC0415 - see above

        deployment = self.scene.deployment
        (provider,) = deployment.with_role("replica")
        program = "attacks/on_host/steal_escrow.py"
        files = (provider.file(ESCROW), provider.file(STORE))
        argv = programs.python(deployment.python(provider), program, *files)
        found: dict[str, tuple[str, int]] = json.loads(deployment.host(provider).run(argv).stdout)
        return found


def _judge(evidence: Evidence, attack: str) -> Judgement:
    """A success is a record that takes effect: once is enough."""
    used = {event.mechanism for event in evidence.trial.events if event.fault == attack}
    judge = _judge_taken if used == {"escrow"} else judge_recorded
    return judge(evidence, attack)


def _judge_taken(evidence: Evidence, attack: str) -> Judgement:
    """What the provider took as a device's. Trials are ids of requests."""
    tried = Tried(evidence, attack)
    outcomes = {event.id: event.outcome for event in evidence.events(Requested)}
    taken = {entry.statement.request.hex() for entry in evidence.longest.entries}
    for line in tried.lines:
        arrived = [trial for trial in line.trials if trial in outcomes]
        tried.see(line, arrived)
        reasons = (outcomes[each].removeprefix("refused:") for each in arrived if each not in taken)
        tried.refused.update(f"provider:{reason}" for reason in reasons)
    return tried.judgement(len(set(tried.trials) & outcomes.keys() & taken))


def _ledgers(scene: Scene) -> Injection:
    return LedgerTheft(scene)


def _escrow(scene: Scene) -> Injection:
    return EscrowTheft(scene)


register(
    Kind(
        "store.steal",
        StolenStore,
        category="attack",
        layer="identity",
        summary="reads all that the service stores, and sends data as its devices with it",
        mechanisms=(
            Mechanism("ledgers", _ledgers, systems=("chain",)),
            Mechanism("escrow", _escrow, systems=("baseline",)),
        ),
        judge=_judge,
        seen="gateway or provider log each message",
    )
)
