"""`python -m nodes.byzantine.process --config FILE`: a replica that lies as configured.

It is the process of an honest replica with a wrapper put around its effects. Tests and benchmarks
start it in place of `nodes.replica.process`; campaigns use `nodes.switch`, which can be switched.
"""

from __future__ import annotations

import time

from chain.keys import Signer
from nodes.byzantine.config import ByzantineConfig
from nodes.byzantine.tricks import misbehaviour
from nodes.ports import Events
from nodes.replica.around import Around
from nodes.replica.driver import Rewrite
from nodes.replica.process import ReplicaProcess, replica_main
from nodes.replica.service import Service

__all__ = ["main"]


class _Lying(Around):
    def __init__(self, config: ByzantineConfig) -> None:
        self._config = config
        self._started_s = time.monotonic()

    def effects(self, service: Service, signer: Signer, events: Events) -> Rewrite:
        wanted = self._config.byzantine

        def active() -> bool:
            age_s = time.monotonic() - self._started_s
            return wanted.start_s <= age_s and (wanted.stop_s is None or age_s < wanted.stop_s)

        return misbehaviour(
            wanted,
            me=self._config.replica,
            network=service.ledger.network,
            signer=signer,
            membership=lambda: service.core.membership,
            active=active,
        ).rewrite


def main() -> None:
    replica_main(ByzantineConfig, lambda config: ReplicaProcess(config, _Lying(config)), __doc__)


if __name__ == "__main__":
    main()
