"""A strict, minimal CBOR codec for serial payloads: integers, bytes, text, arrays and maps.

Lives here because sensor boards have no CBOR library: flashing copies this very file to them,
so it keeps to the subset of Python that MicroPython runs. Everything off the serial line uses
`cbor2`, against which this codec is tested.

Only the deterministic encoding of RFC 8949 section 4.2.1 is written and accepted: shortest
heads, definite lengths, sorted and unique map keys. One value has one encoding, so a MAC over
the bytes is a MAC over the value.
"""

TYPE_CHECKING = False  # MicroPython has no `typing`; mypy takes the name for true.

if TYPE_CHECKING:
    from typing import Any

__all__ = ["CborError", "decode", "encode"]

depth_max = 4
items_max = 64
bytes_max = 1024


class CborError(ValueError):
    """The bytes are not one value in the accepted subset (peer fault), or the value given to
    `encode` is outside of it (our bug)."""


def encode(value: "Any") -> bytes:
    """The deterministic encoding of `value`: int of 64 bits, bytes, str, list, tuple or dict."""
    out = bytearray()
    _write(out, value, depth_max)
    if len(out) > bytes_max:
        raise CborError(f"value longer than {bytes_max} bytes")
    return bytes(out)


def decode(data: bytes) -> "Any":
    """The one value that `data` encodes, arrays as lists; CborError for anything else."""
    if len(data) > bytes_max:
        raise CborError(f"more than {bytes_max} bytes")
    value, end = _read(data, 0, depth_max)
    if end != len(data):
        raise CborError("bytes after the value")
    return value


def _write_head(out: bytearray, major: int, number: int) -> None:
    if number < 24:
        out.append(major << 5 | number)
        return
    for code, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * width:
            out.append(major << 5 | code)
            out.extend(number.to_bytes(width, "big"))
            return
    raise CborError("integer over 64 bits")


def _write(out: bytearray, value: "Any", depth: int) -> None:
    if depth < 0:
        raise CborError(f"nested deeper than {depth_max}")
    if isinstance(value, int) and not isinstance(value, bool):
        _write_head(out, int(value < 0), value if value >= 0 else -1 - value)
    elif isinstance(value, (bytes, bytearray)):
        _write_head(out, 2, len(value))
        out.extend(value)
    elif isinstance(value, str):
        text = value.encode()
        _write_head(out, 3, len(text))
        out.extend(text)
    elif isinstance(value, (list, tuple)):
        _write_count(out, 4, len(value))
        for item in value:
            _write(out, item, depth - 1)
    elif isinstance(value, dict):
        _write_map(out, value, depth)
    else:
        raise CborError(f"no encoding for {type(value)}")


def _write_map(out: bytearray, value: "dict[Any, Any]", depth: int) -> None:
    _write_count(out, 5, len(value))
    items = {}
    for key, item in value.items():
        if not isinstance(key, (int, bytes, str)):
            raise CborError("map key is not an integer, bytes or text")
        items[encode(key)] = item
    for encoded in sorted(items):
        out.extend(encoded)
        _write(out, items[encoded], depth - 1)


def _write_count(out: bytearray, major: int, count: int) -> None:
    if count > items_max:
        raise CborError(f"more than {items_max} items")
    _write_head(out, major, count)


def _read_head(data: bytes, at: int) -> tuple[int, int, int]:
    """(major type, number, end of the head)."""
    if at >= len(data):
        raise CborError("ends too early")
    first = data[at]
    major, code = first >> 5, first & 31
    at += 1
    if code < 24:
        return major, code, at
    if code > 27:
        raise CborError("indefinite length or reserved head")
    width = 1 << code - 24
    if at + width > len(data):
        raise CborError("ends too early")
    number = int.from_bytes(data[at : at + width], "big")
    if number < (24 if width == 1 else 1 << 4 * width):
        raise CborError("head not in its shortest form")
    return major, number, at + width


def _read(data: bytes, at: int, depth: int) -> "tuple[Any, int]":
    if depth < 0:
        raise CborError(f"nested deeper than {depth_max}")
    major, number, at = _read_head(data, at)
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major in (2, 3):
        return _read_string(data, at, number, major == 3)
    if major in (4, 5):
        if number > items_max:
            raise CborError(f"more than {items_max} items")
        if major == 4:
            return _read_array(data, at, number, depth)
        return _read_map(data, at, number, depth)
    raise CborError(f"type {major} is not used here")


def _read_string(data: bytes, at: int, count: int, text: bool) -> "tuple[Any, int]":
    end = at + count
    if end > len(data):
        raise CborError("ends too early")
    raw = bytes(data[at:end])
    if not text:
        return raw, end
    try:
        return raw.decode(), end
    except UnicodeError:
        # MicroPython cannot chain exceptions.
        raise CborError("text is not UTF-8")  # noqa: B904


def _read_array(data: bytes, at: int, count: int, depth: int) -> "tuple[list[Any], int]":
    items = []
    for _ in range(count):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    return items, at


def _read_map(data: bytes, at: int, count: int, depth: int) -> "tuple[dict[Any, Any], int]":
    items = {}
    before = b""
    for _ in range(count):
        start = at
        # Keys are plain: an array or map cannot be one.
        if at < len(data) and data[at] >> 5 > 3:
            raise CborError("map key is not an integer, bytes or text")
        key, at = _read(data, at, depth - 1)
        encoded = bytes(data[start:at])
        if encoded <= before:
            raise CborError("map keys repeated or not sorted")
        before = encoded
        items[key], at = _read(data, at, depth - 1)
    return items, at
