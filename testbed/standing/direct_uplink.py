"""The uplink of a device that is its own relay: it sends directly to the gateway."""

from __future__ import annotations

from gateway.bridge.edge import RequestKind, Stamped, stamped_codec
from gateway.mqtt.topics import Up
from nodes.device.mobile import MobileUplink

__all__ = ["DirectUplink"]


class DirectUplink(MobileUplink):
    """Like a mobile device's uplink, but messages are stamped as a relay stamps them."""

    def __init__(self, net: str) -> None:
        super().__init__(net)
        self._count = 0

    def wrap(self, me: str, kind: RequestKind, body: bytes) -> tuple[str, bytes]:
        self._count += 1
        stamped = Stamped(n=self._count, boot=0, at_ms=0, body=body)
        return str(Up(self._net, me, me, kind)), stamped_codec.encode(stamped)

    def again(self, payload: bytes, tries: int) -> bytes:
        """Does nothing: there is no relay that could be avoided."""
        del tries
        return payload

    def unwrap(self, payload: bytes) -> bytes:
        return stamped_codec.decode(payload).body
