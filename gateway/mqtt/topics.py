"""The topics of the device network: how they are built and parsed, and who may use which.

    m2m/1/<net>/up/<relay>/<device>/<kind>   to the gateway; <relay> publishes it
    m2m/1/<net>/req/<device>                 a device's request, for a relay
    m2m/1/<net>/rsp/<device>/<kind>          the gateway's answers to one device
    m2m/1/<net>/status/<node>                whether a node is up, repeated, with a will
    m2m/1/<net>/chain/head                   the newest head, signed by the replicas, repeated

Nothing is retained: a broker keeps no message for later subscribers.

<net> is the first 16 hex digits of the genesis hash, a node id the 64 hex digits of
SHA-256(SPKI). The broker checks that <relay> is the publisher, so the last hop of each message is
known. A device without a relay is its own relay: `up/<device>/<device>/<kind>`.

`access_rules` is the only table of permissions; `gateway.broker.security` hands it to both brokers.
The payloads are in `gateway.bridge.edge`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from chain.errors import Misuse, PeerFault

__all__ = [
    "ADMIN_REQUEST",
    "ADMIN_RESPONSE",
    "AccessRule",
    "Action",
    "HeadTopic",
    "Request",
    "Response",
    "Role",
    "Status",
    "Topic",
    "Up",
    "access_rules",
    "covers",
    "parse",
]

ADMIN_REQUEST = "$CONTROL/dynamic-security/v1"
ADMIN_RESPONSE = "$CONTROL/dynamic-security/v1/response"

_ROOT = "m2m/1"
_topic_chars_max = 256
_NET = re.compile(r"[0-9a-f]{16}\Z")
_NODE = re.compile(r"[0-9a-f]{64}\Z")
_KIND = re.compile(r"[a-z][a-z0-9-]{0,31}\Z")


class _Checked:
    """Checks the levels of a topic when it is made. A wrong level is our bug (`Misuse`)."""

    __slots__ = ()

    def __post_init__(self) -> None:
        for name, pattern in _PATTERN_OF.items():
            value = getattr(self, name, None)
            if value is not None and not (isinstance(value, str) and pattern.match(value)):
                raise Misuse(f"{name} {str(value)[:80]!r} cannot stand in a topic")


@dataclass(frozen=True, slots=True)
class Up(_Checked):
    """`relay` carries a message of `kind` from `device` to the gateway."""

    net: str
    relay: str
    device: str
    kind: str

    def __str__(self) -> str:
        return f"{_ROOT}/{self.net}/up/{self.relay}/{self.device}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Request(_Checked):
    """`device` hands a message to a relay."""

    net: str
    device: str

    def __str__(self) -> str:
        return f"{_ROOT}/{self.net}/req/{self.device}"


@dataclass(frozen=True, slots=True)
class Response(_Checked):
    """The gateway's answer of `kind` to `device`."""

    net: str
    device: str
    kind: str

    def __str__(self) -> str:
        return f"{_ROOT}/{self.net}/rsp/{self.device}/{self.kind}"


@dataclass(frozen=True, slots=True)
class Status(_Checked):
    """Whether `node` is connected; its will says that it is not."""

    net: str
    node: str

    def __str__(self) -> str:
        return f"{_ROOT}/{self.net}/status/{self.node}"


@dataclass(frozen=True, slots=True)
class HeadTopic(_Checked):
    """The newest signed head of the chain."""

    net: str

    def __str__(self) -> str:
        return f"{_ROOT}/{self.net}/chain/head"


Topic = Up | Request | Response | Status | HeadTopic

_PATTERN_OF = {"net": _NET, "relay": _NODE, "device": _NODE, "node": _NODE, "kind": _KIND}


def parse(text: str) -> Topic:
    """Reads a topic name. Raises PeerFault("bad-topic") for a topic that this module does not list.

    Wildcards, empty levels, capitals and extra levels are refused.
    """
    if len(text) > _topic_chars_max:
        raise PeerFault("bad-topic", f"{len(text)} characters, at most {_topic_chars_max}")
    try:
        match text.split("/"):
            case ["m2m", "1", net, "up", relay, device, kind]:
                return Up(net, relay, device, kind)
            case ["m2m", "1", net, "req", device]:
                return Request(net, device)
            case ["m2m", "1", net, "rsp", device, kind]:
                return Response(net, device, kind)
            case ["m2m", "1", net, "status", node]:
                return Status(net, node)
            case ["m2m", "1", net, "chain", "head"]:
                return HeadTopic(net)
    except Misuse as wrong:  # here the text came from outside
        raise PeerFault("bad-topic", str(wrong)) from None
    raise PeerFault("bad-topic", repr(text))


class Role(StrEnum):
    """The role of a client at the broker. It is independent of the privilege on the chain."""

    DEVICE = "device"
    """An admitted mobile device."""
    RELAY = "relay"
    """An admitted environmental device. It also carries messages of others."""
    GATEWAY = "gateway"
    OBSERVER = "observer"
    """Reads messages to the gateway (lab instruments), but no answers: those carry credentials."""
    NEWCOMER = "newcomer"
    """Holds a voucher and is not admitted yet. Its id is the voucher's bootstrap id."""
    ADMIN = "admin"
    """The gateway's second login, which adds and removes the others."""


class Action(StrEnum):
    PUBLISH = "publish"
    SUBSCRIBE = "subscribe"


@dataclass(frozen=True, slots=True)
class AccessRule:
    """One permission: `pattern` is a topic filter in MQTT's syntax."""

    action: Action
    pattern: str


_PUB, _SUB = Action.PUBLISH, Action.SUBSCRIBE
_DEVICE = (
    (_PUB, "{root}/up/{node}/{node}/+"),
    (_PUB, "{root}/req/{node}"),
    (_SUB, "{root}/rsp/{node}/#"),
    (_SUB, "{root}/chain/head"),
)
_TABLE: dict[Role, tuple[tuple[Action, str], ...]] = {
    Role.DEVICE: _DEVICE,
    Role.RELAY: (
        *_DEVICE,
        (_PUB, "{root}/up/{node}/+/+"),
        # Other relays believe it: a mobile device that said "relay" would get a share of all
        # devices and carry none of them.
        (_PUB, "{root}/status/{node}"),
        (_SUB, "{root}/req/+"),
        (_SUB, "{root}/status/+"),
    ),
    Role.GATEWAY: (
        (_PUB, "{root}/rsp/+/+"),
        (_PUB, "{root}/chain/head"),
        (_PUB, "{root}/status/{node}"),
        (_SUB, "{root}/up/+/+/+"),
        (_SUB, "{root}/req/+"),
        (_SUB, "{root}/status/+"),
        (_SUB, "{root}/chain/head"),
    ),
    Role.OBSERVER: (
        (_SUB, "{root}/up/+/+/+"),
        (_SUB, "{root}/req/+"),
        (_SUB, "{root}/status/+"),
        (_SUB, "{root}/chain/head"),
    ),
    Role.NEWCOMER: (
        (_PUB, "{root}/up/{node}/{node}/enrol"),
        (_PUB, "{root}/req/{node}"),
        (_SUB, "{root}/rsp/{node}/#"),
        (_SUB, "{root}/chain/head"),
    ),
    Role.ADMIN: ((_PUB, ADMIN_REQUEST), (_SUB, ADMIN_RESPONSE)),
}


def access_rules(role: Role, net: str, node: str) -> tuple[AccessRule, ...]:
    """Everything that `role` with id `node` may do in network `net`. Nothing else is allowed."""
    Status(net, node)  # checks both
    root = f"{_ROOT}/{net}"
    return tuple(AccessRule(act, text.format(root=root, node=node)) for act, text in _TABLE[role])


def covers(pattern: str, asked: str) -> bool:
    """Whether `pattern` allows `asked`, a topic name or a filter with wildcards.

    `pattern` must match each topic that `asked` can match: `a/+` covers `a/b` and `a/+`, but
    neither `a/#` nor `#`.
    """
    allowed, wanted = pattern.split("/"), asked.split("/")
    for depth, level in enumerate(allowed):
        if level == "#":
            return True
        if depth >= len(wanted) or wanted[depth] == "#":
            return False
        if level not in ("+", wanted[depth]):
            return False
    return len(allowed) == len(wanted)
