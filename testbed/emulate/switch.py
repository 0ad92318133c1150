"""A user-space Ethernet switch that can delay, drop and slow the frames of each link.

It replaces `tc netem` on kernels without it. Each host's data interface is a TAP device with its
other end here, so a shape applies only to one direction between two hosts. There is one thread;
frames wait in one heap. A delay is precise to about 1 ms.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import random
import select
import struct
import threading
import time
from collections import Counter

from gateway.shaping import NO_SHAPE, Shape, Shaper

__all__ = ["Switch"]

QUEUED_FRAMES_MAX = 20_000
"""Frames that may wait for their time, over all links. More are dropped and counted."""

_FRAME_BYTES_MAX = 65_536
_BURST_FRAMES = 64
_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_BROADCAST_BIT = 1
_HEADER_BYTES = 14  # the Ethernet header is not damaged: the frame would go to another host


class Switch:
    """Ports are hosts. `shape` may be called from any thread while traffic flows."""

    def __init__(self) -> None:
        self._random = random.Random(0)  # noqa: S311 - reproducible on purpose
        self._lock = threading.Lock()
        self._poll = select.epoll()
        self._taps: dict[int, str] = {}
        self._by_mac: dict[bytes, int] = {}
        self._shapers: dict[tuple[str, str], tuple[Shaper, float]] = {}
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        self._queue: list[tuple[float, int, int, tuple[str, str], bytes]] = []
        self._sequence = 0
        threading.Thread(target=self._forward, name="switch", daemon=True).start()

    def plug(self, host: str, mac: str, device: str) -> None:
        """Make the TAP device `device` and attach it; the caller moves it into the host."""
        self.unplug(host)
        tap = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH", device.encode(), _IFF_TAP | _IFF_NO_PI))
        with self._lock:
            self._taps[tap] = host
            self._by_mac[bytes.fromhex(mac.replace(":", ""))] = tap
            self._poll.register(tap, select.EPOLLIN)

    def unplug(self, host: str) -> None:
        """Close the host's port. Frames that wait for it are lost. Repeatable."""
        with self._lock:
            for tap in [tap for tap, name in self._taps.items() if name == host]:
                self._drop_port(tap)

    def shape(self, source: str, target: str, shape: Shape, for_s: float = 0.0) -> None:
        """Shape one direction. With `for_s` the shape ends by itself, even if the process that set
        it is gone."""
        until = time.monotonic() + for_s if for_s else float("inf")
        with self._lock:
            if shape == NO_SHAPE:
                self._shapers.pop((source, target), None)
                return
            shaper = Shaper(
                shape,
                self._random,
                in_order=False,
                header_bytes=_HEADER_BYTES,
                counts=self._counts.setdefault((source, target), Counter()),
            )
            self._shapers[source, target] = (shaper, until)

    def clear(self) -> None:
        """Remove all shapes. Frames that wait still arrive."""
        with self._lock:
            self._shapers.clear()

    def links(self) -> list[dict[str, object]]:
        """The shapes in force, with counts of frames since the start: passed, lost, ..."""
        now = time.monotonic()
        with self._lock:
            rows: list[dict[str, object]] = []
            for pair in sorted(set(self._counts) | set(self._shapers)):
                shaper, until = self._shapers.get(pair, (None, float("inf")))
                shape = shaper.shape if shaper is not None and now < until else NO_SHAPE
                left = {"left_s": round(until - now, 3)} if now < until < float("inf") else {}
                frames = dict(self._counts.get(pair, Counter()))
                fields = {name: getattr(shape, name) for name in Shape.__struct_fields__}
                rows.append({"from": pair[0], "to": pair[1], **fields, **left, "frames": frames})
            return rows

    def _drop_port(self, tap: int) -> None:
        self._poll.unregister(tap)
        del self._taps[tap]
        self._by_mac = {mac: port for mac, port in self._by_mac.items() if port != tap}
        self._queue = [entry for entry in self._queue if entry[2] != tap]
        heapq.heapify(self._queue)
        os.close(tap)

    def _forward(self) -> None:
        while True:
            wait_s = -1.0
            with self._lock:
                if self._queue:
                    wait_s = max(0.0, self._queue[0][0] - time.monotonic())
            # An idle switch looks again after a second, because a frame may have been queued
            # meanwhile.
            events = self._poll.poll(1.0 if wait_s < 0 else wait_s)
            with self._lock:
                for tap, _ in events:
                    if tap in self._taps:
                        self._receive(tap)
                self._deliver()

    def _receive(self, tap: int) -> None:
        for _ in range(_BURST_FRAMES):
            try:
                frame = os.read(tap, _FRAME_BYTES_MAX)
            except BlockingIOError:
                return
            except OSError:  # the host is gone, and its device too
                self._drop_port(tap)
                return
            if frame[0] & _BROADCAST_BIT:
                for other in list(self._taps):
                    if other != tap:
                        self._route(tap, other, frame)
            elif (target := self._by_mac.get(frame[:6])) is not None:
                self._route(tap, target, frame)

    def _route(self, source: int, target: int, frame: bytes) -> None:
        pair = (self._taps[source], self._taps[target])
        counts = self._counts.setdefault(pair, Counter())
        shaper, until = self._shapers.get(pair, (None, 0.0))
        now = time.monotonic()
        if shaper is not None and until <= now:
            del self._shapers[pair]
            shaper = None
        if shaper is None:
            self._send(target, frame, counts)
            return
        for due, copy in shaper.take(frame, now):
            if len(self._queue) >= QUEUED_FRAMES_MAX:
                counts["overflowed"] += 1
                continue
            self._sequence += 1
            heapq.heappush(self._queue, (due, self._sequence, target, pair, copy))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._queue and self._queue[0][0] <= now:
            _, _, target, pair, frame = heapq.heappop(self._queue)
            self._send(target, frame, self._counts[pair])

    def _send(self, target: int, frame: bytes, counts: Counter[str]) -> None:
        try:
            os.write(target, frame)
            counts["passed"] += 1
        except OSError:  # the interface is down, or its queue is full
            counts["refused"] += 1
