"""Administrators decide together; revocation is of the device; the set of administrators."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.keys import digest, node_id
from chain.ledger.administration import ADMINISTRATORS_MAX
from chain.ledger.approvals import PENDING_PER_ADMIN_MAX
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    Grant,
    OpenSession,
    RemoveReplica,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.statement import Statement
from tests.chain.registry_support import RIGHTS, VOUCHER, renewal
from tests.chain.world import (
    Device,
    World,
    signer,
)


def test_m_of_n_administrators_decide_together() -> None:
    world = World()
    alice = world.admit("alice")
    one, two, _ = world.admins

    def vote(admin: Device) -> str:
        revoke = world.signed(Revoke, admin, target=alice.node, reason="stolen")
        return world.run(revoke, admin).status

    assert vote(one) == "pending"
    assert vote(one) == "pending", "the same administrator does not count twice"
    assert world.run(world.data(alice), alice).status == "ok"
    assert vote(two) == "ok"
    assert world.run(world.data(alice), alice).status == "refused:revoked"
    assert vote(one) == "refused:revoked"


@pytest.mark.parametrize(("blocks", "status"), [(16, "ok"), (17, "pending")])
def test_approvals_expire(blocks: int, status: str) -> None:
    world = World()
    alice = world.admit("alice")
    one, two, _ = world.admins
    world.run(world.signed(Revoke, one, target=alice.node, reason="stolen"), one)
    world.idle(blocks)
    late = world.run(world.signed(Revoke, two, target=alice.node, reason="stolen"), two)
    assert late.status == status


def test_a_revoked_administrators_approvals_do_not_outlive_its_key() -> None:
    """A stolen key may have signed all sorts of things before it was noticed."""
    world = World()
    stolen, one, two = world.admins
    voucher = VOUCHER

    def add(admin: Device) -> str:
        return world.run(world.signed(AddVoucher, admin, **voucher), admin).status

    assert add(stolen) == "pending"
    for admin in (one, two):
        world.run(world.signed(Revoke, admin, target=stolen.node, reason="stolen"), admin)
    assert add(one) == "pending"
    assert add(two) == "ok"


def test_approvals_are_bounded_per_administrator() -> None:
    world = World(approval_window_blocks=100)
    alice = world.admit("alice")
    one = world.admins[0]
    what: dict[str, Any] = {"target": alice.node, "services": ("telemetry",)}
    statuses = [
        world.run(world.signed(Grant, one, privilege=each, **what), one).status
        for each in range(17)
    ]
    assert statuses == ["pending"] * 16 + ["refused:too-many-pending"]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Revoke, {"target": bytes(32), "reason": "spite"}),
        (Grant, {"target": bytes(32), "privilege": 255, "services": ("telemetry",)}),
        (AddVoucher, VOUCHER),
        (AddAdministrator, {"key": signer("x").public}),
        (WithdrawVoucher, {"voucher": bytes(32)}),
        (AddFactoryRoot, {"certificate": b"x", "kinds": ("mobile",), **RIGHTS}),
        (WithdrawFactoryRoot, {"root": bytes(32)}),
        (BarFactory, {"factory": bytes(32)}),
        (AddReplica, {"replica": 9, "key": signer("replica 9").public}),
        (RemoveReplica, {"replica": 0}),
    ],
)
def test_devices_do_not_administer(kind: Any, fields: dict[str, Any]) -> None:
    world = World()
    alice = world.admit("alice")
    assert world.run(world.signed(kind, alice, **fields), alice).status == (
        "refused:not-administrator"
    )


def test_an_added_voucher_admits() -> None:
    world = World()
    token = signer("new token")
    for admin in world.admins[:2]:
        world.run(
            world.signed(
                AddVoucher,
                admin,
                **(VOUCHER | {"voucher": digest(token.public)}),
            ),
            admin,
        )
    assert world.admit("alice", with_voucher=token).node == node_id(signer("alice").public)


def test_a_membership_change_waits_for_the_next_checkpoint() -> None:
    """K = 8: decided below it, in force above it; one change at a time; ids are not used twice."""
    world = World()

    def ask(kind: Any, **fields: Any) -> Any:
        for admin in world.admins[:2]:
            last = world.run(world.signed(kind, admin, **fields), admin)
        return last

    assert ask(RemoveReplica, replica=0).status == "refused:too-few-replicas"
    added = ask(AddReplica, replica=4, key=signer("replica 4").public)
    assert (added.status, added.epoch, added.boundary) == ("ok", 1, 8)
    assert world.ledger.decided_membership.ids == (0, 1, 2, 3, 4)
    assert world.ledger.membership.epoch == 0
    refused = ask(AddReplica, replica=5, key=signer("replica 5").public)
    assert refused.status == "refused:change-pending"
    while world.ledger.height < 8:
        assert world.ledger.membership.epoch == 0
        world.idle(1)
    assert world.ledger.membership.ids == (0, 1, 2, 3, 4)
    assert ask(AddReplica, replica=4, key=signer("x").public).status == "refused:replica-used"
    removed = ask(RemoveReplica, replica=2)
    assert (removed.status, removed.epoch) == ("ok", 2)
    world.idle(8)
    assert [each.id for each in world.ledger.membership.members] == [0, 1, 3, 4]


# --- revocation is of the device -----------------------------------------------------------------


def revoke_by(world: World, admin: Device, target: bytes, reason: str = "stolen") -> str:
    return world.run(world.signed(Revoke, admin, target=target, reason=reason), admin).status


def test_a_renewal_between_two_approvals_does_not_outrun_a_revocation() -> None:
    world = World(admins_needed=2)
    thief, second = world.admit("thief"), Device("second key")
    assert revoke_by(world, world.admins[0], thief.node) == "pending"
    assert world.run(renewal(world, thief, second), thief).status == "ok"
    # The second administrator names the key that it knows, for a reason of its own.
    done = world.run(
        world.signed(Revoke, world.admins[1], target=second.node, reason="lost"), world.admins[1]
    )
    assert (done.status, done.node, done.key) == ("ok", second.node, second.signer.public)
    assert world.run(world.data(second), second).status == "refused:revoked"
    third = Device("third key")
    assert world.run(renewal(world, second, third), second).status == "refused:revoked"
    assert revoke_by(world, world.admins[0], thief.node) == "refused:revoked"


def test_what_is_decided_takes_no_place_among_what_is_pending() -> None:
    """Whoever revokes many stolen devices at once must not have to wait for the window."""
    world = World()
    one, other = world.admins[:2]
    for number in range(2 * PENDING_PER_ADMIN_MAX):
        voucher = digest(b"voucher %d" % number)
        fields = {"kind": "mobile", "privilege": 1, "services": ("telemetry",)}
        fields |= {"voucher": voucher, "not_after_us": 2**60}
        pair = [
            world.request(world.signed(AddVoucher, each, **fields), each) for each in (one, other)
        ]
        assert [each.status for each in world.block(*pair)] == ["pending", "ok"]


def granted(world: World, admin: Device, target: bytes, privilege: int) -> Statement:
    fields = {"target": target, "privilege": privilege, "services": ("telemetry",)}
    return world.run(world.signed(Grant, admin, **fields), admin)


def test_a_renewal_between_two_approvals_does_not_outrun_a_lower_privilege() -> None:
    world = World()
    greedy, second = world.admit("greedy", privilege=5), Device("second key")
    assert granted(world, world.admins[0], greedy.node, 0).status == "pending"
    assert world.run(renewal(world, greedy, second), greedy).status == "ok"
    done = granted(world, world.admins[1], second.node, 0)
    assert (done.status, done.node, done.key) == ("ok", second.node, second.signer.public)
    refused = world.run(world.signed(OpenSession, second, service="valve"), second)
    assert refused.status != "ok"
    named_by_an_old_key = [granted(world, each, greedy.node, 2) for each in world.admins[:2]][-1]
    assert (named_by_an_old_key.status, named_by_an_old_key.node) == ("ok", second.node)


def test_a_renewal_in_the_same_block_does_not_outrun_a_lower_privilege() -> None:
    for renewal_first in (True, False):
        world = World(admins_needed=1)
        greedy, new = world.admit("greedy", privilege=5), Device("new key")
        fields = {"target": greedy.node, "privilege": 0, "services": ("telemetry",)}
        admin = world.admins[0]
        pair = [
            world.request(renewal(world, greedy, new), greedy),
            world.request(world.signed(Grant, admin, **fields), admin),
        ]
        world.block(*(pair if renewal_first else pair[::-1]))
        identity = world.ledger.registry.identity(new.node)
        assert identity is not None
        assert (identity.node, identity.privilege) == (new.node, 0)


def test_a_renewal_in_the_same_block_does_not_outrun_a_revocation() -> None:
    for renewal_first in (True, False):
        world = World(admins_needed=1)
        thief, new = world.admit("thief"), Device("new key")
        pair = [
            world.request(renewal(world, thief, new), thief),
            world.request(
                world.signed(Revoke, world.admins[0], target=thief.node, reason="x"),
                world.admins[0],
            ),
        ]
        world.block(*(pair if renewal_first else pair[::-1]))
        for key in (thief, new):
            assert world.run(world.data(key), key).status != "ok"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(("renew", "approve", "data", "own")), max_size=12))
def test_whatever_happened_before_a_revoked_device_adds_nothing(story: list[str]) -> None:
    """Any history of renewals, approvals and revocations; each names some key of the device."""
    world = World(admins_needed=2, approval_window_blocks=1_000)  # no approval expires here
    keys = [world.admit("phone")]
    approvals: set[int] = set()
    revoked = False
    for number, step in enumerate(story):
        newest, named = keys[-1], keys[number % len(keys)]
        if step == "renew":
            new = Device(f"key {number}")
            status = world.run(renewal(world, newest, new), newest).status
            keys += [new] if status == "ok" else []
        elif step == "approve":
            revoke_by(world, world.admins[number % 3], named.node, reason=f"r{number}")
            approvals.add(number % 3)
        elif step == "own":
            world.run(world.signed(Revoke, newest, target=named.node, reason="own"), newest)
            revoked = True
        revoked = revoked or len(approvals) >= 2
        status = world.run(world.data(keys[-1]), keys[-1]).status
        assert status == ("refused:revoked" if revoked else "ok")
        for old in keys[:-1]:
            assert world.run(world.data(old), old).status != "ok"


# --- the set of administrators -------------------------------------------------------------------


def test_the_last_administrators_cannot_be_revoked() -> None:
    world = World(admins_needed=2)
    one, two, three = world.admins
    assert revoke_by(world, three, three.node) == "ok", "itself, and two are left"
    for each in (one, two):
        assert revoke_by(world, each, each.node) == "refused:last-administrators"
    assert revoke_by(world, one, two.node) == "refused:last-administrators"
    # Two in one block: only the first leaves two of three.
    world = World(admins_needed=2)
    both = [
        world.request(world.signed(Revoke, each, target=each.node, reason="x"), each)
        for each in world.admins[:2]
    ]
    assert [each.status for each in world.block(*both)] == ["ok", "refused:last-administrators"]


def test_administrators_are_added_by_administrators() -> None:
    world = World(admins_needed=2)
    one, two, _ = world.admins
    new = Device("new administrator")
    alice = world.admit("alice")
    asked = {"key": new.signer.public}
    refused = world.run(world.signed(AddAdministrator, alice, **asked), alice).status
    assert refused == "refused:not-administrator"
    assert world.run(world.signed(AddAdministrator, one, **asked), one).status == "pending"
    added = world.run(world.signed(AddAdministrator, two, **asked), two)
    assert (added.status, added.node, added.by) == ("ok", new.node, two.node)
    # It counts like the others: with it, one of the first may go.
    assert revoke_by(world, new, alice.node) == "pending"
    assert revoke_by(world, one, alice.node) == "ok"
    known = world.run(world.signed(AddAdministrator, one, **asked), one).status
    assert known == "refused:known-node"


def test_administrators_are_bounded() -> None:
    world = World(admins_needed=1)
    one = world.admins[0]
    for number in range(ADMINISTRATORS_MAX - 3):
        key = signer(f"administrator {number}").public
        assert world.run(world.signed(AddAdministrator, one, key=key), one).status == "ok"
    last = world.run(world.signed(AddAdministrator, one, key=signer("one more").public), one)
    assert last.status == "refused:too-many-administrators"
