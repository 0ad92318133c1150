"""Which relays are up, and which of them carries a message.

Each relay repeats its status every PRESENCE_S, and its MQTT will says that it is gone. A relay that
is silent for SILENT_MS counts as gone too. No status is retained. A hash over relay, device and
body ranks the relays for each message. So nobody can choose a key that ranks first for a device,
and a relay that drops messages drops only its share. A device without an answer counts its tries,
and each try goes to the relay that ranks next.
"""

from __future__ import annotations

from chain.errors import PeerFault
from chain.keys import digest
from gateway.mqtt.link import PRESENCE_S
from gateway.mqtt.topics import Status, parse

__all__ = ["ONLINE", "Relays"]

ONLINE = b"relay"
"""The status of a relay that is up. Its will is the empty status, b""."""

RELAYS_MAX = 1024
SILENT_MS = int(3.5 * PRESENCE_S * 1000)


class Relays:
    """`own` is the id of the relay that asks, which is always up; "" at the gateway."""

    def __init__(self, own: str = "") -> None:
        self._own = own
        self._heard_ms: dict[str, int] = {}

    def on_status(self, topic: str, payload: bytes, now_ms: int) -> None:
        """Takes a node's status. Raises PeerFault."""
        about = parse(topic)
        if not isinstance(about, Status):
            raise PeerFault("bad-topic", f"{topic} is not a status")
        if payload != ONLINE:
            self._heard_ms.pop(about.node, None)
        elif about.node in self._heard_ms or len(self._heard_ms) < RELAYS_MAX:
            self._heard_ms[about.node] = now_ms

    def up(self, now_ms: int) -> set[str]:
        self._heard_ms = {
            node: heard_ms
            for node, heard_ms in self._heard_ms.items()
            if now_ms - heard_ms <= SILENT_MS
        }
        return {*self._heard_ms, self._own} - {""}

    def ranked(self, device: str, body: bytes, now_ms: int) -> list[str]:
        """The relays that are up, the one that carries the first try first."""
        seed = digest(body)
        return sorted(
            self.up(now_ms),
            key=lambda relay: digest(f"{relay}/{device}/".encode() + seed),
            reverse=True,
        )
