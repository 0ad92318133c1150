"""Users of the broker, their passwords, and the commands that add and remove them.

The commands are those of Mosquitto's dynamic-security plugin; they change its document (`store`).
So both kinds of broker are prepared by `write_security`, changed by `port.BrokerAdmin`, and use the
permissions of `gateway.mqtt.topics`.

Each client has its own role, because the plugin does not expand `%u` in ACLs.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gateway.broker.store import CARRIER_ROLE, SecurityStore, acls_of
from gateway.mqtt.topics import Role, access_rules

__all__ = [
    "User",
    "bootstrap_id",
    "bootstrap_user",
    "carrier_commands",
    "create_commands",
    "device_password",
    "new_password",
    "remove_commands",
    "user_name",
    "write_security",
]


@dataclass(frozen=True, slots=True)
class User:
    """A login; `node` has 64 hex digits."""

    role: Role
    node: str
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return user_name(self.role, self.node)


def user_name(role: Role, node: str) -> str:
    """User name and client id. The gateway has two logins; the second has a prefix."""
    return f"admin.{node}" if role is Role.ADMIN else node


def new_password() -> str:
    return secrets.token_urlsafe(32)


def bootstrap_id(voucher: bytes) -> str:
    """The broker's id for a voucher's holder, from the id that the chain has for the voucher.

    Everybody can compute it. So the gateway can check that an access request comes from the login
    of its own voucher, and removes that login when the chain withdraws the voucher. It reveals
    nothing about the token, so it may stand in topics.
    """
    return hashlib.sha256(b"m2m/1 bootstrap id\0" + voucher).hexdigest()


def bootstrap_user(voucher: bytes, token: bytes) -> User:
    """The login that a voucher's token gives until its holder is admitted.

    The operator who issues the token and the device that gets it both compute it.
    """
    password = hmac.new(token, b"m2m/1 bootstrap password", hashlib.sha256).hexdigest()
    return User(Role.NEWCOMER, bootstrap_id(voucher), password)


def device_password(secret: bytes, node: str) -> str:
    """The password of an admitted device. It is a function of the gateway's secret, so sending it
    again changes nothing, and a replayed admission disconnects nobody."""
    return hmac.new(secret, f"m2m/1 device {node}".encode(), hashlib.sha256).hexdigest()


def _role_name(user_name: str) -> str:
    return f"role.{user_name}"


def create_commands(user: User, net: str) -> list[dict[str, Any]]:
    """The commands that add `user` (see mosquitto's dynamic-security plugin)."""
    acls = [msgspec.to_builtins(acl) for acl in acls_of(access_rules(user.role, net, user.node))]
    login: dict[str, Any] = {
        "command": "createClient",
        "username": user.name,
        "clientid": user.name,
        "textname": user.role,
        "roles": [{"rolename": _role_name(user.name), "priority": 0}],
    }
    if user.password is not None:
        login["password"] = user.password
    return [{"command": "createRole", "rolename": _role_name(user.name), "acls": acls}, login]


def remove_commands(user_name: str) -> list[dict[str, Any]]:
    """The commands that remove a user. With `disableClient` a connected user could come back."""
    return [
        {"command": "deleteClient", "username": user_name},
        {"command": "deleteRole", "rolename": _role_name(user_name)},
        {"command": "deleteRole", "rolename": CARRIER_ROLE + user_name},
    ]


def carrier_commands(user_name: str, pem: str) -> list[dict[str, Any]]:
    """The commands that list a user's carrier certificate in place of an earlier one."""
    role = CARRIER_ROLE + user_name
    return [
        {"command": "createRole", "rolename": role, "textdescription": pem, "acls": []},
        {"command": "modifyRole", "rolename": role, "textdescription": pem},
    ]


def write_security(path: Path, net: str, users: Iterable[User]) -> None:
    """Writes the document that a broker starts with, readable by its owner only."""
    store = SecurityStore(path)
    for user in users:
        for command in create_commands(user, net):
            refused = store.apply(command)
            assert refused is None, refused
    store.write(store.encoded())
