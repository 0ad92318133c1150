"""An admitted device renews its certificate in time, and carries out orders of its operator.

Time is the chain's: that of the newest block of the device's own copy. So a device without a clock
renews as well. An order is a file, `order.json` in the device's state directory. It is removed when
it has been carried out: {"do": "renew" | "rollover" | "revoke"}.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

import msgspec

from chain.keys import Es256Signer
from chain.ledger.operations import Operation, Renew, Revoke
from chain.ledger.possession import renewal_statement
from chain.ledger.statement import OK
from nodes.device.device import Answer, Device, Refused
from nodes.device.ledger_sync import LedgerSync
from nodes.device.login import Login
from nodes.events import EventLog
from nodes.keygen import load_key, make_key

__all__ = ["ORDER_FILE", "KeyChanged", "Order", "Renewal"]

ORDER_FILE = "order.json"
CHECK_PERIOD_S = 0.5
RETRY_AFTER_CHECKS = 20


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operator's order to this device."""

    do: Literal["renew", "rollover", "revoke"]


class KeyChanged(Exception):
    """Another key of this device is in force. The device goes on as a new identity."""


class Renewal:
    def __init__(
        self, directory: Path, validity_s: int, device: Device, sync: LedgerSync, events: EventLog
    ) -> None:
        self._directory = directory
        self._validity_s = validity_s
        self._device = device
        self._sync = sync
        self._events = events

    async def run(self, login: Login) -> None:
        """Runs until cancelled. Raises KeyChanged."""
        pause = 0
        while True:
            await asyncio.sleep(CHECK_PERIOD_S)
            pause = max(0, pause - 1)
            if (order := self._order()) is not None:
                await self._obey(login, order)
            elif pause == 0 and self._is_due():
                await self._ask(login, "renew")
                pause = RETRY_AFTER_CHECKS  # the copy does not show it yet

    def resumed(self, operation: Operation, answer: Answer) -> None:
        """A renewal or revocation of an earlier process was answered. Raises KeyChanged."""
        if isinstance(operation, Renew | Revoke):
            self._carried_out()
            self._answered(type(operation).__name__.lower(), answer)

    def _order(self) -> Order | None:
        path = self._directory / ORDER_FILE
        try:
            return msgspec.json.decode(path.read_bytes(), type=Order)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError) as error:
            self._events.emit("order", status=f"not understood: {error}")
            self._carried_out()
            return None

    async def _obey(self, login: Login, order: Order) -> None:
        try:
            await self._ask(login, order.do)
        except KeyChanged:
            self._carried_out()
            raise
        self._carried_out()

    def _carried_out(self) -> None:
        (self._directory / ORDER_FILE).unlink(missing_ok=True)

    def _is_due(self) -> bool:
        """Two thirds of the certificate's validity are over."""
        ledger = self._sync.copy.ledger
        identity = ledger.registry.identity(self._device.node) if ledger is not None else None
        if ledger is None or identity is None or identity.ended is not None:
            return False
        span_us = identity.not_after_us - identity.not_before_us
        return ledger.time_us >= identity.not_before_us + 2 * span_us // 3

    async def _ask(self, login: Login, what: Literal["renew", "rollover", "revoke"]) -> None:
        device = self._device
        network, node = device.genesis.network, device.node

        def make(counter: int) -> Operation:
            if what == "revoke":
                return Revoke(
                    network=network, node=node, counter=counter, target=node, reason="own wish"
                )
            signer = device.signer if what == "renew" else self._next_signer()
            possession = signer.sign(renewal_statement(network, node, signer.public))
            return Renew(
                network=network,
                node=node,
                counter=counter,
                key=signer.public,
                validity_s=self._validity_s,
                possession=possession,
            )

        async with device.asking(login, make) as answer:
            self._answered(what, answer)

    def _next_signer(self) -> Es256Signer:
        return Es256Signer(load_key(make_key(self._directory / self._device.state.next_key_file)))

    def _answered(self, do: str, answer: Answer) -> None:
        status = f"denied: {answer.reason}" if isinstance(answer, Refused) else answer.status
        self._events.emit("order", do=do, status=status)
        if isinstance(answer, Refused) or answer.status != OK or answer.op != "renew":
            return
        if answer.by is None:
            self._device.keep_certificate(self._device.key)
            return
        key = load_key(self._directory / self._device.state.next_key_file)
        self._device.keep_certificate(key)
        self._device.state.succeed(self._device.sealed_for(key))
        raise KeyChanged(answer.node.hex())
