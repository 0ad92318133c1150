"""Operations of an admitted identity for itself: data, sessions, renewal.

Part of the `registry`, in the same shape as `admission`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from chain.keys import node_id
from chain.ledger.admission import certificate_fields
from chain.ledger.identity import KEYS_MAX, RENEWALS_MAX, SESSIONS_MAX, Identity
from chain.ledger.operations import CloseSession, Data, OpenSession, Renew
from chain.ledger.reasons import Reason
from chain.ledger.tables import ADMIN, At, Tables

__all__ = [
    "accept_data",
    "close_refusal",
    "close_session",
    "data_refusal",
    "open_refusal",
    "open_session",
    "renew",
    "renew_refusal",
]


def service_refusal(tables: Tables, service: str, identity: Identity) -> Reason | None:
    if service not in identity.services:
        return "service"
    if identity.privilege < tables.policy.privilege_needed.get(service, 0):
        return "privilege"
    return None


def data_refusal(tables: Tables, operation: Data, identity: Identity) -> Reason | None:
    if operation.board is not None:
        board = tables.boards.get(operation.board)
        if board is None or board.sponsor != identity.device:
            return "board"
        if board.revoked_height is not None:
            return "board-revoked"
        if board.service != operation.service:
            return "service"
    return service_refusal(tables, operation.service, identity)


def accept_data(tables: Tables, operation: Data, identity: Identity, at: At) -> dict[str, Any]:
    """Data change nothing but their signer's counter, which the registry has noted."""
    return {}


def open_refusal(tables: Tables, operation: OpenSession, identity: Identity) -> Reason | None:
    if len(identity.sessions) >= SESSIONS_MAX:
        return "sessions"
    return service_refusal(tables, operation.service, identity)


def open_session(
    tables: Tables, operation: OpenSession, identity: Identity, at: At
) -> dict[str, Any]:
    identity.sessions[at.serial] = operation.service
    return {"session": at.serial}


def close_refusal(tables: Tables, operation: CloseSession, identity: Identity) -> Reason | None:
    return None if operation.session in identity.sessions else "session"


def close_session(
    tables: Tables, operation: CloseSession, identity: Identity, at: At
) -> dict[str, Any]:
    return {"session": operation.session, "service": identity.sessions.pop(operation.session)}


def renew_refusal(tables: Tables, operation: Renew, identity: Identity) -> Reason | None:
    if identity.kind == ADMIN:
        return "not-device"
    if identity.ended is not None:  # in this very block
        return identity.ended
    if operation.validity_s > tables.policy.validity_s_max:
        return "validity"
    device = tables.devices[identity.device]
    if device.renewals >= RENEWALS_MAX:
        return "quota"
    if operation.key != identity.key:
        if node_id(operation.key) in tables.identities:
            return "known-node"
        if device.keys >= KEYS_MAX:
            return "quota"
    return None


def renew(tables: Tables, operation: Renew, identity: Identity, at: At) -> dict[str, Any]:
    """A new key gets a new node id with everything that the old one had, and the old one ends. With
    the same key only the certificate is new."""
    tables.devices[identity.device].renewals += 1
    fields: dict[str, Any] = {
        "serial": at.serial,
        "prior": identity.serial,
        "not_before_us": at.time_us,
        "not_after_us": at.time_us + operation.validity_s * 1_000_000,
    }
    if operation.key == identity.key:
        renewed = identity
        for name, value in fields.items():
            setattr(identity, name, value)
    else:
        node = node_id(operation.key)
        renewed = msgspec.structs.replace(
            identity, node=node, key=operation.key, counter=0, **fields
        )
        tables.keep(renewed)
        identity.ended, identity.ended_height, identity.sessions = "renewed", at.height, {}
    return certificate_fields(renewed) | {
        "node": renewed.node,
        "key": renewed.key,
        "by": None if renewed is identity else identity.node,
        "service": renewed.services[0],
        "kind": renewed.kind,
    }
