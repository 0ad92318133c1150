"""`testbed ledger export-proof`: from replicas' databases to files that openssl and sh believe."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from chain.genesis import Consensus
from chain.ledger.operations import Revoke
from chain.proofs.certificate import carrier_certificate
from chain.proofs.proof import EPOCHS_MAX, Proof, make_inclusion
from testbed import cli
from testbed.proofs import NotProvable, Proven, open_ledgers
from tests.chain.registry_support import renewal
from tests.chain.world import Device, World, private_key
from tests.gateway.bridge.test_many_epochs import changed
from tests.testbed.bundles import Story, edit, store

NAME = "phones-1"


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A run's bundle, in which a phone logged its id when it started, as phones do."""
    story = Story(tmp_path_factory.mktemp("story"))
    with (story.run.raw / f"{NAME}.jsonl").open("a") as log:
        log.write(json.dumps({"event": "started", "id": story.devices[NAME].node.hex()}) + "\n")
    return story


def export(*arguments: object) -> int:
    return cli.main(["ledger", "export-proof", *map(str, arguments)])


def verify(directory: Path) -> int:
    network = hashlib.sha256((directory / "genesis.json").read_bytes()).hexdigest()
    command = ["/bin/sh", str(directory / "verify.sh"), network]
    return subprocess.run(command, capture_output=True, check=False, timeout=600).returncode


def written(directory: Path, files: dict[str, bytes]) -> Path:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)
    return directory


def proven(directory: Path, world: World, device: Device, carrier: bytes | None = None) -> Proven:
    """By the databases of all replicas of `world`."""
    directory.mkdir()
    files = [store(world, directory / f"{r}.sqlite", r, world.blocks) for r in world.replicas]
    with open_ledgers(files, world.genesis) as ledgers:
        return ledgers.prove(device.node, carrier)


# --- a bundle's device ---------------------------------------------------------------------------


def test_a_bundle_s_device_is_proven_to_whoever_has_openssl_and_a_shell(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, node = tmp_path / "proof", story.devices[NAME].node.hex()
    assert export(story.bundle.path, "--device", NAME, "--out", out) == 0
    printed = capsys.readouterr().out
    network = story.world.network.hex()
    assert f"sh {out}/verify.sh {network}" in printed
    assert node in printed
    assert verify(out) == 0
    done = subprocess.run([out / "verify.sh", network], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.splitlines()[2].split()) == (0, ["node", node])
    for number, name in enumerate((node, node[:8].upper(), node[:20])):
        again = tmp_path / str(number)
        assert export(story.bundle.path, "--device", name, "--out", again, "--json") == 0
        report = json.loads(capsys.readouterr().out)
        assert report["statement"]["node"] == node
        assert (report["signers"], report["needed"]) == ([0, 1, 2, 3], 2)
        assert report["files"] == sorted(path.name for path in out.iterdir())


def test_an_altered_byte_of_any_exported_file_is_refused(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "proof"
    assert export(story.bundle.path, "--device", NAME, "--out", out) == 0
    for path in sorted(out.iterdir()):
        content = path.read_bytes()
        for at in {0, len(content) // 3, len(content) - 1} if content else {0}:
            altered = bytearray(content or b"\0")
            altered[at] ^= 0x04
            path.write_bytes(altered)
            code = verify(out)
            # A shell answers a script that it cannot parse with a code of its own.
            assert code == 1 or (path.name == "verify.sh" and code != 0), f"{path.name} at {at}"
        path.write_bytes(content)
    assert verify(out) == 0


@pytest.mark.parametrize(
    ("line", "altered"),
    [
        ("fail() {", "fbil() {"),
        ("    exit 1\n", "    exit 0\n"),
        ("    exit 1\n", "    exhit1\n"),
        ('|| fail "a file was altered', '||!fail "a file was altered'),
        ("trap 'exit $((1 |", "trap 'exit $((0 |"),
        ("trap 'exit", "trap 'ezit"),
        ("cmp -s - SHA256SUMS && trap", "cmp -s - SHA256SUMS ;  trap"),
    ],
)
def test_not_even_the_script_s_own_way_to_fail_can_be_altered(
    line: str, altered: str, story: Story, tmp_path: Path
) -> None:
    """These are the bytes that a forger of one byte would choose."""
    out = tmp_path / "proof"
    assert export(story.bundle.path, "--device", NAME, "--out", out) == 0
    script = (out / "verify.sh").read_text()
    assert line in script
    (out / "verify.sh").write_text(script.replace(line, altered, 1))
    assert verify(out) == 1


# --- what cannot be proven, and what a lying file does -----------------------------------------


def test_one_database_has_one_signature_and_the_message_says_what_is_missing(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    node, (first, second, *_) = story.devices[NAME].node.hex(), story.run.ledgers
    out = tmp_path / "proof"
    assert export(first, "--device", node, "--out", out) == 1
    assert "1 of 2 signatures over its head (replicas: 0)" in capsys.readouterr().err
    assert not out.exists()
    assert export(first, "--device", node, "--out", out, "--json") == 1
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 1
    assert export(first, second, "--device", node, "--out", out) == 0
    assert verify(out) == 0


def test_a_database_that_lies_or_is_damaged_spoils_nothing(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.copy(tmp_path)
    node = story.devices[NAME].node.hex()
    height = next(
        height
        for height, block in enumerate(story.world.blocks, 1)
        if any(story.devices[NAME].node in record.leaf for record in block.records)
    )
    wrong = bytes(64)
    one, two, three, four = run.ledgers
    edit(one, height, mend_sum=True, signature=wrong)
    edit(two, height, signature=wrong)
    assert export(run.path, "--device", node, "--out", tmp_path / "a", "--json") == 0
    assert json.loads(capsys.readouterr().out)["signers"] == [2, 3]
    assert verify(tmp_path / "a") == 0
    four.write_bytes(b"no database")
    assert export(run.path, "--device", node, "--out", tmp_path / "b") == 1
    printed = capsys.readouterr().err
    for reason in (
        f"{one.name}: its signature is not valid",
        f"{two.name}: block {height}: its checksum",
        four.name,
    ):
        assert reason in printed
    assert three.name not in printed


@pytest.mark.parametrize(
    ("device", "code", "says"),
    [
        ("abc", 2, "too short"),
        ("phones-77", 2, "not a node id in hex; devices with a certificate here: "),
        ("ffffffff", 2, "no such device"),
        ("ff" * 33, 2, "not a node id"),
        ("ff" * 32, 1, "no certificate was issued"),
    ],
)
def test_unknown_devices_are_told_who_is_known(
    *,
    device: str,
    code: int,
    says: str,
    story: Story,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(story.bundle.path, "--device", device, "--out", tmp_path / "x") == code
    assert says in capsys.readouterr().err


def test_files_of_others_are_never_overwritten(
    story: Story, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = story.run
    bundle = story.bundle
    out = tmp_path / "proof"
    assert export(bundle.path, "--device", NAME, "--out", out) == 0
    assert export(bundle.path, "--device", NAME, "--out", out) == 2
    assert "--force" in capsys.readouterr().err
    (out / "seal-9.der").write_bytes(b"of an earlier, larger network")
    assert export(bundle.path, "--device", NAME, "--out", out, "--force") == 0
    assert verify(out) == 0
    (out / "thesis.tex").write_text("mine")
    assert export(bundle.path, "--device", NAME, "--out", out, "--force") == 2
    assert "thesis.tex" in capsys.readouterr().err
    assert (out / "thesis.tex").read_text() == "mine"
    for where in ((tmp_path / "no",), (run.ledgers[0], tmp_path / "no"), (out / "thesis.tex",)):
        assert export(*where, "--device", NAME, "--out", tmp_path / "x") == 2
    taken = tmp_path / "file"
    taken.write_text("")
    assert export(bundle.path, "--device", NAME, "--out", taken) == 2
    assert "change --out" in capsys.readouterr().err


# --- later in a device's and a network's life ----------------------------------------------------


def test_a_certificate_of_a_later_epoch_brings_the_changes_of_members(tmp_path: Path) -> None:
    world = World()
    for replica in (4, 5):
        world.add_replica(replica)
        world.idle(8)
    alice = world.admit("alice")
    result = proven(tmp_path / "db", world, alice)
    assert result.needed == 2
    assert {"epoch-1.head.bin", "epoch-2.head.bin"} <= result.files.keys()
    assert verify(written(tmp_path / "proof", result.files)) == 0


def test_the_newest_certificate_is_proven_and_its_end_is_printed(tmp_path: Path) -> None:
    world = World()
    alice, heir = world.admit("alice"), Device("heir")
    world.run(renewal(world, alice, alice), alice)
    kept = proven(tmp_path / "kept", world, alice)
    assert (kept.statement.op, kept.ended_height) == ("renew", None)
    assert verify(written(tmp_path / "proof", kept.files)) == 0

    world.run(renewal(world, alice, heir), alice)
    assert proven(tmp_path / "old", world, alice).ended_height == 3
    with pytest.raises(NotProvable, match="--carrier"):
        proven(tmp_path / "new", world, heir)
    block = world.blocks[-1]
    proof = Proof(record=make_inclusion(block, 0, world.seals(block, 0, 1)), epochs=())
    carrier = carrier_certificate(private_key("heir"), proof)
    result = proven(tmp_path / "newer", world, heir, carrier)
    assert verify(written(tmp_path / "carried", result.files)) == 0

    world.run(world.signed(Revoke, heir, target=heir.node, reason="lost"), heir)
    shutil.rmtree(tmp_path / "newer")
    assert proven(tmp_path / "newer", world, heir, carrier).ended_height == 4


def test_a_certificate_after_more_changes_than_a_carrier_holds_is_proven(
    tmp_path: Path,
) -> None:
    """Its X.509 carrier has no room for them; the export has them all."""
    world = World(consensus=Consensus(checkpoint_interval=2, pipeline_window=2))
    changed(world, EPOCHS_MAX + 6)
    alice, block = world.admit("alice"), world.blocks[-1]
    record = make_inclusion(block, 0, world.seals(block, 0, 1))
    carrier = carrier_certificate(private_key("alice"), Proof(record=record, epochs=()))
    databases = tmp_path / "db"
    databases.mkdir()
    files = [store(world, databases / f"{r}.sqlite", r, world.blocks) for r in range(2)]
    with open_ledgers(files, world.genesis) as ledgers:
        result = ledgers.prove(alice.node, carrier)
    assert f"epoch-{EPOCHS_MAX + 6}.head.bin" in result.files
    assert verify(written(tmp_path / "proof", result.files)) == 0
    lacking = {name: data for name, data in result.files.items() if not name.startswith("epoch-9.")}
    sums = "".join(
        f"{hashlib.sha256(lacking[name]).hexdigest()}  {name}\n"
        for name in sorted(lacking)
        if name != "SHA256SUMS"
    )
    assert verify(written(tmp_path / "less", lacking | {"SHA256SUMS": sums.encode()})) == 1
