"""Who is let in, and what a voucher, a factory certificate or a sponsor is good for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from chain.errors import PeerFault
from chain.keys import digest, spki_of
from chain.ledger import lifecycle
from chain.ledger.auth_group import members
from chain.ledger.envelope import sign_operation
from chain.ledger.factory import factory_id
from chain.ledger.identity import BOARDS_MAX, KEYS_MAX
from chain.ledger.item import make_item
from chain.ledger.operations import (
    AddFactoryRoot,
    AddVoucher,
    BarFactory,
    Factory,
    Revoke,
    WithdrawFactoryRoot,
    WithdrawVoucher,
)
from chain.ledger.possession import voucher_statement
from chain.pbft.state_machine import Screening, VerifiedRequest
from tests.chain.registry_support import RIGHTS, VOUCHER, by_admins, certificate, judged, renewal
from tests.chain.world import (
    SECOND_US,
    Device,
    World,
    board_key,
    factory_root,
    private_key,
    signer,
)

DAY_US = 86_400 * SECOND_US
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


# --- what a voucher is good for ------------------------------------------------------------------


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
