"""Properties judged from stored chains: what should not have taken effect is found and named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from chain.keys import digest
from chain.ledger.auth_group import members
from chain.ledger.identity import BOARDS_MAX, KEYS_MAX
from chain.ledger.operations import (
    AddAdministrator,
    AddVoucher,
    Grant,
    Operation,
    Renew,
    Revoke,
    WithdrawVoucher,
)
from chain.ledger.possession import renewal_statement
from chain.ledger.statement import encode_leaf
from nodes.events import EventLog
from testbed.checks.authority import unauthorised
from testbed.checks.logs import BlockDone, DeviceAdmitted, read_events
from testbed.checks.properties import agreement, exactly_once, no_unauthorised_commit
from testbed.checks.records import Chain, read_chain
from tests.chain.world import SECOND_US, START_US, Device, World, signer
from tests.testbed.bundles import store

VOUCHER: dict[str, Any] = {
    "voucher": bytes(32),
    "kind": "mobile",
    "privilege": 1,
    "services": ("telemetry",),
    "not_after_us": 2**60,
}


def chain_of(world: World, folder: Path, name: str = "r1") -> Chain:
    return read_chain(store(world, folder / f"{name}.sqlite", 0, world.blocks))


def carried_out(chain: Chain) -> Chain:
    """The same chain, as lying replicas would have it: what was refused took effect."""
    entries = [
        replace(entry, statement=replace(entry.statement, status="ok")) for entry in chain.entries
    ]
    return replace(chain, entries=tuple(entries))


def renewed(world: World, device: Device, to: str) -> tuple[Device, Operation]:
    new = Device(to)
    possession = new.signer.sign(renewal_statement(world.network, device.node, new.signer.public))
    fields = {"key": new.signer.public, "validity_s": 3600, "possession": possession}
    return new, world.signed(Renew, device, **fields)


def both_admins(world: World, kind: type[Operation], /, **fields: Any) -> None:
    for admin in world.admins[:2]:
        world.run(world.signed(kind, admin, **fields), admin)


def test_an_honest_chain_of_every_operation_is_by_right(tmp_path: Path) -> None:
    world = World()
    phone = world.admit("phone", service="valve", privilege=3)
    host = world.admit("host", kind="environment")
    world.run(world.board(host), host)
    th01 = world.board_node()
    world.run(world.data(host, board=th01), host)
    new, renewal = renewed(world, phone, "phone, second key")
    world.run(renewal, phone)
    world.run(world.data(new, service="valve"), new)
    both_admins(world, Grant, target=new.node, privilege=1, services=("telemetry",))
    fourth = Device("fourth administrator")
    both_admins(world, AddAdministrator, key=fourth.signer.public)
    world.run(world.signed(Revoke, fourth, target=fourth.node, reason="tired"), fourth)
    world.run(world.data(new), new)
    both_admins(world, AddVoucher, **VOUCHER)
    both_admins(world, WithdrawVoucher, voucher=VOUCHER["voucher"])
    world.run(world.signed(Revoke, host, target=th01, reason="broken"), host)
    both_admins(world, Revoke, target=host.node, reason="stolen")
    chain = chain_of(world, tmp_path)
    assert not [entry.statement.status for entry in chain.entries if not entry.took_effect]
    assert list(unauthorised(world.genesis, chain)) == []
    assert exactly_once(chain).held


def stranger(world: World) -> None:
    host = world.admit("host")
    other = Device("stranger")
    # In one block with its own enrolment after it, so that the ledger takes it as refused.
    world.block(world.request(world.data(other), other), world.request(world.data(host), host))


def too_few_endorsements(world: World) -> None:
    device = Device("phone")
    operation = world.enrol(device)
    plain = world.request(operation, device, endorsed=False)
    one = members(plain.id, world.ledger.membership, 3)[:1]
    endorsed = world.open(
        msgspec.msgpack.encode(
            [msgspec.msgpack.decode(plain.item)[0], world.endorse(plain.id, one)]
        )
    )
    world.block(endorsed)


def voucher_twice(world: World) -> None:
    first, second = Device("first"), Device("second")
    voucher = world.vouchers[0]
    world.run(world.enrol(first, with_voucher=voucher), first)
    world.run(world.enrol(second, with_voucher=voucher), second)


def beyond_the_voucher(world: World) -> None:
    device = Device("phone")
    world.run(world.enrol(device, privilege=9), device)


def after_revocation(world: World) -> None:
    device = world.admit("phone")
    world.run(world.signed(Revoke, device, target=device.node, reason="lost"), device)
    world.run(world.data(device), device)


def after_expiry(world: World) -> None:
    device = world.admit("phone", validity_s=10)
    world.block(world.request(world.data(device), device), after_us=60 * SECOND_US)


def with_the_old_key(world: World) -> None:
    device = world.admit("phone")
    _, renewal = renewed(world, device, "new")
    world.run(renewal, device)
    world.run(world.data(device), device)


def privilege_too_low(world: World) -> None:
    device = world.admit("phone", privilege=1)
    world.run(world.data(device, service="valve"), device)


def anothers_board(world: World) -> None:
    host, other = world.admit("host", kind="environment"), world.admit("other", kind="environment")
    world.run(world.board(host), host)
    world.run(world.data(other, board=world.board_node()), other)


def revoked_board(world: World) -> None:
    host = world.admit("host", kind="environment")
    th01 = world.board_node()
    world.run(world.board(host), host)
    world.run(world.signed(Revoke, host, target=th01, reason="broken"), host)
    world.run(world.data(host, board=th01), host)


def old_head(world: World) -> None:
    device = Device("phone")
    operation = world.enrol(device)
    world.idle(17)
    world.run(operation, device)


def head_of_no_block(world: World) -> None:
    device = Device("phone")
    world.run(world.enrol(device, head=bytes(32)), device)


def board_with_an_old_head(world: World) -> None:
    host = world.admit("host", kind="environment")
    operation = world.board(host)
    world.idle(17)
    world.run(operation, host)


def board_of_a_phone(world: World) -> None:
    phone = world.admit("phone")
    world.run(world.board(phone), phone)


def valid_too_long(world: World) -> None:
    device = Device("phone")
    validity_s = world.genesis.policy.validity_s_max + 1
    world.run(world.enrol(device, validity_s=validity_s), device)


def renewed_twice_in_one_block(world: World) -> None:
    device = world.admit("phone")
    requests = [world.request(renewed(world, device, name)[1], device) for name in ("b", "c")]
    world.block(*requests)


def no_administrator(world: World) -> None:
    device, target = world.admit("phone"), world.admit("target")
    world.run(world.signed(Revoke, device, target=target.node, reason="spite"), device)


def renewed_after_its_device_was_revoked(world: World) -> None:
    """The revocation names the first key; the device went on under its second."""
    phone = world.admit("phone")
    new, renewal = renewed(world, phone, "second key")
    world.run(renewal, phone)
    both_admins(world, Revoke, target=phone.node, reason="stolen")
    world.run(world.data(new), new)


def a_relay_by_a_phone_s_voucher(world: World) -> None:
    relay, voucher = Device("relay"), world.left["mobile"].pop(0)
    world.run(world.enrol(relay, kind="environment", with_voucher=voucher), relay)


def by_a_withdrawn_voucher(world: World) -> None:
    phone, voucher = Device("phone"), world.left["mobile"].pop(0)
    both_admins(world, WithdrawVoucher, voucher=digest(voucher.public))
    world.run(world.enrol(phone, with_voucher=voucher), phone)


def by_an_expired_voucher(world: World) -> None:
    phone, token = Device("phone"), signer("token")
    both_admins(
        world,
        AddVoucher,
        **(VOUCHER | {"voucher": digest(token.public), "not_after_us": START_US}),
    )
    world.run(world.enrol(phone, with_voucher=token), phone)


def too_many_keys(world: World) -> None:
    phone = world.admit("phone")
    for number in range(KEYS_MAX):
        new, operation = renewed(world, phone, f"key {number}")
        world.run(operation, phone)
        phone = new


def too_many_boards(world: World) -> None:
    host = world.admit("host", kind="environment")
    for number in range(BOARDS_MAX + 1):
        world.run(world.board(host, str(number).encode()), host)


def the_last_administrators(world: World) -> None:
    """Of three, two must agree: the second to leave would leave one."""
    for admin in world.admins[:2]:
        world.run(world.signed(Revoke, admin, target=admin.node, reason="tired"), admin)


def one_administrator(world: World) -> None:
    """Recorded as pending; the lie is that it was carried out."""
    target = world.admit("target")
    admin = world.admins[0]
    world.run(world.signed(Revoke, admin, target=target.node, reason="spite"), admin)


@pytest.mark.parametrize(
    ("story", "says"),
    [
        (stranger, "never admitted"),
        (too_few_endorsements, "1 of 2 endorsements"),
        (voucher_twice, "voucher had been used"),
        (beyond_the_voucher, "does not grant this"),
        (after_revocation, "certificate ended in block"),
        (renewed_after_its_device_was_revoked, "certificate ended in block"),
        (a_relay_by_a_phone_s_voucher, "does not grant this"),
        (by_a_withdrawn_voucher, "does not grant this"),
        (by_an_expired_voucher, "does not grant this"),
        (too_many_keys, "too many keys"),
        (too_many_boards, "too many boards"),
        (the_last_administrators, "too few administrators"),
        (after_expiry, "had expired"),
        (with_the_old_key, "certificate ended in block"),
        (privilege_too_low, "may not use the service"),
        (anothers_board, "not sponsored by its signer"),
        (revoked_board, "was revoked in block"),
        (old_head, "head that was too old"),
        (head_of_no_block, "head of no block before it"),
        (board_with_an_old_head, "head that was too old"),
        (board_of_a_phone, "is no environmental device"),
        (valid_too_long, "valid for longer than allowed"),
        (renewed_twice_in_one_block, "renewed or revoked in this block"),
        (no_administrator, "no administrator"),
        (one_administrator, "1 of 2 administrators"),
    ],
)
def test_what_no_rule_allows_is_found_if_replicas_carry_it_out(
    story: Callable[[World], None], says: str, tmp_path: Path
) -> None:
    """The registry refused each of these; here all replicas lie alike. The second implementation
    of the rules must object, on its own."""
    world = World()
    story(world)
    chain = chain_of(world, tmp_path)
    assert list(unauthorised(world.genesis, chain)) == []
    found = no_unauthorised_commit(world.genesis, carried_out(chain))
    assert not found.held
    assert says in found.detail


def test_an_approval_of_a_revoked_administrator_does_not_count(tmp_path: Path) -> None:
    world = World()
    stolen, one, two = world.admins
    voucher = VOUCHER
    world.run(world.signed(AddVoucher, stolen, **voucher), stolen)
    for admin in (one, two):
        world.run(world.signed(Revoke, admin, target=stolen.node, reason="stolen"), admin)
    world.run(world.signed(AddVoucher, one, **voucher), one)
    chain = chain_of(world, tmp_path)
    assert list(unauthorised(world.genesis, chain)) == []
    last = chain.entries[-1]
    lie = replace(last, statement=replace(last.statement, status="ok"))
    lied = replace(chain, entries=(*chain.entries[:-1], lie))
    ((_, why),) = unauthorised(world.genesis, lied)
    assert why == "1 of 2 administrators had signed"


def test_a_request_or_counter_that_counts_twice_is_found(tmp_path: Path) -> None:
    world = World()
    device = world.admit("phone")
    request = world.request(world.data(device), device)
    assert world.block(request)[0].status == "ok"
    assert world.block(request)[0].status == "refused:counter"
    chain = chain_of(world, tmp_path)
    assert exactly_once(chain).held
    found = exactly_once(carried_out(chain))
    assert not found.held
    assert "request" in found.detail
    assert "counter 1" in found.detail


def test_a_board_reading_that_is_recorded_twice_is_found(tmp_path: Path) -> None:
    """Signed twice by a sponsor that was fooled on the serial line: the chain cannot know."""
    world = World()
    host = world.admit("host", kind="environment")
    world.run(world.board(host), host)
    reading = b'{"due_ns":1,"number":7,"values":[1],"board":"th01","boot":2}'
    for payload in (reading, reading.replace(b":7", b":8"), reading):
        data = world.data(host, payload, board=world.board_node())
        assert world.run(data, host).status == "ok"
    found = exactly_once(chain_of(world, tmp_path))
    assert not found.held
    assert "('th01', 2, 7) 2 times" in found.detail


def test_a_fork_is_reported_with_both_names_and_the_height(tmp_path: Path) -> None:
    chains: Sequence[Chain] = [
        chain_of(world_with(label), tmp_path, name) for name, label in (("r1", b"a"), ("r2", b"b"))
    ]
    assert agreement(chains[:1]).held
    found = agreement(chains)
    assert not found.held
    assert "r1 and r2 differ at height 2" in found.detail


def world_with(label: bytes) -> World:
    world = World()
    device = world.admit("phone")
    world.run(world.data(device, label), device)
    return world


def test_a_shorter_chain_that_is_a_prefix_agrees(tmp_path: Path) -> None:
    world = world_with(b"a")
    long = chain_of(world, tmp_path, "r1")
    world.blocks.pop()
    assert agreement([long, chain_of(world, tmp_path, "r2")]).held


def test_events_are_read_as_processes_write_them(tmp_path: Path) -> None:
    """And a line that a kill tore is counted, not fatal; unknown kinds and fields are no matter."""
    path = tmp_path / "phone.jsonl"
    with EventLog(path, "phone") as log:
        log.emit("admitted", id="ab", latency_ms=1.5, privilege=1)
        log.emit("unheard-of", x=1)
        log.emit("block", height=1, count=0, view=0, time_us=5, executed_us=7, proposed_us=0)
    with path.open("ab") as stream:
        stream.write(b'{"t":1,"event":"admitted"}\n{"t":1,"m"\xff')
    events, unreadable = read_events(path)
    assert unreadable == 2
    admitted, block = events
    assert isinstance(admitted, DeviceAdmitted)
    assert isinstance(block, BlockDone)
    assert (admitted.id, block.proposed_us, block.prepared_us) == ("ab", 0, None)


def test_undecodable_blocks_are_left_out_and_the_rest_is_read(tmp_path: Path) -> None:
    world = world_with(b"a")
    whole = chain_of(world, tmp_path, "r1")
    block = world.blocks[0]
    torn = replace(block.records[0], leaf=encode_leaf(whole.entries[0].statement)[:-1])
    world.blocks[0] = replace(block, records=(torn,))
    chain = chain_of(world, tmp_path, "r2")
    assert [entry.height for entry in chain.entries] == [2]
    assert len(chain.heads) == 2


def test_too_many_devices_are_found_too(tmp_path: Path) -> None:
    world = World(nodes_max=2)
    alice, _ = world.admit("alice"), world.admit("bob")
    world.run(world.signed(Revoke, alice, target=alice.node, reason="sold"), alice)
    world.admit("carol")  # takes alice's place
    dora = Device("dora")
    world.run(world.enrol(dora), dora)
    chain = chain_of(world, tmp_path)
    assert list(unauthorised(world.genesis, chain)) == []
    ((_, why),) = unauthorised(world.genesis, carried_out(chain))
    assert why == "there were too many devices"
