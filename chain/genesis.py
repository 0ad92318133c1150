"""The document that everything is verified from: network, replicas, administrators, policy.

Its SHA-256 is the network id. It is pinned by devices and verifiers, stored beside every ledger
and names no host address: where replicas are is the inventory's business.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from chain.errors import PeerFault
from chain.keys import digest, node_id
from chain.quorum import Quorum

__all__ = ["Consensus", "Genesis", "Member", "Membership", "Policy", "VoucherGrant"]

Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Spki = Annotated[bytes, msgspec.Meta(min_length=32, max_length=256)]
Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Member(msgspec.Struct, frozen=True, order=True):
    """One replica. Ids are never reused; `spki` checks its votes, its heads and its TLS link."""

    id: Annotated[int, msgspec.Meta(ge=0, le=2**31)]
    spki: Spki


class Membership(msgspec.Struct, frozen=True):
    """The replicas of one epoch, in the order of their ids."""

    epoch: int
    members: tuple[Member, ...]

    @property
    def quorum(self) -> Quorum:
        return Quorum.of(len(self.members))

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members)

    def primary(self, view: int) -> int:
        """The id of the primary of `view`: members take turns (OSDI'99, section 4.1)."""
        return self.members[view % len(self.members)].id

    def spki(self, replica: int) -> bytes | None:
        """The key of a replica, None for a stranger."""
        for member in self.members:
            if member.id == replica:
                return member.spki
        return None


class Consensus(msgspec.Struct, frozen=True, kw_only=True):
    """What every replica must agree on for the core to be the same state machine everywhere."""

    checkpoint_interval: Count = 64
    pipeline_window: Count = 8
    batch_requests_max: Count = 256
    batch_bytes_max: Count = 1_048_576
    view_timeout_us: Count = 1_000_000
    view_timeout_us_max: Count = 16_000_000
    status_interval_us: Count = 250_000
    heartbeat_us: Count = 2_000_000
    precision_us: Count = 500_000
    message_delay_us: Count = 1_000_000

    @property
    def log_window(self) -> int:
        """L = 2K: how far above the stable checkpoint votes are accepted."""
        return 2 * self.checkpoint_interval


class VoucherGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A single-use right to enrol: the holder proves it with the key that hashes to `id`."""

    id: Bytes32
    privilege_max: Annotated[int, msgspec.Meta(ge=0, le=255)]
    services: tuple[Text, ...]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may be admitted and how. `group_size` m and `group_accepts` k default to 2f+1, f+1."""

    admins: tuple[Spki, ...] = ()
    admins_needed: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    vouchers: tuple[VoucherGrant, ...] = ()
    factory_roots: tuple[bytes, ...] = ()
    services: tuple[Text, ...] = ("telemetry",)
    validity_s_default: Count = 604_800
    validity_s_max: Count = 2_592_000
    enrol_window_blocks: Count = 256
    group_size: int | None = None
    group_accepts: int | None = None


class Genesis(msgspec.Struct, frozen=True, kw_only=True):
    """The pinned start of one network."""

    schema: str = "testbed.genesis/1"
    name: Text
    time_us: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    members: tuple[Member, ...]
    policy: Policy
    consensus: Consensus = Consensus()

    def encode(self) -> bytes:
        """Readable JSON, bytes as base64; deterministic, because the hash is taken over it."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=1)

    @classmethod
    def decode(cls, data: bytes) -> Genesis:
        """Raises PeerFault unless `data` is exactly what `encode` writes."""
        try:
            genesis = msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise PeerFault("bad-genesis", str(error)) from error
        if genesis.encode() != data:
            raise PeerFault("bad-genesis", "not in canonical form: it was edited by hand")
        ids = [member.id for member in genesis.members]
        if ids != sorted(set(ids)) or len({m.spki for m in genesis.members}) != len(ids):
            raise PeerFault("bad-genesis", "replica ids and keys must be unique and ordered")
        return genesis

    @property
    def network(self) -> bytes:
        """The network id, 32 bytes."""
        return digest(self.encode())

    @property
    def membership(self) -> Membership:
        """Epoch 0."""
        return Membership(epoch=0, members=self.members)

    @property
    def admin_ids(self) -> tuple[bytes, ...]:
        return tuple(node_id(spki) for spki in self.policy.admins)
