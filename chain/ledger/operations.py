"""The operations that devices, administrators and operators sign: a closed set.

`envelope` signs and opens an operation. `rules` says what it does.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from chain.fields import (
    Counter,
    Der,
    DeviceKind,
    Hash,
    Kinds,
    Privilege,
    ReplicaId,
    Services,
    Signature,
    Spki,
    Text,
    Time,
)
from chain.keys import node_id
from chain.ledger.possession import factory_key

__all__ = [
    "DATA_BYTES_MAX",
    "AddAdministrator",
    "AddFactoryRoot",
    "AddReplica",
    "AddVoucher",
    "BarFactory",
    "CloseSession",
    "Data",
    "Enrol",
    "EnrolBoard",
    "Factory",
    "Grant",
    "OpenSession",
    "Operation",
    "RemoveReplica",
    "Renew",
    "Revoke",
    "Token",
    "WithdrawFactoryRoot",
    "WithdrawVoucher",
    "voucher_key",
]

DATA_BYTES_MAX = 4096


class Token(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="by",
    tag="token",
):
    """A single-use enrolment token: the holder of `key` vouches for one device key."""

    key: Spki
    signature: Signature


class Factory(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="by",
    tag="factory",
):
    """An IDevID (IEEE 802.1AR): DER certificates from the device's up, without the root."""

    chain: Annotated[tuple[Der, ...], msgspec.Meta(min_length=1, max_length=3)]
    signature: Signature


class _Operation(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    tag_field="op",
    tag=True,
    gc=False,
):
    network: Hash


class _Signed(_Operation, frozen=True, kw_only=True):
    """Signed by an identity on the chain. `counter` is higher than any that it used before."""

    node: Hash
    counter: Counter


class Enrol(_Operation, frozen=True, kw_only=True, tag="enrol"):
    """Asks for access. `head` is a recent head hash: it proves that the request is fresh. The nonce
    makes its id unique."""

    key: Spki
    kind: DeviceKind
    service: Text
    privilege: Privilege
    validity_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    head: Hash
    nonce: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    voucher: Token | Factory

    @property
    def node(self) -> bytes:
        return node_id(self.key)

    @property
    def counter(self) -> int:
        """Enrolments have none; 0 is below every counter that is used."""
        return 0


class EnrolBoard(_Signed, frozen=True, kw_only=True, tag="enrol-board"):
    """An environmental device sponsors a sensor board. It will sign the board's readings. `board`
    is a name for people. `key` is derived from the secret that board and device share, and signs
    `possession`: without the secret nobody enrols the board."""

    board: Annotated[bytes, msgspec.Meta(min_length=1, max_length=32)]
    firmware: Hash
    key_check: Annotated[bytes, msgspec.Meta(min_length=8, max_length=32)]
    service: Text
    head: Hash
    key: Spki
    possession: Signature


class Data(_Signed, frozen=True, kw_only=True, tag="data"):
    """A reading. `board` is the node id of the board that it came from. `time_us` and `clock` are
    the device's claim; the record also has the consensus time."""

    service: Text
    payload: Annotated[bytes, msgspec.Meta(max_length=DATA_BYTES_MAX)]
    board: Hash | None = None
    time_us: Time | None = None
    clock: Literal["none", "boot", "ntp", "rtc"] | None = None


class OpenSession(_Signed, frozen=True, kw_only=True, tag="open"):
    service: Text


class CloseSession(_Signed, frozen=True, kw_only=True, tag="close"):
    """`session` is the serial in the record that opened it."""

    session: Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class Renew(_Signed, frozen=True, kw_only=True, tag="renew"):
    """The old key hands over to `key`, which may be the same. The new key signs `possession`."""

    key: Spki
    validity_s: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    possession: Signature


class Revoke(_Signed, frozen=True, kw_only=True, tag="revoke"):
    """Ends a device or a board. `target` is any node id that the device ever had, so it does not
    matter which key it has now."""

    target: Hash
    reason: Text


class Grant(_Signed, frozen=True, kw_only=True, tag="grant"):
    """Replaces a device's privilege and services. The device's certificate is issued again, for its
    newest key. `target` is any node id that the device ever had."""

    target: Hash
    privilege: Privilege
    services: Services


class AddVoucher(_Signed, frozen=True, kw_only=True, tag="add-voucher"):
    """`voucher` is the SHA-256 of the token's SPKI. It admits one device of `kind`."""

    voucher: Hash
    kind: DeviceKind
    privilege: Privilege
    services: Services
    not_after_us: Time


class WithdrawVoucher(_Signed, frozen=True, kw_only=True, tag="withdraw-voucher"):
    voucher: Hash


class AddFactoryRoot(_Signed, frozen=True, kw_only=True, tag="add-root"):
    """Devices with a factory certificate that leads to this root may enrol."""

    certificate: Der
    kinds: Kinds
    privilege: Privilege
    services: Services


class WithdrawFactoryRoot(_Signed, frozen=True, kw_only=True, tag="withdraw-root"):
    """`root` is the SHA-256 of the certificate. Devices that it admitted stay."""

    root: Hash


class BarFactory(_Signed, frozen=True, kw_only=True, tag="bar-factory"):
    """The factory identity `factory` (`ledger.factory.factory_id`) admits nobody any more."""

    factory: Hash


class AddAdministrator(_Signed, frozen=True, kw_only=True, tag="add-admin"):
    key: Spki


class AddReplica(_Signed, frozen=True, kw_only=True, tag="add-replica"):
    replica: ReplicaId
    key: Spki


class RemoveReplica(_Signed, frozen=True, kw_only=True, tag="remove-replica"):
    replica: ReplicaId


Operation = (
    Enrol
    | EnrolBoard
    | Data
    | OpenSession
    | CloseSession
    | Renew
    | Revoke
    | Grant
    | AddVoucher
    | WithdrawVoucher
    | AddFactoryRoot
    | WithdrawFactoryRoot
    | BarFactory
    | AddAdministrator
    | AddReplica
    | RemoveReplica
)


def voucher_key(voucher: Token | Factory) -> bytes:
    """SPKI of the key that vouches. Raises PeerFault("bad-voucher")."""
    return voucher.key if isinstance(voucher, Token) else factory_key(voucher.chain[0])
