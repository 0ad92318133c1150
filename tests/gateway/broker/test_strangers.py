"""Who has not logged in at Mosquitto: the oldest go when they are late or too many."""

from __future__ import annotations

from gateway.broker.port import DoorLimits
from gateway.broker.strangers import Strangers

LIMITS = DoorLimits(handshakes_max=2, connect_deadline_s=5)


def came(number: int) -> str:
    return f"New connection from 127.0.0.1:{number} on port 1883."


def test_the_oldest_go_when_there_are_too_many_and_all_when_they_are_late() -> None:
    now_s = 0.0
    strangers = Strangers(LIMITS, lambda: now_s)
    for number in (1, 2, 3):
        strangers.take(came(number))
    assert strangers.due() == {"127.0.0.1:1"}
    assert strangers.due() == frozenset()
    now_s = 5.0
    strangers.take(came(4))
    assert strangers.due() == {"127.0.0.1:2", "127.0.0.1:3"}


def test_who_has_logged_in_is_none_of_them_and_no_name_is_taken_for_a_line() -> None:
    now_s = 0.0
    strangers = Strangers(LIMITS, lambda: now_s)
    for number in (1, 2):
        strangers.take(came(number))
    strangers.take("New client connected from 127.0.0.1:1 as somebody (p2, c1, k30, u'somebody').")
    strangers.take("Client x New client connected from 127.0.0.1:2 as y disconnected.")
    now_s = 5.0
    assert strangers.due() == {"127.0.0.1:2"}
