"""`testbed bench peers`: compares BFT-SMaRt with this project, in one run on one machine.

BFT-SMaRt is the user's own build, with its `smartrun.sh` and its `config/`; we neither ship nor
fetch it. The bench runs its micro-benchmark, `ThroughputLatencyServer` for each replica of
`config/hosts.config` and `ThroughputLatencyClient`, and reads the figures that these print.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import msgspec

from testbed.bench.child import running
from testbed.bench.stage import STALL_S, Say
from testbed.errors import ConfigurationError, LabFault

__all__ = ["Figures", "PeerWorkload", "figures", "hosts", "measure_bft_smart", "settings"]

_DEMO = "bftsmart.demo.microbenchmarks.ThroughputLatency"
_FIRST_CLIENT = 1001
_INTERVALS = 20  # measurements of throughput in one run
_POLL_S = 0.1
_LIMIT_S = 600.0  # of the clients' run
_THROUGHPUT = re.compile(r"^Throughput = ([0-9.E]+) operations/sec", re.MULTILINE)
_LATENCY = re.compile(r"// Average time for \d+ executions \(all samples\) = ([0-9.E]+) us")
_DONE = "All clients done."
_COMMUNICATION = "system.communication."
# How the library authenticates requests: this decides whether the comparison is fair.
_AUTHENTICATION = ("useSignatures", "signatureAlgorithm", "defaultkeys", "useMACs")


class PeerWorkload(msgspec.Struct, frozen=True, kw_only=True):
    """`signatures` and `write` are words of the micro-benchmark: how requests are signed and
    checked, and whether each batch is synced ("rwd")."""

    clients: int
    operations: int  # of each client; the first half warms up
    payload_bytes: int
    signatures: str
    write: str


class Figures(msgspec.Struct, frozen=True):
    """`requests_per_s` is the median of the second half of the first replica's measurements;
    `latency_ms` is the first client's mean."""

    requests_per_s: float
    latency_ms: float


def hosts(build: Path) -> list[tuple[int, int]]:
    """Replica ids and ports for clients in `config/hosts.config`. Raises ConfigurationError."""
    if not (build / "smartrun.sh").is_file():
        raise ConfigurationError(
            f"--bft-smart {build}: no smartrun.sh in it; name the folder that its build installs"
        )
    if shutil.which("java") is None:
        raise ConfigurationError("bench peers: BFT-SMaRt needs java on the PATH")
    config = build / "config" / "hosts.config"
    if not config.is_file():
        raise ConfigurationError(f"{config}: not found; it names the replicas")
    found = []
    for number, line in enumerate(config.read_text().splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            replica, address, port = int(words[0]), ipaddress.ip_address(words[1]), int(words[2])
        except (IndexError, ValueError):
            raise ConfigurationError(
                f"{config}:{number}: wanted an id, an address and ports, as 0 127.0.0.1 11000 11001"
            ) from None
        if not address.is_loopback:
            raise ConfigurationError(
                f"{config}:{number}: {address} is not of this machine; take 127.0.0.1"
            )
        if replica < _FIRST_CLIENT:
            found.append((replica, port))
    if len(found) < 4:
        raise ConfigurationError(f"{config}: {len(found)} replicas; 4 are needed")
    return found


def settings(build: Path) -> dict[str, str]:
    """The lines of `config/system.config` that say how requests are authenticated; "?" for a
    missing one."""
    said = dict.fromkeys(_AUTHENTICATION, "?")
    path = build / "config" / "system.config"
    for line in path.read_text().splitlines() if path.is_file() else ():
        name, equals, value = line.strip().partition("=")
        key = name.strip().removeprefix(_COMMUNICATION)
        if equals and key in said:
            said[key] = value.strip()
    return said


def figures(server: str, client: str) -> Figures:
    """From what the first replica and the clients printed. Raises LabFault."""
    rates = [float(rate) for rate in _THROUGHPUT.findall(server)]
    latency = _LATENCY.search(client)
    if not rates or latency is None:
        raise LabFault("BFT-SMaRt printed no throughput or no latency: more operations are needed")
    return Figures(
        round(median(rates[len(rates) // 2 :]), 1), round(float(latency.group(1)) / 1000, 3)
    )


def measure_bft_smart(build: Path, asked: PeerWorkload, say: Say) -> Figures:
    """Raises ConfigurationError, LabFault."""
    replicas = hosts(build)
    interval = max(1, asked.clients * asked.operations // _INTERVALS)
    out = build / "testbed-peers"
    out.mkdir(exist_ok=True)
    with ExitStack() as stack:
        for replica, _ in replicas:
            words = [replica, interval, 0, 0, "false", asked.signatures, asked.write]
            stack.enter_context(_started(build, "Server", words, out / f"server-{replica}.txt"))
        say(f"BFT-SMaRt: waiting for {len(replicas)} replicas")
        _listening([port for _, port in replicas])
        say(f"BFT-SMaRt: {asked.clients} clients, {asked.operations} operations each")
        words = [_FIRST_CLIENT, asked.clients, asked.operations, asked.payload_bytes, 0]
        words += ["false", "false", asked.signatures]
        output = out / "client.txt"
        client = stack.enter_context(_started(build, "Client", words, output))
        end_s = time.monotonic() + _LIMIT_S
        # The client does not end when it is done: one of its threads waits for ever.
        while _DONE not in output.read_text():
            if client.poll() is not None or time.monotonic() > end_s:
                raise LabFault(f"BFT-SMaRt's clients did not come to an end; see {out}")
            time.sleep(_POLL_S)
    return figures((out / f"server-{replicas[0][0]}.txt").read_text(), output.read_text())


@contextmanager
def _started(
    build: Path, part: str, words: list[object], out: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Starts `smartrun.sh`, which starts java."""
    given = [str(word) for word in words if word != ""]
    command = ["/bin/sh", "./smartrun.sh", _DEMO + part, *given]
    with (
        out.open("wb") as file,
        running(command, cwd=build, stdout=file, stderr=subprocess.STDOUT) as process,
    ):
        yield process


def _listening(ports: list[int]) -> None:
    end_s = time.monotonic() + STALL_S
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), _POLL_S).close()
                break
            except OSError:
                if time.monotonic() > end_s:
                    raise LabFault(f"BFT-SMaRt's replica does not listen on port {port}") from None
                time.sleep(_POLL_S)
