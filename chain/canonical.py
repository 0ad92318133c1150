"""Deterministic CBOR (RFC 8949, section 4.2.1) of closed msgspec structs: one value, one encoding.

Everything that devices sign and everything in a Merkle leaf is encoded here. A struct is a map with
text keys (or an array if it is `array_like`). A field that is None is left out. Only unsigned
integers, byte strings, text, booleans, arrays and maps exist: no tags, floats, negative numbers or
null, and nothing of indefinite length. Any other encoding of a value is refused.

Why not cbor2: its decoder runs tag handlers (big floats, regular expressions) on strangers' bytes.
It also accepts non-canonical forms, so each message would have to be encoded again to compare it,
and this is the hot path. Here a codec is planned once from the struct type, and its reader follows
the only order that the fields can have. `tests/chain/test_canonical.py` checks it against cbor2 in
both directions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, lru_cache
from operator import attrgetter
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import inspect

from chain.errors import Misuse, PeerFault

__all__ = ["Codec", "array_head", "encode_unsigned"]

T = TypeVar("T", bound=msgspec.Struct)
Reader = Callable[[bytes, int], tuple[Any, int]]
Writer = Callable[[Any], bytes]

_UNSIGNED, _BYTES, _TEXT, _ARRAY, _MAP = 0x00, 0x40, 0x60, 0x80, 0xA0
_FALSE, _TRUE = 0xF4, 0xF5


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major | number,))
    if number < 0x1_0000:
        short = number < 0x100
        return bytes((major | (24 if short else 25),)) + number.to_bytes(1 if short else 2, "big")
    if number < 0x1_0000_0000:
        return bytes((major | 26,)) + number.to_bytes(4, "big")
    if number < 0x1_0000_0000_0000_0000:
        return bytes((major | 27,)) + number.to_bytes(8, "big")
    raise Misuse(f"{number} does not fit 64 bits")


def _read_head(data: bytes, at: int, major: int) -> tuple[int, int]:
    """Returns the number in the head at `at`, and where that head ends. Raises IndexError if the
    data is cut short."""
    number = data[at] - major
    at += 1
    if 0 <= number < 24:
        return number, at
    if not 24 <= number <= 27:
        raise PeerFault("bad-cbor", f"another type at {at - 1}")
    width = 1 << (number - 24)
    number = int.from_bytes(data[at : at + width], "big")
    at += width
    if at > len(data) or number < (24 if width == 1 else 1 << (width * 4)):
        raise PeerFault("bad-cbor", f"cut short or not the shortest form at {at}")
    return number, at


# --- writers: by the type of the value -----------------------------------------------------------


class _BytesHeads(dict[int, bytes]):
    """Heads of byte strings by length. Common ones are prepared, longer ones made on demand."""

    def __missing__(self, length: int) -> bytes:
        return _head(_BYTES, length)


_BYTES_HEADS = _BytesHeads((length, _head(_BYTES, length)) for length in range(1024))


def _write_bytes(value: bytes) -> bytes:
    return _BYTES_HEADS[len(value)] + value


@lru_cache(maxsize=4096)
def _write_text(value: str) -> bytes:
    data = value.encode()
    return _head(_TEXT, len(data)) + data


def encode_unsigned(value: int) -> bytes:
    if value < 0:
        raise Misuse(f"{value} is negative")
    return _head(_UNSIGNED, value)


def _write_boolean(value: bool) -> bytes:
    return b"\xf5" if value else b"\xf4"


def array_head(count: int) -> bytes:
    """The head of an array: the bytes before its items."""
    return _head(_ARRAY, count)


def _write_array(values: tuple[Any, ...]) -> bytes:
    return array_head(len(values)) + b"".join([_WRITERS[type(v)](v) for v in values])


@cache
def _fields(kind: type[msgspec.Struct]) -> list[tuple[bytes, str]]:
    """Encoded keys and attribute names in the order of the map."""
    names = zip(kind.__struct_encode_fields__, kind.__struct_fields__, strict=True)
    return sorted((_write_text(wire), name) for wire, name in names)


def _tag(kind: type[msgspec.Struct], fields: list[tuple[bytes, str]]) -> bytes:
    """The encoded key and value of a struct's tag, which must come first; empty without one."""
    config = kind.__struct_config__
    if config.tag is None:
        return b""
    key = _write_text(str(config.tag_field))
    if config.array_like or any(other <= key for other, _ in fields):
        raise Misuse(f"{kind.__name__}: the tag must be the first key of a map")
    return key + _write_text(str(config.tag))


def _struct_writer(kind: type[msgspec.Struct]) -> Writer:
    names = kind.__struct_fields__
    if kind.__struct_config__.array_like:
        return lambda value: _write_array(tuple(getattr(value, name) for name in names))
    fields = _fields(kind)
    tag = _tag(kind, fields)
    tags = 1 if tag else 0
    keys = [key for key, _ in fields]
    # attrgetter of one name returns no tuple but a bare value: so the first field stands twice.
    values_of = attrgetter(*[name for _, name in fields], fields[0][1])

    def write(value: Any) -> bytes:
        # One expression, because this is the hot path; most fields are byte strings.
        parts = [
            key + _BYTES_HEADS[len(item)] + item
            if item.__class__ is bytes
            else key + _WRITERS[item.__class__](item)
            for key, item in zip(keys, values_of(value), strict=False)
            if item is not None
        ]
        return _head(_MAP, len(parts) + tags) + tag + b"".join(parts)

    return write


class _Writers(dict[type, Writer]):
    """A struct type gets its writer on first use."""

    def __missing__(self, kind: type) -> Writer:
        if not issubclass(kind, msgspec.Struct):
            raise Misuse(f"{kind.__name__} has no place in deterministic CBOR")
        writer = self[kind] = _struct_writer(kind)
        return writer


_WRITERS = _Writers(
    {
        bytes: _write_bytes,
        str: _write_text,
        int: encode_unsigned,
        bool: _write_boolean,
        tuple: _write_array,
    }
)


# --- readers: by the type that is expected -------------------------------------------------------


def _read_bytes(data: bytes, at: int) -> tuple[bytes, int]:
    if data[at] == 0x58 and data[at + 1] >= 24:  # the most common head, without a function call
        length, start = data[at + 1], at + 2
    else:
        length, start = _read_head(data, at, _BYTES)
    end = start + length
    if end > len(data):
        raise PeerFault("bad-cbor", "cut short")
    return data[start:end], end


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    length, start = _read_head(data, at, _TEXT)
    end = start + length
    if end > len(data):
        raise PeerFault("bad-cbor", "cut short")
    return data[start:end].decode(), end


def _read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    return _read_head(data, at, _UNSIGNED)


def _read_boolean(data: bytes, at: int) -> tuple[bool, int]:
    if data[at] not in (_FALSE, _TRUE):
        raise PeerFault("bad-cbor", f"not a boolean at {at}")
    return data[at] == _TRUE, at + 1


def _array_reader(item: Reader) -> Reader:
    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = _read_head(data, at, _ARRAY)
        values = []
        for _ in range(count):  # an item has at least one byte: a false count ends in IndexError
            value, at = item(data, at)
            values.append(value)
        return values, at

    return read


def _tuple_reader(items: list[Reader]) -> Reader:
    def read(data: bytes, at: int) -> tuple[list[Any], int]:
        count, at = _read_head(data, at, _ARRAY)
        if count != len(items):
            raise PeerFault("bad-cbor", f"an array of {count}, wanted {len(items)}")
        values = []
        for item in items:
            value, at = item(data, at)
            values.append(value)
        return values, at

    return read


def _size_known(info: inspect.Type) -> int:
    """The length of a byte string that can have only one (24 to 255 bytes), else 0."""
    if isinstance(info, inspect.BytesType) and info.min_length == info.max_length:
        size = info.min_length or 0
        return size if 24 <= size < 0x100 else 0
    return 0


def _plan(info: inspect.StructType) -> list[tuple[bytes, int, str, int, Reader]]:
    """Per field in the order of the map: its prefix, the length of the prefix, its name, its size
    if only one is possible (else 0), its reader."""
    by_name = {field.name: field for field in info.fields}
    plan = []
    for key, name in _fields(info.cls):
        kind = _type_if_present(by_name[name].type)
        # The head of a digest is constant, like its key: both are compared at once.
        size = _size_known(kind)
        start = key + _BYTES_HEADS[size] if size else key
        plan.append((start, len(start), by_name[name].encode_name, size, _reader(kind)))
    return plan


def _map_reader(info: inspect.StructType) -> Reader:
    tag = _tag(info.cls, _fields(info.cls))
    plan = _plan(info)
    optional = [field for field in info.fields if not field.required]
    if any(field.default is not None for field in optional):
        raise Misuse(f"{info.cls.__name__}: a default other than None has two encodings")

    def read(data: bytes, at: int) -> tuple[dict[str, Any], int]:
        left, at = _read_head(data, at, _MAP)
        values: dict[str, Any] = {}
        if tag:
            if not data.startswith(tag, at):
                raise PeerFault("bad-cbor", "another kind of map")
            at += len(tag)
            left -= 1
            values[info.tag_field] = info.tag  # type: ignore[index]
        for start, length, name, size, reader in plan:
            if data.startswith(start, at):
                at += length
                if size:
                    values[name] = data[at : at + size]  # convert() refuses what is cut short
                    at += size
                else:
                    values[name], at = reader(data, at)
                left -= 1
        if left:
            raise PeerFault("bad-cbor", "keys are unknown, repeated or out of order")
        return values, at

    return read


def _union_reader(options: list[inspect.StructType]) -> Reader:
    """Reads one of several tagged structs. The tag comes first and tells which one it is."""
    readers = {_tag(each.cls, _fields(each.cls)): _map_reader(each) for each in options}
    tag_field = _write_text(str(options[0].tag_field))
    value_at = 1 + len(tag_field)

    def read(data: bytes, at: int) -> tuple[Any, int]:
        end = at + value_at + 1 + data[at + value_at] - _TEXT  # tags are short
        reader = readers.get(data[at + 1 : end])
        if reader is None:
            raise PeerFault("bad-cbor", "an unknown kind of map")
        return reader(data, at)

    return read


_PLAIN: dict[type[inspect.Type], Reader] = {
    inspect.BytesType: _read_bytes,
    inspect.StrType: _read_text,
    inspect.LiteralType: _read_text,
    inspect.IntType: _read_unsigned,
    inspect.BoolType: _read_boolean,
}


def _type_if_present(info: inspect.Type) -> inspect.Type:
    """The type of a field's value when the field is present."""
    if isinstance(info, inspect.UnionType):
        options = [each for each in info.types if not isinstance(each, inspect.NoneType)]
        if len(options) == 1:
            return options[0]
    return info


def _reader(info: inspect.Type) -> Reader:
    info = _type_if_present(info)
    if isinstance(info, inspect.UnionType):
        structs = [each for each in info.types if isinstance(each, inspect.StructType)]
        if len(structs) == len(info.types):
            return _union_reader(structs)
    elif isinstance(info, inspect.StructType):
        if info.array_like:
            return _tuple_reader([_reader(field.type) for field in info.fields])
        return _map_reader(info)
    elif isinstance(info, inspect.VarTupleType):
        return _array_reader(_reader(info.item_type))
    elif isinstance(info, inspect.TupleType):
        return _tuple_reader([_reader(each) for each in info.item_types])
    elif type(info) in _PLAIN:
        return _PLAIN[type(info)]
    raise Misuse(f"{info} has no place in deterministic CBOR")


class Codec(Generic[T]):
    """Encodes and decodes values of one struct type or of a union of tagged struct types."""

    def __init__(self, kind: Any, bytes_max: int) -> None:
        info = inspect.type_info(kind)
        structs = [
            each
            for each in (info.types if isinstance(info, inspect.UnionType) else (info,))
            if isinstance(each, inspect.StructType)
        ]
        self._struct = structs[0]
        # Conversion to a struct is 20 times as fast as to a union: the tag tells which struct.
        self._kinds: dict[Any, Any] = {each.tag: each.cls for each in structs}
        self._tag_field = structs[0].tag_field
        self._read = _reader(info)
        self.bytes_max = bytes_max

    def encode(self, value: T) -> bytes:
        """The one encoding of `value`. Raises Misuse for values that the subset cannot hold."""
        return _WRITERS[type(value)](value)

    def digest_reader(self, name: str) -> Callable[[bytes], bytes]:
        """A reader of the digest field `name` of an untagged struct. It reads only up to that
        field, so the bytes must be known to be an encoding. Raises PeerFault("bad-cbor") if the
        field is missing."""
        plan = _plan(self._struct)
        at_name = [entry[2] for entry in plan].index(name)
        before, (key, length, _, size, _) = plan[:at_name], plan[at_name]

        def read(data: bytes) -> bytes:
            try:
                _, at = _read_head(data, 0, _MAP)
                for start, skip, _, fixed, reader in before:
                    if data.startswith(start, at):
                        at = at + skip + fixed if fixed else reader(data, at + skip)[1]
            except (IndexError, UnicodeDecodeError) as error:
                raise PeerFault("bad-cbor", str(error)) from error
            if not data.startswith(key, at) or at + length + size > len(data):
                raise PeerFault("bad-cbor", f"no {name}")
            return data[at + length : at + length + size]

        return read

    def pieces(self, value: T, varying: frozenset[str]) -> tuple[bytes, ...]:
        """The encoding of a map struct, cut at the fields in `varying`, in the order of the map.
        Joining the pieces with the encodings of these fields gives the whole. All of them must be
        present. Use it for many values that differ in these fields only."""
        fields = _fields(type(value))
        kept = [(key, name, getattr(value, name)) for key, name in fields]
        kept = [each for each in kept if each[1] in varying or each[2] is not None]
        tag = _tag(type(value), fields)
        pieces = [_head(_MAP, len(kept) + bool(tag)) + tag]
        for key, name, item in kept:
            pieces[-1] += key
            if name in varying:
                pieces.append(b"")
            else:
                pieces[-1] += _WRITERS[type(item)](item)
        return tuple(pieces)

    def decode(self, data: bytes) -> T:
        """Raises PeerFault("bad-cbor" | "oversize") unless `data` is what `encode` writes."""
        if len(data) > self.bytes_max:
            raise PeerFault("oversize", f"{len(data)} bytes, at most {self.bytes_max}")
        try:
            plain, end = self._read(data, 0)
            if end != len(data):
                raise PeerFault("bad-cbor", f"{len(data) - end} bytes after the end")
            kind: type[T] = self._kinds[plain[self._tag_field] if self._tag_field else None]
            return msgspec.convert(plain, kind)
        except (IndexError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise PeerFault("bad-cbor", str(error)) from error
