"""`unchecked.py MODULE ...`: runs a process of ours that checks nothing.

No signature, password, voucher, right or tag of a serial frame is checked, and a gateway that was
flooded once serves nobody any more. For tests that see a verdict say "broken".
"""

from __future__ import annotations

import runpy
import sys
from typing import Any

from chain.keys import Es256
from chain.ledger import admission
from chain.ledger.identity import Identity
from chain.ledger.operations import Operation
from chain.ledger.reasons import Reason
from chain.ledger.registry import Registry
from chain.ledger.rules import RULES
from gateway.broker.store import SecurityStore
from gateway.limits import RateLimiter
from gateway.serial.seal import Channel


def yes(*_: object, **__: object) -> bool:
    return True


def nothing(*_: object) -> None:
    """No reason to refuse."""


def by_anybody(registry: Any, operation: Operation, signer: Identity) -> Reason | None:
    """What only administrators may do, by whoever signs it."""
    return RULES[type(operation)].refusal(registry._tables, operation, signer)


refusal = RateLimiter._refusal
flooded: set[str] = set()


def until_flooded(limiter: RateLimiter, source: str, now_s: float) -> str | None:
    if refusal(limiter, source, now_s) is not None:
        flooded.add(source)
    return "flooded" if flooded else None


for owner, name, put in (
    (Es256, "verify", yes),
    (SecurityStore, "allows", yes),
    (SecurityStore, "knows", yes),
    (Channel, "wrote", yes),
    (admission, "_voucher_refusal", nothing),
    (Registry, "_refusal", by_anybody),
    (RateLimiter, "_refusal", until_flooded),
):
    assert hasattr(owner, name), f"{owner} has no {name} any more: nothing would be broken"
    setattr(owner, name, put)
del sys.argv[0]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
