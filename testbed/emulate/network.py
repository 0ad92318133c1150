"""Cables of an emulated lab: namespaces, bridge, addresses and routes, made with `ip`.

Everything except the orchestrator's ends is in the keeper's network namespace, and disappears with
the keeper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from ipaddress import IPv4Network
from pathlib import Path

from testbed.emulate.plan import EmulatedMachine, LabPlan
from testbed.emulate.tools import attempt, demand, tool
from testbed.errors import LabFault

__all__ = [
    "ORCHESTRATOR",
    "add_data_uplink",
    "add_uplink",
    "cable",
    "drop_uplinks",
    "free_networks",
    "open_bridges",
    "unplug",
]

_POOL = IPv4Network("10.213.0.0/16")
ORCHESTRATOR = "orchestrator"
"""Name of the orchestrator's data interface before it is moved out of the keeper's namespace, and
of its port at the switch."""

MGMT = "mgmt"
DATA = "data"


def _ip(commands: Iterable[str], *, netns: Path | None = None) -> None:
    """Runs all commands in one `ip` process, which ends at the first failure."""
    given = "\n".join(commands) + "\n"
    if netns is None:
        demand("ip", "-batch", "-", given=given)
    else:
        demand("nsenter", f"--net={netns}", tool("ip"), "-batch", "-", given=given)


def free_networks() -> tuple[IPv4Network, IPv4Network]:
    """Two /24 networks that no interface or route of this machine touches. Call it under the lab
    lock."""
    shown = demand("ip", "-json", "-4", "route", "show", "table", "all")
    words = [route.get("dst", "") for route in json.loads(shown or "[]")]
    taken = [IPv4Network(word, strict=False) for word in words if word[:1].isdigit()]
    taken = [other for other in taken if other.prefixlen > 0]
    # In pairs: the management uplink exists at once and reserves the data network too.
    for pair in _POOL.subnets(new_prefix=23):
        if not any(pair.overlaps(other) for other in taken):
            management, data = pair.subnets(new_prefix=24)
            return management, data
    raise LabFault(f"no free network in {_POOL}; take another emulated lab down")


def add_uplink(plan: LabPlan, keeper_pid: int) -> None:
    """Adds the orchestrator's management cable. Its far end disappears with the keeper, and the
    cable with it."""
    _ip(
        [
            f"link add {plan.uplink} type veth peer name uplink netns {keeper_pid}",
            f"address add {plan.own_addr}/{_length(plan.network)} dev {plan.uplink}",
            f"link set {plan.uplink} up",
        ]
    )


def add_data_uplink(plan: LabPlan, keeper_pid: int) -> None:
    """Adds the orchestrator's data cable. Its end was made in the keeper's namespace and is moved
    here."""
    moved = f"link set {ORCHESTRATOR} netns {os.getpid()} name {plan.data_uplink}\n"
    inside = ("-t", str(keeper_pid), "-n")
    demand("nsenter", *inside, tool("ip"), "-batch", "-", given=moved)
    _ip(
        [
            f"link set {plan.data_uplink} address {plan.own_data_mac}",
            f"address add {plan.own_data_addr}/{_length(plan.data_network)} dev {plan.data_uplink}",
            f"link set {plan.data_uplink} up",
        ]
    )


def drop_uplinks(lab_id: str) -> None:
    """Remove the orchestrator's cables, if they are still there."""
    for name in (f"tbe-{lab_id}", f"tbd-{lab_id}"):
        attempt("ip", "link", "delete", name)


def _length(network: str) -> int:
    return IPv4Network(network).prefixlen


def open_bridges(plan: LabPlan) -> None:
    """Makes the management bridge in the keeper's namespace. If the keeper does not switch the data
    network itself, also makes a bridge for data, with the orchestrator's cable in it."""
    bridges = [MGMT] if plan.shaping == "switch" else [MGMT, DATA]
    _ip(
        [
            "link set lo up",
            *(f"link add {bridge} type bridge" for bridge in bridges),
            *(f"link set {bridge} up" for bridge in bridges),
            f"link set uplink master {MGMT} up",
        ]
    )
    if plan.shaping == "netem":
        _ip(
            [
                f"link add data-uplink type veth peer name {ORCHESTRATOR}",
                f"link set data-uplink master {DATA} up",
            ]
        )


def cable(plan: LabPlan, machine: EmulatedMachine, netns: Path) -> None:
    """Makes a new namespace with eth0 and eth1 for one boot of a host. A file names it.

    With the switch, the TAP device `d-<host>` must exist already.
    """
    netns.touch()
    demand("unshare", f"--net={netns}", "true")
    _plug_into(MGMT, f"m-{machine.name}", "eth0", netns)
    if plan.shaping == "switch":
        _ip([f"link set d-{machine.name} netns {netns} name eth1"])
    else:
        _plug_into(DATA, f"d-{machine.name}", "eth1", netns)
    _ip(
        [
            "link set lo up",
            # A network card keeps its address over reboots, so that others still find it.
            f"link set eth0 address {machine.mgmt_mac}",
            f"link set eth1 address {machine.data_mac}",
            f"address add {machine.addr}/{_length(plan.network)} dev eth0",
            f"address add {machine.data_addr}/{_length(plan.data_network)} dev eth1",
            "link set eth0 up",
            "link set eth1 up",
        ],
        netns=netns,
    )


def _plug_into(bridge: str, near: str, far: str, netns: Path) -> None:
    attempt("ip", "link", "delete", near)  # the kernel may still be removing the last boot's
    _ip(
        [
            f"link add {near} type veth peer name {far} netns {netns}",
            f"link set {near} master {bridge} up",
        ]
    )


def unplug(netns: Path) -> None:
    """Let go of a namespace; the kernel removes it and its cables once no process is in it."""
    attempt("umount", str(netns))
    netns.unlink(missing_ok=True)
