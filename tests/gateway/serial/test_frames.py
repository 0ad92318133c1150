"""Frames: what the encoder writes the decoder finds again, whatever else is on the line."""

from __future__ import annotations

import random

import pytest
from cobs import cobs  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from gateway.serial import frames
from gateway.serial.frames import (
    Frame,
    FrameDecoder,
    Noise,
    Text,
    cobs_decode,
    cobs_encode,
    encode_frame,
)

bodies = st.binary(min_size=frames.header_bytes, max_size=100)
tags = st.binary(min_size=frames.tag_bytes, max_size=frames.tag_bytes)


@given(st.binary(max_size=1200))
def test_cobs_agrees_with_the_library(data: bytes) -> None:
    """Our stuffing is the published one, byte for byte, and reverses."""
    line = cobs_encode(data)
    assert line == cobs.encode(data)
    assert 0 not in line
    assert cobs_decode(line) == data


@pytest.mark.parametrize("size", [0, 1, 253, 254, 255, 508, 509])
@pytest.mark.parametrize("zeros", ["none", "first", "last", "all"])
def test_cobs_at_the_edges_of_its_runs(size: int, zeros: str) -> None:
    """Runs of 254 are where encoders go wrong."""
    data = bytearray(b"\x00" * size if zeros == "all" else b"\x01" * size)
    if size and zeros in ("first", "last"):
        data[0 if zeros == "first" else -1] = 0
    assert cobs_encode(bytes(data)) == cobs.encode(bytes(data))
    assert cobs_decode(cobs.encode(bytes(data))) == bytes(data)


@given(st.lists(st.integers(1, 255), max_size=600).map(bytes))
def test_cobs_decoder_agrees_on_garbage(line: bytes) -> None:
    """Any chunk is decoded as the library does, or refused as it does."""
    try:
        expected = cobs.decode(line)
    except cobs.DecodeError:
        assert cobs_decode(line) is None
    else:
        assert cobs_decode(line) == expected


@given(st.binary())
def test_both_crcs_are_one(data: bytes) -> None:
    """The board's table and the host's library compute CRC-16/CCITT-FALSE."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "crc_hqx", None)  # MicroPython has none
        of_the_board = frames.crc16(data)
    assert of_the_board == frames.crc16(data)
    assert frames.crc16(b"123456789") == 0x29B1


@given(st.lists(st.tuples(bodies, tags), max_size=5), st.randoms(use_true_random=False))
def test_frames_survive_any_cutting_of_the_stream(
    wanted: list[tuple[bytes, bytes]], rng: random.Random
) -> None:
    """A reader gets bytes in any pieces and sees the same frames in the same order."""
    stream = b"".join(encode_frame(body, tag) for body, tag in wanted)
    decoder = FrameDecoder()
    found = []
    at = 0
    while at < len(stream):
        end = at + rng.randint(1, 40)
        found += decoder.feed(stream[at:end])
        at = end
    assert [(item.body, item.tag) for item in found if isinstance(item, Frame)] == wanted


@given(st.binary(max_size=2000), bodies, tags)
def test_a_frame_after_any_garbage_is_found(garbage: bytes, body: bytes, tag: bytes) -> None:
    """The next 0x00 is where the reader finds its place again."""
    *_, last = FrameDecoder().feed(garbage + b"\x00" + encode_frame(body, tag))
    assert isinstance(last, Frame)
    assert (last.body, last.tag) == (body, tag)


@given(st.lists(st.binary(max_size=700), max_size=10))
def test_the_decoder_holds_no_more_than_a_frame(pieces: list[bytes]) -> None:
    """Never an exception, never more memory than one frame, whatever comes."""
    decoder = FrameDecoder()
    for piece in pieces:
        for item in decoder.feed(piece):
            assert isinstance(item, Frame | Text | Noise)
        # What a decoder holds back leaves no trace outside until the next 0x00.
        assert len(decoder._splitter._held) <= frames.line_bytes_max


def test_every_flipped_bit_is_noise_and_not_attack() -> None:
    """A bit that the line flips breaks the CRC: it is not counted as a forgery."""
    line = encode_frame(frames.frame_body(4, 1, 77, b"\x84\x01\x02\x03"), bytes(range(16)))
    for index in range(len(line) - 1):
        for bit in range(8):
            spoiled = bytearray(line)
            spoiled[index] ^= 1 << bit
            items = FrameDecoder().feed(bytes(spoiled))
            assert items
            assert not any(isinstance(item, Frame) for item in items), (index, bit)


@pytest.mark.parametrize(
    ("chunk", "expected"),
    [
        (b"m2m-board/1 th01 boot=1\r\n", "text"),
        (b"Traceback (most recent call last):\r\n  File\n", "text"),
        (b"x" * 1000, "text"),
        (b"\x05\x01\x02", "cobs"),
        (b"\x04\x01\x02\x03", "short"),
        (cobs.encode(bytes(40)), "crc"),
        (b"\xff" * 1000, "long"),
    ],
)
def test_what_is_no_frame_is_named(chunk: bytes, expected: str) -> None:
    """Text is for people, noise has a reason."""
    (item,) = FrameDecoder().feed(chunk + b"\x00")
    assert (item.reason if isinstance(item, Noise) else "text") == expected


def test_the_longest_frame_fits() -> None:
    """A payload of exactly the limit passes; one byte more is our own bug."""
    body = frames.frame_body(4, 1, 1, bytes(frames.payload_bytes_max))
    (item,) = FrameDecoder().feed(encode_frame(body, frames.no_tag))
    assert isinstance(item, Frame)
    with pytest.raises(AssertionError):
        frames.frame_body(4, 1, 1, bytes(frames.payload_bytes_max + 1))
