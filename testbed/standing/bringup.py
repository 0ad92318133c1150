"""A running lab for the length of a `with` block: deployed, its devices enrolling and sending.

`testbed up` keeps one until it is ended; `testbed refusals` and benchmarks use their own.
`running_lab` has its description for later commands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from inventory.model import Lab
from nodes.device.workload import Go
from testbed.campaign.between import assert_clean
from testbed.campaign.hosts import opened_hosts
from testbed.care.lease import Lease
from testbed.hosts.opening import limited
from testbed.provision.deployment import Deployment, Progress
from testbed.provision.layout import Node
from testbed.provision.workspace import workspace
from testbed.standing.control import controlled
from testbed.standing.running_lab import RunningLab, describe, marked_running

__all__ = ["running_lab"]

DAY_MS = 86_400_000
ANSWER_TIMEOUT_MS = 5_000


@contextmanager
def running_lab(
    lab: Lab,
    every_ms: float,
    progress: Progress,
    inventory: str = "",
    prepare: Callable[[Deployment], None] = lambda _: None,
) -> Iterator[tuple[RunningLab, Deployment]]:
    """A running lab for the length of a `with` block; devices enrol at once.

    `inventory` is the file with which later commands name it. Without one they do not find it:
    `testbed down` must not end the lab of a bench or of `testbed refusals`. `prepare` may change
    the files of processes before they start.
    """
    with ExitStack() as stack:
        home = stack.enter_context(workspace())  # removed last, because `testbed down` waits for it
        if inventory:
            stack.enter_context(marked_running(home))
        hosts, python = stack.enter_context(opened_hosts(lab))
        stack.enter_context(Lease({name: hosts[name] for name in limited(lab, None)}))
        assert_clean(hosts)
        deployment = stack.enter_context(Deployment(lab, hosts, python, progress))
        deployment.set_up()
        prepare(deployment)
        deployment.start()
        running = describe(
            deployment,
            home,
            inventory=inventory,
            start_ns=time.time_ns(),
            period_ms=round(every_ms),
        )
        devices = [*deployment.with_role("environment"), *deployment.with_role("mobile")]
        deployment.go({node.name: _plan(node, running) for node in devices})
        stack.enter_context(controlled(home, deployment))
        yield running, deployment


def _plan(node: Node, running: RunningLab) -> bytes:
    """The plan of a device. Mobile devices send; the boards of an environmental device have periods
    of their own."""
    plan = Go(
        start_ns=running.start_ns,
        enrol_at_ms=0,
        draws=(running.sends(node.name, DAY_MS),) if node.role == "mobile" else (),
        end_ms=DAY_MS,
        timeout_ms=ANSWER_TIMEOUT_MS,
    )
    return msgspec.json.encode(plan)
