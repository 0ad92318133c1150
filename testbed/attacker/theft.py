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
    is the id of a request."""

    def apply(self) -> None:
        stolen, rng = self._stolen(), self.scene.rng
        messages, trials = [], []
        for number in range(self.batch if stolen else 0):
            device = rng.choice(sorted(stolen))
            key, highest = stolen[device]
            # The time, as the device does: its next counter is higher, and those that it used while
            # the store was read are lower.
            counter = max(highest + 1 + number, time.time_ns())
            body = json.dumps({"values": [rng.randrange(10**6)]}).encode()
            said = call(bytes.fromhex(key), device, "data", counter, body)
            messages.append((device, CALL, call_codec.encode(said)))
            trials.append(request_id(device, counter).hex())
        self.attacker.up_each(messages)
        self.sent(*trials, keys_found=len(stolen))

    def _stolen(self) -> dict[str, tuple[str, int]]:
        """By device: its key and the highest counter that the provider has accepted."""
        deployment = self.scene.deployment
        (provider,) = deployment.with_role("replica")
        files = (provider.file(ESCROW), provider.file(STORE))
        said = deployment.run_program(provider, "attacks/on_host/steal_escrow.py", *files)
        found: dict[str, tuple[str, int]] = json.loads(said)
        own, _ = attackers_token(deployment.material)
        return {device: key for device, key in found.items() if device != own}


THEFTS: Mapping[str, type[WithAttacker]] = {"ledgers": LedgerTheft, "escrow": EscrowTheft}
