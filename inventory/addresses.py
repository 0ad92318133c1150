"""Checks addresses and ports of a lab: they are valid, unique, and there are enough ports.

The other rules are in `checks`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from inventory.entries import HostEntry, ShellyMeter, port_max
from inventory.mistake import Mistake
from inventory.model import Lab

__all__ = ["addresses", "normal", "ports", "stated"]

_HOST_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


def stated(host: HostEntry) -> list[tuple[str, str]]:
    """The addresses that the file states for a host, each with its key."""
    both = (("addr", host.addr), ("data_addr", host.data_addr))
    return [(key, addr) for key, addr in both if addr]


def normal(addr: str) -> str:
    """The same for all spellings of one address."""
    found = _ip(addr)
    return addr.lower().rstrip(".") if found is None else found.compressed


def addresses(lab: Lab) -> Iterator[Mistake]:
    """What can be no address."""
    for name, host in lab.hosts.items():
        for key, addr in stated(host):
            found, where = _ip(addr), ("hosts", name, key)
            if _is_misspelt(addr):
                fix = "the SSH port goes to ssh.port" if ":" in addr else "correct it"
                yield Mistake(where, f"{addr} is no IP address; {fix}")
            elif found is not None and (found.is_unspecified or found.is_multicast):
                yield Mistake(where, f"{addr} is not of one host; write where others reach it")
            elif isinstance(found, ipaddress.IPv6Address) and found.is_link_local:
                fix = "its zone differs from machine to machine; write another one or a name"
                yield Mistake(where, f"{addr} is a link-local address, and {fix}")
        if isinstance(host.meter, ShellyMeter) and _is_misspelt(host.meter.addr):
            yield Mistake(
                ("hosts", name, "meter", "addr"),
                f"{host.meter.addr} is no IP address and no host's name; write one, without a port",
            )
    if lab.metrics is not None and _is_misspelt(lab.metrics.listen):
        yield Mistake(
            ("metrics", "listen"),
            f"{lab.metrics.listen} is no IP address and no host's name; write 127.0.0.1 (only the "
            "host itself can read) or 0.0.0.0 (whoever reaches the host)",
        )


def ports(lab: Lab) -> Iterator[Mistake]:
    """Stated ports: a host's processes that listen take them one after the other, and those that
    answer Prometheus too."""
    of_broker = 2 if lab.broker_kind() == "mosquitto" else 1
    seen: dict[tuple[str, int], str] = {}
    for name, host in lab.hosts.items():
        if host.port is None:
            continue
        count = len({"replica", "spare"} & {*host.roles}) + ("broker" in host.roles) * of_broker
        where, last = ("hosts", name, "port"), host.port + count - 1
        if last > port_max:
            yield Mistake(where, f"its processes need ports to {last}, the last is {port_max}")
        for port in range(host.port, last + 1):
            first = seen.setdefault((lab.address(name), port), name)
            if first != name:
                yield Mistake(where, f"port {port} is {first}'s too; change one, or state none")
                break
    if lab.metrics is not None:
        last = lab.metrics.port + _answering(lab) - 1
        if last > port_max:
            yield Mistake(
                ("metrics", "port"),
                f"the processes need ports to {last}, the last is {port_max}; begin at "
                f"{lab.metrics.port - (last - port_max)} or below",
            )


def _answering(lab: Lab) -> int:
    """How many processes answer Prometheus: each role of each host, but Mosquitto does not."""
    roles = [role for host in lab.active.values() for role in {*host.roles} - {"mobile"}]
    answering = [role for role in roles if role != "broker" or lab.broker_kind() == "embedded"]
    return len(answering) + len(lab.mobiles())


def _ip(addr: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(addr)
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found  # ::ffff:10.0.0.1 is 10.0.0.1


def _is_misspelt(addr: str) -> bool:
    """Neither an IP address nor a host's name. No name has a colon, and none is digits and dots
    alone: these mean an IP address."""
    is_name = _HOST_NAME.fullmatch(addr) and not set(addr) <= set("0123456789.")
    return not is_name and _ip(addr) is None
