"""A replica's disk and clock by order: full, slow, ahead, behind, too fast; and right again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from chain.pbft.effects import Durable
from nodes.disk import lacks_room
from nodes.ports import StoreFull
from nodes.replica.memory_store import MemoryStore
from nodes.switch.clock import ClockOrder, ClockSeam
from nodes.switch.orders import Orders
from nodes.switch.store import StoreOrder, StoreSeam
from tests.nodes.store_support import stored
from tests.nodes.test_switch import Emitted

FACT = Durable("proposal", 0, 1, b"data")


class Disk:
    """A seam around a store in memory, and what it slept."""

    def __init__(self) -> None:
        self.slept_s: list[float] = []
        self.under = MemoryStore()
        self.seam = StoreSeam(self.under, self.slept_s.append)


def test_a_full_store_takes_nothing_and_says_it_as_a_full_disk_does(tmp_path: Path) -> None:
    """Or the process would end instead of waiting for room."""
    disk = Disk()
    disk.seam.take({"store.a.json": StoreOrder(full=True)})
    writes: list[Callable[[], None]] = [
        lambda: disk.seam.put_fact(FACT),
        lambda: disk.seam.put_block(1, stored(1)),
        lambda: disk.seam.forget(1),
    ]
    for write in writes:
        with pytest.raises(StoreFull) as full:
            write()
        assert lacks_room(full.value, tmp_path)
    assert (disk.under.height, disk.under.facts()) == (0, [])
    disk.seam.take({})
    disk.seam.put_fact(FACT)
    disk.seam.put_block(1, stored(1))
    disk.seam.commit()
    assert (disk.seam.height, disk.seam.facts()) == (1, [FACT])
    assert disk.seam.fact("proposal", 0, 1) == FACT
    assert [*disk.seam.blocks(1, 1)] == [stored(1)]
    assert disk.seam.heads(1, 1) == [stored(1).block.head]
    assert disk.seam.stable_from(0) is None


def test_only_a_commit_that_writes_is_slow_and_delays_add_up() -> None:
    disk = Disk()
    slow = {n: StoreOrder(commit_delay_ms=200) for n in ("store.a.json", "store.b.json")}
    disk.seam.take(slow)
    disk.seam.commit()
    assert disk.slept_s == []
    disk.seam.put_fact(FACT)
    disk.seam.commit()
    disk.seam.commit()
    assert disk.slept_s == [0.4]


class Ticking:
    """Both clocks of a machine, in the test's hand."""

    def __init__(self) -> None:
        self.us = 10**15

    def now_us(self) -> int:
        return self.us

    def monotonic_us(self) -> int:
        return self.us - 10**14


def test_a_clock_is_ahead_and_goes_too_fast_while_it_is_ordered() -> None:
    real = Ticking()
    seam = ClockSeam(real)
    assert seam.now_us() == real.us
    seam.take({"clock.a.json": ClockOrder(step_ms=-60_000)})
    assert seam.now_us() == real.us - 60_000_000
    drift = {"clock.b.json": ClockOrder(drift_ppm=1000)}
    seam.take({"clock.a.json": ClockOrder(step_ms=-60_000)} | drift)
    real.us += 5_000_000
    assert seam.now_us() == real.us - 60_000_000 + 5_000
    seam.take(drift)  # goes on as it was, though the other one has ended
    assert seam.now_us() == real.us + 5_000
    assert seam.monotonic_us() == real.monotonic_us(), "durations stay right"
    seam.take({})
    assert seam.now_us() == real.us


def test_a_process_that_begins_again_is_under_the_orders_that_hold(tmp_path: Path) -> None:
    """It waited for room on its disk, in the same process: nobody took the order back."""
    orders, disk = Orders(tmp_path / "switch"), Disk()
    orders.add("store", StoreOrder, disk.seam.take)
    (tmp_path / "switch/store.a.json").write_text('{"full": true}')
    (tmp_path / "switch/store.a.json").chmod(0o600)
    orders.look(Emitted())
    again = Disk()
    orders.add("store", StoreOrder, again.seam.take)
    with pytest.raises(StoreFull):
        again.seam.put_fact(FACT)
