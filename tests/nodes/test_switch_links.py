"""The seam `wire`: messages are shaped while an order holds, and only those of its parties."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from gateway.shaping import CUT, Shape
from nodes.ports import Party
from nodes.switch import links
from nodes.switch.links import LinkOrder, LinksSeam, ShapedWire
from tests.nodes.test_switch import Emitted


class Line:
    """A wire that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[Party, bytes]] = []
        self.came = asyncio.Event()

    def send(self, party: Party, frame: bytes) -> None:
        self.sent.append((party, frame))
        self.came.set()

    def congested(self, party: Party) -> bool:
        return False


def on_a_wire(story: Callable[[LinksSeam, ShapedWire, Line], object]) -> tuple[Line, Emitted]:
    """Runs until everything that was delayed has come."""
    emitted, line = Emitted(), Line()

    async def run() -> None:
        seam = LinksSeam(emitted)
        story(seam, ShapedWire(line, seam), line)
        while seam.waiting:
            line.came.clear()
            await line.came.wait()

    asyncio.run(run())
    return line, emitted


def order(text: str) -> LinkOrder:
    return msgspec.json.decode(text, type=LinkOrder)


def test_only_the_ways_of_an_order_are_shaped_and_only_while_it_holds() -> None:
    def story(seam: LinksSeam, wire: ShapedWire, line: Line) -> None:
        wire.send(1, b"before")
        seam.take({"a": order('{"to": {"1": {"loss": 1.0}}, "from": {"2": {"loss": 1.0}}}')})
        for party in (1, 2, "gw1"):
            wire.send(party, b"during")
        assert not seam.idle
        seam.take({})
        assert seam.idle
        wire.send(1, b"after")

    line, emitted = on_a_wire(story)
    assert line.sent == [(1, b"before"), (2, b"during"), ("gw1", b"during"), (1, b"after")]
    assert emitted.events[0] == ("link-acts", {"to": {"1": {"lost": 1}}, "from": {"2": {}}})


def test_delayed_frames_come_in_their_order_also_after_the_order_is_gone() -> None:
    def story(seam: LinksSeam, wire: ShapedWire, line: Line) -> None:
        seam.take({"a": LinkOrder(to={"1": Shape(delay_ms=20, jitter_ms=20)})})
        for number in range(20):
            wire.send(1, bytes([number]))
        assert len(line.sent) < 20
        seam.take({})

    line, _ = on_a_wire(story)
    assert [frame[0] for _, frame in line.sent] == list(range(20))


def test_orders_of_two_events_add_up_and_healing_one_leaves_the_other() -> None:
    def story(seam: LinksSeam, wire: ShapedWire, line: Line) -> None:
        cut, twice = LinkOrder(to={"1": CUT}), LinkOrder(to={"1": Shape(duplicate=1.0)})
        seam.take({"a": cut, "b": twice})
        wire.send(1, b"lost")
        seam.take({"b": twice})
        wire.send(1, b"doubled")

    line, _ = on_a_wire(story)
    assert line.sent == [(1, b"doubled")] * 2


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "WAITING_MAX", 10)

    def story(seam: LinksSeam, wire: ShapedWire, line: Line) -> None:
        seam.take({"a": LinkOrder(to={"1": Shape(delay_ms=100)})})
        for _ in range(20):
            wire.send(1, b"")

    line, _ = on_a_wire(story)
    assert len(line.sent) == 10
