"""The registry: the whole life of a device, data and sessions, and the same state from blocks."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.keys import digest
from chain.ledger.identity import SESSIONS_MAX
from chain.ledger.ledger import Ledger
from chain.ledger.operations import (
    CloseSession,
    Data,
    Enrol,
    Grant,
    OpenSession,
    Operation,
    Revoke,
)
from chain.ledger.rules import RULES
from chain.pbft.state_machine import Screening
from tests.chain.registry_support import judged, renewal
from tests.chain.world import (
    SECOND_US,
    START_US,
    Device,
    World,
)


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


def test_a_certificate_expires_at_block_time_and_may_be_enrolled_again() -> None:
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
    present = {name for name in statement.__struct_fields__ if getattr(statement, name) is not None}
    assert present == {
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
        identity = registry.identity(each.node)
        assert identity is not None
        assert identity.device == alice.node
        assert (identity.ended is None) == (each is third)
