"""Logins at the broker are a function of the chain's state, whatever the history."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.keys import digest
from chain.ledger.admission import voucher_id
from chain.ledger.operations import AddVoucher, BarFactory, Renew, Revoke, WithdrawVoucher
from chain.ledger.possession import renewal_statement
from chain.ledger.statement import OK
from chain.proofs.client import SealedBlock
from gateway.bridge.follower import FinalBlock
from gateway.bridge.logins import LoginChange, Logins, ended
from gateway.broker.security import bootstrap_id, user_name
from gateway.mqtt.topics import Role
from tests.chain.world import SECOND_US, Device, World, signer

AFTER_ALL_VOUCHERS_US = 4 * 365 * 86_400 * SECOND_US


class Lab:
    """A chain, the logins that follow from it, and a broker that makes every change."""

    def __init__(self) -> None:
        self.world = World(vouchers=16, admins_needed=1)
        self.logins = Logins(bytes(32), self.world.genesis)
        self.there: dict[str, Role] = {}
        self.vouchers: list[bytes] = []  # that were handed out
        self.factories: list[bytes] = []  # identities that are expected and not barred
        self.numbers = count()
        for vouchers in self.world.left.values():
            for each in vouchers:
                self.hand_out(digest(each.public))
        self.former: dict[bytes, str] = {}  # by key: the login before it
        self.keys: list[Device] = []
        self.changes: list[LoginChange] = []
        self.world.idle(1)
        self.follow()

    def follow(self) -> None:
        block = self.world.blocks[-1]
        sealed = SealedBlock(head=block.head, seals=(), records=block.records)
        self.changes = self.logins.changes(FinalBlock.of(self.world.ledger.height, sealed))
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
        if self.run(operation, device) == OK:
            voucher = voucher_id(operation.voucher)
            self.former[device.node] = bootstrap_id(voucher)
            self.keys.append(device)
        return device

    def hand_out(self, voucher: bytes) -> None:
        self.vouchers.append(voucher)
        self.there[bootstrap_id(voucher)] = Role.NEWCOMER

    def by_admin(self, operation: Any, /, **fields: Any) -> str:
        admin = self.world.admins[0]
        return self.run(self.world.signed(operation, admin, **fields), admin)

    def add_voucher(self, number: int, valid_s: int) -> None:
        """The operator adds its login when the chain has it."""
        key = signer(f"late voucher {number}")
        end_us = self.world.ledger.time_us + valid_s * SECOND_US
        fields = {"kind": "mobile", "privilege": 1, "services": ("telemetry",)}
        status = self.by_admin(
            AddVoucher, voucher=digest(key.public), not_after_us=end_us, **fields
        )
        if status == OK:
            self.hand_out(digest(key.public))
            self.world.left["mobile"].insert(0, key)

    def withdraw(self, voucher: bytes) -> None:
        self.by_admin(WithdrawVoucher, voucher=voucher)

    def expect_factory(self) -> None:
        self.factories.append(digest(b"factory %d" % next(self.numbers)))
        self.there[bootstrap_id(self.factories[-1])] = Role.NEWCOMER

    def bar(self) -> None:
        assert self.by_admin(BarFactory, factory=self.factories.pop()) == OK

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
        registry = self.world.ledger.registry
        found |= {bootstrap_id(each) for each in self.vouchers if registry.admits(each)}
        return found | {bootstrap_id(each) for each in self.factories}

    def step(self, step: str, choice: int) -> None:
        """One step of a history. Keys and vouchers are chosen by the number."""
        lab = self
        key = lab.keys[choice % len(lab.keys)] if lab.keys else None
        match step:
            case "voucher":
                lab.add_voucher(len(lab.world.blocks), 20 * (choice + 1))
            case "withdraw" if lab.vouchers:
                lab.withdraw(sorted(lab.vouchers)[choice % len(lab.vouchers)])
            case "factory":
                lab.expect_factory()
            case "bar" if lab.factories:
                lab.bar()
            case "years" if choice == 0:
                lab.world.block(after_us=AFTER_ALL_VOUCHERS_US)
                lab.follow()
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


STEPS = ["enrol", "relay", "brief", "renew", "same", "data", "refused", "revoke", "leave", "idle"]
STEPS += ["voucher", "withdraw", "factory", "bar", "years"]
HISTORIES = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=12)


@given(HISTORIES)
def test_the_logins_are_a_function_of_the_chains_state(steps: list[tuple[str, int]]) -> None:
    """After every block of any history; so a device has one login, and a second one only until its
    new key has signed something. Vouchers and factory identities have theirs while they are good
    for something."""
    lab = Lab()
    for step, choice in steps:
        lab.step(step, choice)
        assert set(lab.there) == lab.expected()


def newcomers(lab: Lab) -> set[str]:
    return {name for name, role in lab.there.items() if role is Role.NEWCOMER}


def test_a_vouchers_login_ends_when_it_is_withdrawn_or_expires() -> None:
    lab = Lab()
    before = newcomers(lab)
    lab.add_voucher(1, valid_s=60)
    lab.add_voucher(2, valid_s=60)
    one, two = sorted(newcomers(lab) - before)
    withdrawn = next(each for each in lab.vouchers if bootstrap_id(each) == one)
    lab.withdraw(withdrawn)
    assert newcomers(lab) - before == {two}
    lab.world.block(after_us=100 * SECOND_US)
    lab.follow()
    assert newcomers(lab) == before


def test_a_factory_identitys_login_ends_when_it_is_barred() -> None:
    lab = Lab()
    before = newcomers(lab)
    lab.expect_factory()
    lab.bar()
    assert newcomers(lab) == before


def test_a_device_that_renews_often_does_not_fill_the_gateways_memory() -> None:
    """Under the same key, which takes no place on the chain either."""
    lab = Lab()
    key = lab.enrol(validity_s=3600)
    for _ in range(200):
        lab.renew(key, same_key=True)
    devices, device_of, ends, _ = lab.logins.state
    assert (len(devices), len(device_of)) == (1, 1)
    assert len(ends) <= 2 + 64


def own(lab: Lab) -> set[str]:
    """The logins but those of vouchers that are not used."""
    registry = lab.world.ledger.registry
    return set(lab.there) - {bootstrap_id(each) for each in lab.vouchers if registry.admits(each)}


@pytest.mark.parametrize("renewals", [0, 1, 2, 5])
def test_revocation_leaves_no_login_of_the_device(renewals: int) -> None:
    lab = Lab()
    key = lab.enrol("environment")
    for _ in range(renewals):
        key = lab.renew(key)
    assert len(own(lab)) == 2  # the newest key has not signed anything yet
    lab.revoke(key)
    assert own(lab) == set()


def test_expiry_ends_access_in_the_first_block_after_it() -> None:
    lab = Lab()
    brief, long = lab.enrol(validity_s=10), lab.enrol(validity_s=3600)
    for each in (brief, long):
        lab.run(lab.world.data(each), each)
    assert own(lab) == {brief.node.hex(), long.node.hex()}
    lab.world.block(after_us=20 * SECOND_US)
    lab.follow()
    assert own(lab) == {long.node.hex()}


def test_a_certificate_that_was_renewed_in_time_does_not_expire() -> None:
    lab = Lab()
    key = lab.enrol(validity_s=10)
    lab.renew(key, same_key=True)
    lab.world.block(after_us=20 * SECOND_US)
    lab.follow()
    assert own(lab) == {key.node.hex()}


@pytest.mark.parametrize("by_itself", [False, True])
def test_revocation_leaves_no_login_of_an_administrator(by_itself: bool) -> None:
    """With the login that administers the broker, a stolen key would let anybody in."""
    lab = Lab()
    gone, other, staying = lab.world.admins
    both = {user_name(role, gone.node.hex()): role for role in (Role.DEVICE, Role.ADMIN)}
    kept = {user_name(role, staying.node.hex()): role for role in (Role.DEVICE, Role.ADMIN)}
    lab.there |= both | kept
    lab.revoke(gone, by=gone if by_itself else other)
    assert lab.world.ledger.registry.administrators == {other.node, staying.node}
    assert not both.keys() & lab.there.keys()
    assert kept.keys() <= lab.there.keys()


def test_who_revokes_itself_may_hear_of_it() -> None:
    """Only the login that it uses is kept open for a moment."""
    lab = Lab()
    key = lab.enrol()
    lab.revoke(key, by=key)
    assert {(each.name, each.parting) for each in lab.changes} == {
        (lab.former[key.node], False),
        (key.node.hex(), True),
    }
