"""A strict, minimal CBOR codec for serial payloads: integers, bytes, text and arrays.

Sensor boards have no CBOR library, so flashing copies this file to them. It keeps to the subset
of Python that MicroPython runs. The tests compare it with `cbor2`. The codec of all other messages
is `chain.canonical`.

It writes and accepts only the deterministic encoding of RFC 8949, section 4.2.1: shortest heads
and definite lengths. One value has one encoding, so a MAC over the bytes is a MAC over the value.
"""

TYPE_CHECKING = False  # MicroPython has no `typing`; mypy treats this name as true.

if TYPE_CHECKING:
    from typing import Any

__all__ = ["CborError", "decode", "encode"]

depth_max = 4
items_max = 64
bytes_max = 1024


class CborError(ValueError):
    """The bytes are not exactly one value of the accepted subset (a peer fault), or `encode` was
    given a value outside of the subset (our bug)."""


def encode(value: "Any") -> bytes:
    """The deterministic encoding of `value`: int of 64 bits, bytes, str, list or tuple."""
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
        if len(value) > items_max:
            raise CborError(f"more than {items_max} items")
        _write_head(out, 4, len(value))
        for item in value:
            _write(out, item, depth - 1)
    else:
        raise CborError(f"no encoding for {type(value)}")


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
    if major != 4:
        raise CborError(f"type {major} is not used here")
    if number > items_max:
        raise CborError(f"more than {items_max} items")
    items = []
    for _ in range(number):
        item, at = _read(data, at, depth - 1)
        items.append(item)
    return items, at


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
