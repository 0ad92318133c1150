"""The offline verifier names the first defect: at which height, and in which field."""

from __future__ import annotations

import pytest

from chain.block import Block
from chain.errors import PeerFault
from chain.keys import Es256
from chain.proofs.audit import Defect, verify_chain
from chain.proofs.proof import HeadSeal
from tests.chain.test_client import unsigned
from tests.chain.test_ledger import TAMPERED, WORLD, seals


def defect(block: Block, height: int = 2) -> Defect:
    chain = [*WORLD.blocks[: height - 1], block, *WORLD.blocks[height:]]
    with pytest.raises(Defect) as raised:
        list(verify_chain(WORLD.genesis, chain, lambda _: ()))
    return raised.value


@pytest.mark.parametrize(("block", "code", "field"), TAMPERED)
def test_the_field_is_the_one_that_was_tampered_with(block: Block, code: str, field: str) -> None:
    found = defect(block)
    assert (found.height, found.field) == (2, field or "head")
    assert isinstance(found.__cause__, PeerFault)
    assert str(found) == f"height 2: {found.field}: {found.__cause__}"


def test_what_its_signer_did_not_sign_is_a_defect_of_the_item() -> None:
    """All replicas took it: only who checks the devices' signatures finds it."""
    world = unsigned()
    with pytest.raises(Defect) as raised:
        list(verify_chain(world.genesis, world.blocks, lambda _: ()))
    assert (raised.value.height, raised.value.field) == (2, "record item")


def test_seals_may_be_stored_in_any_order_or_not_at_all() -> None:
    checked = list(verify_chain(WORLD.genesis, WORLD.blocks, lambda at: seals(at)[::-1], Es256()))
    assert checked[-1].proven == 3
    assert {each.proven for each in verify_chain(WORLD.genesis, WORLD.blocks, lambda _: ())} == {0}


@pytest.mark.parametrize("stored", [seals(1), [*seals(2), HeadSeal(2, bytes(64))]])
def test_seals_are_of_their_head_and_each_one_holds(stored: list[HeadSeal]) -> None:
    with pytest.raises(Defect) as raised:
        list(verify_chain(WORLD.genesis, WORLD.blocks, lambda at: stored if at == 2 else ()))
    assert (raised.value.height, raised.value.field) == (2, "head signature")
