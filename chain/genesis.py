"""The document that everything is verified from: network, replicas, administrators, policy.

Its SHA-256 is the network id. Devices and verifiers pin it, and every ledger is stored with it. It
names no host address: the inventory says where replicas are.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

import msgspec

from chain.errors import PeerFault
from chain.fields import (
    FRAME_BYTES_MAX,
    Der,
    DeviceKind,
    Hash,
    Kinds,
    Privilege,
    ReplicaId,
    Spki,
    Text,
    Time,
)
from chain.keys import digest, node_id
from chain.quorum import REPLICAS_MAX, REPLICAS_MIN, Quorum

__all__ = ["Consensus", "FactoryRoot", "Genesis", "Member", "Membership", "Policy", "VoucherGrant"]

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]


class Member(msgspec.Struct, frozen=True, order=True):
    """One replica. Ids are never reused; `spki` checks its votes, its heads and its TLS link."""

    id: ReplicaId
    spki: Spki


class Membership(msgspec.Struct, frozen=True, dict=True):
    """The replicas of one epoch, in the order of their ids."""

    epoch: int
    members: tuple[Member, ...]

    @cached_property
    def quorum(self) -> Quorum:
        return Quorum.of(len(self.members))

    @cached_property
    def ids(self) -> tuple[int, ...]:
        return tuple(member.id for member in self.members)

    @cached_property
    def _spkis(self) -> dict[int, bytes]:
        return {member.id: member.spki for member in self.members}

    def primary(self, view: int) -> int:
        """The id of the primary of `view`: members take turns (OSDI'99, section 4.1)."""
        return self.members[view % len(self.members)].id

    def spki(self, replica: int) -> bytes | None:
        """The key of a replica, None for a stranger."""
        return self._spkis.get(replica)


# Upper bounds of encoded parts of replica messages.
VOTE_BYTES_MAX = 136  # a signed PRE-PREPARE, PREPARE or CHECKPOINT, without a batch
RECORD_BYTES_MAX = 1024  # of a record without its item: its leaf
INTERVAL_MAX = 2048  # blocks between checkpoints: decoders take twice as many certificates


class Consensus(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of the core. All replicas must use the same: otherwise they are different state
    machines."""

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

    def new_view_bytes_max(self, replicas: int) -> int:
        """The largest message: q VIEW-CHANGEs, each with q CHECKPOINTs and a certificate of q votes
        for each number of the window."""
        strong, window = Quorum.of(replicas).strong, self.log_window
        certificate = strong * VOTE_BYTES_MAX + 8
        view_change = (strong + 1) * VOTE_BYTES_MAX + window * certificate
        return strong * view_change + (window + 1) * VOTE_BYTES_MAX

    @property
    def block_bytes_max(self) -> int:
        """The largest block in a BODIES; a batch is smaller."""
        return self.batch_bytes_max + self.batch_requests_max * RECORD_BYTES_MAX

    @property
    def replicas_max(self) -> int:
        """The most replicas whose NEW-VIEW fits into a frame; less than REPLICAS_MIN if none do."""
        fitting = range(REPLICAS_MIN, REPLICAS_MAX + 1)
        fit = [n for n in fitting if self.new_view_bytes_max(n) <= FRAME_BYTES_MAX]
        return max(fit, default=0)


class VoucherGrant(msgspec.Struct, frozen=True, kw_only=True):
    """A single-use right to enrol one device of this kind, until `not_after_us`. Its holder proves
    it with the key whose hash is `id`."""

    id: Hash
    kind: DeviceKind
    privilege_max: Privilege
    services: tuple[Text, ...]
    not_after_us: Time


class FactoryRoot(msgspec.Struct, frozen=True, kw_only=True):
    """A manufacturer's root certificate (DER), and the limits for devices that it vouches for."""

    certificate: Der
    kinds: Kinds
    privilege_max: Privilege
    services: tuple[Text, ...]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Who may be admitted and how. `group_size` m and `group_accepts` k default to 2f+1, f+1.

    `admins_needed` of `admins` must sign the same operation within `approval_window_blocks`.
    `privilege_needed` is what a service asks of its users (0 if not listed). A factory certificate
    that leads to one of `factory_roots` admits `factory_enrolments_max` keys.
    """

    admins: tuple[Spki, ...] = ()
    admins_needed: Annotated[int, msgspec.Meta(ge=0, le=64)] = 0
    approval_window_blocks: Count = 256
    vouchers: tuple[VoucherGrant, ...] = ()
    factory_roots: tuple[FactoryRoot, ...] = ()
    factory_enrolments_max: Count = 1
    services: tuple[Text, ...] = ("telemetry",)
    privilege_needed: dict[Text, Privilege] = {}
    validity_s_default: Count = 604_800
    validity_s_max: Count = 2_592_000
    enrol_window_blocks: Count = 256
    nodes_max: Count = 100_000
    group_size: Count | None = None
    group_accepts: Count | None = None

    def group(self, quorum: Quorum) -> tuple[int, int]:
        """(m, k) of the authentication group for this many replicas; m is at most n."""
        size = min(self.group_size or 2 * quorum.faulty + 1, quorum.n)
        return size, min(self.group_accepts or quorum.faulty + 1, size)


class Genesis(msgspec.Struct, frozen=True, kw_only=True):
    """The pinned start of one network."""

    schema: str = "testbed.genesis/1"
    name: Text
    time_us: Time
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
        genesis.check()
        return genesis

    def check(self) -> None:
        """Raises PeerFault("bad-genesis") naming the first field that contradicts another."""
        ids = [member.id for member in self.members]
        policy = self.policy
        faults = {
            "members: ids and keys must be unique and ids ordered": ids != sorted(set(ids))
            or len({member.spki for member in self.members}) != len(ids),
            f"members: at least {REPLICAS_MIN}": len(ids) < REPLICAS_MIN,
            "policy.admins: keys must be unique": len(set(policy.admins)) != len(policy.admins),
            "policy.admins_needed: from 1 to the number of admins": bool(policy.admins)
            != bool(policy.admins_needed)
            or policy.admins_needed > len(policy.admins),
            "policy.vouchers: ids must be unique": len({each.id for each in policy.vouchers})
            != len(policy.vouchers),
            "policy.factory_roots: certificates must be unique": len(
                {root.certificate for root in policy.factory_roots}
            )
            != len(policy.factory_roots),
            "policy.privilege_needed: names a service that policy.services lacks": not set(
                policy.privilege_needed
            )
            <= set(policy.services),
            "policy.validity_s_default: at most validity_s_max": policy.validity_s_default
            > policy.validity_s_max,
            "policy.group_accepts: at most group_size": (policy.group_accepts or 1)
            > (policy.group_size or len(ids)),
            f"members: at most {self.consensus.replicas_max} with consensus.checkpoint_interval "
            f"{self.consensus.checkpoint_interval}, so that a NEW-VIEW fits into a frame of "
            f"{FRAME_BYTES_MAX} bytes; take a shorter interval": len(ids)
            > self.consensus.replicas_max,
            f"consensus.checkpoint_interval: at most {INTERVAL_MAX}": (
                self.consensus.checkpoint_interval > INTERVAL_MAX
            ),
            "consensus.batch_bytes_max, batch_requests_max: a block must fit into a frame of "
            f"{FRAME_BYTES_MAX} bytes": self.consensus.block_bytes_max > FRAME_BYTES_MAX,
        }
        for fault, found in faults.items():
            if found:
                raise PeerFault("bad-genesis", fault)

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
