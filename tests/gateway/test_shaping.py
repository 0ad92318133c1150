"""A shape is what happens to messages: each part of it alone, and two at once."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from gateway.shaping import CUT, NO_SHAPE, Shape, Shaper

SENT = 2_000


def arrivals(
    shape: Shape, *, in_order: bool = True, gap_s: float = 0.01
) -> list[tuple[float, int]]:
    """When messages 0 to SENT arrive that were sent `gap_s` apart: (time, number) in this order."""
    shaper = Shaper(shape, Random(1), in_order=in_order)
    found = [
        (due_s, int.from_bytes(message, "big"))
        for number in range(SENT)
        for due_s, message in shaper.take(number.to_bytes(100, "big"), number * gap_s)
    ]
    return sorted(found, key=lambda each: each[0])


def test_without_a_shape_everything_arrives_at_once() -> None:
    came = arrivals(NO_SHAPE)
    assert [number for _, number in came] == list(range(SENT))
    assert [due_s for due_s, _ in came] == pytest.approx([n * 0.01 for n in range(SENT)])


def test_a_cut_link_lets_nothing_through() -> None:
    assert arrivals(CUT) == []
    assert CUT.is_cut


def test_a_share_is_lost() -> None:
    assert 0.15 < 1 - len(arrivals(Shape(loss=0.2))) / SENT < 0.25


def test_a_share_arrives_twice() -> None:
    assert 0.15 < len(arrivals(Shape(duplicate=0.2))) / SENT - 1 < 0.25


def test_a_share_is_damaged_and_never_its_header() -> None:
    shaper = Shaper(Shape(corrupt=0.5), Random(1), header_bytes=14)
    sent = bytes(64)
    came = [message for _ in range(SENT) for _, message in shaper.take(sent, 0.0)]
    assert {message[:14] for message in came} == {bytes(14)}
    damaged = [message for message in came if message != sent]
    assert {sum(byte.bit_count() for byte in message) for message in damaged} == {1}
    assert 0.45 < len(damaged) / SENT < 0.55
    assert shaper.counts["corrupted"] == len(damaged)


def test_jitter_keeps_the_order_of_a_stream_and_not_that_of_packets() -> None:
    shape = Shape(delay_ms=100, jitter_ms=50)
    stream = [number for _, number in arrivals(shape)]
    assert stream == sorted(stream)
    packets = arrivals(shape, in_order=False)
    assert [number for _, number in packets] != sorted(number for _, number in packets)
    assert all(0.05 <= due_s - number * 0.01 <= 0.15 for due_s, number in packets)


def test_reordered_messages_overtake_delayed_ones() -> None:
    came = [number for _, number in arrivals(Shape(delay_ms=100, reorder=0.1))]
    assert came != sorted(came)
    with pytest.raises(ValueError, match="reorder without delay_ms"):
        Shape(reorder=0.1)


def test_a_rate_limits_what_arrives_in_a_second() -> None:
    """8 kbit/s are ten messages of 100 bytes."""
    last_s, _ = arrivals(Shape(rate_kbit=8), gap_s=0.0)[-1]
    assert last_s == pytest.approx(SENT / 10)


def test_two_shapes_on_one_link_add_up() -> None:
    both = Shape(delay_ms=10, loss=0.5, rate_kbit=100).and_also(Shape(delay_ms=5, loss=0.5))
    assert both == Shape(delay_ms=15, loss=0.75, rate_kbit=100)
    assert CUT.and_also(both).is_cut


@pytest.mark.parametrize("wrong", [{"loss": 2}, {"delay_ms": -1}, {"colour": 1}, {"loss": "all"}])
def test_a_shape_from_outside_is_checked(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, Shape)
