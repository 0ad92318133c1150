"""A network in a test's hand: genesis, replica keys, devices, and blocks made one by one.

Real keys, real signatures, the real ledger; only consensus is left out: a block is what the test
says it is, signed by as many replicas as the test wants.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec

from chain.block import Block
from chain.fields import DeviceKind
from chain.genesis import Consensus, FactoryRoot, Genesis, Member, Policy, VoucherGrant
from chain.keys import Es256, Es256Signer, digest, node_id
from chain.ledger.auth_group import members
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item, open_item
from chain.ledger.ledger import Ledger
from chain.ledger.operations import AddReplica, Data, Enrol, EnrolBoard, Operation, Token
from chain.ledger.possession import board_node, board_statement, voucher_statement
from chain.ledger.statement import Statement, decode_leaf
from chain.pbft.messages import Endorsement, Proposal, Seal, Signed, encode, signed_bytes
from chain.pbft.state_machine import VerifiedRequest
from chain.proofs.proof import HeadSeal

START_US = 1_700_000_000_000_000
VOUCHERS_END_US = START_US + 10**14
SECOND_US = 1_000_000
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def signer(name: str) -> Es256Signer:
    """The same name, the same key, in every run."""
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (_P256_ORDER - 1) + 1
    return Es256Signer(ec.derive_private_key(secret, ec.SECP256R1()))


def private_key(name: str) -> ec.EllipticCurvePrivateKey:
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") % (_P256_ORDER - 1) + 1
    return ec.derive_private_key(secret, ec.SECP256R1())


def factory_root(certificate: bytes, **changes: Any) -> FactoryRoot:
    """Its devices may be mobile ones, of privilege 2 at most."""
    root = FactoryRoot(
        certificate=certificate, kinds=("mobile",), privilege_max=2, services=("telemetry", "valve")
    )
    return msgspec.structs.replace(root, **changes)


def board_key(name: bytes) -> Es256Signer:
    return signer(f"board {name.hex()}")


class Device:
    """A key with its counter."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.signer = signer(name)
        self.node = node_id(self.signer.public)
        self.counter = 0


class World:
    def __init__(self, replicas: int = 4, vouchers: int = 8, **policy: Any) -> None:
        self.scheme = Es256()
        self.replicas = {each: signer(f"replica {each}") for each in range(replicas)}
        self.vouchers = [signer(f"voucher {each}") for each in range(vouchers)]
        self.left: dict[DeviceKind, list[Es256Signer]] = {
            "mobile": list(self.vouchers),
            "environment": [signer(f"relay voucher {each}") for each in range(vouchers)],
        }
        self.admins = [Device(f"admin {each}") for each in range(3)]
        consensus = policy.pop("consensus", Consensus(checkpoint_interval=8, pipeline_window=4))
        self.genesis = Genesis(
            name="test",
            time_us=START_US,
            members=tuple(Member(each, key.public) for each, key in self.replicas.items()),
            consensus=consensus,
            policy=msgspec.structs.replace(
                Policy(
                    admins=tuple(each.signer.public for each in self.admins),
                    admins_needed=2,
                    services=("telemetry", "valve"),
                    privilege_needed={"valve": 3},
                    enrol_window_blocks=16,
                    approval_window_blocks=16,
                    vouchers=tuple(
                        VoucherGrant(
                            id=digest(each.public),
                            kind=kind,
                            privilege_max=5,
                            services=("telemetry", "valve"),
                            not_after_us=VOUCHERS_END_US,
                        )
                        for kind, vouchers in self.left.items()
                        for each in vouchers
                    ),
                ),
                **policy,
            ),
        )
        self.network = self.genesis.network
        self.ledger = Ledger(self.genesis, self.scheme)
        self.blocks: list[Block] = []

    # --- what devices sign ---

    def enrol(self, device: Device, **changes: Any) -> Enrol:
        """An access request with the next unused voucher of its kind."""
        kind: DeviceKind = changes.get("kind", "mobile")
        voucher = changes.pop("with_voucher", None) or self.left[kind].pop(0)
        head = changes.pop("head", self.ledger.head_hash)
        statement = voucher_statement(self.network, device.signer.public, head)
        return msgspec.structs.replace(
            Enrol(
                network=self.network,
                key=device.signer.public,
                kind="mobile",
                service="telemetry",
                privilege=1,
                validity_s=3600,
                head=head,
                nonce=digest(device.name.encode())[:16],
                voucher=Token(key=voucher.public, signature=voucher.sign(statement)),
            ),
            **changes,
        )

    def board(self, sponsor: Device, name: bytes = b"th01", **changes: Any) -> EnrolBoard:
        """`sponsor` brings a board to the chain. The name gives its key, unless `key_of` does."""
        key, head = board_key(changes.pop("key_of", name)), self.ledger.head_hash
        fields: dict[str, Any] = {
            "board": name,
            "firmware": digest(b"firmware"),
            "key_check": bytes(8),
            "service": "telemetry",
            "head": head,
            "key": key.public,
        }
        fields |= changes
        statement = board_statement(self.network, sponsor.node, name, fields["head"])
        fields.setdefault("possession", key.sign(statement))
        operation: EnrolBoard = self.signed(EnrolBoard, sponsor, **fields)
        return operation

    def board_node(self, name: bytes = b"th01") -> bytes:
        return board_node(self.network, board_key(name).public)

    def signed(self, kind: type[Operation], device: Device, /, **fields: Any) -> Any:
        """An operation with the device's next counter."""
        device.counter += 1
        return kind(network=self.network, node=device.node, counter=device.counter, **fields)  # type: ignore[call-arg]

    def data(self, device: Device, payload: bytes = b"21.5", **fields: Any) -> Data:
        result: Data = self.signed(
            Data, device, **({"service": "telemetry", "payload": payload} | fields)
        )
        return result

    # --- requests, with endorsements where they are wanted ---

    def endorse(
        self, request: bytes, replicas: tuple[int, ...] | None = None
    ) -> tuple[Signed, ...]:
        membership = self.ledger.membership
        if replicas is None:
            size, _ = self.genesis.policy.group(membership.quorum)
            replicas = members(request, membership, size)
        frames = []
        for each in replicas:
            body = encode(
                Endorsement(membership.epoch, each, request=request, accepted=True, reason="")
            )
            signature = self.replicas[each].sign(signed_bytes(self.network, body))
            frames.append(Signed(body, signature))
        return tuple(frames)

    def request(self, operation: Operation, by: Device, endorsed: bool = True) -> VerifiedRequest:
        cose = sign_operation(operation, by.signer)
        request = self.open(make_item(cose))
        if endorsed and isinstance(operation, Enrol | EnrolBoard):
            request = self.open(make_item(cose, self.endorse(request.id)))
        return request

    def open(self, item: bytes) -> VerifiedRequest:
        return open_item(item, self.network, self.ledger.membership, self.scheme)

    # --- blocks ---

    def block(self, *requests: VerifiedRequest, after_us: int = SECOND_US) -> list[Statement]:
        """Decides one block of these requests; answers what its records say."""
        proposal = Proposal(
            seq=self.ledger.height + 1,
            time_us=self.ledger.time_us + after_us,
            view=0,
            items=tuple(each.item for each in requests),
        )
        block = self.ledger.execute(proposal, requests, self.ledger.membership.epoch)
        self.blocks.append(block)
        return [decode_leaf(record.leaf) for record in block.records]

    def idle(self, blocks: int) -> None:
        for _ in range(blocks):
            self.block()

    def run(self, operation: Operation, by: Device) -> Statement:
        """One block with this one operation."""
        return self.block(self.request(operation, by))[0]

    def admit(self, name: str, **changes: Any) -> Device:
        device = Device(name)
        statement = self.run(self.enrol(device, **changes), device)
        assert statement.status == "ok", statement.status
        return device

    def add_replica(self, replica: int) -> Statement:
        """Two administrators add a replica; in force after the next checkpoint (K = 8)."""
        self.replicas[replica] = signer(f"replica {replica}")
        key = self.replicas[replica].public
        for admin in self.admins[:2]:
            last = self.run(self.signed(AddReplica, admin, replica=replica, key=key), admin)
        return last

    def seals(self, block: Block, *replicas: int) -> list[HeadSeal]:
        return [HeadSeal(each, self.replicas[each].sign(block.head)) for each in replicas]

    def seal(self, replica: int, block: Block, with_body: bool = True) -> Seal:
        return Seal(
            replica=replica,
            view=0,
            head=block.head,
            signature=self.replicas[replica].sign(block.head),
            block=block if with_body else None,
        )
