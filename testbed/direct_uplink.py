"""How a device's messages leave that is its own relay: straight to the gateway."""

from __future__ import annotations

from chain.errors import PeerFault
from gateway.edge import Kind, Stamped, stamped_codec
from gateway.mqtt import Message, Presence
from gateway.topics import Up
from nodes.login import Login

__all__ = ["DirectUplink"]


class DirectUplink:
    """Implements `nodes.device.Uplink`."""

    def __init__(self, net: str) -> None:
        self._net = net
        self._count = 0

    def wrap(self, me: str, kind: Kind, body: bytes) -> tuple[str, bytes]:
        self._count += 1
        stamped = Stamped(n=self._count, boot=0, at_ms=0, body=body)
        return str(Up(self._net, me, me, kind)), stamped_codec.encode(stamped)

    def unwrap(self, payload: bytes) -> bytes:
        return stamped_codec.decode(payload).body

    def subscriptions(self, me: str) -> tuple[str, ...]:
        del me
        return ()

    def presence(self, me: str) -> Presence | None:
        del me
        return None

    async def other(self, login: Login, message: Message) -> None:
        del login
        raise PeerFault("bad-topic", message.topic)
