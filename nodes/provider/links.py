"""The link between the gateway and its provider: mutual TLS, both ends pinned (`nodes.wire`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from chain.errors import PeerFault
from gateway.refusing import refusing
from nodes.config import certificate_der
from nodes.events import CountedEvents, EventLog
from nodes.ports import Party
from nodes.provider.protocol import Carried, carried_codec
from nodes.wire.inbox import Arrivals
from nodes.wire.tls_wire import TlsWire

__all__ = ["PeerLinks"]


class PeerLinks:
    """`certificates` (PEM) of the other ends, and where to `dial` those that we connect to."""

    def __init__(
        self,
        key: str,
        certificate: str,
        certificates: Mapping[Party, str],
        dial: Mapping[Party, tuple[str, int]],
        events: EventLog,
    ) -> None:
        self._inbox = Arrivals()
        self._faults = CountedEvents(events, "peer-fault")
        strangers = CountedEvents(events, "stranger")
        self.wire = TlsWire(
            key_file=Path(key),
            certificate_file=Path(certificate),
            certificates={party: certificate_der(pem) for party, pem in certificates.items()},
            dial=dial,
            inbox=self._inbox,
            on_link=lambda party, up, reason: events.emit(
                "link-up" if up else "link-down", party=party, reason=reason
            ),
            on_refused=lambda reason: strangers.add(reason, reason=reason),
            on_failure=self._inbox.fail,
        )

    def send(self, party: Party, device: str, message: bytes) -> None:
        self.wire.send(party, carried_codec.encode(Carried(device, message)))

    async def turn(self) -> list[tuple[Party, Carried]]:
        """The messages since the last turn; waits until there are some. Raises the exception that
        ended the wire."""
        taken = await self._inbox.turn()
        self.wire.resume()
        return list(self._decoded(taken))

    def _decoded(self, taken: list[tuple[Party, bytes]]) -> Iterator[tuple[Party, Carried]]:
        for party, frame in taken:
            try:
                with refusing():
                    yield party, carried_codec.decode(frame)
            except PeerFault as fault:
                self._faults.add(party, fault.code, party=party, code=fault.code)
