"""Factory certificates (IEEE 802.1AR): only an end entity whose chain leads to a listed root."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.chain.manufacturer import DAY_S, EPOCH_S, Certified, certify, factory_refusal, key_usage

NOW_US = (EPOCH_S + DAY_S) * 1_000_000
ROOT = certify("factory root", ca=True)
LINE = certify("factory line", ROOT, ca=True, path_length=0)
SENSOR = certify("sensor 7", LINE)
SECRET_ROOT = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")


def refused(*chain: Certified, roots: tuple[Certified, ...] = (ROOT,)) -> str | None:
    ders = tuple(each.der for each in chain)
    return factory_refusal(ders, tuple(each.der for each in roots), NOW_US)


def test_a_device_s_chain_vouches_for_it() -> None:
    assert refused(SENSOR, LINE) is None
    assert refused(certify("sensor 8", ROOT)) is None, "straight from the root"
    assert refused(certify("sensor 9", ROOT, ca=None)) is None, "no CA, as it does not say so"
    assert refused(SENSOR, LINE, roots=(certify("another", ca=True), ROOT)) is None


no_signer = ((key_usage(signs_certificates=False), True),)
signer = ((key_usage(signs_certificates=True), True),)
BAD_CHAINS = {
    "wrong root": ((SENSOR, LINE), (certify("another root", ca=True),)),
    "root of the same name with another key": (
        (SENSOR, LINE),
        (certify("factory root", key_of="a thief's", ca=True),),
    ),
    "no roots": ((SENSOR, LINE), ()),
    "issuer left out": ((SENSOR,), (ROOT,)),
    "wrong order": ((LINE, SENSOR), (ROOT,)),
    "leaf is a CA": ((certify("ca leaf", ROOT, ca=True),), (ROOT,)),
    "leaf is a CA that may not sign": (
        (certify("odd leaf", ROOT, ca=True, extensions=no_signer),),
        (ROOT,),
    ),
    "the line's own certificate": ((LINE,), (ROOT,)),
    "issued by a device": ((certify("below", SENSOR), SENSOR, LINE), (ROOT,)),
    "issuer does not say that it is a CA": (
        (certify("s", mute := certify("mute", ROOT, ca=None)), mute),
        (ROOT,),
    ),
    "issuer may not sign certificates": (
        (certify("t", weak := certify("weak", ROOT, ca=True, extensions=no_signer)), weak),
        (ROOT,),
    ),
    "path longer than the line allows": (
        (certify("u", sub := certify("sub line", LINE, ca=True)), sub, LINE),
        (ROOT,),
    ),
    "critical extension that nobody here knows": (
        (certify("v", ROOT, extensions=((SECRET_ROOT, True),)),),
        (ROOT,),
    ),
    "root that is no CA": ((certify("w", flat := certify("flat", ca=False)),), (flat,)),
}


@pytest.mark.parametrize("case", BAD_CHAINS)
def test_what_is_no_chain_is_refused(case: str) -> None:
    chain, roots = BAD_CHAINS[case]
    assert refused(*chain, roots=roots) == "factory-chain"


def test_the_same_shapes_are_good_where_they_may_be() -> None:
    """The counterparts of the table: it is not refused for another reason."""
    line = certify("signing line", ROOT, ca=True, extensions=signer)
    assert refused(certify("a", line, extensions=no_signer), line) is None
    assert refused(certify("b", ROOT, extensions=((SECRET_ROOT, False),))) is None
    deep = certify("deep line", ROOT, ca=True, path_length=1)
    sub = certify("deep sub line", deep, ca=True, path_length=0)
    assert refused(certify("c", sub), sub, deep) is None


@pytest.mark.parametrize("late", ["device", "line", "root"])
def test_every_certificate_on_the_way_must_be_in_its_time(late: str) -> None:
    def chain(begins_s: int, ends_s: int) -> str | None:
        def made(name: str, by: Certified | None, **more: bool) -> Certified:
            times = (begins_s, ends_s) if name == late else (EPOCH_S, EPOCH_S + 9 * DAY_S)
            return certify(name, by, begins_s=times[0], ends_s=times[1], **more)  # type: ignore[arg-type]

        root = made("root", None, ca=True)
        line = made("line", root, ca=True)
        return refused(made("device", line), line, roots=(root,))

    assert chain(EPOCH_S, EPOCH_S + 2 * DAY_S) is None
    assert chain(EPOCH_S, EPOCH_S + DAY_S // 2) == "factory-expired"
    assert chain(EPOCH_S + 2 * DAY_S, EPOCH_S + 9 * DAY_S) == "factory-early"


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_bytes_that_are_no_certificates_are_refused(chain: list[bytes]) -> None:
    assert factory_refusal(tuple(chain), (ROOT.der,), NOW_US) == "factory-chain"


@given(st.integers(0, len(SENSOR.der) - 1), st.integers(1, 255))
def test_one_altered_byte_is_refused(at: int, change: int) -> None:
    der = bytearray(SENSOR.der)
    der[at] ^= change
    assert factory_refusal((bytes(der), LINE.der), (ROOT.der,), NOW_US) == "factory-chain"


def test_a_signature_with_unused_bits_is_refused() -> None:
    """The library ignores unused bits that are zero: one certificate would have several forms."""
    fresh = (certify("sensor 7", LINE) for _ in range(1_000))
    even = next(each.der for each in fresh if each.der[-1] % 2 == 0)
    at = len(even) - len(x509.load_der_x509_certificate(even).signature) - 1
    altered = even[:at] + b"\1" + even[at + 1 :]
    assert factory_refusal((even, LINE.der), (ROOT.der,), NOW_US) is None
    assert factory_refusal((altered, LINE.der), (ROOT.der,), NOW_US) == "factory-chain"


def altered(issued: Certified, by: Certified, old: bytes, new: bytes) -> bytes:
    """The certificate with other bytes of the same number in it, signed again by its issuer."""
    content = issued.certificate.tbs_certificate_bytes
    assert content.count(old) == 1
    content = content.replace(old, new)
    signature = by.key.sign(content, ec.ECDSA(hashes.SHA256()))
    algorithm = bytes.fromhex("300a06082a8648ce3d040302")
    body = content + algorithm + bytes((3, len(signature) + 1, 0)) + signature
    assert len(body) >= 0x100
    return b"\x30\x82" + len(body).to_bytes(2, "big") + body


SERIAL_1 = bytes.fromhex("a0030201020201")  # version 3, then the head of the serial number


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
@pytest.mark.parametrize("serial", [0x00, 0x80, 0xFF])
def test_a_serial_number_that_later_libraries_refuse_is_refused_now(serial: int) -> None:
    good = altered(SENSOR, LINE, SERIAL_1 + b"\x01", SERIAL_1 + b"\x7f")
    odd = altered(SENSOR, LINE, SERIAL_1 + b"\x01", SERIAL_1 + bytes((serial,)))
    assert factory_refusal((good, LINE.der), (ROOT.der,), NOW_US) is None
    assert factory_refusal((odd, LINE.der), (ROOT.der,), NOW_US) == "factory-chain"


def test_a_year_that_cannot_be_read_is_refused() -> None:
    """It must not raise: this is asked while a replica carries out a block."""
    late = certify("sensor 10", LINE, begins_s=EPOCH_S, ends_s=4_000_000_000)
    old = late.certificate.not_valid_after_utc.strftime("%Y%m%d%H%M%SZ").encode()
    bad = altered(late, LINE, old, b"0000" + old[4:])
    assert factory_refusal((bad, LINE.der), (ROOT.der,), NOW_US) == "factory-chain"
