"""The seam `seals` of a replica: while an order is in force, gateways get false seals."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from chain.keys import Signer
from nodes.byzantine.forgeries import false_seal
from nodes.ports import Party, Wire

__all__ = ["SEAM", "LyingWire", "SealOrder"]

SEAM = "seals"


class SealOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An order without fields: its file is all."""


class LyingWire:
    """Implements `ports.Wire` around another. Only links to gateways are concerned."""

    def __init__(self, wire: Wire, signer: Signer) -> None:
        self._wire = wire
        self._signer = signer
        self._lies = False

    def take(self, orders: Mapping[str, SealOrder]) -> None:
        self._lies = bool(orders)

    def send(self, party: Party, frame: bytes) -> None:
        if self._lies and isinstance(party, str):
            frame = false_seal(frame, self._signer)
        self._wire.send(party, frame)

    def congested(self, party: Party) -> bool:
        return self._wire.congested(party)
