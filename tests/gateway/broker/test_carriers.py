"""A device's carrier certificate gets from it to the broker, and nobody else's does."""

from __future__ import annotations

import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from chain.ledger.operations import Renew, Revoke
from chain.ledger.possession import renewal_statement
from chain.proofs.certificate import carrier_certificate
from chain.proofs.proof import decode_proof
from gateway.bridge.edge import admitted_codec
from gateway.broker.carriers import spread, subject_hash
from gateway.broker.security import User, carrier_commands, create_commands, remove_commands
from gateway.broker.store import SecurityStore
from gateway.mqtt.topics import Role
from tests.chain.world import Device, World, private_key
from tests.gateway.bridge.gate import Gate
from tests.gateway.broker.brokers import NET


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path, World())


def carrier(gate: Gate, device: Device) -> bytes:
    """From what the device was answered last."""
    receipt = admitted_codec.decode(gate.answers[-1][2]).receipt
    return carrier_certificate(private_key(device.name), decode_proof(receipt))


def listed(gate: Gate) -> list[str]:
    return [each.name for each in gate.carriers]


def test_the_gateway_informs_the_broker_and_answers(gate: Gate) -> None:
    device = gate.admit("phone")
    pem, node = carrier(gate, device), device.node.hex()
    gate.up(node, "carrier", pem)
    assert [(each.name, each.pem) for each in gate.carriers] == [(node, pem.decode())]
    assert gate.answers[-1][:2] == (node, "carrier")


@pytest.mark.parametrize(
    "sent", ["{ours}{theirs}", "{ours}\xff", "\xff\n{ours}", "{ours}x", "hello\n{ours}"]
)
def test_nothing_but_the_one_checked_certificate_is_listed(gate: Gate, sent: str) -> None:
    """OpenSSL trusts every certificate of a file in its directory: also a CA that was appended."""
    theirs = carrier(gate, gate.admit("tablet"))
    device = gate.admit("phone")
    ours = carrier(gate, device)
    body = sent.format(ours=ours.decode(), theirs=theirs.decode()).encode("latin-1")
    gate.up(device.node.hex(), "carrier", body)
    assert all(each.pem == ours.decode() for each in gate.carriers)
    spread({device.node.hex(): body.decode("latin-1")}, gate.folder / "carriers")
    assert [file.read_bytes() for file in (gate.folder / "carriers").iterdir()] == [ours]


def test_what_the_chain_has_not_certified_for_this_device_is_refused(gate: Gate) -> None:
    device, other = gate.admit("phone"), gate.admit("tablet")
    pem, node = carrier(gate, other), other.node.hex()
    altered = pem[:200] + (b"A" if pem[200:201] != b"A" else b"B") + pem[201:]
    (gate.folder / "elsewhere").mkdir()
    foreign = Gate(gate.folder / "elsewhere", World(vouchers=1))  # so it is another network
    for name, body in (
        (device.node.hex(), pem),
        (node, altered),
        (node, carrier(foreign, foreign.admit("tablet"))),
        (node, b"-----BEGIN CERTIFICATE-----\n"),
        (node, b""),
    ):
        gate.up(name, "carrier", body)
    assert listed(gate) == []
    gate.up(node, "carrier", pem)
    for admin in gate.world.admins[:2]:
        gate.ask(gate.world.signed(Revoke, admin, target=other.node, reason="lost"), admin)
        gate.decide()
    gate.up(node, "carrier", pem)
    assert listed(gate) == [node]
    assert gate.outcomes()[-1] == "refused:unknown-node"


def test_a_certificate_after_its_time_is_refused(gate: Gate) -> None:
    device = gate.admit("phone", validity_s=5)
    pem = carrier(gate, device)
    gate.world.idle(10)
    gate.seal()
    gate.up(device.node.hex(), "carrier", pem)
    assert listed(gate) == []
    assert gate.outcomes()[-1] == "refused:expired"


def test_a_certificate_from_before_a_renewal_does_not_replace_its_successor(gate: Gate) -> None:
    """Every relay has seen the old one and could send it again."""
    phone = gate.admit("phone")
    node, old = phone.node.hex(), carrier(gate, phone)
    gate.up(node, "carrier", old)
    key = phone.signer.public
    possession = phone.signer.sign(renewal_statement(gate.world.network, phone.node, key))
    renew = gate.world.signed(Renew, phone, key=key, validity_s=3600, possession=possession)
    gate.ask(renew, phone)
    gate.decide()
    new = carrier_certificate(private_key(phone.name), decode_proof(gate.answers[-1][2]))
    gate.up(node, "carrier", new)
    gate.up(node, "carrier", old)
    assert [each.pem.encode() for each in gate.carriers] == [old, new]
    assert gate.outcomes()[-1] == "refused:superseded"


# --- at the broker --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A node and its certificate."""
    gate = Gate(tmp_path_factory.mktemp("gate"), World())
    device = gate.admit("phone")
    return device.node.hex(), carrier(gate, device).decode()


def test_the_document_keeps_it_with_the_login_and_no_longer(
    tmp_path: Path, known: tuple[str, str]
) -> None:
    node, pem = known
    path = tmp_path / "security.json"
    store = SecurityStore(path)
    commands = [*create_commands(User(Role.DEVICE, node, "pw"), NET), *carrier_commands(node, pem)]
    for command in commands:
        store.apply(command)
    store.write(store.encoded())
    assert SecurityStore.load(path).carriers() == {node: pem}
    for command in remove_commands(node):
        assert store.apply(command) is None
    store.write(store.encoded())
    assert SecurityStore.load(path).carriers() == {}


def test_openssl_finds_those_that_are_spread_and_no_others(
    tmp_path: Path, known: tuple[str, str]
) -> None:
    node, pem = known
    file, directory = tmp_path / "phone.pem", tmp_path / "carriers"
    file.write_text(pem)
    verify = ["openssl", "verify", "-no_check_time", "-purpose", "sslclient", "-CApath"]

    def accepted() -> bool:
        command = [*verify, str(directory), str(file)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    assert spread({node: pem}, directory) == (False, [])
    assert accepted()
    assert spread({node: pem}, directory) == (False, [])
    assert spread({}, directory) == (True, [])
    assert not accepted()
    assert spread({"a" * 64: pem, node: "no certificate", "": ""}, directory) == (
        False,
        ["a" * 64, node, ""],
    )
    assert list(directory.iterdir()) == []


@given(st.text(max_size=200), st.integers(0, 2000), st.binary(max_size=8))
def test_whatever_stands_in_the_document_is_survived(
    known: tuple[str, str],
    text: str,
    at: int,
    noise: bytes,
) -> None:
    node, pem = known
    broken = pem[:at] + noise.decode("latin-1") + pem[at + len(noise) :]
    with TemporaryDirectory() as directory:
        spread({node: broken, text: pem, "b" * 64: text}, Path(directory) / "carriers")
        assert len(list((Path(directory) / "carriers").iterdir())) <= 1


def test_names_are_hashed_as_openssl_does(tmp_path: Path, known: tuple[str, str]) -> None:
    file = tmp_path / "phone.pem"
    file.write_text(known[1])
    command = ["openssl", "x509", "-in", str(file), "-noout", "-subject_hash"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)
    subject = x509.load_pem_x509_certificate(known[1].encode()).subject
    assert subject_hash(subject) == printed.stdout.strip()
