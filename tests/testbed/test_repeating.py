"""A fault that goes on in a thread of its own never ends unnoticed, and never goes on after its
end."""

from __future__ import annotations

import threading

import pytest

from testbed.faults.repeating import Repeating
from testbed.hosts.port import HostFault, Unreachable


@pytest.mark.parametrize("error", [HostFault("r1", "kill", "no sudo"), KeyError("a bug of ours")])
def test_an_error_that_ended_the_work_is_raised_by_the_check(error: Exception) -> None:
    raised = threading.Event()

    def work() -> None:
        raised.set()
        raise error

    repeating = Repeating("test", work)
    repeating.check()
    repeating.start(lambda: 0)
    assert raised.wait(10)
    repeating.end()
    with pytest.raises(type(error)) as caught:
        repeating.check()
    assert caught.value is error


def test_a_host_that_does_not_answer_is_asked_again() -> None:
    times: list[int] = []
    again = threading.Event()

    def work() -> None:
        times.append(1)
        if len(times) == 1:
            raise Unreachable("r1", "kill", "no answer")
        again.set()

    repeating = Repeating("test", work)
    repeating.start(lambda: 0)
    assert again.wait(10)
    repeating.end()
    repeating.check()


def test_the_end_waits_for_the_work_under_way_and_no_other_begins() -> None:
    begun, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def work() -> None:
        begun.set()
        go_on.wait()
        done.append("work")

    repeating = Repeating("test", work)
    repeating.start(lambda: 0)
    assert begun.wait(10)

    def end() -> None:
        repeating.end()
        done.append("ended")

    ending = threading.Thread(target=end)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()
    go_on.set()
    ending.join()
    begun.clear()
    assert done[-1] == "ended"
    assert not begun.wait(0.05)
    repeating.end()


def test_the_end_of_one_that_never_started_is_no_error() -> None:
    Repeating("test", lambda: None).end()
