"""Whatever a deployment started is stopped, whenever its end comes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

import pytest

from inventory.load import load_lab
from testbed.errors import LabFault
from testbed.hosts.port import HostFault
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from tests.testbed.outliving import Outliving


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    lab = load_lab()
    hosts = {name: Outliving(tmp_path / name, name=name) for name in lab.hosts}
    yield Deployment(lab, hosts, dict.fromkeys(hosts, sys.executable), print)
    for host in hosts.values():
        host.close()


def test_what_was_put_off_and_fails_keeps_no_process_running(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, ended = set[str](), set[str]()
    monkeypatch.setattr(Outliving, "start", lambda _, unit: began.add(unit.name))
    monkeypatch.setattr(Outliving, "stop", lambda _, name, **__: ended.add(name))
    for node in deployment.with_role("replica"):
        deployment.start_node(node)
    r3 = deployment.hosts["r3"]
    assert isinstance(r3, Outliving)
    r3.lost = True

    def disarm() -> None:
        r3.run(["true"])
        raise HostFault("r3", "disarm", "its undo is still at work")

    done: list[str] = []

    def late() -> None:
        r3.run(["true"])
        done.append("late")

    deployment.when_back("r3", disarm)
    deployment.when_back("r3", late)
    r3.lost = False
    with pytest.raises(LabFault, match="still at work"):
        deployment.stop()
    assert ended == began
    assert done == ["late"]


def test_a_process_whose_start_is_under_way_is_stopped_after_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C does not wait for the threads that start processes."""
    removing, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def remove(*_: object, **__: object) -> None:
        removing.set()
        go_on.wait()

    monkeypatch.setattr(Outliving, "run", remove)
    monkeypatch.setattr(Outliving, "start", lambda *_: done.append("started"))
    monkeypatch.setattr(Outliving, "stop", lambda *_, **__: done.append("stopped"))
    with ThreadPoolExecutor() as pool:
        pool.submit(deployment.start_node, deployment.with_role("replica")[0])
        removing.wait()
        stopped = pool.submit(deployment.stop)
        wait([stopped], timeout=0.2)
        go_on.set()
        stopped.result()
    assert done == ["started", "stopped"]


def test_a_start_that_has_not_begun_when_all_is_stopped_does_not_begin(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the moment in which its thread is there, and has done nothing yet."""
    there, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    threads: list[threading.Thread] = []

    def late(node: Node) -> None:
        threads.append(threading.current_thread())
        there.set()
        go_on.wait()
        Deployment.start_node(deployment, node)

    def interrupted(_: object) -> None:
        monkeypatch.setattr("testbed.fleet.wait", wait)
        there.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr("testbed.fleet.wait", interrupted)
    monkeypatch.setattr(deployment, "start_node", late)
    monkeypatch.setattr(Outliving, "run", lambda *_, **__: None)
    monkeypatch.setattr(Outliving, "start", lambda *_: done.append("started"))
    with pytest.raises(KeyboardInterrupt), deployment:
        deployment.start()
    go_on.set()
    for thread in threads:
        thread.join()
    assert done == []


def test_nobody_waits_for_a_process_that_was_stopped_before_it_was_ready(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C during a start: the program ends when its last thread does."""
    waiting = threading.Event()

    def is_there(*_: object, **__: object) -> bool:
        waiting.set()
        return False

    monkeypatch.setattr(Outliving, "exists", is_there)
    with ThreadPoolExecutor() as pool:
        ready = pool.submit(deployment.wait_ready, deployment.with_role("replica")[0])
        waiting.wait()
        deployment.stop()
        with pytest.raises(LabFault, match="was stopped before"):
            ready.result()


def test_a_process_that_is_revived_while_it_is_to_be_held_down_is_stopped_after_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica = deployment.with_role("replica")[0]
    done = revived_before(deployment, partial(deployment.hold_down, replica), monkeypatch)
    assert done == ["revived", "stopped"]


def test_a_process_that_is_revived_while_all_is_stopped_is_stopped_after_it(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host came back in this moment."""
    done = revived_before(deployment, deployment.stop, monkeypatch)
    assert done == ["revived", "stopped"]


def revived_before(
    deployment: Deployment, end: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What is done to a replica, in order, if `end` is called while it is revived."""
    reviving, go_on = threading.Event(), threading.Event()
    done: list[str] = []
    replica = deployment.with_role("replica")[0]

    def start(*_: object) -> None:
        reviving.set()
        go_on.wait()
        done.append("revived")

    monkeypatch.setattr(Outliving, "run", lambda *_, **__: None)
    monkeypatch.setattr(Outliving, "start", lambda *_: None)
    monkeypatch.setattr(Outliving, "stop", lambda *_, **__: done.append("stopped"))
    deployment.start_node(replica)
    monkeypatch.setattr(Outliving, "start", start)
    with ThreadPoolExecutor() as pool:
        pool.submit(deployment.revive, replica)
        reviving.wait()
        ended = pool.submit(end)
        wait([ended], timeout=0.2)
        go_on.set()
        ended.result()
    return done
