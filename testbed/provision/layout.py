"""Which process runs where, under which name and on which port, from the inventory alone. Pure.

`deployment` starts them; `configs` writes their configs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from inventory.model import Lab

__all__ = ["PROCESS_ROLES", "Node", "NodeRole", "carriers_socket", "layout", "sockets", "unit_of"]

NodeRole = Literal["broker", "board", "replica", "spare", "gateway", "environment", "mobile"]
# In the order of starting: processes for which others wait come first.
PROCESS_ROLES: tuple[NodeRole, ...] = get_args(NodeRole)


@dataclass(frozen=True)
class Node:
    """One process. `index` counts within the role. A replica's index is its id in the genesis; a
    spare's is the id with which it would be added.

    `name` is unique in the lab: the host's name, followed by the role if a host has several. The
    process has a directory of this name below the host's root.
    """

    name: str
    role: NodeRole
    host: str
    index: int

    @property
    def unit(self) -> str:
        """The name under which the host supervises it."""
        return unit_of(self.name)

    def file(self, name: str) -> str:
        """A file of this process, relative to the host's root."""
        return f"{self.name}/{name}"


def unit_of(name: str) -> str:
    """The unit of the process of this name."""
    return f"m2m-{name}"


def layout(lab: Lab) -> tuple[Node, ...]:
    """Every process of the lab, in the order in which to start them."""
    nodes: list[Node] = []
    for role in PROCESS_ROLES:
        if role == "board":
            places = [(name, board.host) for name, board in lab.boards_in_use().items()]
        elif role == "mobile":
            places = [(mobile.name, mobile.host) for mobile in lab.mobiles()]
        else:
            places = [(lab.process(host, role), host) for host in lab.with_role(role)]
        first = len(lab.replicas()) if role == "spare" else 0
        nodes += [Node(name, role, host, index) for index, (name, host) in enumerate(places, first)]
    names = [node.name for node in nodes]
    assert len(set(names)) == len(names), f"two processes share a name: {sorted(names)}"
    return tuple(nodes)


def sockets(node: Node, lab: Lab) -> tuple[str, ...]:
    """The names of the ports on which this process listens: its own, and one for carriers if it is
    a broker that takes them."""
    match node.role:
        case "replica" | "spare":
            return (node.name,)
        case "broker" if lab.broker_kind() == "mosquitto":
            return node.name, carriers_socket(node)
        case "broker":
            return (node.name,)
        case _:
            return ()


def carriers_socket(broker: Node) -> str:
    """The name of the port at which Mosquitto takes carrier certificates."""
    return f"{broker.name}.carriers"
