"""The verification limit: no consensus on this machine can be faster.

It is measured with N processes that each verify every request once, and a client that signs;
nothing else runs. A replica does more per request, so it is slower; the ratio says by how much.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import psutil

from chain.keys import Es256
from chain.ledger.envelope import sign_operation
from testbed.bench.load import BenchDevice
from testbed.errors import LabFault

__all__ = ["Limit", "cpu_s", "verification_limit"]

_CHUNK = 64  # requests handed over at once
_CHUNKS_AHEAD = 3
_NETWORK = bytes(32)
_LENGTH_BYTES = 4
_ENDED = "a verifying process of the limit ended, or a signature did not hold"


class Limit(NamedTuple):
    """`cpu_us_per_request` is the sum over all processes."""

    requests_per_s: float
    cpu_us_per_request: float


def verification_limit(replicas: int, size_bytes: int, seconds: float) -> Limit:
    """A whole request is `size_bytes` long."""
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "testbed.bench.limit"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(replicas)
    ]
    try:
        return _feed(workers, size_bytes, seconds)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _feed(workers: Sequence[subprocess.Popen[bytes]], size_bytes: int, seconds: float) -> Limit:
    device = BenchDevice()
    payload = device.payload(_NETWORK, size_bytes)
    _send(workers, _chunk(device, payload))
    _confirm(workers)  # all are up
    done = ahead = 0
    processes = [psutil.Process(), *(psutil.Process(worker.pid) for worker in workers)]
    cpu_start_s = cpu_s(processes)
    start_s = time.perf_counter()
    while True:
        _send(workers, _chunk(device, payload))
        ahead += 1
        if ahead > _CHUNKS_AHEAD:
            _confirm(workers)
            ahead -= 1
            done += _CHUNK
            elapsed_s = time.perf_counter() - start_s
            if elapsed_s >= seconds:
                spent_s = cpu_s(processes) - cpu_start_s
                return Limit(done / elapsed_s, spent_s / done * 1e6)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    """User and system time of all processes."""
    times = [process.cpu_times() for process in processes]
    return sum(each.user + each.system for each in times)


def _chunk(device: BenchDevice, payload: bytes) -> bytes:
    """One chunk: the signer's key, then the requests."""
    signer = device.signer
    requests = [sign_operation(device.data(_NETWORK, payload), signer) for _ in range(_CHUNK)]
    return msgspec.msgpack.encode([signer.public, *requests])


def _send(workers: Sequence[subprocess.Popen[bytes]], chunk: bytes) -> None:
    for worker in workers:
        assert worker.stdin is not None
        try:
            worker.stdin.write(len(chunk).to_bytes(_LENGTH_BYTES, "big") + chunk)
            worker.stdin.flush()
        except BrokenPipeError as error:
            raise LabFault(_ENDED) from error


def _confirm(workers: Sequence[subprocess.Popen[bytes]]) -> None:
    for worker in workers:
        assert worker.stdout is not None
        if worker.stdout.read(1) != b".":
            raise LabFault(_ENDED)


def _verify_stdin() -> None:
    """The worker: bare signature checks, no decoding."""
    scheme = Es256()
    read, out = sys.stdin.buffer.read, sys.stdout.buffer
    while header := read(_LENGTH_BYTES):
        chunk = read(int.from_bytes(header, "big"))
        spki, *requests = msgspec.msgpack.decode(chunk, type=list[bytes])
        if not all(_holds(scheme, spki, cose) for cose in requests):
            return
        out.write(b".")
        out.flush()


def _holds(scheme: Es256, spki: bytes, cose: bytes) -> bool:
    """Verifies one request. Cuts the envelope (`chain.ledger.operations`) by offset: 14 bytes,
    SPKI, payload, signature."""
    payload = cose[14 + len(spki) : -66]
    return scheme.verify(spki, b"\x84\x6aSignature1\x43\xa1\x01\x26\x40" + payload, cose[-64:])


if __name__ == "__main__":
    _verify_stdin()
