"""A bench that stays up: its description for later commands, and the operator's own files.

`testbed up` writes `bench.json` (0600) into a private directory that goes away with it; commands
find the newest one of this user whose bench still runs, by a lock that ends with its process:
after a kill -9 the files stay, and the process id may be somebody else's. What an operator does
with it is in `operator`.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from inventory.model import Lab
from nodes.device.state import DeviceState
from nodes.edge_config import BrokerAddress
from nodes.keygen import KEY_FILE
from nodes.process import write_atomically
from testbed.errors import ConfigurationError
from testbed.provision.deployment import Deployment

__all__ = [
    "BENCH_FILE",
    "Bench",
    "BenchNode",
    "describe",
    "find_bench",
    "newest_bench",
    "read_bench",
    "running",
]

BENCH_FILE = "bench.json"
OPERATOR_DIRECTORY = "operator"
GENESIS_FILE = "genesis.json"
LAB_FILE = "lab.json"
LOCK_FILE = "running"
HOW_TO_START = "start one with `testbed up`, in a terminal of its own"


class BenchNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process. `directory` is where its files are, if that is on this machine."""

    role: str
    host: str
    directory: str | None


class Bench(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`vouchers` maps the SHA-256 of a voucher's key (hex) to the name of its device."""

    schema: str = "testbed.bench/1"
    pid: int
    home: str
    broker_host: str
    broker_port: int
    broker_certificate: str = ""
    broker_carriers: int | None = None
    broker_admin: str
    nodes: dict[str, BenchNode]
    vouchers: dict[str, str]

    @property
    def broker(self) -> BrokerAddress:
        """Where devices reach the broker."""
        return BrokerAddress(
            self.broker_host, self.broker_port, self.broker_certificate, self.broker_carriers
        )

    @property
    def file(self) -> Path:
        return Path(self.home) / BENCH_FILE

    @property
    def genesis(self) -> Path:
        return Path(self.home) / GENESIS_FILE

    @property
    def lab(self) -> Lab:
        """The inventory that it was made from, whatever became of the file. ConfigurationError."""
        path = Path(self.home) / LAB_FILE
        try:
            return Lab.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: {error}; is the bench still up?") from error

    @property
    def operator(self) -> Path:
        """The administrator's key, login and outbox."""
        return Path(self.home) / OPERATOR_DIRECTORY

    def with_voucher(self, voucher: bytes, name: str) -> Bench:
        """Remembers whom a new voucher was given to."""
        bench = msgspec.structs.replace(self, vouchers={**self.vouchers, voucher.hex(): name})
        _write(bench)
        return bench


def describe(deployment: Deployment, home: Path, roots: Mapping[str, Path]) -> Bench:
    """Write down a bench that runs. `roots` are the directories of hosts on this machine."""
    material = deployment.material
    broker = deployment.broker
    bench = Bench(
        pid=os.getpid(),
        home=str(home),
        broker_host=broker.host,
        broker_port=broker.port,
        broker_certificate=broker.certificate,
        broker_carriers=broker.carriers,
        broker_admin=material.broker_admin.password or "",
        nodes={
            node.name: BenchNode(
                node.role,
                node.host,
                str(roots[node.host] / node.directory) if node.host in roots else None,
            )
            for node in deployment.nodes
        },
        vouchers=material.voucher_names,
    )
    bench.genesis.write_bytes(material.genesis.encode())
    (home / LAB_FILE).write_text(deployment.lab.model_dump_json(by_alias=True))
    bench.operator.mkdir(mode=0o700)
    write_atomically(bench.operator / KEY_FILE, material.admin_pem, mode=0o600)
    DeviceState(bench.operator / "state.json").set_password(material.operator.password or "")
    _write(bench)
    return bench


def read_bench(path: Path) -> Bench:
    """Raises ConfigurationError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Bench)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: {error}: {HOW_TO_START}") from error


def find_bench(path: Path | None) -> Bench:
    """The bench described by `path`, or the newest that runs. Raises ConfigurationError."""
    if path is not None:
        bench = read_bench(path / BENCH_FILE if path.is_dir() else path)
        if not _runs(bench):
            raise ConfigurationError(
                f"{path}: this bench has ended (its process was {bench.pid}): {HOW_TO_START}"
            )
        return bench
    newest = newest_bench()
    if newest is None:
        raise ConfigurationError(f"no bench is up on this machine: {HOW_TO_START}")
    return newest


def newest_bench() -> Bench | None:
    """Of those of this user that run."""
    found: list[tuple[int, Bench]] = []
    for path in Path(tempfile.gettempdir()).glob(f"m2m-*/{BENCH_FILE}"):
        with suppress(FileNotFoundError, ConfigurationError):  # one that ends in this moment
            status = path.stat()
            if status.st_uid == os.getuid() and _runs(bench := read_bench(path)):
                found.append((status.st_mtime_ns, bench))
    return max(found, key=lambda pair: pair[0])[1] if found else None


def _write(bench: Bench) -> None:
    data = msgspec.json.format(msgspec.json.encode(bench), indent=1)
    write_atomically(bench.file, data, mode=0o600)


@contextmanager
def running(home: Path) -> Iterator[None]:
    """Tells others that the bench is up, until the end of this process at the latest."""
    with (home / LOCK_FILE).open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _runs(bench: Bench) -> bool:
    try:
        with (Path(bench.home) / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
