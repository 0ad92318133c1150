"""The nft and tc rules of one host as text, and the parsers of nft's and tc's reports. Pure.

Losses happen where packets arrive: our own nft table drops by the sender's address, so its counters
show the losses. All other shapes apply where packets leave: a `prio` discipline on the data
interface has an unshaped first band, and each other band has a netem with one shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from gateway.shaping import Shape
from testbed.care.restore import QDISC_HANDLE, TABLE_COMMENT
from testbed.errors import LabFault

__all__ = ["BANDS_MAX", "TABLE", "HostNet", "filter_script", "queue_script", "read_filter"]
__all__ += ["read_queue"]

TABLE = "testbed_links"
BANDS_MAX = 16  # of a prio discipline; the first is for unshaped packets
_SHARES = 10_000  # a loss is a number out of so many packets


@dataclass(frozen=True, slots=True)
class HostNet:
    """What rules need to know of a host. `data` is its data interface. Without `by_interface` it
    may carry SSH too: then SSH's port is exempt."""

    data: str | None
    by_interface: bool
    ssh_port: int


def filter_script(net: HostNet, losses: Mapping[str, float]) -> str:
    """For `nft -f`: drops a share of what arrives from each address; "" if nothing is dropped."""
    if not losses:
        return ""
    rules = []
    if not net.by_interface:
        rules += [f"tcp {end} {net.ssh_port} accept" for end in ("dport", "sport")]
    at = f'iifname "{net.data}" ' if net.by_interface else ""
    for address, share in losses.items():
        some = "" if share == 1.0 else f"numgen random mod {_SHARES} < {round(share * _SHARES)} "
        rules.append(f"{at}{_family(address)} saddr {address} {some}counter drop")
    lines = "\n".join(f"    {rule}" for rule in rules)
    return (
        f'table inet {TABLE} {{\n  comment "{TABLE_COMMENT}"\n  chain arriving {{\n'
        f"    type filter hook input priority -10; policy accept;\n{lines}\n  }}\n}}"
    )


def read_filter(said: str) -> dict[str, tuple[float, int]]:
    """Reads `nft -j list table`: by address, the share that is lost and the packets that were
    dropped."""
    found: dict[str, tuple[float, int]] = {}
    for item in json.loads(said).get("nftables", ()):
        address, share, packets = "", 1.0, -1
        for part in item.get("rule", {}).get("expr", ()):
            if "counter" in part:
                packets = int(part["counter"]["packets"])
            match = part.get("match", {})
            left = match.get("left", {})
            if left.get("payload", {}).get("field") == "saddr":
                address = str(match["right"])
            if "numgen" in left:
                share = int(match["right"]) / _SHARES
        if address and packets >= 0:
            found[address] = (share, packets)
    return found


def queue_script(net: HostNet, shapes: Mapping[str, Shape]) -> str:
    """For `tc -batch`: shapes what leaves for each address; "" if nothing is shaped."""
    if not shapes:
        return ""
    bands = bands_of(shapes)
    root = f"dev {net.data} parent {QDISC_HANDLE}"
    all_in_first = " ".join(["0"] * 16)
    lines = [
        f"qdisc add dev {net.data} root handle {QDISC_HANDLE} "
        f"prio bands {max(2, len(bands) + 1)} priomap {all_in_first}"
    ]
    lines += [f"qdisc add {root}{band} netem {_netem(shape)}" for shape, band in bands.items()]
    if not net.by_interface:
        for end in ("dport", "sport"):
            port = f"match ip protocol 6 0xff match ip {end} {net.ssh_port} 0xffff"
            lines.append(f"filter add {root} protocol ip prio 1 u32 {port} flowid {QDISC_HANDLE}1")
    for address, shape in shapes.items():
        family = _family(address)
        protocol, number, bits = ("ip", 2, 32) if family == "ip" else ("ipv6", 3, 128)
        lines.append(
            f"filter add {root} protocol {protocol} prio {number} u32 match {family} dst "
            f"{address}/{bits} flowid {QDISC_HANDLE}{bands[shape]}"
        )
    return "\n".join(lines)


def read_queue(said: str, shapes: Mapping[str, Shape]) -> dict[str, tuple[Shape, int]]:
    """Reads `tc -j -s qdisc show`: the shape of each address's band, and its number of packets."""
    bands: dict[str, tuple[Shape, int]] = {}
    for item in json.loads(said):
        if item.get("kind") == "netem":
            bands[item["parent"]] = (_shape(item.get("options", {})), int(item.get("packets", 0)))
    ours = bands_of(shapes)
    return {
        address: bands[place]
        for address, shape in shapes.items()
        # tc prints bands in hexadecimal
        if (place := f"{QDISC_HANDLE}{ours[shape]}") in bands
    }


def bands_of(shapes: Mapping[str, Shape]) -> dict[Shape, str]:
    """Equal shapes share one band, and so one rate. Raises LabFault beyond BANDS_MAX."""
    different = list(dict.fromkeys(shapes.values()))
    if len(different) >= BANDS_MAX:
        raise LabFault(f"{len(different)} different shapes on a host; at most {BANDS_MAX - 1}")
    return {shape: f"{band:x}" for band, shape in enumerate(different, 2)}


def _netem(shape: Shape) -> str:
    words = []
    if shape.delay_ms or shape.jitter_ms:
        words.append(f"delay {shape.delay_ms:g}ms {shape.jitter_ms:g}ms")
    for name in ("reorder", "duplicate", "corrupt"):
        if share := getattr(shape, name):
            words.append(f"{name} {100 * share:g}%")
    if shape.rate_kbit:
        words.append(f"rate {shape.rate_kbit:g}kbit")
    return " ".join(words)


def _shape(options: Mapping[str, Any]) -> Shape:
    """The shape from netem's options, which are in seconds, shares and bytes per second."""
    delay, rate = options.get("delay", {}), options.get("rate", {})
    return Shape(
        delay_ms=round(1000 * delay.get("delay", 0), 3),
        jitter_ms=round(1000 * delay.get("jitter", 0), 3),
        reorder=round(options.get("reorder", {}).get("reorder", 0), 4),
        duplicate=round(options.get("duplicate", {}).get("duplicate", 0), 4),
        corrupt=round(options.get("corrupt", {}).get("corrupt", 0), 4),
        rate_kbit=round(8 * rate.get("rate", 0) / 1000, 3),
    )


def _family(address: str) -> str:
    return "ip" if ip_address(address).version == 4 else "ip6"
