"""Exported proofs: a stranger with openssl and a shell believes them, and no altered byte."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from chain.errors import Misuse
from chain.keys import pem_of
from chain.proofs.certificate import carrier_certificate
from chain.proofs.export import export_proof
from chain.proofs.proof import Proof, make_inclusion
from tests.chain.test_proof import grown
from tests.chain.world import Device, World, private_key


def exported() -> tuple[World, dict[str, bytes]]:
    world = World()
    world.idle(1)
    devices = [Device(name) for name in ("a", "b", "alice", "c", "d")]
    world.block(*(world.request(world.enrol(each), each) for each in devices))
    block = world.blocks[-1]
    proof = Proof(record=make_inclusion(block, 2, world.seals(block, 0, 3)), epochs=())
    carrier = carrier_certificate(private_key("alice"), proof)
    parent = world.blocks[-2].head
    return world, export_proof(world.genesis, proof, parent, block.records[2].item, carrier)


WORLD, FILES = exported()


def written(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir(exist_ok=True)
    for name, content in files.items():
        (directory / name).write_bytes(content)


def run(directory: Path, files: dict[str, bytes], *arguments: str) -> int:
    written(directory, files)
    command = ["sh", str(directory / "verify.sh"), *(arguments or (WORLD.network.hex(),))]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode


def resummed(files: dict[str, bytes]) -> dict[str, bytes]:
    """What a forger does: makes SHA256SUMS fit."""
    sums = "".join(
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
        for name in sorted(files)
        if name != "SHA256SUMS"
    )
    return files | {"SHA256SUMS": sums.encode()}


def test_the_proof_holds_by_openssl_and_shell_alone(tmp_path: Path) -> None:
    assert resummed(FILES) == FILES
    assert run(tmp_path, FILES, WORLD.network.hex()) == 0
    assert run(tmp_path, FILES, bytes(32).hex()) == 1, "pinned to another network"
    assert run(tmp_path, FILES, "") == 1, "a proof that names its own network proves nothing"


FOUND = [found for name in ("dash", "bash", "ksh", "mksh") if (found := shutil.which(name))]
SHELLS = [shell for shell in FOUND if not Path(shell).samefile(str(shutil.which("sh")))]


@pytest.mark.parametrize("shell", SHELLS)
def test_it_holds_in_every_shell_that_is_here(shell: str, tmp_path: Path) -> None:
    """`sh` is in the test above."""
    written(tmp_path, FILES)
    command = [shell, str(tmp_path / "verify.sh"), WORLD.network.hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["OK"]), done.stderr


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_altered_byte_of_any_file_fails(name: str, tmp_path: Path) -> None:
    content = FILES[name]
    for at in {0, len(content) // 2, len(content) - 1}:
        altered = bytearray(content)
        altered[at] ^= 0x20
        assert run(tmp_path, FILES | {name: bytes(altered)}) != 0, f"{name} at {at}"


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"SHA256SUMS", "verify.sh"}))
def test_a_forger_who_makes_the_sums_fit_fails_too(name: str, tmp_path: Path) -> None:
    """Each file is bound by signatures and hashes, not by the list of sums."""
    content = FILES[name]
    for at in {len(content) // 3, len(content) - 2 if len(content) > 2 else 0}:
        altered = bytearray(content)
        altered[at] ^= 0x01
        forged = resummed(FILES | {name: bytes(altered)})
        assert run(tmp_path, forged) == 1, f"{name} at {at}"


def test_too_few_signatures_or_no_possession_fail(tmp_path: Path) -> None:
    for number, dropped in enumerate(
        ({"seal-0.der"}, {"dev.pem", "request.tbs", "request.der"}, {"parent.bin"})
    ):
        kept = {name: FILES[name] for name in FILES.keys() - dropped}
        assert run(tmp_path / str(number), resummed(kept)) == 1
    twice = FILES | {
        "seal-00.der": FILES["seal-0.der"],
        "replica-00.pem": FILES["replica-0.pem"],
    }
    assert run(tmp_path / "twice", resummed(twice)) == 1, "one replica under two names"


def test_a_key_that_genesis_lists_for_another_purpose_is_no_replica_s(tmp_path: Path) -> None:
    admin = WORLD.admins[0].signer
    forged = {name: FILES[name] for name in FILES.keys() - {"seal-0.der", "replica-0.pem"}}
    stranger = pem_of(admin.public)
    forged |= {"replica-0.pem": stranger, "seal-0.der": FILES["seal-3.der"]}
    assert run(tmp_path, resummed(forged)) == 1


def test_a_record_of_a_later_epoch_brings_the_changes_of_members(tmp_path: Path) -> None:
    world, proof = grown()
    block = world.blocks[-1]
    files = export_proof(world.genesis, proof, world.blocks[-2].head, block.records[0].item)
    assert run(tmp_path / "whole", files, world.network.hex()) == 0
    kept = {name: content for name, content in files.items() if not name.startswith("epoch-2")}
    assert run(tmp_path / "short", resummed(kept), world.network.hex()) == 1
    altered = bytearray(files["epoch-1.leaf.cbor"])
    altered[-1] ^= 1
    forged = resummed(files | {"epoch-1.leaf.cbor": bytes(altered)})
    assert run(tmp_path / "forged", forged, world.network.hex()) == 1


def test_only_certificates_with_possession_are_exported() -> None:
    world = World()
    alice = world.admit("alice")
    world.run(world.data(alice), alice)
    parent, block = world.blocks
    reading = Proof(record=make_inclusion(block, 0, world.seals(block, 0, 1)), epochs=())
    with pytest.raises(Misuse):
        export_proof(world.genesis, reading, parent.head, block.records[0].item)
    first = Proof(record=make_inclusion(parent, 0, world.seals(parent, 0, 1)), epochs=())
    with pytest.raises(Misuse):
        export_proof(world.genesis, first, world.blocks[0].head)
