"""What a device was handed, or made with: read strictly, and refused with the file's name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import PeerFault
from chain.keys import Es256
from chain.ledger.operations import Factory, Token
from chain.ledger.possession import factory_key
from nodes.device.vouchers import FACTORY_CHAIN, FACTORY_KEY, load_voucher, read_chain
from tests.chain.manufacturer import certify

ROOT = certify("root", ca=True)
LINE = certify("line", ROOT, ca=True)
DEVICE = certify("device", LINE)


def identity(directory: Path) -> tuple[Path, Path]:
    key, chain = directory / FACTORY_KEY, directory / FACTORY_CHAIN
    key.write_bytes(DEVICE.key_pem)
    key.chmod(0o600)
    chain.write_bytes(DEVICE.pem + LINE.pem)
    return key, chain


def test_a_factory_identity_signs_for_the_device_s_own_key(tmp_path: Path) -> None:
    voucher = load_voucher(*identity(tmp_path))
    signed = voucher.sign(b"statement")
    assert isinstance(signed, Factory)
    assert signed.chain == (DEVICE.der, LINE.der)
    assert Es256().verify(factory_key(DEVICE.der), b"statement", signed.signature)
    assert voucher.user != load_voucher(tmp_path / FACTORY_KEY, None).user


def test_without_certificates_the_key_is_a_token(tmp_path: Path) -> None:
    key, _ = identity(tmp_path)
    signed = load_voucher(key, None).sign(b"statement")
    assert isinstance(signed, Token)
    assert Es256().verify(signed.key, b"statement", signed.signature)


BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "key open to others": (lambda key, _: key.chmod(0o644), "chmod 600"),
    "no key": (lambda key, _: key.write_bytes(b"?"), "key.pem: not an unencrypted PEM"),
    "no certificates": (lambda _, chain: chain.write_bytes(b""), "chain.pem: no PEM certificates"),
    "another's": (lambda _, chain: chain.write_bytes(LINE.pem), "not of the key"),
    "issuer first": (lambda _, chain: chain.write_bytes(LINE.pem + DEVICE.pem), "not of the key"),
    "too long": (lambda _, chain: chain.write_bytes(4 * DEVICE.pem), "leave out the root"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_named(case: str, tmp_path: Path) -> None:
    change, says = BROKEN[case]
    change(*identity(tmp_path))
    with pytest.raises(ValueError, match=says):
        load_voucher(tmp_path / FACTORY_KEY, tmp_path / FACTORY_CHAIN)


@given(st.binary(max_size=300), st.integers(0, len(DEVICE.pem)))
def test_any_bytes_give_a_chain_or_an_error(junk: bytes, at: int) -> None:
    for pem in (junk, DEVICE.pem[:at] + junk + DEVICE.pem[at:]):
        said = "chain.pem"
        try:
            factory_key(read_chain(pem, "chain.pem")[0])
        except ValueError as error:
            said = str(error)
        assert "chain.pem" in said


def test_only_p256_keys_vouch() -> None:
    with pytest.raises(PeerFault):
        factory_key(b"no certificate")
