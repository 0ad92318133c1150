"""A network of real replica processes on this machine, for benchmarks and tests.

The campaign runner provisions labs through hosts and inventories. This module starts N replicas
directly, with mutual TLS on loopback, each in its own directory.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import msgspec

from chain.genesis import Consensus, Genesis, Member, Policy
from nodes.byzantine.config import Byzantine, ByzantineConfig
from nodes.config import (
    Address,
    ClientConfig,
    PeerConfig,
    ReplicaConfig,
    certificate_spki,
)
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, PublicKeys, keygen
from nodes.switch.replica import SwitchedReplicaConfig
from testbed.errors import LabFault

__all__ = ["READY_S_MAX", "STOP_S_MAX", "HeldPort", "ReplicaNetwork"]

READY_S_MAX = 60.0
STOP_S_MAX = 60.0
TRACE = "trace.bin"
SWITCH = "switch"
_POLL_S = 0.01


class ReplicaNetwork:
    """Files of all replicas under `directory`; processes are started one by one or together.

    The gateway `client` has its key in the folder of that name. `store` is "sqlite" or "memory".
    Each replica writes its profile into the folder `profile`. With `trace_every` one request in so
    many is traced. With `switch` each replica has the switch of campaigns, which gets no order.
    """

    def __init__(
        self,
        directory: Path,
        *,
        replicas: int = 4,
        policy: Policy,
        consensus: Consensus | None = None,
        store: str = "sqlite",
        byzantine: Mapping[int, Byzantine] | None = None,
        verify_threads: int | None = None,
        profile: Path | None = None,
        keep_data_blocks: int | None = None,
        trace_every: int | None = None,
        switch: bool = False,
    ) -> None:
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self._lies = dict(byzantine or {})
        self._program = "switch.replica" if switch else "replica.process"
        self.replicas = range(replicas)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        keys = {n: keygen(self.home(n)) for n in self.replicas}
        client = keygen(self.client_home)
        self._held = {n: HeldPort() for n in self.replicas}
        self.ports = {n: held.number for n, held in self._held.items()}
        self.certificates = {n: keys[n].certificate for n in self.replicas}
        self.genesis = Genesis(
            name="loopback",
            time_us=time.time_ns() // 1000,
            members=tuple(Member(n, certificate_spki(keys[n].certificate)) for n in self.replicas),
            policy=policy,
            consensus=consensus or Consensus(),
        )
        (directory / "genesis.json").write_bytes(self.genesis.encode())
        for n in self.replicas:
            config = self._config(n, client, store)
            config = msgspec.structs.replace(
                config,
                verify_threads=verify_threads,
                profile=str(profile.absolute() / f"replica-{n}.pstats") if profile else None,
                keep_data_blocks=keep_data_blocks,
                trace=TRACE if trace_every else None,
                trace_every=trace_every or 1,
            )
            if n in self._lies:
                fields = msgspec.structs.asdict(config)
                config = ByzantineConfig(**fields, byzantine=self._lies[n])
            elif switch:
                fields = msgspec.structs.asdict(config)
                config = SwitchedReplicaConfig(**fields, switch=SWITCH)
            self.config(n).write_bytes(msgspec.json.format(msgspec.json.encode(config)))

    @property
    def client_home(self) -> Path:
        return self.directory / "client"

    def home(self, replica: int) -> Path:
        return self.directory / f"r{replica}"

    def ledger(self, replica: int) -> Path:
        return self.home(replica) / "ledger.db"

    def events(self, replica: int) -> Path:
        return self.home(replica) / "events.jsonl"

    def trace(self, replica: int) -> Path:
        return self.home(replica) / TRACE

    def config(self, replica: int) -> Path:
        return self.home(replica) / "replica.json"

    def _config(self, n: int, client: PublicKeys, store: str) -> ReplicaConfig:
        return ReplicaConfig(
            name=f"r{n}",
            replica=n,
            genesis="../genesis.json",
            key=KEY_FILE,
            certificate=CERTIFICATE_FILE,
            store=":memory:" if store == "memory" else "ledger.db",
            listen=Address("127.0.0.1", self.ports[n]),
            ready="ready.json",
            events="events.jsonl",
            peers=tuple(
                PeerConfig(m, "127.0.0.1", self.ports[m], self.certificates[m])
                for m in self.replicas
                if m != n
            ),
            clients=(ClientConfig("client", client.certificate),),
        )

    def start(self, *replicas: int) -> None:
        """Starts the named replicas (default: all) and waits until they listen."""
        wanted = replicas or tuple(self.replicas)
        for n in wanted:
            (self.home(n) / "ready.json").unlink(missing_ok=True)
            with (self.home(n) / "stderr").open("ab") as errors:
                self._processes[n] = subprocess.Popen(
                    [
                        sys.executable,
                        "-m",
                        f"nodes.{'byzantine.process' if n in self._lies else self._program}",
                        "--config",
                        str(self.config(n)),
                        "--exit-on-stdin-eof",
                    ],
                    stdin=subprocess.PIPE,
                    stderr=errors,
                )
        for n in wanted:
            self._wait_ready(n)

    def _wait_ready(self, n: int) -> None:
        deadline = time.monotonic() + READY_S_MAX
        while not (self.home(n) / "ready.json").exists():
            if self._processes[n].poll() is not None or time.monotonic() > deadline:
                raise LabFault(f"replica {n} did not start: {self.stderr(n) or 'no message'}")
            time.sleep(_POLL_S)

    def stderr(self, replica: int) -> str:
        return (self.home(replica) / "stderr").read_text()

    def pid(self, replica: int) -> int:
        return self._processes[replica].pid

    def kill(self, replica: int) -> None:
        """kill -9."""
        self._processes[replica].send_signal(signal.SIGKILL)
        self._processes[replica].wait()
        self._forget(replica)

    def terminate(self, replica: int) -> int:
        """Sends SIGTERM. Returns the exit code."""
        process = self._processes[replica]
        process.terminate()
        code = process.wait(STOP_S_MAX)
        self._forget(replica)
        return code

    def hang_up(self, replica: int) -> int:
        """Closes its stdin, as it happens when its parent ends. Returns the exit code."""
        process = self._processes[replica]
        assert process.stdin is not None
        process.stdin.close()
        return process.wait(STOP_S_MAX)

    def _forget(self, replica: int) -> None:
        process = self._processes.pop(replica)
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()

    def stop(self) -> None:
        """Ends every process: by SIGTERM, then by SIGKILL."""
        for process in self._processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for n, process in list(self._processes.items()):
            try:
                process.wait(STOP_S_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            self._forget(n)
        for held in self._held.values():
            held.release()

    def __enter__(self) -> Self:
        """Starts all replicas."""
        try:
            self.start()
        except BaseException:  # then nobody else ends those that run
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class HeldPort:
    """A free port of the loopback. Until it is released, the system gives it to no other program,
    even before its process listens and while that process is dead. Our socket does not listen, so
    on Linux the process can. On other systems the port is released at once, and somebody else may
    take it."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._socket.bind(("127.0.0.1", 0))
        self.number: int = self._socket.getsockname()[1]
        if sys.platform != "linux":
            self.release()

    def release(self) -> None:
        self._socket.close()
