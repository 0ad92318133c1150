"""The tables behind the registry: known identities, used vouchers, the height of the chain.

Only `registry` and the rules that it calls (`admission`, `lifecycle`, `administration`) write
here, and only while a block is applied. Rebuilt by replaying blocks. Every table is bounded: by
`nodes_max` for devices in force, by quotas of each device for its keys and boards, and by the
number of vouchers that administrators hand out.
"""

from __future__ import annotations

import heapq
from typing import Final

import msgspec

from chain.block import genesis_head
from chain.genesis import FactoryRoot, Genesis, VoucherGrant
from chain.keys import digest, node_id
from chain.ledger.approvals import Approvals
from chain.ledger.epochs import Epochs
from chain.ledger.freshness import RecentHeads, RecentIds
from chain.ledger.identity import Board, Device, Identity

__all__ = ["ADMIN", "At", "Tables", "serial_of"]

ADMIN: Final = "admin"
_SERIAL_BITS = 16  # a block has fewer than 2**16 records


def serial_of(height: int, index: int) -> int:
    """The serial of record `index` of block `height`: unique; both follow from it."""
    return height << _SERIAL_BITS | index


class At(msgspec.Struct, frozen=True):
    """Where and when an operation is applied."""

    height: int
    serial: int
    time_us: int


class Tables:
    def __init__(self, genesis: Genesis) -> None:
        self.network = genesis.network
        self.policy = policy = genesis.policy
        self.height = 0
        self.time_us = genesis.time_us
        slack = genesis.consensus.pipeline_window
        self.identities: dict[bytes, Identity] = {}
        self.administrators: set[bytes] = set()  # node ids of those in force
        self.devices: dict[bytes, Device] = {}
        self._live: set[bytes] = set()  # devices that are neither revoked nor expired
        self._ends: list[tuple[int, bytes]] = []  # heap of (time, device), one entry for each
        self.boards: dict[bytes, Board] = {}
        self.vouchers: dict[bytes, VoucherGrant] = {each.id: each for each in policy.vouchers}
        self.used: set[bytes] = set()  # voucher ids
        self.withdrawn: set[bytes] = set()  # voucher ids
        self.roots: dict[bytes, FactoryRoot] = {
            digest(each.certificate): each for each in policy.factory_roots
        }
        self.barred: set[bytes] = set()  # factory ids
        self.factory: dict[bytes, int] = {}  # factory id -> times used
        self.epochs = Epochs(genesis.membership, genesis.consensus)
        self.approvals = Approvals(policy.admins_needed, policy.approval_window_blocks)
        self.heads = RecentHeads(policy.enrol_window_blocks + slack)
        self.heads.add(digest(genesis_head(self.network, genesis.time_us)), 0)
        self.ids = RecentIds(slack)
        self.enrol_ids = RecentIds(policy.enrol_window_blocks + slack)
        for key in policy.admins:
            self.add_administrator(key)

    def device(self, node: bytes) -> bytes | None:
        """The device that holds, or once held, the key with this node id. None for a stranger."""
        identity = self.identities.get(node)
        return None if identity is None else identity.device

    def newest_of(self, node: bytes) -> Identity | None:
        """The newest identity of the device that holds, or once held, the key of this node."""
        identity = self.identities.get(node)
        return None if identity is None else self.identities[self.devices[identity.device].newest]

    def add_administrator(self, key: bytes) -> None:
        node = node_id(key)
        self.keep(Identity(node=node, key=key, kind=ADMIN, device=node, privilege=255, services=()))
        self.administrators.add(node)

    def keep(self, identity: Identity) -> None:
        """Notes the newest key of a device, or an administrator."""
        device = self.devices.setdefault(identity.device, Device(newest=identity.node))
        if identity.node not in self.identities:
            device.keys += 1
        device.newest = identity.node
        self.identities[identity.node] = identity
        if identity.kind != ADMIN and identity.device not in self._live:
            self._live.add(identity.device)
            heapq.heappush(self._ends, (identity.not_after_us, identity.device))

    def revoke(self, identity: Identity, height: int) -> None:
        """Ends the newest identity of a device, in the blocks after this one."""
        identity.ended, identity.ended_height, identity.sessions = "revoked", height, {}
        self.administrators.discard(identity.node)
        self._live.discard(identity.device)

    def has_room(self, device: bytes) -> bool:
        """Whether there is a place for this device. Revoked and expired ones take no place."""
        return device in self._live or len(self._live) < self.policy.nodes_max

    def _expire(self, time_us: int) -> None:
        """Frees the places of devices whose certificate has expired. Each device has one entry.
        When its time comes, the certificate is looked at again: it may have been renewed."""
        while self._ends and self._ends[0][0] < time_us:
            _, device = heapq.heappop(self._ends)
            if device not in self._live:
                continue
            newest = self.identities[self.devices[device].newest]
            if newest.not_after_us < time_us:
                self._live.discard(device)
            else:
                heapq.heappush(self._ends, (newest.not_after_us, device))

    def in_force(self, node: bytes, height: int) -> bool:
        """Whether signatures of this identity count in block `height`."""
        identity = self.identities[node]
        return identity.ended is None or height <= identity.ended_height

    def end_block(
        self, height: int, time_us: int, head: bytes, ids: list[bytes], enrol_ids: list[bytes]
    ) -> None:
        """Block `height` with head hash `head` is complete; `ids` are all of its requests."""
        self.height = height
        self.time_us = time_us
        self.heads.add(head, height)
        self.ids.add_block(ids)
        self.enrol_ids.add_block(enrol_ids)
        self.approvals.expire(height)
        self._expire(time_us)
        self.epochs.executed(height)
