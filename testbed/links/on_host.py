"""Link rules of the kernel: nft and tc on each host, over SSH.

Rules apply between two hosts, to all their traffic on the data network. Management is never
touched. If the data network has an interface of its own, rules apply to it only; otherwise
(`net.filters: per-peer`) only to addresses of hosts of this lab, and never to SSH's port. The
rules' text is in `host_rules`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from gateway.shaping import NO_SHAPE, Shape
from inventory.entries import Cap
from inventory.model import Lab
from testbed.care.dead_man import arm, disarm
from testbed.care.restore import QDISC_HANDLE, TABLE_COMMENT
from testbed.errors import LabFault
from testbed.fleet import at_once
from testbed.hosts.port import CommandFailed, Host, HostFault, NodeCommand
from testbed.links.host_rules import (
    TABLE,
    HostNet,
    filter_script,
    queue_script,
    read_filter,
    read_queue,
)
from testbed.links.port import Links, RuleInForce, Rules, Way
from testbed.programs import shell
from testbed.provision.deployment import Deployment
from testbed.provision.layout import Node

__all__ = ["HostLinks", "why_not_on_host"]

_PROGRAM: Final = "links/rules.sh"
_SSH_PORT: Final = 22
# By address, with the number of packets that were met.
_Losses = Mapping[str, tuple[float, int]]
_Shapes = Mapping[str, tuple[Shape, int]]


def why_not_on_host(lab: Lab, hosts: tuple[str, ...], cap: Cap) -> str | None:
    """Why these hosts cannot do it. `nft` drops packets, `netem` does everything else."""
    local = [name for name in hosts if lab.hosts[name].connection == "local"]
    if local:
        return "processes of one machine share its loopback interface"
    if len(hosts) < 2:
        return f"all ends are on {hosts[0]}" if hosts else "no hosts"
    lacking = [name for name in hosts if cap not in lab.hosts[name].caps]
    if lacking:
        return f"no cap {cap} on {', '.join(lacking)}"
    blind = [name for name in hosts if lab.net(name).data is None]
    if blind and cap == "netem":
        return f"net.data is not stated for {', '.join(blind)}"
    return None


class HostLinks(Links):
    """`nft` and `tc` on the hosts of a deployment."""

    def __init__(self, deployment: Deployment) -> None:
        super().__init__(deployment)
        self._addresses: dict[str, str] = {}
        self._armed: dict[str, tuple[str, ...]] = {}

    def arm(self, owner: str, nodes: Iterable[Node], after_s: float) -> None:
        names = tuple(dict.fromkeys(node.host for node in nodes))
        self._armed[owner] = names
        at_once(lambda name: self._arm(owner, name, after_s), names)

    def _arm(self, owner: str, name: str, after_s: float) -> None:
        host = self.deployment.hosts[name]
        nobody = not self._in_force()
        said = self._call(host, "show").splitlines()
        if nobody and (read_filter(said[0]) or said[1] != "[]"):
            fix = "testbed restore -i FILE"
            raise HostFault(name, "link rules", "some are there already", fix)
        arm(host, _undo(owner), after_s, NodeCommand(tuple(self._argv(name, "clear"))))

    def clear(self, owner: str) -> None:
        super().clear(owner)
        at_once(
            lambda name: disarm(self.deployment.hosts[name], _undo(owner)),
            self._armed.pop(owner, ()),
        )

    def read_back(self, ways: Iterable[Way]) -> dict[Way, RuleInForce]:
        wanted = list(ways)
        names = list(dict.fromkeys(name for way in wanted for name in way))
        said = dict(zip(names, at_once(self._read, names), strict=True))
        found = {}
        for way in wanted:
            losses, _ = said[way.target]
            _, shapes = said[way.source]
            share, lost = losses.get(self._address(way.source), (0.0, 0))
            shape, queued = shapes.get(self._address(way.target), (NO_SHAPE, 0))
            both = msgspec.structs.replace(shape, loss=share)
            found[way] = RuleInForce(both, lost + queued)
        return found

    def _read(self, name: str) -> tuple[_Losses, _Shapes]:
        filters, queues = self._call(self.deployment.hosts[name], "show").splitlines()
        rules = self._by_place(self._in_force()).get(name, {})
        return read_filter(filters), read_queue(queues, self._leaving(name, rules))

    # --- what stands where --------------------------------------------------------------------

    def _places(self, way: Way, shape: Shape) -> tuple[str, ...]:
        """Losses apply at the host where packets arrive, all other shapes where they leave."""
        places = [way.target] if shape.loss else []
        return (*places, way.source) if _without_loss(shape) != NO_SHAPE else tuple(places)

    def _write(self, place: str, rules: Rules) -> None:
        losses = {
            self._address(way.source): shape.loss
            for way, shape in rules.items()
            if way.target == place and shape.loss
        }
        net = self._net(place)
        script = f"{filter_script(net, losses)}\n--\n"
        script += f"{queue_script(net, self._leaving(place, rules))}\n"
        self._call(self.deployment.hosts[place], "set", script)

    def _leaving(self, place: str, rules: Rules) -> dict[str, Shape]:
        """The shapes for packets that leave a host, by target address."""
        return {
            self._address(way.target): _without_loss(shape)
            for way, shape in rules.items()
            if way.source == place and _without_loss(shape) != NO_SHAPE
        }

    def _net(self, name: str) -> HostNet:
        lab = self.deployment.lab
        net = lab.net(name)
        return HostNet(
            data=net.data,
            by_interface=net.filters == "interface" and net.data is not None,
            ssh_port=lab.ssh(name).port or _SSH_PORT,
        )

    def _address(self, name: str) -> str:
        """A host's address on the data network, as a number."""
        if name not in self._addresses:
            given = self.deployment.lab.address(name)
            try:
                found = socket.getaddrinfo(given, None, type=socket.SOCK_STREAM)
            except OSError as error:
                raise LabFault(f"{name}: {given} has no address: {error}") from error
            self._addresses[name] = str(found[0][4][0])
        return self._addresses[name]

    def _argv(self, name: str, verb: str) -> list[str]:
        device = self._net(name).data or "-"
        return shell(_PROGRAM, verb, device, QDISC_HANDLE, TABLE, TABLE_COMMENT)

    def _call(self, host: Host, verb: str, given: str = "") -> str:
        try:
            return host.run(self._argv(host.name, verb), input=given.encode()).stdout
        except CommandFailed as failed:
            raise HostFault(host.name, "link rules", _why(failed.result.stderr)) from failed


def _why(said: str) -> str:
    """Without what sudo only warns of, as that the host's own name does not resolve."""
    lines = said.strip().splitlines()
    return "\n".join(line for line in lines if not line.startswith("sudo: ")) or "".join(lines[-1:])


def _without_loss(shape: Shape) -> Shape:
    return msgspec.structs.replace(shape, loss=0.0)


def _undo(owner: str) -> str:
    return f"links-{owner}"
