"""Deterministic CBOR: one value has one encoding, and cbor2 agrees with it in both directions."""

from __future__ import annotations

from typing import Annotated, Any

import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.canonical import Codec
from chain.errors import Misuse, PeerFault


class Pair(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    left: int
    right: bytes


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    name: str
    hash: Annotated[bytes, msgspec.Meta(max_length=2000)]
    flag: bool | None = None
    count: int | None = None
    pairs: tuple[Pair, ...] | None = None


class Other(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op"):
    inner: Leaf


codec: Codec[Any] = Codec(Leaf | Other, 100_000)

unsigned = st.integers(0, 2**64 - 1)
pairs = st.builds(Pair, unsigned, st.binary(max_size=300))
leaves = st.builds(
    Leaf,
    name=st.text(max_size=40),
    hash=st.binary(max_size=2000),
    flag=st.none() | st.booleans(),
    count=st.none() | unsigned,
    pairs=st.none() | st.lists(pairs, max_size=30).map(tuple),
)
values = leaves | st.builds(Other, inner=leaves)


def plain(value: Any) -> Any:
    """What cbor2 is to write: maps without absent fields."""
    if isinstance(value, Pair):
        return [value.left, value.right]
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    if isinstance(value, msgspec.Struct):
        fields = {name: getattr(value, name) for name in value.__struct_fields__}
        present = {name: plain(each) for name, each in fields.items() if each is not None}
        return {"op": type(value).__name__} | present
    return value


@given(values)
def test_the_encoding_is_cbor2_s_canonical_one_and_reads_back(value: Any) -> None:
    data = codec.encode(value)
    assert data == cbor2.dumps(plain(value), canonical=True)
    assert codec.decode(data) == value


@given(values, st.data())
def test_whatever_is_accepted_is_the_only_encoding(value: Any, draw: st.DataObject) -> None:
    """An altered encoding is refused or means another value, written the same."""
    data = bytearray(codec.encode(value))
    at = draw.draw(st.integers(0, len(data) - 1))
    data[at] ^= draw.draw(st.integers(1, 255))
    try:
        other = codec.decode(bytes(data))
    except PeerFault:
        return
    assert other != value
    assert codec.encode(other) == bytes(data)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused_by_a_typed_error(data: bytes) -> None:
    with pytest.raises(PeerFault):
        codec.decode(data)


NAME, HASH = b"\x64name\x61a", b"\x64hash\x41b"
OP = b"\x62op\x64Leaf"


def test_the_reference_is_accepted() -> None:
    assert codec.decode(b"\xa3" + OP + HASH + NAME) == Leaf(name="a", hash=b"b")


@pytest.mark.parametrize(
    ("what", "data"),
    [
        ("keys out of order", b"\xa3" + OP + NAME + HASH),
        ("a key twice", b"\xa4" + OP + HASH + NAME + NAME),
        ("an unknown key", b"\xa4" + OP + HASH + NAME + b"\x65zzzzz\x00"),
        ("a missing key", b"\xa2" + OP + HASH),
        ("the tag missing", b"\xa2" + HASH + NAME),
        ("an unknown tag", b"\xa3\x62op\x64Lead" + HASH + NAME),
        ("null for an absent field", b"\xa4" + OP + b"\x64flag\xf6" + HASH + NAME),
        ("bytes after the end", b"\xa3" + OP + HASH + NAME + b"\x00"),
        ("cut short", (b"\xa3" + OP + HASH + NAME)[:-1]),
        ("a long length", b"\xa3" + OP + b"\x64hash\x58\x01b" + NAME),
        ("an indefinite string", b"\xa3" + OP + b"\x64hash\x5f\x41b\xff" + NAME),
        ("an indefinite map", b"\xbf" + OP + HASH + NAME + b"\xff"),
        ("text for bytes", b"\xa3" + OP + b"\x64hash\x61b" + NAME),
        ("a tag around it", b"\xc2\xa3" + OP + HASH + NAME),
        ("a big float", b"\xa3" + OP + b"\x64hash\xc5\x82\x1b" + b"\xff" * 8 + b"\x01" + NAME),
        ("a giant length", b"\xa3" + OP + b"\x64hash\x5b" + b"\xff" * 8 + NAME),
        ("a giant array", b"\xa4" + OP + HASH + NAME + b"\x65pairs\x9b" + b"\xff" * 8),
        ("bad UTF-8", b"\xa3" + OP + HASH + b"\x64name\x61\xff"),
        ("oversize", b"\xa3" + b"\x00" * 100_001),
    ],
)
def test_everything_but_the_one_form_is_refused(what: str, data: bytes) -> None:
    with pytest.raises(PeerFault) as fault:
        codec.decode(data)
    assert fault.value.code in ("bad-cbor", "oversize"), what


class Plain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    only: int | None = None


@given(st.none() | unsigned)
def test_a_struct_without_a_tag_is_a_plain_map(only: int | None) -> None:
    untagged: Codec[Plain] = Codec(Plain, 100)
    data = untagged.encode(Plain(only))
    assert data == cbor2.dumps({} if only is None else {"only": only}, canonical=True)
    assert untagged.decode(data) == Plain(only)


def test_types_that_could_have_two_encodings_are_refused_when_the_codec_is_made() -> None:
    class Defaulted(msgspec.Struct, frozen=True):
        number: int = 5

    class Float(msgspec.Struct, frozen=True):
        number: float

    for kind in (Defaulted, Float):
        with pytest.raises(Misuse):
            Codec(kind, 100)
