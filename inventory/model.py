"""The model of a lab: an inventory file as a whole, and the look-ups that campaigns use.

A `Lab` is immutable. Look-ups (`replicas`, `with_role`, `with_cap`) leave quarantined hosts out;
`excluded` lists these, with reasons. `entries` has the models of hosts and boards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from pydantic import Field

from inventory.entries import (
    Board,
    BrokerKind,
    BrokerOptions,
    Cap,
    ChainOptions,
    Clock,
    Defaults,
    HostEntry,
    MetricsOptions,
    Name,
    Net,
    Role,
    Ssh,
    Stage,
    Strict,
    boards_max,
    hosts_max,
)

__all__ = ["Excluded", "GroupSize", "Lab", "Mobile"]


class GroupSize(NamedTuple):
    """Members of the authentication group, and endorsements needed."""

    m: int
    k: int


@dataclass(frozen=True)
class Excluded:
    """A host or board that campaigns leave out, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Mobile:
    """One mobile device: a process on its host."""

    name: str
    host: str


class Lab(Strict):
    """One inventory file. Order of `hosts` is the order of replicas: the first is replica 0."""

    schema_version: Literal["testbed.inventory/1"] = Field(alias="schema")
    lab: Name
    stage: Stage | None = Field(
        default=None, description="Null: loopback if all hosts are local, else lab"
    )
    defaults: Defaults = Defaults()
    chain: ChainOptions = ChainOptions()
    broker: BrokerOptions = BrokerOptions()
    metrics: MetricsOptions | None = None
    hosts: dict[Name, HostEntry] = Field(min_length=1, max_length=hosts_max)
    boards: dict[Name, Board] = Field(default={}, max_length=boards_max)

    @property
    def active(self) -> dict[str, HostEntry]:
        """Hosts by name, without the quarantined."""
        return {name: host for name, host in self.hosts.items() if host.state == "active"}

    def with_role(self, role: Role) -> dict[str, HostEntry]:
        """Active hosts that have `role`, in file order."""
        return {name: host for name, host in self.active.items() if role in host.roles}

    def with_cap(self, cap: Cap) -> dict[str, HostEntry]:
        """Active hosts that have `cap`, in file order."""
        return {name: host for name, host in self.active.items() if cap in host.caps}

    def replicas(self) -> dict[str, HostEntry]:
        """Active replica hosts; position is the replica's number."""
        return self.with_role("replica")

    @property
    def f(self) -> int:
        """Faulty replicas borne: stated, or floor((n-1)/3)."""
        if self.chain.f is not None:
            return self.chain.f
        return max(0, (len(self.replicas()) - 1) // 3)

    def group(self) -> GroupSize:
        """Size of the authentication group and endorsements needed: stated, or 2f+1 and f+1."""
        stated = self.chain.group
        return GroupSize(m=stated.m or 2 * self.f + 1, k=stated.k or self.f + 1)

    def mobiles(self) -> tuple[Mobile, ...]:
        """Mobile devices; several on one host are numbered from 1: phones-1, phones-2."""
        return tuple(
            Mobile(name if host.mobiles == 1 else f"{name}-{i}", name)
            for name, host in self.with_role("mobile").items()
            for i in range(1, host.mobiles + 1)
        )

    def process(self, host: str, role: Role) -> str:
        """Name of a host's process: the host's, with the role where it has several."""
        return host if len(self.hosts[host].roles) == 1 else f"{host}-{role}"

    def boards_in_use(self) -> dict[str, Board]:
        """Boards on active hosts, in file order."""
        active = self.active
        return {name: board for name, board in self.boards.items() if board.host in active}

    def excluded(self) -> tuple[Excluded, ...]:
        """What quarantine takes out of every campaign: hosts, then boards on them."""
        out = {n: h.reason or "" for n, h in self.hosts.items() if h.state == "quarantined"}
        return tuple(Excluded(name, reason) for name, reason in out.items()) + tuple(
            Excluded(name, f"its host {board.host} is quarantined: {out[board.host]}")
            for name, board in self.boards.items()
            if board.host in out
        )

    def stage_name(self) -> Stage:
        """The stage that results are filed under."""
        if self.stage is not None:
            return self.stage
        local = all(host.connection == "local" for host in self.hosts.values())
        return "loopback" if local else "lab"

    def broker_kind(self) -> BrokerKind:
        """The kind of broker: stated, or what the stage has."""
        return self.broker.kind or ("embedded" if self.stage_name() == "loopback" else "mosquitto")

    def address(self, host: str) -> str:
        """Address of a host on the data network: where its processes listen."""
        return self.hosts[host].data_addr or self.login_address(host)

    def login_address(self, host: str) -> str:
        """Address of a host on the management network: where SSH reaches it."""
        return self.hosts[host].addr or "127.0.0.1"

    def ssh(self, host: str) -> Ssh:
        """Log-in of a host: its own keys over the lab's; a host never jumps through itself."""
        own = self.hosts[host].ssh.model_dump(exclude_unset=True, exclude_none=True)
        merged = self.defaults.ssh.model_copy(update=own)
        return merged.model_copy(update={"jump": None}) if merged.jump == host else merged

    def net(self, host: str) -> Net:
        """Interfaces of a host."""
        return self.hosts[host].net or self.defaults.net

    def clock(self, host: str) -> Clock:
        """Clock bound of a host."""
        return self.hosts[host].clock or self.defaults.clock
