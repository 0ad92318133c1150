"""Who may log in at the broker and what each may do: one document, for both brokers.

The document is Mosquitto's own dynamic-security format (clients, roles, ACLs), and the commands
that change it at run time are Mosquitto's own too. So there is one way to prepare a broker
(`write_security`), one administrator (`broker.BrokerAdmin`) and one permission table (`topics`),
whichever broker runs. Mosquitto interprets the document by its plugin; `SecurityStore` does it
for the embedded broker, the subset that we use.

A role per client, as `%u` is not expanded in the plugin's ACLs.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from gateway.topics import Action, Grant, Role, covers, grants

__all__ = [
    "SecurityFileError",
    "SecurityStore",
    "User",
    "bootstrap_id",
    "bootstrap_user",
    "create_commands",
    "device_password",
    "new_password",
    "read_password",
    "remove_commands",
    "user_name",
    "write_password",
    "write_security",
]

# Passwords are 256 random bits: the iterations (Mosquitto's default) need not slow guessing down.
_iterations = 101
_salt_bytes = 12
_password_hash_bytes = 64
clients_max = 10_000

_ACL_TYPES = {
    Action.PUBLISH: ("publishClientSend",),
    # The first is what counts; the plugin wants the second before it delivers, and in 2.0.11
    # nothing under $CONTROL arrives without it, whatever the default.
    Action.SUBSCRIBE: ("subscribePattern", "publishClientReceive"),
}


class SecurityFileError(Exception):
    """The security file is missing, damaged or open to others; the message names it."""


@dataclass(frozen=True, slots=True)
class User:
    """A login: `node` is 64 hex digits. No password: a TLS client certificate shows who it is."""

    role: Role
    node: str
    password: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return user_name(self.role, self.node)


def user_name(role: Role, node: str) -> str:
    """User name and client id. The gateway has two logins, so the second is marked."""
    return f"admin.{node}" if role is Role.ADMIN else node


def new_password() -> str:
    return secrets.token_urlsafe(32)


def write_password(path: Path, password: str) -> None:
    """Write a client's secret, readable by its owner only from the first moment on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password + "\n")


def read_password(path: Path) -> str:
    """Read a client's secret; `SecurityFileError` when it is missing or open to others."""
    try:
        if path.stat().st_mode & 0o077:
            raise SecurityFileError(f"{path} is open to others: chmod 600 {path}")
        return path.read_text().strip()
    except OSError as error:
        raise SecurityFileError(f"{path}: {error}") from error


def bootstrap_id(spki: bytes) -> str:
    """The id at the broker of whoever holds the voucher with this public key.

    Everybody can compute it, so the gateway can hold an access request to the login of its own
    voucher; it tells nothing about the token, so it may stand in topics.
    """
    return hashlib.sha256(b"m2m/1 bootstrap id\0" + spki).hexdigest()


def bootstrap_user(spki: bytes, token: bytes) -> User:
    """The login that a voucher's token stands for, until its holder is admitted.

    Both sides compute it: the operator who issues the token and the device that was handed it.
    """
    password = hmac.new(token, b"m2m/1 bootstrap password", hashlib.sha256).hexdigest()
    return User(Role.NEWCOMER, bootstrap_id(spki), password)


def device_password(secret: bytes, node: str) -> str:
    """The password of an admitted device: a function of the gateway's secret, so that telling it
    again changes nothing and a replayed admission throws nobody out."""
    return hmac.new(secret, f"m2m/1 device {node}".encode(), hashlib.sha256).hexdigest()


def _role_name(user_name: str) -> str:
    return f"role.{user_name}"


def create_commands(user: User, net: str) -> list[dict[str, Any]]:
    """The commands that let `user` in (see mosquitto's dynamic-security plugin)."""
    acls = [msgspec.to_builtins(acl) for acl in _acls_of(grants(user.role, net, user.node))]
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
    """The commands that kick a user out: `disableClient` would let a connected one come back."""
    return [
        {"command": "deleteClient", "username": user_name},
        {"command": "deleteRole", "rolename": _role_name(user_name)},
    ]


def write_security(path: Path, net: str, users: Iterable[User]) -> None:
    """Write the document that a broker starts with, readable by its owner only."""
    store = SecurityStore(path)
    for user in users:
        for command in create_commands(user, net):
            refused = store.apply(command, save=False)
            assert refused is None, refused
    store.save()


# The document's shape, as the plugin of Mosquitto 2.0 writes and reads it.


class _Acl(msgspec.Struct):
    acltype: str
    topic: str
    allow: bool
    priority: int = 0


class _RoleEntry(msgspec.Struct):
    rolename: str
    acls: list[_Acl] = []


class _RoleRef(msgspec.Struct):
    rolename: str
    priority: int = 0


class _Client(msgspec.Struct, omit_defaults=True):
    username: str
    clientid: str = ""
    textname: str = ""
    roles: list[_RoleRef] = []
    password: str = ""
    salt: str = ""
    iterations: int = 0


class _DefaultAccess(msgspec.Struct, rename="camel"):
    publish_client_send: bool = False
    publish_client_receive: bool = False
    subscribe: bool = False
    unsubscribe: bool = True


class _Document(msgspec.Struct, rename={"default_access": "defaultACLAccess"}):
    clients: list[_Client] = []
    roles: list[_RoleEntry] = []
    default_access: _DefaultAccess = msgspec.field(default_factory=_DefaultAccess)


class _Command(msgspec.Struct):
    command: str
    username: str = ""
    clientid: str = ""
    textname: str = ""
    password: str = ""
    rolename: str = ""
    roles: list[_RoleRef] = []
    acls: list[_Acl] = []


@dataclass(slots=True)
class SecurityStore:
    """The document, enforced. Nothing is allowed that no role of the client allows."""

    path: Path
    _clients: dict[str, _Client] = field(default_factory=dict)
    _roles: dict[str, tuple[Grant, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: Path) -> SecurityStore:
        """Read it; `SecurityFileError` says what is wrong with the file."""
        try:
            if path.stat().st_mode & 0o077:
                raise SecurityFileError(f"{path} is open to others: chmod 600 {path}")
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
            store = cls(path)
            for role in document.roles:
                store._roles[role.rolename] = _grants_of(role.acls)
        except (OSError, ValueError) as error:
            raise SecurityFileError(f"{path}: {error}") from error
        store._clients = {client.username: client for client in document.clients}
        return store

    def __contains__(self, name: object) -> bool:
        return name in self._clients

    def is_gateway(self, name: str) -> bool:
        client = self._clients.get(name)
        return client is not None and client.textname == Role.GATEWAY

    def knows(self, name: str, password: str | None) -> bool:
        """Whether this password belongs to this name; takes as long for an unknown name."""
        client = self._clients.get(name)
        salt = base64.b64decode(client.salt) if client else b"\0" * _salt_bytes
        expected = base64.b64decode(client.password) if client else b""
        given = _hash(password or "", salt)
        return hmac.compare_digest(given, expected)

    def allows(self, name: str, action: Action, topic: str) -> bool:
        client = self._clients.get(name)
        return client is not None and any(
            grant.action is action and covers(grant.pattern, topic)
            for ref in client.roles
            for grant in self._roles.get(ref.rolename, ())
        )

    def apply(self, raw: object, *, save: bool = True) -> str | None:
        """Do one command; None when done, else why not. Saved before it is reported."""
        try:
            command = msgspec.convert(raw, _Command)
            refused = self._do(command)
        except ValueError as error:
            return f"Invalid command: {error}"
        if refused is None and save:
            self.save()
        return refused

    def _do(self, command: _Command) -> str | None:
        match command.command:
            case "createRole":
                return self._create_role(command)
            case "deleteRole":
                return "Role not found" if not self._roles.pop(command.rolename, None) else None
            case "createClient":
                return self._create_client(command)
            case "deleteClient":
                gone = self._clients.pop(command.username, None)
                return None if gone else "Client not found"
            case unknown:
                return f"Command not supported: {unknown[:40]}"

    def _create_role(self, command: _Command) -> str | None:
        if command.rolename in self._roles:
            return "Role already exists"
        self._roles[command.rolename] = _grants_of(command.acls)
        return None

    def _create_client(self, command: _Command) -> str | None:
        if command.username in self._clients:
            return "Client already exists"
        if len(self._clients) >= clients_max:
            return f"More than {clients_max} clients"
        self._clients[command.username] = _client_of(command)
        return None

    def save(self) -> None:
        """Replace the file as a whole: whoever is killed here leaves the old or the new one."""
        document = _Document(
            clients=list(self._clients.values()),
            roles=[_RoleEntry(name, _acls_of(held)) for name, held in self._roles.items()],
        )
        text = json.dumps(msgspec.to_builtins(document), indent=1)
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(descriptor)
        fresh.replace(self.path)


def _hash(password: str, salt: bytes) -> bytes:
    return hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _iterations, _password_hash_bytes)


def _client_of(command: _Command) -> _Client:
    client = _Client(command.username, command.clientid, command.textname, command.roles)
    if command.password:
        salt = os.urandom(_salt_bytes)
        client.salt = base64.b64encode(salt).decode()
        client.password = base64.b64encode(_hash(command.password, salt)).decode()
        client.iterations = _iterations
    return client


def _grants_of(acls: list[_Acl]) -> tuple[Grant, ...]:
    action_of = {types[0]: action for action, types in _ACL_TYPES.items()}
    for acl in acls:
        if acl.acltype not in (*action_of, "publishClientReceive") or not acl.allow:
            raise ValueError(f"ACL {acl.acltype} allow={acl.allow} is not supported here")
    return tuple(
        Grant(action_of[acl.acltype], acl.topic) for acl in acls if acl.acltype in action_of
    )


def _acls_of(held: tuple[Grant, ...]) -> list[_Acl]:
    return [
        _Acl(acl_type, grant.pattern, allow=True)
        for grant in held
        for acl_type in _ACL_TYPES[grant.action]
    ]
