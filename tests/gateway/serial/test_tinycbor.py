"""The boards' CBOR: the deterministic encoding of RFC 8949, checked against cbor2."""

from __future__ import annotations

from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.serial.tinycbor import CborError, decode, encode

scalars = st.one_of(
    st.integers(-(1 << 64), (1 << 64) - 1), st.binary(max_size=40), st.text(max_size=20)
)
values = st.one_of(
    scalars,
    st.lists(st.one_of(scalars, st.lists(scalars, max_size=4)), max_size=6),
)


@given(values)
def test_cbor2_reads_what_we_write_and_we_read_it_back(value: Any) -> None:
    """One value, one encoding, the same value for both codecs."""
    data = encode(value)
    assert cbor2.loads(data) == value
    assert decode(data) == value


@given(st.lists(scalars, max_size=10))
def test_lists_are_encoded_as_cbor2_does(value: list[Any]) -> None:
    """Shortest heads, definite lengths."""
    assert encode(value) == cbor2.dumps(value, canonical=True)


@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_an_error(data: bytes) -> None:
    """What is accepted encodes back to the same bytes: no second spelling of anything."""
    try:
        value = decode(data)
    except CborError:
        return
    assert encode(value) == data
    assert cbor2.loads(data) == value


@pytest.mark.parametrize(
    "digits",
    [
        "",
        "1817",  # 23 in two bytes
        "190017",
        "1b00000000ffffffff",
        "9f01ff",  # indefinite
        "5f4101ff",
        "a0",  # a map: not used
        "f4",  # false: not used
        "fb3ff0000000000000",  # a float
        "c101",  # a tag
        "61ff",  # no UTF-8
        "0101",  # two values
        "8181818181818101",  # too deep
        "9b7fffffffffffffff",  # promises more than there is
        "5b7fffffffffffffff",
    ],
)
def test_other_spellings_are_refused(digits: str) -> None:
    """Strict on purpose: what a MAC covers has one meaning."""
    with pytest.raises(CborError):
        decode(bytes.fromhex(digits))


@pytest.mark.parametrize("value", [True, None, 1.5, 1 << 64, [[[[[[1]]]]]], {}, [0] * 65])
def test_values_outside_of_the_subset_are_refused(value: Any) -> None:
    """Nothing is written that the other end would refuse."""
    with pytest.raises(CborError):
        encode(value)
