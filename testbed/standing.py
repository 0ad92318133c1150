"""A bench that stays up: its description for later commands, and the operator's own files.

`testbed up` writes `bench.json` (0600) into a private directory that goes away with it; commands
find the newest one of this user whose bench still runs. What an operator does with it is in
`operator`.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import msgspec

from nodes.device_state import DeviceState
from nodes.keygen import KEY_FILE
from nodes.process import write_atomically
from testbed.errors import ConfigurationError
from testbed.provision.deployment import Deployment

__all__ = ["BENCH_FILE", "Bench", "BenchNode", "describe", "find_bench", "read_bench"]

BENCH_FILE = "bench.json"
OPERATOR_DIRECTORY = "operator"
GENESIS_FILE = "genesis.json"


class BenchNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process. `directory` is where its files are, if that is on this machine."""

    role: str
    host: str
    directory: str | None


class Bench(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`vouchers` maps voucher ids (hex) to the names of the devices that were given them."""

    schema: str = "testbed.bench/1"
    pid: int
    home: str
    broker_host: str
    broker_port: int
    broker_admin: str
    nodes: dict[str, BenchNode]
    vouchers: dict[str, str]

    @property
    def genesis(self) -> Path:
        return Path(self.home) / GENESIS_FILE

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
    host, port = deployment.address(deployment.with_role("broker")[0])
    bench = Bench(
        pid=os.getpid(),
        home=str(home),
        broker_host=host,
        broker_port=port,
        broker_admin=material.broker_admin.password or "",
        nodes={
            node.name: BenchNode(
                node.role,
                node.host,
                str(roots[node.host] / node.directory) if node.host in roots else None,
            )
            for node in deployment.nodes
        },
        vouchers={each.grant().id.hex(): name for name, each in material.vouchers.items()},
    )
    bench.genesis.write_bytes(material.genesis.encode())
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
        raise ConfigurationError(f"{path}: {error}; is the bench still up?") from error


def find_bench(path: Path | None) -> Bench:
    """The bench described by `path`, or the newest that runs. Raises ConfigurationError."""
    if path is not None:
        return read_bench(path / BENCH_FILE if path.is_dir() else path)
    found = [
        each
        for each in Path(tempfile.gettempdir()).glob(f"m2m-*/{BENCH_FILE}")
        if each.stat().st_uid == os.getuid()
    ]
    for each in sorted(found, key=lambda file: file.stat().st_mtime, reverse=True):
        bench = read_bench(each)
        if _alive(bench.pid):
            return bench
    raise ConfigurationError("no bench is up on this machine: start one with `testbed up`")


def _write(bench: Bench) -> None:
    data = msgspec.json.format(msgspec.json.encode(bench), indent=1)
    write_atomically(Path(bench.home) / BENCH_FILE, data, mode=0o600)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
