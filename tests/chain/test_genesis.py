"""The genesis: one document, one network id; contradictions are named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from chain.fields import FRAME_BYTES_MAX
from chain.genesis import Consensus, Genesis, Member, Membership, Policy, VoucherGrant
from chain.keys import digest
from chain.pbft.messages import (
    Checkpoint,
    NewView,
    Prepare,
    PreparedProof,
    PrePrepare,
    ReplicaMessage,
    Signed,
    ViewChange,
    encode,
)
from chain.quorum import Quorum
from tests.chain.world import World, signer

GENESIS = World().genesis


def test_a_genesis_reads_back_and_its_hash_is_the_network() -> None:
    data = GENESIS.encode()
    assert Genesis.decode(data) == GENESIS
    assert GENESIS.network == digest(data)
    renamed: Genesis = msgspec.structs.replace(GENESIS, name="other")
    assert renamed.network != GENESIS.network


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_no_genesis(data: bytes) -> None:
    with pytest.raises(PeerFault, match="bad-genesis"):
        Genesis.decode(data)


def test_an_edited_document_is_refused() -> None:
    data = GENESIS.encode()
    for edited in (data + b"\n", data.replace(b'": ', b'":  ', 1), data[:-1]):
        with pytest.raises(PeerFault, match="bad-genesis"):
            Genesis.decode(edited)


ADMIN = signer("admin").public
VOUCHER = VoucherGrant(
    id=bytes(32), kind="mobile", privilege_max=1, services=("telemetry",), not_after_us=2**60
)


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("members", {"members": GENESIS.members[:3]}),
        ("members", {"members": GENESIS.members[::-1]}),
        ("members", {"members": (*GENESIS.members, Member(9, GENESIS.members[0].spki))}),
        ("policy.admins_needed", {"policy": Policy(admins=(ADMIN,))}),
        ("policy.admins_needed", {"policy": Policy(admins=(ADMIN,), admins_needed=2)}),
        ("policy.admins_needed", {"policy": Policy(admins_needed=1)}),
        ("policy.admins:", {"policy": Policy(admins=(ADMIN, ADMIN), admins_needed=1)}),
        ("policy.vouchers", {"policy": Policy(vouchers=(VOUCHER, VOUCHER))}),
        ("policy.privilege_needed", {"policy": Policy(privilege_needed={"valve": 3})}),
        ("policy.validity_s_default", {"policy": Policy(validity_s_max=5)}),
        ("policy.group_accepts", {"policy": Policy(group_size=3, group_accepts=4)}),
    ],
)
def test_a_contradiction_is_named_by_its_field(field: str, changes: dict[str, Any]) -> None:
    wrong: Genesis = msgspec.structs.replace(GENESIS, **changes)
    with pytest.raises(PeerFault, match=field):
        Genesis.decode(wrong.encode())


def test_members_take_turns_as_primary() -> None:
    members = Membership(0, GENESIS.members)
    assert [members.primary(view) for view in range(6)] == [0, 1, 2, 3, 0, 1]
    assert members.spki(2) == GENESIS.members[2].spki
    assert members.spki(9) is None


@pytest.mark.parametrize("n", range(4, 40))
def test_quorums_meet_in_an_honest_replica(n: int) -> None:
    quorum = Quorum.of(n)
    assert 3 * quorum.faulty < n
    assert 2 * quorum.strong - n >= quorum.faulty + 1, "two quorums share an honest replica"
    assert quorum.strong <= n - quorum.faulty, "the honest ones alone are a quorum"
    assert quorum.weak == quorum.faulty + 1


def test_three_replicas_tolerate_nothing() -> None:
    with pytest.raises(Misuse):
        Quorum.of(3)


def test_the_group_is_never_larger_than_the_membership() -> None:
    assert Policy(group_size=50, group_accepts=40).group(Quorum.of(4)) == (4, 4)
    assert Policy(group_size=2).group(Quorum.of(10)) == (2, 2)


def _new_view_bytes(replicas: int, window: int) -> int:
    """As large as it can become: every number as long as can be, every certificate full."""
    strong, far = Quorum.of(replicas).strong, 2**31
    view, seq = 2**32 - 1, 2**62

    def signed(message: ReplicaMessage) -> Signed:
        return Signed(encode(message), bytes(64))

    checkpoint = signed(Checkpoint(far, far, seq, bytes(32)))
    prepare = signed(Prepare(far, far, view, seq, bytes(32)))
    pre_prepare = signed(PrePrepare(far, far, view, seq, bytes(32)))
    proof = PreparedProof(pre_prepare, (prepare,) * (strong - 1))
    vote = ViewChange(far, far, view, seq, bytes(32), (checkpoint,) * strong, (proof,) * window)
    votes, ordered = (signed(vote),) * strong, (pre_prepare,) * window
    return len(encode(signed(NewView(far, far, view, votes, ordered))))


@pytest.mark.parametrize("replicas", [4, 7, 31])
@pytest.mark.parametrize("interval", [1, 4, 64])
def test_the_bound_of_a_new_view_holds_and_is_not_far_off(replicas: int, interval: int) -> None:
    consensus = Consensus(checkpoint_interval=interval)
    actual = _new_view_bytes(replicas, consensus.log_window)
    assert actual <= consensus.new_view_bytes_max(replicas) <= 1.2 * actual


@pytest.mark.parametrize(("interval", "replicas"), [(64, 31), (8, 64), (4, 100)])
def test_sizes_that_a_lab_may_want_fit(interval: int, replicas: int) -> None:
    assert Consensus(checkpoint_interval=interval).replicas_max >= replicas


@pytest.mark.parametrize(
    ("consensus", "replicas", "what"),
    [
        (Consensus(), 40, "checkpoint_interval"),
        (Consensus(checkpoint_interval=8), 100, "checkpoint_interval"),
        (Consensus(checkpoint_interval=2049), 4, "checkpoint_interval"),
        (Consensus(batch_bytes_max=FRAME_BYTES_MAX), 4, "batch_bytes_max"),
        (Consensus(batch_requests_max=FRAME_BYTES_MAX // 1000), 4, "batch_requests_max"),
    ],
)
def test_a_genesis_whose_messages_exceed_a_frame_is_refused(
    consensus: Consensus, replicas: int, what: str
) -> None:
    members = tuple(Member(i, b"%32d" % i) for i in range(replicas))
    genesis = msgspec.structs.replace(GENESIS, members=members, consensus=consensus)
    with pytest.raises(PeerFault, match=what):
        genesis.check()
