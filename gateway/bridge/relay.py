"""What an environmental device does with mobile devices' messages: choose its own, stamp, pass on.

Every relay hears every request. The one that ranks first for a device (rendezvous hashing over
the relays that are up) carries it, so that the share of a dead relay falls to the others and
nothing is agreed between them. Relays that disagree for a moment send a message twice, which the
gateway drops by its digest. Each device has its rate here already, as the gateway holds the relay
to one for all that it carries. Pure: `nodes.device.environment` owns connection and clock.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.keys import digest
from gateway.bridge.edge import Stamped, ask_codec, stamped_codec
from gateway.limits import RateLimiter
from gateway.mqtt.topics import Request, Status, Up, parse

__all__ = ["ONLINE", "Relay"]

ONLINE = b"relay"
"""What a relay says in its retained status while it is up; its will says nothing (b"")."""

RELAYS_MAX = 1024


class Relay:
    """`node` is the relay's own id in hex; `boot` tells its starts apart in the stamps."""

    def __init__(self, net: str, node: str, boot: int, limiter: RateLimiter) -> None:
        self._net = net
        self._node = node
        self._boot = boot
        self._limiter = limiter
        self._count = 0
        self._up = {node}

    def on_status(self, topic: str, payload: bytes) -> None:
        """A node's retained status: is it a relay that is up?"""
        about = parse(topic)
        if not isinstance(about, Status) or about.node == self._node:
            return
        if payload == ONLINE and len(self._up) < RELAYS_MAX:
            self._up.add(about.node)
        elif payload != ONLINE:
            self._up.discard(about.node)

    def carries(self, device: str) -> bool:
        """Whether this relay is the one for `device` (hex id)."""
        return self._node == max(self._up, key=lambda relay: digest(f"{relay}/{device}".encode()))

    def on_request(self, topic: str, payload: bytes, now_ms: int) -> tuple[str, bytes] | None:
        """(topic, payload) to publish for a device's request; None if another relay carries it.

        Raises PeerFault if the topic or the envelope is not what a device sends, or "rate".
        """
        asked = parse(topic)
        if not isinstance(asked, Request):
            raise PeerFault("bad-topic", f"{topic} is no request")
        if not self.carries(asked.device):
            return None
        if not self._limiter.admit(asked.device):
            raise PeerFault("rate", f"too many requests of {asked.device}")
        ask = ask_codec.decode(payload)
        return self.stamp(asked.device, ask.kind, ask.body, now_ms)

    def stamp(self, device: str, kind: str, body: bytes, now_ms: int) -> tuple[str, bytes]:
        """(topic, payload) that brings `body` to the gateway; also for the relay's own messages."""
        self._count += 1
        stamped = Stamped(n=self._count, boot=self._boot, at_ms=now_ms, body=body)
        return str(Up(self._net, self._node, device, kind)), stamped_codec.encode(stamped)
