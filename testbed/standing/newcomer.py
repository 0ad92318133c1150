"""One more device for a running lab: its files, and its first run until it has verified the ledger.

The device runs as a child of the command and makes its own key. Later it is started with `python -m
nodes.device.mobile --config DIR/config.json`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec

from nodes.config import load_config
from nodes.device.vouchers import FACTORY_CHAIN, FACTORY_KEY
from nodes.device.workload import Go
from nodes.edge_config import MobileConfig
from nodes.events import read_events
from testbed.errors import LabFault, RefusedError
from testbed.standing.running_lab import RunningLab

__all__ = ["CONFIG", "VOUCHER", "run_until_admitted", "write_device"]

CONFIG = "config.json"
VOUCHER = "voucher.pem"
_EVENTS = "events.jsonl"
WAIT_S_MAX = 60.0
POLL_S = 0.1
ANSWER_TIMEOUT_MS = 5_000
# What an operator should check first, by the reason that the chain gave.
_HINTS = {
    "factory-chain": "do its certificates lead to a root in chain.factory_roots of the inventory, "
    "and is the first one no CA's?",
    "factory-expired": "a certificate on the way to the root has expired",
    "factory-early": "a certificate on the way to the root is not valid yet",
    "used-voucher": "this voucher, or factory identity, has admitted a device already",
    "expired-voucher": "admit the device again, with a longer --good-for",
    "withdrawn-voucher": "an administrator took this voucher back",
    "factory-barred": "an administrator barred this factory identity",
    "kind": "this voucher, or the manufacturer's root, is for another kind of device",
    "privilege": "ask for a lower --privilege",
}


def write_device(
    directory: Path, name: str, privilege: int, running: RunningLab, factory: Path | None
) -> None:
    """Writes all files except the voucher. With `factory`, the device's identity is in that
    directory."""
    (directory / "genesis.json").write_bytes(running.genesis.read_bytes())
    config = MobileConfig(
        name=name,
        genesis="genesis.json",
        state="state",
        voucher=VOUCHER if factory is None else str(factory / FACTORY_KEY),
        factory_chain=None if factory is None else str(factory / FACTORY_CHAIN),
        broker=running.broker,
        go="go.json",
        privilege=privilege,
        session=False,
        events=_EVENTS,
    )
    (directory / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config)))
    go = Go(start_ns=time.time_ns(), enrol_at_ms=0, end_ms=0, timeout_ms=ANSWER_TIMEOUT_MS)
    (directory / "go.json").write_bytes(msgspec.json.encode(go))


def run_until_admitted(name: str, directory: Path) -> int:
    """Runs the device until it is admitted. Returns the height up to which it has verified the
    ledger. Raises RefusedError if it is denied, LabFault if it gets no answer."""
    argv = [sys.executable, "-m", "nodes.device.mobile", "--config", str(directory / CONFIG)]
    log = directory / _EVENTS
    child = subprocess.Popen([*argv, "--exit-on-stdin-eof"], stdin=subprocess.PIPE)
    carriers = load_config(directory / CONFIG, MobileConfig).broker.carriers is not None
    events: dict[str, dict[str, object]] = {}
    deadline_s = time.monotonic() + WAIT_S_MAX
    try:
        # If the broker takes device certificates, it must accept this one when the device is handed
        # over.
        while "done" not in events or (
            carriers and "admitted" in events and "carrier-known" not in events
        ):
            if time.monotonic() > deadline_s or child.poll() is not None:
                raise LabFault(f"{name} was not admitted within {WAIT_S_MAX:.0f} s; see {log}")
            if events.get("no-broker", {}).get("bad_login"):
                raise RefusedError(
                    f"{name}: the broker refuses its login: its voucher was withdrawn, has expired "
                    "or was used, or it was revoked"
                )
            time.sleep(POLL_S)
            events = {e.event: e.fields for e in read_events(log)} if log.exists() else {}
    finally:
        child.terminate()
        child.wait()
    if "admitted" not in events:
        reason = str(events.get("denied", {}).get("reason", "unknown"))
        hint = f": {_HINTS[reason]}" if reason in _HINTS else ""
        raise RefusedError(f"{name} was denied: {reason}{hint}")
    return int(str(events.get("ledger-verified", {}).get("height", 0)))
