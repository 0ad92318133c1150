"""`verify.sh` against forgers: it and the Python verifier judge every lie alike."""

from __future__ import annotations

import datetime
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.block import Head
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256, der_of, digest, pem_of
from chain.ledger.envelope import sign_operation, signed_content
from chain.ledger.item import cose_of
from chain.ledger.operations import Grant, RemoveReplica, Revoke
from chain.ledger.statement import Statement, decode_leaf, encode_leaf
from chain.merkle import leaf_hash
from chain.proofs.certificate import carrier_certificate, proof_of, verify_carrier
from chain.proofs.export import _inclusion, export_proof
from chain.proofs.proof import HeadSeal, Inclusion, Proof, ProofVerifier, make_inclusion
from tests.chain.registry_support import renewal
from tests.chain.test_export import FILES, WORLD, resummed, run
from tests.chain.test_proof import grown
from tests.chain.world import Device, World, private_key

SCRIPT = Path(__file__).parents[2] / "chain" / "proofs" / "verify.sh"


def shell(files: dict[str, bytes], world: World = WORLD, *arguments: str) -> bool:
    """Whether verify.sh believes these files, with the network pinned and the sums made to fit."""
    with tempfile.TemporaryDirectory() as directory:
        code = run(Path(directory), resummed(files), world.network.hex(), *arguments)
    assert code in (0, 1)
    return code == 0


def python(files: dict[str, bytes], world: World = WORLD) -> bool:
    """The oracle: what our own verifier says of the same files."""
    try:
        return holds(files, world)
    except (PeerFault, KeyError, ValueError, OverflowError):
        return False


def holds(files: dict[str, bytes], world: World) -> bool:
    genesis = Genesis.decode(files["genesis.json"])
    epochs = 0
    while f"epoch-{epochs + 1}.head.bin" in files:
        epochs += 1
    steps = [inclusion(files, f"epoch-{epoch}.") for epoch in range(1, epochs + 1)]
    proof = Proof(record=inclusion(files, ""), epochs=tuple(steps))
    verifier = ProofVerifier(genesis)
    statement = verifier.verify(proof)
    head, parent = Head.decode(files["head.bin"]), Head.decode(files["parent.bin"])
    possession = []
    if "request.tbs" in files:
        r, s = decode_dss_signature(files["request.der"])
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        key = statement.key or b""
        possession.append(
            digest(files["request.tbs"]) == statement.request
            and Es256().verify(key, files["request.tbs"], signature)
        )
    if "dev.pem" in files:
        certified = verify_carrier(files["dev.pem"], genesis)
        carried = proof_of(x509.load_pem_x509_certificate(files["dev.pem"]))
        possession.append((certified, carried) == (statement, proof))
    return (
        genesis.network == world.network
        and statement.issues_certificate
        and head.epoch == epochs
        and (digest(files["parent.bin"]), parent.root) == (head.parent, head.parent_root)
        and (parent.network, parent.height + 1) == (head.network, head.height)
        and files["device-key.pem"] == pem_of(statement.key or b"")
        and keys_fit(files, proof, verifier)
        and bool(possession)
        and all(possession)
    )


def inclusion(files: dict[str, bytes], prefix: str) -> Inclusion:
    index, path = files[f"{prefix}index"], files[f"{prefix}path.bin"]
    names = [name for name in files if name.startswith(f"{prefix}seal-")]
    seals = []
    for name in names:
        r, s = decode_dss_signature(files[name])
        replica = name.removeprefix(f"{prefix}seal-").removesuffix(".der")
        if f"{prefix}seal-{int(replica)}.der" != name:
            raise ValueError(name)
        seals.append(HeadSeal(int(replica), r.to_bytes(32, "big") + s.to_bytes(32, "big")))
    if b"%d\n" % int(index) != index or len(path) % 32:
        raise ValueError(index)
    return Inclusion(
        leaf=files[f"{prefix}leaf.cbor"],
        index=int(index),
        path=tuple(path[at : at + 32] for at in range(0, len(path), 32)),
        head=files[f"{prefix}head.bin"],
        seals=tuple(sorted(seals)),
    )


def keys_fit(files: dict[str, bytes], proof: Proof, verifier: ProofVerifier) -> bool:
    used = (proof.record, *proof.epochs)
    members = ((each, verifier.members_of(Head.decode(each.head))) for each in used)
    return all(
        files[f"replica-{seal.replica}.pem"] == pem_of(membership.spki(seal.replica) or b"")
        for each, membership in members
        for seal in each.seals
    )


def agreed(files: dict[str, bytes], world: World = WORLD) -> bool:
    believed = shell(files, world)
    assert believed == python(files, world), "the two verifiers disagree"
    return believed


# --- what is true -------------------------------------------------------------------------------


def test_shellcheck_finds_nothing_in_the_script() -> None:
    checker = shutil.which("shellcheck")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([checker, SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_both_believe_what_is_true() -> None:
    assert agreed(FILES)
    world, proof = grown()
    block = world.blocks[-1]
    parent = world.blocks[-2].head
    assert agreed(export_proof(world.genesis, proof, parent, block.records[0].item), world)


def test_both_believe_renewals_and_grants_with_every_number_of_digits() -> None:
    world = World()
    alice, heir = world.admit("alice"), Device("heir")
    for _ in range(2):
        world.run(renewal(world, alice, alice), alice)
    world.idle(300)
    world.run(renewal(world, alice, heir, validity_s=2_592_000), alice)
    for admin in world.admins[:2]:
        grant = world.signed(Grant, admin, target=heir.node, privilege=24, services=("valve",))
        world.run(grant, admin)
    certified = []
    for parent, block in zip(world.blocks, world.blocks[1:], strict=False):
        if block.records and decode_leaf(block.records[0].leaf).issues_certificate:
            record = make_inclusion(block, 0, world.seals(block, 0, 1, 2, 3))
            proof = Proof(record=record, epochs=())
            name = "heir" if block.records[0].leaf.find(heir.node) > 0 else "alice"
            carrier = carrier_certificate(private_key(name), proof)
            files = export_proof(world.genesis, proof, parent.head, None, carrier)
            assert agreed(files, world)
            certified.append(decode_leaf(block.records[0].leaf).op)
    assert certified == ["renew", "renew", "renew", "grant"]


def test_an_expired_certificate_is_refused_at_a_time_that_is_given() -> None:
    statement = decode_leaf(FILES["leaf.cbor"])
    start, end = (statement.not_before_us or 0) // 10**6, (statement.not_after_us or 0) // 10**6
    for at, believed in ((start, True), (end, True), (start - 1, False), (end + 1, False)):
        assert shell(FILES, WORLD, "--at", str(at)) is believed
    for nonsense in ("", "tomorrow", "-1", "9" * 13, "01"):
        assert not shell(FILES, WORLD, "--at", nonsense)


# --- lies ---------------------------------------------------------------------------------------


def bundle(world: World, device: Device, **extra: bytes) -> dict[str, bytes]:
    """The newest block's only record as a forger would put it together; nothing is checked."""
    block, parent = world.blocks[-1], world.blocks[-2]
    content, signature = signed_content(cose_of(block.records[0].item))
    record = make_inclusion(block, 0, world.seals(block, 0, 3))
    return {
        "genesis.json": world.genesis.encode(),
        "parent.bin": parent.head,
        "device-key.pem": pem_of(device.signer.public),
        "verify.sh": SCRIPT.read_bytes(),
        "request.tbs": content,
        "request.der": der_of(signature),
        **_inclusion("", record, world.genesis.membership),
        **extra,
    }


def forged(
    world: World, device: Device, signers: dict[str, Any], epoch: int = 0, **fields: Any
) -> dict[str, bytes]:
    """A certificate that the chain never issued, sealed by `signers`: file id -> key."""
    parent = Head.decode(world.blocks[-1].head)
    content, signature = signed_content(sign_operation(world.enrol(device), device.signer))
    statement = Statement(
        network=world.network,
        op="enrol",
        status="ok",
        node=device.node,
        time_us=parent.time_us + 1,
        request=digest(content),
        item=bytes(32),
        privilege=255,
        service="valve",
        kind="environment",
        key=device.signer.public,
        certificate=4 << 16,
        not_before_us=parent.time_us,
        not_after_us=2**61,
    )
    leaf = encode_leaf(msgspec.structs.replace(statement, **fields))
    return sealed(world, leaf, signers, epoch) | {
        "genesis.json": world.genesis.encode(),
        "device-key.pem": pem_of(device.signer.public),
        "verify.sh": SCRIPT.read_bytes(),
        "request.tbs": content,
        "request.der": der_of(signature),
    }


def sealed(world: World, leaf: bytes, signers: dict[str, Any], epoch: int = 0) -> dict[str, bytes]:
    """A block above the newest one whose only leaf is `leaf`."""
    parent = Head.decode(world.blocks[-1].head)
    head = Head(
        network=world.network,
        height=parent.height + 1,
        time_us=parent.time_us + 1,
        parent=digest(world.blocks[-1].head),
        parent_root=parent.root,
        root=leaf_hash(leaf),
        epoch=epoch,
        view=0,
        count=1,
    ).encode()
    files = {
        "parent.bin": world.blocks[-1].head,
        "head.bin": head,
        "leaf.cbor": leaf,
        "index": b"0\n",
        "path.bin": b"",
    }
    for name, key in signers.items():
        files |= {
            f"seal-{name}.der": der_of(key.sign(head)),
            f"replica-{name}.pem": pem_of(key.public),
        }
    return files


def quiet() -> tuple[World, Device]:
    world = World()
    world.idle(3)
    return world, Device("mallory")


@pytest.mark.parametrize("again", ["|1", "01", "1 ", "+1", "1|", "0x1", "", "18446744073709551617"])
def test_one_liar_does_not_count_twice_under_two_names(again: str) -> None:
    world, mallory = quiet()
    liar = world.replicas[1]
    assert not agreed(forged(world, mallory, {"1": liar, again: liar}), world)


def test_f_plus_one_liars_are_believed() -> None:
    """So that what is refused above is refused for its second name."""
    world, mallory = quiet()
    assert agreed(forged(world, mallory, {"1": world.replicas[1], "2": world.replicas[2]}), world)


def test_text_that_a_device_wrote_is_no_change_of_the_membership() -> None:
    """A revocation's reason holds the CBOR that the steps of an epoch are known by."""
    world = World()
    world.idle(2)
    mule, mallory = world.admit("mule"), Device("mallory")
    reason = "bopkadd-replicagreplica5"
    assert (
        world.run(world.signed(Revoke, mule, target=mule.node, reason=reason), mule).status == "ok"
    )
    block = world.blocks[-1]
    step = make_inclusion(block, 0, world.seals(block, 0, 3))
    signers = {"53": mule.signer, "|53": mule.signer}
    lie = forged(world, mallory, signers, epoch=1)
    lie |= _inclusion("epoch-1.", step, world.genesis.membership)
    assert not agreed(lie, world)


def test_records_that_issue_no_certificate_are_refused() -> None:
    world = World()
    world.idle(2)
    alice = world.admit("alice")
    assert agreed(bundle(world, alice), world)
    assert world.run(world.data(alice), alice).status == "ok"
    assert not agreed(bundle(world, alice), world), "a reading"
    assert world.run(world.data(alice, service="valve"), alice).status == "refused:service"
    assert not agreed(bundle(world, alice), world), "a refused reading"
    revoke = world.signed(Revoke, alice, target=alice.node, reason="own wish")
    assert world.run(revoke, alice).status == "ok"
    assert not agreed(bundle(world, alice), world), "its own revocation"


LEAVES: list[tuple[str, dict[str, Any], bool]] = [
    ("as it is", {}, True),
    ("a refused one", {"status": "refused:service"}, False),
    ("a pending one", {"status": "pending"}, False),
    ("a status in other letters", {"status": "OK"}, False),
    ("a status with a line end", {"status": "ok\n"}, False),
    ("another operation", {"op": "enrol\n"}, False),
    ("a board's", {"op": "enrol-board"}, False),
    ("an administrator's", {"kind": "admin"}, False),
    ("no kind", {"kind": None}, False),
    ("no key", {"key": None}, False),
    ("no privilege", {"privilege": None}, False),
    ("no serial", {"certificate": None}, False),
    ("no end", {"not_after_us": None}, False),
    ("no beginning", {"not_before_us": None}, False),
    ("another node", {"node": bytes(32)}, False),
    ("another network", {"network": bytes(32)}, False),
    ("another time", {"time_us": 5}, False),
    ("another request", {"request": bytes(32)}, False),
    ("text that looks like other fields", {"reason": "bopenrolfstatusbok"}, True),
    ("foreign letters", {"service": "température 水 \U0001f321"}, True),
    ("a terminal's orders", {"service": "\x1b[2J\x1b]0;OK\x07"}, True),
    (
        "all fields",
        {"reason": "r", "services": ("a", "b"), "counter": 2**62, "by": bytes(32)},
        True,
    ),
    ("many characters", {"service": "é" * 64}, True),
    ("long numbers", {"prior": 2**62, "session": 2**32, "boundary": 2**16, "replica": 2**31}, True),
]


@pytest.mark.parametrize(("what", "fields", "believed"), LEAVES, ids=[each[0] for each in LEAVES])
def test_a_sealed_statement_is_read_by_position(
    what: str, fields: dict[str, Any], *, believed: bool
) -> None:
    """f+1 replicas sign whatever it is, so that only the reading of the leaf decides."""
    world, mallory = quiet()
    signers = {"0": world.replicas[0], "2": world.replicas[2]}
    assert agreed(forged(world, mallory, signers, **fields), world) is believed


@settings(max_examples=settings().max_examples // 20)  # each starts a shell
@given(st.data())
def test_both_read_every_altered_leaf_alike(draw: st.DataObject) -> None:
    """The bytes of a leaf are changed and then sealed by f+1 replicas."""
    world, mallory = quiet()
    signers = {"0": world.replicas[0], "2": world.replicas[2]}
    files = forged(world, mallory, signers, reason="é", services=("a",), prior=300, session=9)
    leaf = draw.draw(altered(files["leaf.cbor"]), label="leaf")
    agreed(files | sealed(world, leaf, signers), world)


@st.composite
def altered(draw: st.DrawFn, content: bytes) -> bytes:
    """A byte changed, or some bytes cut out, doubled or put in."""
    at = draw(st.integers(0, max(len(content) - 1, 0)))
    how = draw(st.sampled_from(("flip", "flip", "set", "cut", "double", "insert", "end")))
    size = draw(st.integers(1, 8))
    if how == "flip" and content:
        bit = 1 << draw(st.integers(0, 7))
        return content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :]
    if how == "set":
        return content[:at] + draw(st.binary(min_size=1, max_size=1)) + content[at + 1 :]
    if how == "cut":
        return content[:at] + content[at + size :]
    if how == "double":
        return content[: at + size] + content[at:]
    added = draw(st.sampled_from((b"\0", b"\n", b" ", b"0", b"\xff", b"\x60")))
    return content + added if how == "end" else content[:at] + added + content[at:]


GROWN, GROWN_PROOF = grown()
GROWN_FILES = export_proof(
    GROWN.genesis,
    GROWN_PROOF,
    GROWN.blocks[-2].head,
    GROWN.blocks[-1].records[0].item,
    carrier_certificate(private_key("alice"), GROWN_PROOF),
)


@settings(max_examples=settings().max_examples // 20)  # each starts a shell
@given(st.data())
def test_both_judge_every_altered_file_alike(draw: st.DataObject) -> None:
    """Any file of a proof with membership changes and a certificate; the sums are made to fit."""
    names = sorted(GROWN_FILES.keys() - {"SHA256SUMS", "verify.sh"})
    name = draw.draw(st.sampled_from(names), label="file")
    how = draw.draw(st.sampled_from(("alter", "alter", "alter", "drop", "swap")), label="how")
    files = dict(GROWN_FILES)
    if how == "drop":
        del files[name]
    elif how == "swap":
        files[name] = files[draw.draw(st.sampled_from(names), label="with")]
    else:
        files[name] = draw.draw(altered(files[name]), label="content")
    believed = agreed(files, GROWN)
    # Two files show possession of the key, and one of them is enough.
    harmless = files == GROWN_FILES or (how == "drop" and name in ("dev.pem", "request.tbs"))
    assert believed is harmless


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.soak if name.startswith("epoch-2") else [])
        for name in sorted(GROWN_FILES.keys() - {"SHA256SUMS", "verify.sh"})
    ],
)
def test_no_file_can_be_left_out_but_one_way_to_show_possession(name: str) -> None:
    """An empty file too: the path of a block's only record is empty."""
    files = {each: content for each, content in GROWN_FILES.items() if each != name}
    assert agreed(files, GROWN) is (name in ("dev.pem", "request.tbs"))


def carrier(**changes: Any) -> bytes:
    """A certificate that alice signs herself, like hers but for the changes."""
    own = x509.load_pem_x509_certificate(FILES["dev.pem"])
    key = private_key("alice")
    builder = (
        x509.CertificateBuilder()
        .subject_name(changes.get("subject", own.subject))
        .issuer_name(changes.get("issuer", own.issuer))
        .public_key(key.public_key())
        .serial_number(changes.get("serial", own.serial_number))
        .not_valid_before(changes.get("not_before", own.not_valid_before_utc))
        .not_valid_after(changes.get("not_after", own.not_valid_after_utc))
    )
    for extension in own.extensions:
        value: Any = extension.value
        if isinstance(value, x509.BasicConstraints):
            value = changes.get("basic", value)
        critical = extension.critical != (changes.get("turned") == type(value).__name__)
        if changes.get("without") != type(value).__name__:
            builder = builder.add_extension(value, critical=critical)
    for value in changes.get("more", ()):
        builder = builder.add_extension(value, critical=False)
    signed = builder.sign(key, changes.get("hash", hashes.SHA256()))
    return signed.public_bytes(serialization.Encoding.PEM)


EVIL = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "evil")])
LONG = datetime.datetime(9999, 1, 1, tzinfo=datetime.UTC)
SERVER = x509.SubjectAlternativeName([x509.DNSName("bank.example")])
CARRIERS: list[tuple[str, bytes, bool]] = [
    ("as it is", carrier(), True),
    ("a CA", carrier(basic=x509.BasicConstraints(ca=True, path_length=None)), False),
    ("valid for ever", carrier(not_after=LONG), False),
    ("valid before", carrier(not_before=datetime.datetime(1990, 1, 1)), False),
    ("another subject", carrier(subject=EVIL, issuer=EVIL), False),
    ("another serial", carrier(serial=7), False),
    ("a host name", carrier(more=[SERVER]), False),
    ("no constraints", carrier(without="BasicConstraints"), False),
    ("any use", carrier(without="ExtendedKeyUsage"), False),
    ("no proof", carrier(without="UnrecognizedExtension"), False),
    ("a critical proof", carrier(turned="UnrecognizedExtension"), False),
    ("another hash", carrier(hash=hashes.SHA384()), False),
    ("a second certificate", FILES["dev.pem"] + FILES["dev.pem"], False),
    ("text before", b"trust me\n" + FILES["dev.pem"], False),
    ("a byte 0xff", b"\xff" + FILES["dev.pem"], False),
]


@pytest.mark.parametrize(("what", "pem", "believed"), CARRIERS, ids=[each[0] for each in CARRIERS])
def test_every_field_of_the_certificate_is_compared(
    what: str, pem: bytes, *, believed: bool
) -> None:
    assert agreed(FILES | {"dev.pem": pem}) is believed


def test_removed_replicas_prove_nothing_above_the_boundary() -> None:
    """Replicas 0 and 1 leave. Later they seal a certificate of the old epoch, above its end."""
    world = World(replicas=6)
    for admin in world.admins[:2]:
        world.run(world.signed(RemoveReplica, admin, replica=0), admin)
    block = world.blocks[-1]
    step = make_inclusion(block, 0, world.seals(block, 0, 1))
    world.idle(8)
    mallory = Device("mallory")
    signers = {"0": world.replicas[0], "1": world.replicas[1]}
    old = forged(world, mallory, signers, epoch=0)
    # Without the step nobody can know: a verifier that holds only genesis does not know of it.
    assert agreed(old, world)
    shown = old | _inclusion("epoch-1.", step, world.genesis.membership)
    assert not agreed(shown, world)
    verifier = ProofVerifier(world.genesis)
    verifier.follow(step)
    with pytest.raises(PeerFault, match="bad-epoch"):
        verifier.verify(Proof(record=inclusion(old, ""), epochs=()))
