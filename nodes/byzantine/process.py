"""`python -m nodes.byzantine.process --config FILE`: a replica that can lie.

It is the process of an honest replica with a wrapper put around its effects. Campaigns and tests
start it in place of `nodes.replica.process`, with a `ByzantineConfig`.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from chain.keys import Signer
from nodes.byzantine.config import Byzantine, ByzantineConfig
from nodes.byzantine.switch import Switch, misbehaviour
from nodes.byzantine.wrapper import Misbehaviour
from nodes.ports import Events
from nodes.replica.driver import Rewrite
from nodes.replica.process import ReplicaProcess, replica_main
from nodes.replica.service import Service

__all__ = ["main"]


def _wrap(config: ByzantineConfig, service: Service, signer: Signer, events: Events) -> Rewrite:
    """The wrapper, or the switch that puts it on and takes it off."""
    started_s = time.monotonic()

    def make(wanted: Byzantine) -> Misbehaviour:
        def active() -> bool:
            age_s = time.monotonic() - started_s
            return wanted.start_s <= age_s and (wanted.stop_s is None or age_s < wanted.stop_s)

        return misbehaviour(
            wanted,
            me=config.replica,
            network=service.ledger.network,
            signer=signer,
            membership=lambda: service.core.membership,
            active=active,
        )

    if config.byzantine is not None:
        return make(config.byzantine).rewrite
    assert config.byzantine_orders is not None, "the config has one of both"
    return Switch(Path(config.byzantine_orders), make, events).rewrite


def main() -> None:
    replica_main(
        ByzantineConfig, lambda config: ReplicaProcess(config, wrap=partial(_wrap, config)), __doc__
    )


if __name__ == "__main__":
    main()
