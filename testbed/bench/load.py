"""Signed load: identities with vouchers in the genesis are enrolled first. Then each has one data
request in flight at a time: in a closed loop, or when the caller submits one (`saturation`)."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator

from cryptography.hazmat.primitives.asymmetric import ec

from chain.genesis import Policy, VoucherGrant
from chain.keys import Es256Signer, node_id
from chain.ledger.envelope import read_operation, sign_operation
from chain.ledger.operations import Data, Enrol, Operation, Token
from chain.ledger.possession import voucher_statement
from testbed.bench.client import Client

__all__ = ["BenchDevice", "ClientLoad", "bench_policy", "devices"]

ENROLS_IN_FLIGHT = 32
SERVICE = "telemetry"


class BenchDevice:
    """A key, a voucher's key, and a counter."""

    def __init__(self) -> None:
        self.signer = Es256Signer(ec.generate_private_key(ec.SECP256R1()))
        self.voucher = Es256Signer(ec.generate_private_key(ec.SECP256R1()))
        self.node = node_id(self.signer.public)
        self.counter = 0

    def enrol(self, network: bytes, head: bytes) -> Enrol:
        statement = voucher_statement(network, self.signer.public, head)
        return Enrol(
            network=network,
            key=self.signer.public,
            kind="mobile",
            service=SERVICE,
            privilege=1,
            validity_s=86_400,
            head=head,
            nonce=os.urandom(16),
            voucher=Token(key=self.voucher.public, signature=self.voucher.sign(statement)),
        )

    def data(self, network: bytes, payload: bytes) -> Data:
        self.counter += 1
        return Data(
            network=network, node=self.node, counter=self.counter, service=SERVICE, payload=payload
        )

    def payload(self, network: bytes, size_bytes: int) -> bytes:
        """Random bytes that make a whole signed data request about `size_bytes` long."""
        empty = len(sign_operation(self.data(network, b""), self.signer))
        self.counter -= 1
        return os.urandom(max(size_bytes - empty, 0))


def devices(count: int) -> list[BenchDevice]:
    return [BenchDevice() for _ in range(count)]


def bench_policy(of: list[BenchDevice]) -> Policy:
    """One voucher per device."""
    return Policy(
        vouchers=tuple(
            sorted(
                (
                    VoucherGrant(
                        id=node_id(device.voucher.public),
                        kind="mobile",
                        privilege_max=1,
                        services=(SERVICE,),
                        not_after_us=2**62,
                    )
                    for device in of
                ),
                key=lambda grant: grant.id,
            )
        )
    )


class ClientLoad:
    """`size_bytes` is the wanted size of one whole signed request (at least that of the
    envelope)."""

    def __init__(self, client: Client, of: list[BenchDevice], size_bytes: int) -> None:
        self.latencies_s: list[float] = []
        self.denied: list[str] = []
        self.finished = 0
        self._client = client
        self.devices = of
        self._network = client.genesis.network
        self.enrolled = 0
        self._stopping = False
        self._payload = of[0].payload(self._network, size_bytes)

    async def enrol(self) -> None:
        """Raises Denial. Has no time limit of its own: see `stage.until`."""
        waiting: Iterator[BenchDevice] = iter(self.devices)

        async def worker() -> None:
            for device in waiting:
                head = self._client.head_hash
                await self._request(device, device.enrol(self._network, head), None)
                self.enrolled += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(ENROLS_IN_FLIGHT):
                group.create_task(worker())

    async def data(self, device: BenchDevice) -> bytes:
        """Sends one request, waits until it is final, and returns its id."""
        return await self._request(device, device.data(self._network, self._payload))

    async def _request(
        self, device: BenchDevice, operation: Operation, timeout_s: float | None = 30.0
    ) -> bytes:
        cose = sign_operation(operation, device.signer)
        request = read_operation(cose, self._network).id
        await self._client.request(cose, request, timeout_s)
        return request

    def start(self, in_flight: int | None = None) -> None:
        """From now on so many devices (default: all) have one request in flight each."""
        self._stopping = False
        for device in self.devices[:in_flight]:
            self._next(device)

    async def stop(self) -> None:
        """No new requests; waits for those in flight."""
        self._stopping = True
        while self._client.in_flight:
            await asyncio.sleep(0.005)

    def submit(self, device: BenchDevice, done: Callable[[str | None], None]) -> None:
        """Sends one data request. `done` is called with the reason of a denial, or with None when
        it is final."""
        cose = sign_operation(device.data(self._network, self._payload), device.signer)

        def finished(reason: str | None) -> None:
            if reason is not None:
                self.denied.append(reason)
            self.finished += 1
            done(reason)

        self._client.submit(cose, finished)

    def _next(self, device: BenchDevice) -> None:
        sent_s = time.perf_counter()

        def done(_: str | None) -> None:
            self.latencies_s.append(time.perf_counter() - sent_s)
            if not self._stopping:
                self._next(device)

        self.submit(device, done)
