"""The security document: what each login may do at the broker. It is read, enforced and written
here.

Format and commands are those of Mosquitto's dynamic-security plugin (clients, roles, ACLs).
Mosquitto uses its plugin; `SecurityStore` does the same for the embedded broker, for the subset
that we use. `security` defines the logins.

The document also holds the carrier certificates of devices. Each is the text of a role without
rights that nobody has. So it is on disk when the broker confirms it, and is removed with the login.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.mqtt.topics import AccessRule, Action, Role, covers

__all__ = ["CARRIER_ROLE", "SecurityFileError", "SecurityStore", "acls_of"]

CARRIER_ROLE = "carrier."
"""The prefix of the role that holds a user's carrier certificate."""

# Mosquitto's default. Passwords are 256 random bits, so guessing needs no slowing down.
_iterations = 101
_salt_bytes = 12
_password_hash_bytes = 64
clients_max = 10_000

_ACL_TYPES = {
    Action.PUBLISH: ("publishClientSend",),
    # The first gives the right. The plugin delivers only with the second: in 2.0.11 nothing under
    # $CONTROL arrives without it, whatever the default access.
    Action.SUBSCRIBE: ("subscribePattern", "publishClientReceive"),
}


class SecurityFileError(Exception):
    """The security file is missing, damaged or readable by others. The message names it."""


# The document as the plugin of Mosquitto 2.0 writes and reads it.


class Acl(msgspec.Struct):
    acltype: str
    topic: str
    allow: bool
    priority: int = 0


class _RoleEntry(msgspec.Struct):
    rolename: str
    acls: list[Acl] = []
    textdescription: str = ""


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
    acls: list[Acl] = []
    textdescription: str = ""


@dataclass(slots=True)
class SecurityStore:
    """The document, enforced: a client may do only what one of its roles allows."""

    path: Path
    _clients: dict[str, _Client] = field(default_factory=dict)
    _roles: dict[str, _RoleEntry] = field(default_factory=dict)
    _access_rules: dict[str, tuple[AccessRule, ...]] = field(default_factory=dict)  # by role

    @classmethod
    def load(cls, path: Path) -> SecurityStore:
        """Reads the file. Raises SecurityFileError, which says what is wrong."""
        try:
            if path.stat().st_mode & 0o077:
                raise SecurityFileError(f"{path} is open to others: chmod 600 {path}")
            document = msgspec.json.decode(path.read_bytes(), type=_Document)
            store = cls(path)
            for role in document.roles:
                store._keep(role)
        except (OSError, ValueError) as error:
            raise SecurityFileError(f"{path}: {error}") from error
        store._clients = {client.username: client for client in document.clients}
        return store

    def __contains__(self, name: object) -> bool:
        return name in self._clients

    def carriers(self) -> dict[str, str]:
        """The carrier certificate (PEM) of each user that has one."""
        roles = ((name, self._roles.get(CARRIER_ROLE + name)) for name in self._clients)
        return {name: role.textdescription for name, role in roles if role is not None}

    def is_gateway(self, name: str) -> bool:
        client = self._clients.get(name)
        return client is not None and client.textname == Role.GATEWAY

    def knows(self, name: str, password: str | None) -> bool:
        """Whether the password is correct. It takes the same time for an unknown name."""
        client = self._clients.get(name)
        salt = base64.b64decode(client.salt) if client else b"\0" * _salt_bytes
        expected = base64.b64decode(client.password) if client else b""
        given = _hash(password or "", salt)
        return hmac.compare_digest(given, expected)

    def allows(self, name: str, action: Action, topic: str) -> bool:
        client = self._clients.get(name)
        return client is not None and any(
            rule.action is action and covers(rule.pattern, topic)
            for ref in client.roles
            for rule in self._access_rules.get(ref.rolename, ())
        )

    def apply(self, raw: object) -> str | None:
        """Does one command: None if done, else why not. It is not on disk yet."""
        try:
            return self._do(msgspec.convert(raw, _Command))
        except ValueError as error:
            return f"Invalid command: {error}"

    def _do(self, command: _Command) -> str | None:
        match command.command:
            case "createRole":
                return self._create_role(command)
            case "modifyRole":  # changes the text only: we need no more
                if command.rolename not in self._roles:
                    return "Role not found"
                self._roles[command.rolename].textdescription = command.textdescription
                return None
            case "deleteRole":
                return self._delete_role(command.rolename)
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
        self._keep(_RoleEntry(command.rolename, command.acls, command.textdescription))
        return None

    def _keep(self, role: _RoleEntry) -> None:
        self._access_rules[role.rolename] = _rules_of(role.acls)
        self._roles[role.rolename] = role

    def _delete_role(self, name: str) -> str | None:
        if name not in self._roles:
            return "Role not found"
        del self._roles[name], self._access_rules[name]
        return None

    def _create_client(self, command: _Command) -> str | None:
        if command.username in self._clients:
            return "Client already exists"
        if len(self._clients) >= clients_max:
            return f"More than {clients_max} clients"
        self._clients[command.username] = _client_of(command)
        return None

    def encoded(self) -> bytes:
        """The document as it is now. Fast, also with `clients_max` clients."""
        clients, roles = list(self._clients.values()), list(self._roles.values())
        return msgspec.json.encode(_Document(clients=clients, roles=roles))

    def write(self, document: bytes) -> None:
        """Replaces the file as a whole: a kill leaves either the old file or the new one. It syncs,
        so call it off the event loop."""
        fresh = self.path.with_name(self.path.name + ".new")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(document)
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


def _rules_of(acls: list[Acl]) -> tuple[AccessRule, ...]:
    action_of = {types[0]: action for action, types in _ACL_TYPES.items()}
    for acl in acls:
        if acl.acltype not in (*action_of, "publishClientReceive") or not acl.allow:
            raise ValueError(f"ACL {acl.acltype} allow={acl.allow} is not supported here")
    return tuple(
        AccessRule(action_of[acl.acltype], acl.topic) for acl in acls if acl.acltype in action_of
    )


def acls_of(held: tuple[AccessRule, ...]) -> list[Acl]:
    """Access rules as ACLs of the plugin."""
    return [
        Acl(acl_type, rule.pattern, allow=True)
        for rule in held
        for acl_type in _ACL_TYPES[rule.action]
    ]
