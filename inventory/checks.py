"""How the parts of a lab must fit together: one small function per rule.

The model checks single values, `addresses` addresses and ports. A mistake names the path of the
value to change, and the fix.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from inventory.addresses import addresses, normal, ports, stated
from inventory.entries import Cap, HostEntry, Ssh, UhubctlPower
from inventory.mistake import Mistake
from inventory.model import Lab

__all__ = ["errors", "warnings"]

# Faults that could reach the management traffic if both shared an interface.
_NETWORK_CAPS: tuple[Cap, ...] = ("netem", "nft", "switch")

_HUB_PORT = re.compile(r".+\.[0-9]+")

# What else stands where a process has its directory, named as the process: between runs that is
# emptied of all but keys. `lease` is a file.
_WINDOWS_DEVICES = re.compile(r"con|prn|aux|nul|com[1-9]|lpt[1-9]", re.IGNORECASE)
"""No file may have such a name on Windows, whatever its suffix: results are unpacked there too."""
_OUR_DIRECTORIES = ("env", "health", "lease", "log", "undo", "wheelhouse")


def errors(lab: Lab) -> Iterator[Mistake]:
    """Mistakes that make the lab unusable."""
    yield from _unique(lab)
    yield from addresses(lab)
    yield from ports(lab)
    yield from _files(lab)
    yield from _hosts(lab)
    yield from _jumps(lab)
    yield from _interfaces(lab)
    yield from _boards(lab)
    yield from _replicas(lab)
    yield from _devices(lab)
    yield from _factory(lab)
    yield from _chain(lab)


def warnings(lab: Lab) -> Iterator[Mistake]:
    """Values that work, but are probably not meant."""
    n, f = len(lab.replicas()), lab.f
    if n != 3 * f + 1:
        yield Mistake(
            ("hosts",),
            f"n = {n} replicas tolerate f = {f} faults, as {3 * f + 1} would; "
            f"add {3 * (f + 1) + 1 - n} for f = {f + 1} or remove {n - 3 * f - 1}",
        )
    if lab.with_role("mobile") and not lab.with_role("environment"):
        yield Mistake(("hosts",), "no environment host relays the mobile devices; add the role")
    for out in lab.excluded():
        where = "hosts" if out.name in lab.hosts else "boards"
        yield Mistake((where, out.name), f"left out: {out.reason}")


def _unique(lab: Lab) -> Iterator[Mistake]:
    seen: dict[tuple[str, str], str] = {}

    def clash(kind: str, value: str, owner: str) -> str | None:
        first = seen.setdefault((kind, value), owner)
        return None if first == owner else first

    for name, host in lab.hosts.items():
        for key, addr in stated(host) if host.connection == "ssh" else ():
            if other := clash("address", normal(addr), name):
                yield Mistake(("hosts", name, key), f"address {addr} is {other}'s; change one")
        if host.hw_serial:
            other = clash("hardware serial", host.hw_serial.lower(), name)
            if other:
                yield Mistake(
                    ("hosts", name, "hw_serial"),
                    f"hardware serial {host.hw_serial} is {other}'s; read it from the host",
                )
    for name, board in lab.boards.items():
        for key in ("usb_serial", "usb_path", "device"):
            value = getattr(board.match, key, None) if board.match else None
            # Many USB bridges are sold with the same serial, so it counts by host as a path does.
            other = clash(f"{board.host} {key}", value, name) if value else None
            if other:
                yield Mistake(
                    ("boards", name, "match", key),
                    f"{key} {value} is {other}'s on this host; match by usb_path, which "
                    "`testbed inventory discover` prints",
                )
    yield from _unique_names(lab)


def _unique_names(lab: Lab) -> Iterator[Mistake]:
    for name in lab.boards:
        if name in lab.hosts:
            yield Mistake(("boards", name), "a host has this name too; rename one")
    for mobile in lab.mobiles():
        taken = mobile.name in lab.boards or mobile.name in lab.hosts
        if taken and mobile.name != mobile.host:
            yield Mistake(
                ("hosts", mobile.host), f"its device {mobile.name} has a taken name; rename one"
            )
    yield from _process_names(lab)


def _process_names(lab: Lab) -> Iterator[Mistake]:
    """Every process has a directory and a unit of its name. Quarantined hosts may return."""
    processes = {
        lab.process(name, role): (name, role)
        for name, host in lab.hosts.items()
        if len(host.roles) > 1
        for role in host.roles
        if role != "mobile"
    }
    for section, names in (("hosts", lab.hosts), ("boards", lab.boards)):
        for name in names:
            if name in _OUR_DIRECTORIES:
                yield Mistake((section, name), f"{name} is a directory of ours on hosts; rename it")
            if _WINDOWS_DEVICES.fullmatch(name):
                yield Mistake(
                    (section, name),
                    f"{name} is a device on Windows, where no result could be unpacked; rename it",
                )
            if name in processes:
                host, role = processes[name]
                yield Mistake((section, name), f"{host}'s {role} has this name; rename one")
    for mobile in lab.mobiles():
        if mobile.name in processes and mobile.name not in lab.hosts:
            host, role = processes[mobile.name]
            yield Mistake(
                ("hosts", mobile.host),
                f"its device {mobile.name} is named as {host}'s {role}; rename one",
            )


def _files(lab: Lab) -> Iterator[Mistake]:
    """Paths on this machine may begin at a user's home, who must be one."""
    logins: list[tuple[tuple[str | int, ...], Ssh]] = [(("defaults", "ssh"), lab.defaults.ssh)]
    logins += [(("hosts", name, "ssh"), host.ssh) for name, host in lab.hosts.items()]
    paths = [((*where, "key"), ssh.key) for where, ssh in logins]
    paths += [((*where, "known_hosts"), ssh.known_hosts) for where, ssh in logins]
    paths += [(("chain", "factory_roots", i), p) for i, p in enumerate(lab.chain.factory_roots)]
    for where, path in paths:
        try:
            Path(path or "").expanduser()
        except RuntimeError:
            yield Mistake(where, f"{path}: no home directory is known; write the whole path")


def _hosts(lab: Lab) -> Iterator[Mistake]:
    jumps = {lab.ssh(name).jump for name, host in lab.hosts.items() if host.connection == "ssh"}
    for name, host in lab.hosts.items():
        where = ("hosts", name)
        if host.connection == "ssh" and host.addr is None:
            yield Mistake(where, "no addr; add one, or say connection: local")
        if host.connection == "local" and host.power is not None:
            yield Mistake((*where, "power"), "a local host has no power switch; remove it")
        if isinstance(host.power, UhubctlPower) and not _HUB_PORT.fullmatch(host.power.port):
            fix = 'write hub and port as uhubctl prints them: "1-1.2" is port 2 of the hub at 1-1'
            yield Mistake((*where, "power", "port"), f"{host.power.port} names no port; {fix}")
        if not host.roles and name not in jumps:
            yield Mistake((*where, "roles"), "no role; give it one or remove the host", whole=True)
        if host.mobiles != 1 and "mobile" not in host.roles:
            yield Mistake(
                (*where, "mobiles"), "only for hosts with role mobile; add the role", whole=True
            )
        for key in ("roles", "caps"):
            yield from _repeated((*where, key), getattr(host, key))
        yield from _state(where, host)


def _state(where: tuple[str, str], host: HostEntry) -> Iterator[Mistake]:
    if host.state == "quarantined" and not host.reason:
        yield Mistake((*where, "state"), "quarantined without a reason; add reason:", whole=True)
    if host.state == "active" and host.reason:
        yield Mistake(
            (*where, "reason"), "a reason, but the host is active; add state: quarantined"
        )


def _repeated(where: tuple[str | int, ...], values: tuple[str, ...]) -> Iterator[Mistake]:
    for i, value in enumerate(values):
        if value in values[:i]:
            yield Mistake((*where, i), f"{value} stands twice; remove one")


def _jumps(lab: Lab) -> Iterator[Mistake]:
    for name, host in lab.hosts.items():
        jump = lab.ssh(name).jump if host.connection == "ssh" else None
        if jump is None:
            continue
        own = host.ssh.jump is not None
        where = ("hosts", name, "ssh", "jump") if own else ("defaults", "ssh", "jump")
        if jump not in lab.hosts:
            yield Mistake(where, f"jump host {jump} is not under hosts; add it (roles: [])")
            if not own:
                break  # one mistake in the defaults, not one per host
        elif lab.hosts[jump].connection == "local" or jump == host.ssh.jump == name:
            yield Mistake(where, f"cannot jump through {jump}; name another ssh host")
        elif _circular(lab, name):
            yield Mistake(where, f"{name} jumps in a circle through {jump}; break it")


def _circular(lab: Lab, start: str) -> bool:
    seen, here = {start}, lab.ssh(start).jump
    while here is not None and here in lab.hosts:
        if here in seen:
            return True
        seen.add(here)
        here = lab.ssh(here).jump
    return False


def _interfaces(lab: Lab) -> Iterator[Mistake]:
    for name, host in lab.hosts.items():
        shaping = [cap for cap in _NETWORK_CAPS if cap in host.caps]
        net = lab.net(name)
        if host.connection == "local" or not shaping or net.filters == "per-peer":
            continue
        if net.mgmt is None or net.data is None or net.mgmt == net.data:
            state = f"both {net.data}" if net.data and net.mgmt == net.data else "not both stated"
            yield Mistake(
                ("hosts", name, "net") if host.net else ("hosts", name, "caps"),
                f"with {', '.join(shaping)} the data and management interfaces must differ "
                f"(they are {state}) or a fault cuts SSH off; set net.mgmt and net.data, or "
                "net.filters: per-peer",
            )


def _boards(lab: Lab) -> Iterator[Mistake]:
    for name, board in lab.boards.items():
        where: tuple[str, ...] = ("boards", name)
        host = lab.hosts.get(board.host)
        if host is None:
            yield Mistake((*where, "host"), f"host {board.host} is not under hosts; add it")
        elif "environment" not in host.roles:
            yield Mistake(
                (*where, "host"),
                f"host {board.host} lacks the role environment; add it",
                whole=True,
            )
        given = board.match.model_dump(exclude_none=True) if board.match else {}
        if len(given) > 1:
            yield Mistake(
                (*where, "match"), f"{' and '.join(sorted(given))}; keep one way to match"
            )
        elif not given and board.match is not None:
            yield Mistake((*where, "match"), "matches nothing; add usb_serial", whole=True)
        elif given and host is not None and host.connection == "local":
            yield Mistake(
                (*where, "match"),
                f"{board.host} is this machine itself, whose boards are processes; reach it over "
                "SSH (addr: 127.0.0.1), or leave match out",
                whole=True,
            )
        elif not given and board.firmware.board != "unix":
            yield Mistake(where, "no match; add match: {usb_serial: ...}", whole=True)


def _replicas(lab: Lab) -> Iterator[Mistake]:
    n = len(lab.replicas())
    out = [
        x.name for x in lab.excluded() if "replica" in getattr(lab.hosts.get(x.name), "roles", ())
    ]
    aside = f" (quarantined: {', '.join(out)})" if out else ""
    if lab.chain.f is None and n < 4:
        yield Mistake(
            ("hosts",),
            f"{n} replicas{aside}, but one fault needs n >= 3f+1 = 4; add replicas, "
            "or state chain.f: 0 for hosts that are only made ready",
            whole=True,
        )
    if lab.chain.f is not None and n < max(1, 3 * lab.chain.f + 1):
        yield Mistake(
            ("chain", "f"),
            f"f = {lab.chain.f} needs n >= 3f+1 = {3 * lab.chain.f + 1} replicas, there are "
            f"{n}{aside}; add replicas or lower f",
            whole=True,
        )


def _factory(lab: Lab) -> Iterator[Mistake]:
    """A factory identity is one device's, and counts if its manufacturer is known."""
    for name, host in lab.hosts.items():
        if host.factory is None:
            continue
        where = ("hosts", name, "factory")
        if len({"environment", "mobile"} & set(host.roles)) != 1 or host.mobiles != 1:
            yield Mistake(
                where,
                "one device has one factory identity; give the host the role environment or "
                "mobile, and one mobile",
                whole=True,
            )
        if not lab.chain.factory_roots:
            yield Mistake(
                where,
                "no chain.factory_roots; name the manufacturer's root certificate",
                whole=True,
            )


def _devices(lab: Lab) -> Iterator[Mistake]:
    brokers = list(lab.with_role("broker"))
    for extra in brokers[1:]:
        yield Mistake(
            ("hosts", extra, "roles"), f"{brokers[0]} is the broker already; keep one", whole=True
        )
    if lab.broker.kind is not None and not brokers:
        yield Mistake(
            ("broker", "kind"),
            "no active host has role broker; add it to one, or remove broker:",
            whole=True,
        )
    if not (lab.with_role("mobile") or lab.with_role("environment")):
        return
    for role, have in (("broker", brokers), ("gateway", list(lab.with_role("gateway")))):
        if not have:
            yield Mistake(
                ("hosts",),
                f"devices, but no active host has role {role}; add it to one",
                whole=True,
            )


def _chain(lab: Lab) -> Iterator[Mistake]:
    chain, n = lab.chain, len(lab.replicas())
    if chain.window > chain.checkpoint_interval:
        yield Mistake(
            ("chain", "window"),
            f"window {chain.window} exceeds checkpoint_interval {chain.checkpoint_interval}, so "
            "the log could fill before a checkpoint; lower it",
        )
    m, k = lab.group()
    if m > n:
        yield Mistake(("chain", "group", "m"), f"{m} of {n} replicas; at most {n}", whole=True)
    if k > m:
        yield Mistake(("chain", "group", "k"), f"{k} of {m} members; at most {m}", whole=True)
