"""The life of identities: admission, data, renewal, revocation; what is refused, and why."""

from __future__ import annotations

import datetime
from typing import Any, get_args

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.keys import digest, node_id, spki_of
from chain.ledger import lifecycle
from chain.ledger.administration import ADMINISTRATORS_MAX
from chain.ledger.approvals import PENDING_PER_ADMIN_MAX
from chain.ledger.auth_group import members
from chain.ledger.envelope import sign_operation
from chain.ledger.factory import factory_id
from chain.ledger.identity import BOARDS_MAX, KEYS_MAX, SESSIONS_MAX
from chain.ledger.item import make_item
from chain.ledger.ledger import Ledger
from chain.ledger.operations import (
    AddAdministrator,
    AddFactoryRoot,
    AddReplica,
    AddVoucher,
    BarFactory,
    CloseSession,
    Data,
    Enrol,
    Factory,
    Grant,
    OpenSession,
    Operation,
    RemoveReplica,
    Renew,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.possession import renewal_statement, voucher_statement
from chain.ledger.rules import RULES
from chain.ledger.statement import Statement
from chain.pbft.state_machine import Screening, VerifiedRequest
from tests.chain.world import (
    SECOND_US,
    START_US,
    Device,
    World,
    board_key,
    factory_root,
    private_key,
    signer,
)

DAY_US = 86_400 * SECOND_US
RIGHTS: dict[str, Any] = {"privilege": 1, "services": ("telemetry",)}
VOUCHER = {"voucher": bytes(32), "kind": "mobile", "not_after_us": 2**60, **RIGHTS}


def renewal(world: World, old: Device, new: Device, validity_s: int = 3600) -> Renew:
    statement = renewal_statement(world.network, old.node, new.signer.public)
    result: Renew = world.signed(
        Renew,
        old,
        key=new.signer.public,
        validity_s=validity_s,
        possession=new.signer.sign(statement),
    )
    return result


def judged(world: World, request: VerifiedRequest) -> tuple[str | None, Screening]:
    return world.ledger.registry.judge(request), world.ledger.screen(request)


# --- the whole life ------------------------------------------------------------------------------


def test_a_device_is_followed_from_admission_to_refusal() -> None:
    world = World()
    alice = Device("alice")
    admitted = world.run(world.enrol(alice, privilege=3), alice)
    assert (admitted.op, admitted.status, admitted.node) == ("enrol", "ok", alice.node)
    assert admitted.key == alice.signer.public
    assert (admitted.privilege, admitted.service, admitted.kind) == (3, "telemetry", "mobile")
    assert admitted.certificate == 1 << 16
    assert admitted.not_before_us == admitted.time_us == START_US + SECOND_US
    assert admitted.not_after_us == admitted.time_us + 3600 * SECOND_US

    reading = world.run(world.data(alice), alice)
    assert (reading.status, reading.counter, reading.certificate) == ("ok", 1, 1 << 16)

    new = Device("alice's next key")
    renewed = world.run(renewal(world, alice, new), alice)
    assert (renewed.status, renewed.node, renewed.by) == ("ok", new.node, alice.node)
    assert (renewed.prior, renewed.privilege) == (1 << 16, 3)
    assert world.run(world.data(alice), alice).status == "refused:renewed"
    assert world.run(world.data(new), new).status == "ok"

    revoked = world.run(world.signed(Revoke, new, target=new.node, reason="sold"), new)
    assert (revoked.status, revoked.node, revoked.reason) == ("ok", new.node, "sold")
    assert world.run(world.data(new), new).status == "refused:revoked"


def test_a_revocation_takes_effect_in_the_next_block() -> None:
    world = World()
    alice = world.admit("alice")
    revoke = world.request(world.signed(Revoke, alice, target=alice.node, reason="lost"), alice)
    beside = world.request(world.data(alice), alice)
    assert [each.status for each in world.block(revoke, beside)] == ["ok", "ok"]
    assert world.run(world.data(alice), alice).status == "refused:revoked"


def test_a_certificate_expires_at_block_time_and_may_be_enrolled_anew() -> None:
    world = World()
    alice = world.admit("alice", validity_s=60)
    first = world.ledger.registry.identity(alice.node)
    assert first is not None
    serial = first.serial
    world.block(after_us=60 * SECOND_US)
    assert world.run(world.data(alice), alice).status == "refused:expired"
    again = world.run(world.enrol(alice, nonce=bytes(16)), alice)
    assert (again.status, again.prior) == ("ok", serial)
    assert world.run(world.data(alice), alice).status == "ok"
    old = world.data(alice)
    assert old.counter == 3, "counters go on: what was signed before is no use"


# --- admission -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"service": "unheard-of"}, "service"),
        ({"service": "valve", "privilege": 2}, "privilege"),
        ({"privilege": 6}, "privilege"),
        ({"validity_s": 2_592_001}, "validity"),
        ({"head": bytes(32)}, "unknown-head"),
        ({"with_voucher": signer("no voucher")}, "unknown-voucher"),
    ],
)
def test_who_is_not_let_in(changes: dict[str, Any], reason: str) -> None:
    world = World()
    mallory = Device("mallory")
    request = world.request(world.enrol(mallory, **changes), mallory)
    later = reason.startswith("unknown-")
    assert judged(world, request) == (reason, Screening.LATER if later else Screening.REFUSED)
    assert world.block(request)[0].status == f"refused:{reason}"
    assert world.ledger.registry.identity(mallory.node) is None


def test_a_voucher_admits_once_even_within_one_block() -> None:
    world = World()
    voucher = world.vouchers[0]
    names = ("alice", "bob")
    requests = []
    for name in names:
        device = Device(name)
        requests.append(world.request(world.enrol(device, with_voucher=voucher), device))
    statuses = [each.status for each in world.block(*requests)]
    assert statuses == ["ok", "refused:used-voucher"]
    carol = Device("carol")
    third = world.request(world.enrol(carol, with_voucher=voucher), carol)
    world.idle(4)
    assert judged(world, third) == ("used-voucher", Screening.REFUSED)


def test_a_request_without_enough_endorsements_is_refused() -> None:
    """k = f+1 = 2 accepts of members of the group that everyone recomputes."""
    world = World()
    alice = Device("alice")
    operation = world.enrol(alice)
    cose = sign_operation(operation, alice.signer)
    bare = world.open(make_item(cose))
    group = members(bare.id, world.ledger.membership, 3)
    stranger = next(each for each in range(4) if each not in group)
    for endorsers in ((), group[:1], tuple(sorted((group[0], stranger)))):
        request = world.open(make_item(cose, world.endorse(bare.id, endorsers)))
        assert world.ledger.screen(request) is Screening.INVALID
        assert world.ledger.registry.judge(request) is None, "nothing else speaks against it"
    enough = world.open(make_item(cose, world.endorse(bare.id, group[1:])))
    assert world.ledger.screen(enough) is Screening.READY
    assert world.block(enough)[0].status == "ok"


def test_a_replayed_enrolment_is_a_duplicate_in_the_window_and_stale_beyond() -> None:
    world = World()
    alice = Device("alice")
    captured = world.request(world.enrol(alice), alice)
    assert world.block(captured)[0].status == "ok"
    seen = set()
    for _ in range(40):
        reason, screening = judged(world, captured)
        assert reason in ("replay", "known-node")
        assert screening in (Screening.DONE, Screening.REFUSED, Screening.LATER)
        seen.add(reason)
        world.idle(1)
    assert seen == {"replay", "known-node"}


def test_an_unused_request_grows_stale() -> None:
    world = World()
    alice = Device("alice")
    kept_back = world.request(world.enrol(alice), alice)
    world.idle(15)
    assert judged(world, kept_back) == (None, Screening.READY)
    world.idle(1)
    assert judged(world, kept_back) == ("stale-head", Screening.REFUSED)
    assert world.block(kept_back)[0].status == "refused:stale-head"
    other = Device("other")
    ancient = world.request(world.enrol(other, head=digest(world.blocks[0].head)), other)
    world.idle(30)
    assert judged(world, ancient) == ("unknown-head", Screening.LATER)


def test_a_factory_certificate_admits_its_device_once() -> None:
    root_key, device_key = private_key("factory root"), private_key("idevid")
    root = certificate("Factory", "Factory", root_key, root_key, ca=True)
    leaf = certificate("Sensor 7", "Factory", device_key, root_key, ca=False)
    fake = certificate("Sensor 8", "Factory", device_key, private_key("thief"), ca=False)
    below = certificate("Sensor 9", "Sensor 7", private_key("thief"), device_key, ca=False)
    world = World(factory_roots=(factory_root(root),))

    def ask(name: str, *chain: bytes, by: str = "idevid", **changes: Any) -> VerifiedRequest:
        device, head = Device(name), world.ledger.head_hash
        statement = voucher_statement(world.network, device.signer.public, head)
        voucher = Factory(chain=chain, signature=signer(by).sign(statement))
        return world.request(world.enrol(device, voucher=voucher, **changes), device)

    assert world.block(ask("too proud", leaf, privilege=3))[0].status == "refused:privilege"
    assert world.block(ask("forged", fake))[0].status == "refused:factory-chain"
    assert world.block(ask("no CA", below, leaf, by="thief"))[0].status == "refused:factory-chain"
    assert world.block(ask("alice", leaf))[0].status == "ok"
    assert world.block(ask("bob", leaf))[0].status == "refused:used-voucher"


def certificate(subject: str, issuer: str, key: Any, by: Any, ca: bool) -> bytes:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    return builder.sign(by, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_devices_in_force_are_bounded_and_ended_ones_take_no_place() -> None:
    world = World(nodes_max=2)
    alice = world.admit("alice", validity_s=60)
    bob, carol, dora = world.admit("bob"), Device("carol"), Device("dora")
    asked = world.request(world.enrol(carol), carol)
    assert judged(world, asked) == ("registry-full", Screening.UNSETTLED)
    assert world.block(asked)[0].status == "refused:registry-full"

    world.run(world.signed(Revoke, bob, target=bob.node, reason="sold"), bob)
    assert world.run(world.enrol(carol, nonce=bytes(16)), carol).status == "ok", "one was revoked"

    assert world.run(world.enrol(dora), dora).status == "refused:registry-full"
    world.block(after_us=60 * SECOND_US)
    assert world.run(world.enrol(dora, nonce=bytes(16)), dora).status == "ok", "one has expired"
    back = world.request(world.enrol(alice, nonce=bytes(16)), alice)
    assert world.block(back)[0].status == "refused:registry-full", "its place has gone"


def test_a_device_that_renews_keeps_its_place_past_its_first_certificate() -> None:
    world = World(nodes_max=1)
    alice = world.admit("alice", validity_s=60)
    world.run(renewal(world, alice, alice, validity_s=7200), alice)
    world.block(after_us=100 * SECOND_US)
    bob = Device("bob")
    assert world.run(world.enrol(bob), bob).status == "refused:registry-full"
    world.block(after_us=7200 * SECOND_US)
    assert world.run(world.enrol(bob, nonce=bytes(16)), bob).status == "ok"


def test_one_device_cannot_fill_the_registry_with_keys() -> None:
    world = World(nodes_max=2, validity_s_max=DAY_US)
    phone = world.admit("phone", validity_s=DAY_US // SECOND_US)
    for number in range(1, KEYS_MAX):
        new = Device(f"key {number}")
        assert world.run(renewal(world, phone, new), phone).status == "ok"
        phone = new
    more = renewal(world, phone, Device("one more"))
    assert world.run(more, phone).status == "refused:quota"
    assert world.run(renewal(world, phone, phone), phone).status == "ok", "under the same key"
    assert world.run(world.data(phone), phone).status == "ok"
    world.admit("newcomer")


def test_a_device_cannot_renew_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the same key too; and an expired one that is admitted again goes on counting."""
    monkeypatch.setattr(lifecycle, "RENEWALS_MAX", 8)  # 65,536 take a minute
    world = World()
    phone = world.admit("phone")
    for _ in range(7):
        assert world.run(renewal(world, phone, phone), phone).status == "ok"
    brief = renewal(world, phone, phone, validity_s=10)
    assert world.run(brief, phone).status == "ok"
    assert world.run(renewal(world, phone, phone), phone).status == "refused:quota"
    assert world.run(world.data(phone), phone).status == "ok", "its certificate still counts"
    world.block(after_us=20 * SECOND_US)
    again = world.enrol(phone, nonce=bytes(16))
    assert world.run(again, phone).status == "ok"
    assert world.run(renewal(world, phone, phone), phone).status == "refused:quota"


def test_one_device_cannot_fill_the_registry_with_boards() -> None:
    world = World(nodes_max=2, enrol_window_blocks=1000)
    relay = world.admit("relay", kind="environment")
    first = world.board_node(b"0")
    for number in range(BOARDS_MAX):
        assert world.run(world.board(relay, str(number).encode()), relay).status == "ok"
    world.run(world.signed(Revoke, relay, target=first, reason="broken"), relay)
    assert world.run(world.board(relay, b"one more"), relay).status == "refused:quota"
    again = world.run(world.board(relay, b"0"), relay)
    assert (again.status, again.node) == ("ok", first), "one that it had counts once"
    world.admit("newcomer")


# --- boards --------------------------------------------------------------------------------------


def test_a_board_speaks_through_its_sponsor_only() -> None:
    world = World()
    pi = world.admit("pi", kind="environment")
    other = world.admit("other pi", kind="environment")
    phone = world.admit("phone")
    node = world.board_node()

    assert world.run(world.board(phone), phone).status == "refused:not-environment"
    enrolled = world.run(world.board(pi), pi)
    assert (enrolled.status, enrolled.node, enrolled.sponsor) == ("ok", node, pi.node)
    assert world.run(world.data(pi, board=node), pi).board == node
    assert world.run(world.data(other, board=node), other).status == "refused:board"
    assert world.run(world.board(other), other).status == "refused:board-taken"

    # The sponsor's renewal keeps its boards.
    new = Device("pi's next key")
    world.run(renewal(world, pi, new), pi)
    assert world.run(world.data(new, board=node), new).status == "ok"

    revoke = world.signed(Revoke, new, target=node, reason="moved")
    assert world.run(revoke, new).status == "ok"
    for _ in range(5):  # in the next block, and in every later one
        assert world.run(world.data(new, board=node), new).status == "refused:board-revoked"
    assert world.run(world.board(other), other).status == "ok"


def test_a_board_that_administrators_revoked_does_not_come_back() -> None:
    """Neither through its sponsor nor through another that has its secret, also if its sponsor
    revoked it before them."""
    world = World(admins_needed=2)
    sponsor = world.admit("pi", kind="environment")
    other = world.admit("other pi", kind="environment")
    for number, sponsor_first in ((b"1", False), (b"2", True)):
        node = world.board_node(number)
        assert world.run(world.board(sponsor, number), sponsor).status == "ok"
        if sponsor_first:
            revoke = world.signed(Revoke, sponsor, target=node, reason="moved")
            assert world.run(revoke, sponsor).status == "ok"
        assert by_admins(world, Revoke, target=node, reason="tampered") == "ok"
        for device in (sponsor, other):
            assert world.run(world.board(device, number), device).status == "refused:board-revoked"
            assert world.run(world.data(device, board=node), device).status != "ok"
        assert by_admins(world, Revoke, target=node, reason="again") == "refused:revoked"


def test_the_boards_of_a_revoked_sponsor_may_move() -> None:
    world = World(admins_needed=2)
    lost = world.admit("pi", kind="environment")
    other = world.admit("other pi", kind="environment")
    world.run(world.board(lost), lost)
    assert by_admins(world, Revoke, target=lost.node, reason="stolen") == "ok"
    assert world.run(world.board(other), other).status == "ok"
    assert world.run(world.data(other, board=world.board_node()), other).status == "ok"


def test_a_board_needs_endorsements_too() -> None:
    world = World()
    pi = world.admit("pi", kind="environment")
    bare = world.request(world.board(pi), pi, endorsed=False)
    assert world.ledger.screen(bare) is Screening.INVALID
    assert world.block(bare)[0].status == "refused:endorsements"


# --- data and sessions ---------------------------------------------------------------------------


def test_service_and_privilege_are_checked_and_the_refusal_recorded() -> None:
    world = World()
    low = world.admit("low", privilege=3, service="valve")
    assert world.run(world.data(low, service="valve"), low).status == "ok"
    assert world.run(world.data(low), low).status == "refused:service"
    admins = world.admins[:2]
    for admin in admins:
        grant = world.signed(Grant, admin, target=low.node, privilege=2, services=("valve",))
        status = world.run(grant, admin).status
    assert status == "ok"
    assert world.run(world.data(low, service="valve"), low).status == "refused:privilege"


def test_sessions_open_and_close_and_are_bounded() -> None:
    world = World()
    alice = world.admit("alice")
    opened = [
        world.run(world.signed(OpenSession, alice, service="telemetry"), alice)
        for _ in range(SESSIONS_MAX)
    ]
    assert len({each.session for each in opened}) == SESSIONS_MAX
    refused = world.run(world.signed(OpenSession, alice, service="telemetry"), alice)
    assert refused.status == "refused:sessions"
    first = opened[0].session
    closed = world.run(world.signed(CloseSession, alice, session=first), alice)
    assert (closed.status, closed.session, closed.service) == ("ok", first, "telemetry")
    again = world.run(world.signed(CloseSession, alice, session=first), alice)
    assert again.status == "refused:session"


def test_strangers_are_dropped_before_ordering() -> None:
    world = World()
    nobody = Device("nobody")
    request = world.request(world.data(nobody), nobody)
    assert judged(world, request) == ("unknown-node", Screening.LATER)


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=20), st.booleans())
def test_counters_only_rise_whatever_the_order(counters: list[int], one_block: bool) -> None:
    """Each counter is accepted at most once, in rising order; replays change nothing."""
    world = World()
    alice = world.admit("alice")
    requests = []
    for counter in counters:
        operation = msgspec.structs.replace(world.data(alice), counter=counter)
        requests.append(world.request(operation, alice))
    groups = [requests] if one_block else [[each] for each in requests]
    highest, accepted = 0, []
    for group in groups:
        for statement in world.block(*group):
            assert statement.counter is not None
            fresh = statement.counter > highest
            assert (statement.status == "ok") == fresh
            highest = max(highest, statement.counter)
            if fresh:
                accepted.append(statement.counter)
    assert accepted == sorted(set(accepted))
    for each in requests:
        assert world.ledger.screen(each) in (Screening.DONE, Screening.REFUSED)
        assert world.ledger.registry.judge(each) == "counter"
    world.idle(4)
    assert {world.ledger.screen(each) for each in requests} == {Screening.REFUSED}


def test_screening_is_strict_on_the_executed_state() -> None:
    """A primary that lags must not propose what others already know to be refused: what is refused
    stays so. Whether it could have known is the core's question, not ours."""
    world = World()
    alice = world.admit("alice")
    overtaken = world.request(world.data(alice), alice)
    fresh = world.request(world.data(alice), alice)
    assert world.ledger.screen(overtaken) is Screening.READY
    world.run(world.signed(Revoke, alice, target=alice.node, reason="lost"), alice)
    for _ in range(6):
        assert world.ledger.screen(overtaken) is Screening.REFUSED
        assert world.ledger.screen(fresh) is Screening.REFUSED
        world.idle(1)


def test_a_replica_that_is_behind_does_not_refuse_what_time_has_allowed() -> None:
    """A primary that saw a certificate expire may propose the new enrolment; a backup that has
    not executed that block does not blame it."""
    world = World()
    alice = world.admit("alice", validity_s=60)
    world.idle(4)
    behind = Ledger(world.genesis, world.scheme)
    for block in world.blocks:
        behind.append(block, check_signatures=True)
    world.block(after_us=60 * SECOND_US)
    head = digest(behind.head)
    again = world.request(world.enrol(alice, nonce=bytes(16), head=head), alice)
    assert world.ledger.screen(again) is Screening.READY
    assert behind.screen(again) is Screening.UNSETTLED
    behind.append(world.blocks[-1], check_signatures=True)
    assert behind.screen(again) is Screening.READY


# --- administration ------------------------------------------------------------------------------


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


def test_approvals_expire() -> None:
    world = World()
    alice = world.admit("alice")
    one, two, _ = world.admins
    world.run(world.signed(Revoke, one, target=alice.node, reason="stolen"), one)
    world.idle(17)
    late = world.run(world.signed(Revoke, two, target=alice.node, reason="stolen"), two)
    assert late.status == "pending"


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


# --- determinism ---------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 7), st.integers(0, 2)), max_size=30))
def test_replaying_the_blocks_rebuilds_the_same_state(steps: list[tuple[int, int]]) -> None:
    """Whatever happens, another ledger reaches the same heads and the same registry."""
    world = World()
    devices = [world.admit(name, kind="environment") for name in ("a", "b", "c")]
    for action, who in steps:
        device, admin = devices[who], world.admins[who]
        operation: Any
        by = device
        match action:
            case 0 | 1:
                operation = world.data(device)
            case 2:
                operation = world.signed(OpenSession, device, service="telemetry")
            case 3:
                operation = world.board(device)
            case 4:
                operation = world.data(device, board=world.board_node())
            case 5:
                operation, by = (
                    world.signed(Revoke, admin, target=device.node, reason="lost"),
                    admin,
                )
            case 6:
                operation = world.signed(Revoke, device, target=device.node, reason="sold")
            case _:
                operation = renewal(world, device, device)
        world.run(operation, by)
    copy = Ledger(world.genesis, world.scheme)
    for block in world.blocks:
        copy.append(block, check_signatures=True)
    assert copy.head == world.ledger.head
    assert copy.registry.identities == world.ledger.registry.identities
    assert copy.registry.boards == world.ledger.registry.boards


def test_a_record_has_only_the_fields_that_apply() -> None:
    world = World()
    alice = world.admit("alice")
    statement = world.run(world.data(alice), alice)
    told = {name for name in statement.__struct_fields__ if getattr(statement, name) is not None}
    assert told == {
        "network",
        "op",
        "status",
        "node",
        "time_us",
        "request",
        "item",
        "counter",
        "privilege",
        "service",
        "key",
        "certificate",
    }
    assert isinstance(world.data(alice), Data)


def test_every_operation_has_a_row_of_rules() -> None:
    operations = {kind for kind in get_args(Operation) if kind is not Enrol}
    assert set(RULES) == operations, "an operation without rules, or rules without an operation"


def test_a_device_keeps_its_name_through_renewals() -> None:
    world = World()
    registry = world.ledger.registry
    alice, second, third = world.admit("alice"), Device("second key"), Device("third key")
    world.run(renewal(world, alice, second), alice)
    world.run(renewal(world, second, third), second)
    for each in (alice, second, third):
        assert registry.device(each.node) == alice.node
    newest = registry.newest(alice.node)
    assert newest is not None
    assert newest.node == third.node
    assert registry.device(bytes(32)) is None
    assert registry.newest(second.node) is None, "no device is named after its second key"


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
        identity = world.ledger.registry.newest(greedy.node)
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


# --- what a voucher is good for ------------------------------------------------------------------


def by_admins(world: World, kind: type[Operation], /, **fields: Any) -> str:
    """Two administrators order it; the status of the second record."""
    for admin in world.admins[:2]:
        status = world.run(world.signed(kind, admin, **fields), admin).status
    return status


def test_a_voucher_names_the_kind_of_device() -> None:
    """A phone's voucher makes no relay, and a relay's no phone: a kind is never self-declared."""
    world = World()
    for kind, other in (("mobile", "environment"), ("environment", "mobile")):
        device, voucher = Device(f"false {kind}"), world.left[other].pop(0)  # type: ignore[index]
        asked = world.request(world.enrol(device, kind=kind, with_voucher=voucher), device)
        assert judged(world, asked) == ("kind", Screening.REFUSED)
        assert world.block(asked)[0].status == "refused:kind"


def test_a_voucher_expires_by_the_chain_s_time() -> None:
    world = World(admins_needed=1)
    token = signer("short token")
    end_us = world.ledger.time_us + 10 * SECOND_US
    fields = VOUCHER | {"voucher": digest(token.public), "not_after_us": end_us}
    admin = world.admins[0]
    assert world.run(world.signed(AddVoucher, admin, **fields), admin).status == "ok"
    late = Device("late")
    world.block(after_us=20 * SECOND_US)
    asked = world.request(world.enrol(late, with_voucher=token), late)
    assert judged(world, asked) == ("expired-voucher", Screening.REFUSED)
    assert world.block(asked)[0].status == "refused:expired-voucher"


def test_a_withdrawn_voucher_admits_nobody_and_never_comes_back() -> None:
    world = World()
    token = world.left["mobile"].pop(0)
    name = digest(token.public)
    assert by_admins(world, WithdrawVoucher, voucher=name) == "ok"
    alice = Device("alice")
    asked = world.request(world.enrol(alice, with_voucher=token), alice)
    assert judged(world, asked) == ("withdrawn-voucher", Screening.REFUSED)
    assert world.block(asked)[0].status == "refused:withdrawn-voucher"
    assert by_admins(world, WithdrawVoucher, voucher=name) == "refused:withdrawn-voucher"
    assert by_admins(world, AddVoucher, **(VOUCHER | {"voucher": name})) == "refused:known-voucher"
    assert by_admins(world, WithdrawVoucher, voucher=bytes(32)) == "refused:unknown-voucher"
    used = world.vouchers[1]
    bob = Device("bob")
    assert world.run(world.enrol(bob, with_voucher=used), bob).status == "ok"
    status = by_admins(world, WithdrawVoucher, voucher=digest(used.public))
    assert status == "refused:used-voucher"


def factory_request(world: World, name: str, by: str, *chain: bytes, **changes: Any) -> Any:
    device, head = Device(name), world.ledger.head_hash
    statement = voucher_statement(world.network, device.signer.public, head)
    voucher = Factory(chain=chain, signature=signer(by).sign(statement))
    return world.request(world.enrol(device, voucher=voucher, **changes), device)


def test_factory_roots_are_added_and_withdrawn_and_devices_barred() -> None:
    root_key, device_key = private_key("factory root"), private_key("idevid")
    root = certificate("Factory", "Factory", root_key, root_key, ca=True)
    leaf = certificate("Sensor 7", "Factory", device_key, root_key, ca=False)
    stolen = certificate("Sensor 8", "Factory", private_key("stolen"), root_key, ca=False)
    world = World()
    early = factory_request(world, "alice", "idevid", leaf)
    assert judged(world, early) == ("factory-chain", Screening.UNSETTLED), "a root may come"
    added: dict[str, Any] = {"certificate": root, "kinds": ("mobile",), **RIGHTS}
    no_root = by_admins(world, AddFactoryRoot, **(added | {"certificate": leaf}))
    assert no_root == "refused:factory-chain"
    assert by_admins(world, AddFactoryRoot, **added) == "ok"
    assert by_admins(world, AddFactoryRoot, **added) == "refused:known-root"
    relay = factory_request(world, "relay", "idevid", leaf, kind="environment")
    assert world.block(relay)[0].status == "refused:kind"
    greedy = factory_request(world, "greedy", "idevid", leaf, privilege=2)
    assert world.block(greedy)[0].status == "refused:privilege"
    assert world.block(factory_request(world, "alice", "idevid", leaf))[0].status == "ok"

    barred = factory_id(spki_of(private_key("stolen").public_key()))
    assert by_admins(world, BarFactory, factory=barred) == "ok"
    thief = factory_request(world, "thief", "stolen", stolen)
    assert world.block(thief)[0].status == "refused:factory-barred"
    assert by_admins(world, BarFactory, factory=barred) == "refused:factory-barred"

    assert by_admins(world, WithdrawFactoryRoot, root=digest(root)) == "ok"
    assert by_admins(world, WithdrawFactoryRoot, root=digest(root)) == "refused:unknown-root"
    new = certificate("Sensor 9", "Factory", private_key("new"), root_key, ca=False)
    late = factory_request(world, "late", "new", new)
    assert world.block(late)[0].status == "refused:factory-chain"


def test_nobody_takes_the_id_of_another_s_board() -> None:
    """The node id follows from the board's own key, and that key must sign."""
    world = World()
    owner, squatter = (world.admit(name, kind="environment") for name in ("owner", "squatter"))
    taken = world.run(world.board(squatter, b"th01", key_of=b"made up"), squatter)
    assert taken.status == "ok"
    mine = world.run(world.board(owner, b"th01"), owner)
    assert (mine.status, mine.node) == ("ok", world.board_node(b"th01"))
    assert mine.node != taken.node
    assert mine.key == board_key(b"th01").public

    stolen = world.board(owner, b"th02")
    copied = msgspec.structs.replace(stolen, node=squatter.node, counter=9)
    for false in (copied, world.board(squatter, b"th03", possession=bytes(64))):
        with pytest.raises(PeerFault, match="bad-possession"):
            world.request(false, squatter)
