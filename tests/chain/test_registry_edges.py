"""The edges of the rules: the last value that still counts, and the first that does not.

Each was left open by the other tests: a mutant of the rule survived them (`make mutation`).
"""

from __future__ import annotations

import pickle

import pytest

from chain.keys import digest
from chain.ledger import registry
from chain.ledger.envelope import sign_operation
from chain.ledger.item import make_item
from chain.ledger.operations import AddReplica, AddVoucher, Factory, Revoke
from chain.ledger.possession import voucher_statement
from chain.ledger.statement import decode_leaf, encode_leaf
from chain.pbft.state_machine import Screening
from tests.chain.registry_support import certificate, judged, renewal
from tests.chain.world import (
    SECOND_US,
    VOUCHERS_END_US,
    Device,
    World,
    factory_root,
    private_key,
    signer,
)

# --- admission -----------------------------------------------------------------------------------


def test_a_service_that_needs_no_privilege_is_open_to_privilege_zero() -> None:
    world = World()
    alice = world.admit("alice", privilege=0)
    assert world.run(world.data(alice), alice).status == "ok"


def test_the_longest_validity_is_granted_to_the_microsecond() -> None:
    world = World(validity_s_max=3600)
    alice = world.admit("alice", validity_s=3600)
    renewed = world.run(renewal(world, alice, alice, validity_s=3600), alice)
    assert renewed.status == "ok"
    assert renewed.by is None, "its own key"
    assert renewed.not_before_us == renewed.time_us
    assert renewed.not_after_us == renewed.time_us + 3600 * SECOND_US


def test_a_certificate_counts_in_its_last_microsecond() -> None:
    world = World()
    alice = world.admit("alice", validity_s=10)
    last = world.request(world.data(alice), alice)
    again = world.request(world.enrol(alice), alice)
    at_its_end = world.block(last, again, after_us=10 * SECOND_US)
    assert [each.status for each in at_its_end] == ["ok", "refused:known-node"]
    later = world.request(world.data(alice), alice)
    assert world.block(later, after_us=1)[0].status == "refused:expired"


def test_a_voucher_counts_in_its_last_microsecond() -> None:
    world = World()
    alice = Device("alice")
    request = world.request(world.enrol(alice), alice)
    assert world.block(request, after_us=VOUCHERS_END_US - world.ledger.time_us)[0].status == "ok"


def test_a_voucher_is_good_for_its_services_only() -> None:
    world = World()
    token = signer("telemetry only")
    for admin in world.admins[:2]:
        grant = world.signed(
            AddVoucher,
            admin,
            voucher=digest(token.public),
            kind="mobile",
            not_after_us=2**60,
            privilege=3,
            services=("telemetry",),
        )
        world.run(grant, admin)
    alice = Device("alice")
    other = world.enrol(alice, with_voucher=token, service="valve", privilege=3)
    assert world.run(other, alice).status == "refused:service"
    assert world.run(world.enrol(alice, with_voucher=token, privilege=3), alice).status == "ok"


def test_who_is_admitted_again_is_the_same_device_and_goes_on_counting() -> None:
    """In a full registry too: it takes the place that it had when the block before ended."""
    world = World(nodes_max=2)
    phone, key, other = Device("phone"), Device("its next key"), Device("other")
    world.run(world.enrol(phone), phone)
    world.run(renewal(world, phone, key, validity_s=10), phone)
    world.run(world.data(key), key)
    old = world.request(world.data(key), key)
    world.run(world.enrol(other), other)
    again = world.request(world.enrol(key), key)
    assert world.block(again, after_us=20 * SECOND_US)[0].status == "ok"
    identity = world.ledger.registry.identity(key.node)
    assert identity is not None
    assert (identity.device, identity.counter) == (phone.node, 1)
    assert world.block(old)[0].status == "ok"
    assert world.block(old)[0].status == "refused:counter"


def test_a_factory_certificate_admits_as_often_as_the_policy_says() -> None:
    root_key, device_key = private_key("factory root"), private_key("idevid")
    root = certificate("Factory", "Factory", root_key, root_key, ca=True)
    leaf = certificate("Sensor 7", "Factory", device_key, root_key, ca=False)
    world = World(factory_roots=(factory_root(root),), factory_enrolments_max=2)

    def ask(name: str) -> str:
        device, head = Device(name), world.ledger.head_hash
        statement = voucher_statement(world.network, device.signer.public, head)
        voucher = Factory(chain=(leaf,), signature=signer("idevid").sign(statement))
        return world.run(world.enrol(device, voucher=voucher), device).status

    assert [ask(name) for name in "abc"] == ["ok", "ok", "refused:used-voucher"]


def test_a_board_that_is_enrolled_again_names_its_certificate_before() -> None:
    world = World()
    relay = world.admit("relay", kind="environment")
    first = world.run(world.board(relay), relay)
    second = world.run(world.board(relay), relay)
    assert (first.prior, second.prior) == (None, first.certificate)
    board = world.ledger.registry.board(world.board_node())
    assert board is not None
    assert board.serial == second.certificate
    assert world.ledger.registry.boards == (board,)


def test_an_enrolment_without_endorsements_is_refused_when_it_is_executed() -> None:
    """Screening keeps it out of batches. If a batch has it all the same, it admits nobody."""
    world = World()
    alice = Device("alice")
    bare = world.open(make_item(sign_operation(world.enrol(alice), alice.signer)))
    assert world.block(bare)[0].status == "refused:endorsements"
    assert world.ledger.registry.identity(alice.node) is None


# --- questions -----------------------------------------------------------------------------------


def test_the_registry_says_which_tokens_still_admit() -> None:
    world = World()
    token = digest(world.vouchers[0].public)
    assert world.ledger.registry.admits(token)
    assert not world.ledger.registry.admits(bytes(32))
    world.admit("alice")
    assert not world.ledger.registry.admits(token)
    other = digest(world.vouchers[1].public)
    world.block(after_us=VOUCHERS_END_US - world.ledger.time_us)
    assert world.ledger.registry.admits(other)
    world.block(after_us=1)
    assert not world.ledger.registry.admits(other)


def test_nobody_is_barred_who_was_not() -> None:
    assert not World().ledger.registry.is_barred(bytes(32))


def test_the_first_authentication_says_what_execution_would() -> None:
    world = World()
    alice = world.admit("alice", validity_s=60)
    reading = world.request(world.data(alice), alice)
    assert judged(world, reading) == (None, Screening.READY)
    beyond = world.request(world.data(alice, service="valve"), alice)
    assert world.ledger.registry.judge(beyond) == "service"
    late = world.request(world.data(alice), alice)
    world.block(after_us=61 * SECOND_US)
    assert judged(world, late) == ("expired", Screening.UNSETTLED)


def test_who_was_revoked_in_the_last_block_is_refused_at_once() -> None:
    world = World()
    alice = world.admit("alice")
    world.run(world.signed(Revoke, alice, target=alice.node, reason="sold"), alice)
    assert judged(world, world.request(world.data(alice), alice)) == ("revoked", Screening.REFUSED)


# --- records and prepared leaves -----------------------------------------------------------------


def test_what_is_refused_or_pending_names_its_signer() -> None:
    world = World(approval_window_blocks=100)
    alice = world.admit("alice")
    refused = world.run(world.data(alice, service="valve"), alice)
    assert (refused.status, refused.key) == ("refused:service", alice.signer.public)
    one = world.admins[0]
    identity = world.ledger.registry.identity(one.node)
    assert identity is not None
    for number in range(17):
        key = signer(f"new replica {number}").public
        asked = world.run(world.signed(AddReplica, one, replica=100 + number, key=key), one)
        assert asked.status == ("pending" if number < 16 else "refused:too-many-pending")
        assert asked.privilege == identity.privilege


def test_prepared_leaves_are_bounded_and_stay_out_of_what_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "TEMPLATES_MAX", 2)
    world = World()
    kept = world.ledger.registry
    for name in ("alice", "bob", "carol"):
        device = world.admit(name)
        for _ in range(2):
            world.run(world.data(device), device)
            assert len(kept._templates) <= 2  # a cache: it shows in memory and time only
            (record,) = world.blocks[-1].records
            assert encode_leaf(decode_leaf(record.leaf)) == record.leaf
    assert kept._templates
    again = pickle.loads(pickle.dumps(kept))
    assert again._templates == {}
    assert again.identities == kept.identities
