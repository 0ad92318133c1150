"""The cryptography that boards carry themselves, against the standard implementations."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from gateway.serial.frames import Frame, FrameDecoder
from gateway.serial.seal import Mac, frames_per_session_max, hkdf_sha256, same, session_channel

key = bytes(range(32))


@given(st.binary(max_size=130), st.binary(max_size=200))
def test_mac_is_hmac_sha256(secret: bytes, data: bytes) -> None:
    """Short, full and over-long keys alike."""
    assert Mac(secret).digest(data) == hmac.new(secret, data, hashlib.sha256).digest()


@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(max_size=64))
def test_hkdf_is_rfc_5869(secret: bytes, salt: bytes, info: bytes) -> None:
    """32 bytes of it."""
    expected = HKDF(hashes.SHA256(), 32, salt, info).derive(secret)
    assert hkdf_sha256(secret, salt, info) == expected


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_same_is_equality(one: bytes, other: bytes) -> None:
    """Only its timing differs from ==."""
    assert same(one, other) == (one == other)


def sealed(counters: int) -> list[Frame]:
    host = session_channel(key, bytes(32), True)
    lines = b"".join(host.seal(6, b"\x80") for _ in range(counters))
    return [item for item in FrameDecoder().feed(lines) if isinstance(item, Frame)]


@pytest.mark.parametrize(
    ("order", "reasons"),
    [
        ([1, 2, 3], ["", "", ""]),
        ([1, 3, 4], ["", "", ""]),
        ([1, 1], ["", "replayed"]),
        ([3, 2, 2], ["", "out-of-order", "out-of-order"]),
        ([2, 4, 2, 3], ["", "", "replayed", "out-of-order"]),
        ([100, 1], ["", "replayed"]),
        ([1, 100, 1, 99], ["", "", "replayed", "out-of-order"]),
    ],
)
def test_counters_only_grow(order: list[int], reasons: list[str]) -> None:
    """A frame is taken once and in order; the refusal says which rule it broke."""
    frames = sealed(100)
    board = session_channel(key, bytes(32), False)
    assert all(board.wrote(frame) for frame in frames)
    assert [board.admit(frames[counter - 1]) for counter in order] == reasons


def test_keys_differ_by_direction_and_by_session() -> None:
    """A frame belongs to one direction of one session."""
    (frame,) = sealed(1)
    assert session_channel(key, bytes(32), False).wrote(frame)
    assert not session_channel(key, bytes(32), True).wrote(frame)
    assert session_channel(key, bytes(32), True).sealed(frame)
    assert not session_channel(key, b"\x01" * 32, False).wrote(frame)
    assert not session_channel(b"\x01" * 32, bytes(32), False).wrote(frame)


def test_a_session_ends_with_its_counters() -> None:
    """2^16 frames per direction, then only new keys help."""
    channel = session_channel(key, bytes(32), True)
    channel.sent = frames_per_session_max - 1
    channel.seal(6, b"")
    assert channel.spent
    with pytest.raises(AssertionError):
        channel.seal(6, b"")
