"""A lab that stays up: its description for later commands, and the operator's own files.

`testbed up` writes `running.json` (0600) into a private directory that is removed at the end.
Commands find the newest lab of this user that still runs. A lock shows whether a lab runs. The lock
ends with its process, so a process id that belongs to another program by now never gets a signal.
Finding a lab writes nothing, so it works while the disk is full. `operator` has the operator's work
on a running lab.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import msgspec

from inventory.load import packaged
from inventory.model import Lab
from nodes.device.sends import Draw, Profile, Segment
from nodes.device.state import DeviceState
from nodes.disk import write_atomically
from nodes.edge_config import BrokerAddress
from nodes.keygen import KEY_FILE
from testbed.errors import ConfigurationError
from testbed.hosts.files import locked
from testbed.hosts.local import LocalHost
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node
from testbed.provision.workspace import workspaces

__all__ = [
    "RUNNING_FILE",
    "RunningLab",
    "describe",
    "find_running",
    "inventory_path",
    "marked_running",
    "newest_running",
    "read_running",
]

RUNNING_FILE = "running.json"
OPERATOR_DIRECTORY = "operator"
GENESIS_FILE = "genesis.json"
LAB_FILE = "lab.json"
LOCK_FILE = "running"


class RunningNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process. `directory` is where its files are, if that is on this machine."""

    role: str
    host: str
    directory: str | None


class RunningLab(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`inventory` is the whole path of the file from which it was made. `vouchers` maps the SHA-256
    of a voucher's key (hex) to the name of its device. From `start_ns` (wall time) on each device
    sends every `period_ms`."""

    schema: str = "testbed.running/1"
    pid: int
    inventory: str
    home: str
    start_ns: int
    period_ms: int
    broker_host: str
    broker_port: int
    broker_certificate: str = ""
    broker_carriers: int | None = None
    broker_admin: str
    nodes: dict[str, RunningNode]
    vouchers: dict[str, str]

    @property
    def in_words(self) -> str:
        return f"{self.inventory}, process {self.pid}"

    @property
    def broker(self) -> BrokerAddress:
        """The address at which devices reach the broker."""
        return BrokerAddress(
            self.broker_host, self.broker_port, self.broker_certificate, self.broker_carriers
        )

    @property
    def file(self) -> Path:
        return Path(self.home) / RUNNING_FILE

    @property
    def genesis(self) -> Path:
        return Path(self.home) / GENESIS_FILE

    @property
    def lab(self) -> Lab:
        """The inventory from which it was made, even if the file was changed or removed. Raises
        ConfigurationError."""
        path = Path(self.home) / LAB_FILE
        try:
            return Lab.model_validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ConfigurationError(f"{path}: {error}; is the lab still up?") from error

    @property
    def operator(self) -> Path:
        """The administrator's key, login and outbox."""
        return Path(self.home) / OPERATOR_DIRECTORY

    def sends(self, device: str, until_ms: int) -> Draw:
        """The readings that this device should have sent from the start until then."""
        per_s = 1000 / self.period_ms
        whole = Segment("standing", 0, until_ms, per_s, per_s)
        return Draw.of(Profile("uniform", (whole,)), f"standing/{device}")

    def with_voucher(self, voucher: bytes, name: str) -> RunningLab:
        """The description with one more voucher, for this device."""
        running = msgspec.structs.replace(self, vouchers={**self.vouchers, voucher.hex(): name})
        _write(running)
        return running


def describe(
    deployment: Deployment, home: Path, *, inventory: str, start_ns: int, period_ms: int
) -> RunningLab:
    """Write the description of a running lab."""

    def running_node(node: Node) -> RunningNode:
        host = deployment.host(node)
        here = isinstance(host, LocalHost)
        return RunningNode(node.role, node.host, str(host.root / node.name) if here else None)

    material = deployment.material
    broker = deployment.broker
    running = RunningLab(
        pid=os.getpid(),
        inventory=inventory,
        home=str(home),
        start_ns=start_ns,
        period_ms=period_ms,
        broker_host=broker.host,
        broker_port=broker.port,
        broker_certificate=broker.certificate,
        broker_carriers=broker.carriers,
        broker_admin=material.broker_admin.password or "",
        nodes={n.name: running_node(n) for n in deployment.nodes if n.role != "spare"},
        vouchers=material.voucher_names,
    )
    running.genesis.write_bytes(material.genesis.encode())
    (home / LAB_FILE).write_text(deployment.lab.model_dump_json(by_alias=True))
    running.operator.mkdir(mode=0o700)
    write_atomically(running.operator / KEY_FILE, material.admin_pem, mode=0o600)
    DeviceState(running.operator / "state.json").set_password(material.operator.password or "")
    _write(running)
    return running


def read_running(path: Path) -> RunningLab:
    """Raises ConfigurationError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=RunningLab)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(f"{path}: {error}: is the lab still up?") from error


def inventory_path(inventory: Path | None) -> Path:
    """The path of the file that `-i` names, or of the default."""
    return (inventory or packaged("loopback")).resolve()


def find_running(inventory: Path | None) -> RunningLab:
    """As `newest_running`. Raises ConfigurationError if there is none."""
    running = newest_running(inventory)
    if running is not None:
        return running
    others = "".join(f"\n  one is up: -i {each.inventory}" for each in _all_running())
    raise ConfigurationError(
        f"no lab{f' of {inventory}' if inventory else ''} is up on this machine: "
        f"start one with `testbed up -i FILE`{others}"
    )


def newest_running(inventory: Path | None) -> RunningLab | None:
    """The newest running lab of this user that was made from this file. Without a file: the running
    lab. Raises ConfigurationError if labs of several files run, because a command must not guess in
    which lab it revokes a device."""
    path = None if inventory is None else str(inventory_path(inventory))
    found = [each for each in _all_running() if path in (None, each.inventory)]
    if len({each.inventory for each in found}) > 1:
        options = "".join(f"\n  -i {each.inventory}" for each in found)
        raise ConfigurationError(f"several labs are up; name one:{options}")
    return found[-1] if found else None


def _all_running() -> list[RunningLab]:
    """All running labs of this user, oldest first."""
    found: list[tuple[int, RunningLab]] = []
    for home in workspaces():
        path = home / RUNNING_FILE
        with suppress(FileNotFoundError, ConfigurationError):  # it ends at this moment
            status = path.stat()
            if status.st_uid == os.getuid() and _runs(home):
                found.append((status.st_mtime_ns, read_running(path)))
    return [running for _, running in sorted(found, key=lambda pair: pair[0])]


def _write(running: RunningLab) -> None:
    data = msgspec.json.format(msgspec.json.encode(running), indent=1)
    write_atomically(running.file, data, mode=0o600)


def marked_running(home: Path) -> AbstractContextManager[None]:
    """Marks the lab as up, until the end of this process at the latest."""
    return locked(home / LOCK_FILE)


def _runs(home: Path) -> bool:
    try:
        with (home / LOCK_FILE).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
