"""The relaying of an environmental device: it stamps and carries its share of the requests.

Every relay gets every request; `relays` says which one carries it. The others take over the share
of a relay that is gone, without any agreement: if two relays carry one request, the gateway drops
the second by its digest. Each device has a rate limit here already, because the gateway limits the
relay for everything that it carries. Pure: `nodes.device.environment` owns connection and clock.
"""

from __future__ import annotations

from chain.errors import PeerFault
from gateway.bridge.edge import Stamped, ask_codec, stamped_codec
from gateway.bridge.relays import Relays
from gateway.limits import RateLimiter
from gateway.mqtt.topics import Request, Up, parse

__all__ = ["Relay"]


class Relay:
    """`node` is the relay's own id in hex; `boot` grows with each of its starts."""

    def __init__(self, net: str, node: str, boot: int, limiter: RateLimiter) -> None:
        self._net = net
        self._node = node
        self._boot = boot
        self._limiter = limiter
        self._count = 0
        self._relays = Relays(node)

    def on_status(self, topic: str, payload: bytes, now_ms: int) -> None:
        """Another node's status."""
        self._relays.on_status(topic, payload, now_ms)

    def on_request(self, topic: str, payload: bytes, now_ms: int) -> tuple[str, bytes] | None:
        """(topic, payload) to publish for a device's request; None if another relay carries it.

        Raises PeerFault if topic or envelope are not those of a device's request, or "rate".
        """
        asked = parse(topic)
        if not isinstance(asked, Request):
            raise PeerFault("bad-topic", f"{topic} is not a request")
        if not self._limiter.admit(asked.device):
            raise PeerFault("rate", f"too many requests of {asked.device}")
        ask = ask_codec.decode(payload)
        ranked = self._relays.ranked(asked.device, ask.body, now_ms)
        if ranked[(ask.tries or 0) % len(ranked)] != self._node:
            return None
        return self.stamp(asked.device, ask.kind, ask.body, now_ms, ask.tries)

    def stamp(
        self, device: str, kind: str, body: bytes, now_ms: int, tries: int | None = None
    ) -> tuple[str, bytes]:
        """(topic, payload) that brings `body` to the gateway; also for the relay's own messages."""
        self._count += 1
        stamped = Stamped(n=self._count, boot=self._boot, at_ms=now_ms, body=body, tries=tries)
        return str(Up(self._net, self._node, device, kind)), stamped_codec.encode(stamped)
