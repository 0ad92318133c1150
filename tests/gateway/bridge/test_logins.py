"""Logins at the broker are a function of the chain's state, whatever the history."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.ledger.operations import Renew, Revoke
from chain.ledger.possession import renewal_statement
from chain.ledger.statement import OK
from chain.proofs.client import SealedBlock
from gateway.bridge.follower import Settled
from gateway.bridge.logins import LoginChange, Logins, ended
from gateway.broker.security import bootstrap_id
from gateway.mqtt.topics import Role
from tests.chain.world import SECOND_US, Device, World


class Lab:
    """A chain, the logins that follow from it, and a broker that makes every change."""

    def __init__(self) -> None:
        self.world = World(vouchers=16, admins_needed=1)
        self.logins = Logins(bytes(32))
        self.there: dict[str, Role] = {}
        self.former: dict[bytes, str] = {}  # by key: the login before it
        self.keys: list[Device] = []
        self.changes: list[LoginChange] = []
        self.world.idle(1)
        self.follow()

    def follow(self) -> None:
        block = self.world.blocks[-1]
        sealed = SealedBlock(head=block.head, seals=(), records=block.records)
        self.changes = self.logins.changes(Settled.of(self.world.ledger.height, sealed))
        for change in self.changes:
            if change.user is None:
                self.there.pop(change.name, None)
            else:
                self.there[change.name] = change.user.role

    def run(self, operation: Any, by: Device, after_us: int = SECOND_US) -> str:
        (statement,) = self.world.block(self.world.request(operation, by), after_us=after_us)
        self.follow()
        return statement.status

    def enrol(self, kind: str = "mobile", validity_s: int = 3600) -> Device:
        device = Device(f"key {len(self.keys)}")
        operation = self.world.enrol(device, kind=kind, validity_s=validity_s)
        voucher = bootstrap_id(operation.voucher.key)  # type: ignore[union-attr]
        self.there[voucher] = Role.NEWCOMER
        assert self.run(operation, device) == OK
        self.former[device.node] = voucher
        self.keys.append(device)
        return device

    def renew(self, old: Device, *, same_key: bool = False) -> Device:
        new = old if same_key else Device(f"key {len(self.keys)}")
        possession = new.signer.sign(
            renewal_statement(self.world.network, old.node, new.signer.public)
        )
        operation = self.world.signed(
            Renew, old, key=new.signer.public, validity_s=3600, possession=possession
        )
        if self.run(operation, old) == OK and not same_key:
            self.former[new.node] = old.node.hex()
            self.keys.append(new)
        return new

    def revoke(self, device: Device, by: Device | None = None) -> None:
        by = by or self.world.admins[0]
        self.run(self.world.signed(Revoke, by, target=device.node, reason="lost"), by)

    def expected(self) -> set[str]:
        """From the chain's state alone: the newest key of each device that has access; and the
        login before it, while that key has signed nothing."""
        found = set()
        for key in self.keys:
            identity = self.world.ledger.registry.identity(key.node)
            assert identity is not None
            if ended(identity, self.world.ledger.time_us) is None:
                found.add(key.node.hex())
                if identity.counter == 0:
                    found.add(self.former[key.node])
        return found


STEPS = ["enrol", "relay", "brief", "renew", "same", "data", "refused", "revoke", "leave", "idle"]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=12))
def test_the_logins_are_a_function_of_the_chains_state(steps: list[tuple[str, int]]) -> None:
    """After every block of any history; so a device has one login, and a second one only until its
    new key has signed something."""
    lab = Lab()
    for step, choice in steps:
        key = lab.keys[choice % len(lab.keys)] if lab.keys else None
        match step:
            case "enrol" | "relay" | "brief" if len(lab.keys) < 8:
                lab.enrol(
                    "environment" if step == "relay" else "mobile", 9 if step == "brief" else 99
                )
            case "renew" | "same" if key is not None:
                lab.renew(key, same_key=step == "same")
            case "data" if key is not None:
                lab.run(lab.world.data(key), key)
            case "refused" if key is not None:
                lab.run(lab.world.data(key, service="heating"), key)
            case "revoke" if key is not None:
                lab.revoke(key)
            case "leave" if key is not None:
                lab.revoke(key, by=key)
            case _:
                lab.world.block(after_us=(choice + 1) * 10 * SECOND_US)
                lab.follow()
        assert set(lab.there) == lab.expected()


@pytest.mark.parametrize("renewals", [0, 1, 2, 5])
def test_revocation_leaves_no_login_of_the_device(renewals: int) -> None:
    lab = Lab()
    key = lab.enrol("environment")
    for _ in range(renewals):
        key = lab.renew(key)
    assert len(lab.there) == 2  # the newest key has not signed anything yet
    lab.revoke(key)
    assert lab.there == {}


def test_expiry_ends_access_in_the_first_block_after_it() -> None:
    lab = Lab()
    brief, long = lab.enrol(validity_s=10), lab.enrol(validity_s=3600)
    for each in (brief, long):
        lab.run(lab.world.data(each), each)
    assert set(lab.there) == {brief.node.hex(), long.node.hex()}
    lab.world.block(after_us=20 * SECOND_US)
    lab.follow()
    assert set(lab.there) == {long.node.hex()}


def test_a_certificate_that_was_renewed_in_time_does_not_expire() -> None:
    lab = Lab()
    key = lab.enrol(validity_s=10)
    lab.renew(key, same_key=True)
    lab.world.block(after_us=20 * SECOND_US)
    lab.follow()
    assert set(lab.there) == {key.node.hex()}


def test_who_revokes_itself_may_hear_of_it() -> None:
    """Only the login that it uses is kept open for a moment."""
    lab = Lab()
    key = lab.enrol()
    lab.revoke(key, by=key)
    assert {(each.name, each.parting) for each in lab.changes} == {
        (lab.former[key.node], False),
        (key.node.hex(), True),
    }
