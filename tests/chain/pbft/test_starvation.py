"""A primary that fills its batches, and still leaves somebody out."""

from __future__ import annotations

import pytest

from chain.pbft import progress
from chain.pbft.inputs import Submitted
from chain.pbft.messages import Forward
from tests.chain.cluster import Cluster
from tests.chain.fakes import item, open_item

BACKUPS = (1, 2, 3)


def test_a_primary_that_fills_its_batches_cannot_leave_one_request_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an accomplice among the clients a full batch per timeout costs it nothing."""
    monkeypatch.setattr(progress, "WAITING_MAX", 64)
    cluster = Cluster(byzantine=[0])
    cluster.lose = lambda source, to, message: to == 0 and isinstance(message, Forward)
    primary = cluster.nodes[0]
    cluster.request("victim", to=BACKUPS)
    for number in range(100):
        full = [Submitted(open_item(item(f"accomplice/{number}-{each}"))) for each in range(8)]
        primary.submit(full)
        cluster.run(800_000)
        if all("victim" in cluster.executed(i) for i in BACKUPS):
            break
    assert all("victim" in cluster.executed(i) for i in BACKUPS), cluster.views()
    assert not cluster.accusations
