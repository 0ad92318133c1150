"""The thief's use of a stolen store: sends data as its devices (`testbed.attacks.stolen_store`)."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

from nodes.provider.protocol import CALL, call, call_codec, request_id
from testbed.attacker.with_attacker import ImpersonateAttack, WithAttacker
from testbed.provision.configs import STORE
from testbed.systems.baseline import ESCROW, attackers_token

__all__ = ["THEFTS"]


class LedgerTheft(ImpersonateAttack):
    """Looks for keys in the ledgers, then does what a thief without keys can do."""

    @property
    def material(self) -> list[str]:
        return ["stolen-id"]

    def apply(self) -> None:
        deployment = self.scene.deployment
        found = 0
        for node in deployment.with_role("replica"):
            found += int(
                deployment.run_program(node, "attacks/on_host/count_keys.py", node.file(STORE))
            )
        self.sent(keys_found=found)
        super().apply()


class EscrowTheft(WithAttacker):
    """Takes the keys of all devices and sends readings that each of them could have sent. A trial
    is the id of a request.

    A counter is the time, as the device's own is, and each message leaves before the next one is
    made. So the device itself can only overtake a message that is on its way.
    """

    def apply(self) -> None:
        stolen, rng = self._stolen(), self.scene.rng
        self.sent(keys_found=len(stolen))
        for _ in range(self.batch if stolen else 0):
            if self.scene.stop.is_set():
                return
            device = rng.choice(sorted(stolen))
            counter = time.time_ns()
            body = json.dumps({"values": [rng.randrange(10**6)]}).encode()
            said = call(bytes.fromhex(stolen[device]), device, "data", counter, body)
            self.attacker.up(device, CALL, [call_codec.encode(said)])
            self.sent(request_id(device, counter).hex())

    def _stolen(self) -> dict[str, str]:
        """The key of each device, in hex."""
        deployment = self.scene.deployment
        (provider,) = deployment.with_role("replica")
        said = deployment.run_program(
            provider, "attacks/on_host/steal_escrow.py", provider.file(ESCROW)
        )
        found: dict[str, str] = json.loads(said)
        own, _ = attackers_token(deployment.material)
        return {device: key for device, key in found.items() if device != own}


THEFTS: Mapping[str, type[WithAttacker]] = {"ledgers": LedgerTheft, "escrow": EscrowTheft}
