"""The second judge of admissions knows factory certificates too, and on its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from chain.keys import Es256Signer
from chain.ledger.operations import Factory
from chain.ledger.possession import voucher_statement
from testbed.checks.authority import unauthorised
from testbed.checks.properties import no_unauthorised_commit
from testbed.checks.records import Chain, read_chain
from tests.chain.manufacturer import DAY_S, EPOCH_S, Certified, certify
from tests.chain.world import Device, World, factory_root
from tests.testbed.bundles import store

ROOT = certify("maker", ca=True)
LINE = certify("maker's line", ROOT, ca=True)


def ask(world: World, name: str, *chain: Certified, **changes: Any) -> str:
    """An access request by factory certificate; what the chain says to it."""
    device, head = Device(name), world.ledger.head_hash
    statement = voucher_statement(world.network, device.signer.public, head)
    signature = Es256Signer(chain[0].key).sign(statement)
    voucher = Factory(chain=tuple(each.der for each in chain), signature=signature)
    request = world.request(world.enrol(device, voucher=voucher, **changes), device)
    return world.block(request)[0].status


def made(name: str, **options: Any) -> Callable[[World], str]:
    return lambda world: ask(world, "phone", certify(name, LINE, **options), LINE)


def used(world: World) -> str:
    ask(world, "first", certify("device", LINE), LINE)
    return ask(world, "second", certify("device", LINE), LINE)


BAD: dict[str, Callable[[World], str]] = {
    "had been used": used,
    "do not grant": lambda w: ask(w, "phone", certify("device", LINE), LINE, privilege=3),
    "is a CA's": made("greedy", ca=True),
    "not valid at that time": made("old", ends_s=EPOCH_S + DAY_S),
    "no known manufacturer": lambda w: ask(w, "phone", certify("fake", certify("x", ca=True))),
    "do not follow": lambda w: ask(
        w, "phone", certify("a", certify("b", LINE)), certify("b", LINE), LINE
    ),
}


def world_of_the_maker(folder: Path, story: Callable[[World], str]) -> tuple[World, str, Chain]:
    world = World(factory_roots=(factory_root(ROOT.der),))
    status = story(world)
    return world, status, read_chain(store(world, folder / "r1.sqlite", 0, world.blocks))


def test_a_good_factory_certificate_is_no_fault(tmp_path: Path) -> None:
    world, status, chain = world_of_the_maker(tmp_path, made("device"))
    assert status == "ok"
    assert list(unauthorised(world.genesis, chain)) == []


@pytest.mark.parametrize("says", BAD)
def test_what_the_registry_refuses_it_finds_itself(says: str, tmp_path: Path) -> None:
    """Here all replicas lie alike: what was refused took effect."""
    world, status, chain = world_of_the_maker(tmp_path, BAD[says])
    assert status.startswith("refused:")
    assert list(unauthorised(world.genesis, chain)) == []
    entries = [replace(e, statement=replace(e.statement, status="ok")) for e in chain.entries]
    found = no_unauthorised_commit(world.genesis, replace(chain, entries=tuple(entries)))
    assert not found.held
    assert says in found.detail
