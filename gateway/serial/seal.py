"""Tags and keys of a serial session: HMAC-SHA256, HKDF, and a channel that seals and opens frames.

Everything that needs a key lives here. The order of messages is in `session`, the bytes are in
`frames`. Flashing copies this file to the board. MicroPython has `hashlib` but no `hmac`, so this
file implements HMAC (RFC 2104) and HKDF (RFC 5869). The tests compare both with the standard
library and `cryptography`.

Suite 1 authenticates and does not encrypt: anyone on the line can read the readings.
"""

import hashlib

from gateway.serial.frames import Frame, encode_frame, frame_body, tag_bytes

__all__ = ["Channel", "Mac", "hkdf_sha256", "key_check_value", "same", "session_channel"]

suite_hmac = 1
key_bytes = 32
nonce_bytes = 16
# The most frames that one end seals with one key. New keys start a new counter.
frames_per_session_max = 1 << 16
window_bits = 64


class Mac:
    """HMAC-SHA256 under one key. The two pads are computed once."""

    def __init__(self, key: bytes) -> None:
        if len(key) > 64:
            key = hashlib.sha256(key).digest()
        key = key + bytes(64 - len(key))
        self._inner = bytes([byte ^ 0x36 for byte in key])
        self._outer = bytes([byte ^ 0x5C for byte in key])

    def digest(self, data: bytes) -> bytes:
        """The 32 bytes of HMAC-SHA256 over `data`."""
        inner = hashlib.sha256(self._inner)
        inner.update(data)
        outer = hashlib.sha256(self._outer)
        outer.update(inner.digest())
        return outer.digest()

    def tag(self, data: bytes) -> bytes:
        """The first 16 bytes of the HMAC, as frames carry them (RFC 2104, section 5)."""
        return self.digest(data)[:tag_bytes]


def same(one: bytes, other: bytes) -> bool:
    """Compares in a time that does not depend on where the two differ."""
    if len(one) != len(other):
        return False
    difference = 0
    for index in range(len(one)):
        difference |= one[index] ^ other[index]
    return difference == 0


def hkdf_sha256(key: bytes, salt: bytes, info: bytes) -> bytes:
    """32 bytes of HKDF-SHA256 (RFC 5869): extract, then one block of expand."""
    return Mac(Mac(salt).digest(key)).digest(info + b"\x01")


def key_check_value(key: bytes) -> bytes:
    """8 bytes that differ between two board keys and reveal nothing about them."""
    return Mac(key).digest(b"kcv")[:8]


class Channel:
    """Both directions of one session: seals what we send, opens what the peer sends."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._send = Mac(send_key)
        self._receive = Mac(receive_key)
        self.sent = 0
        self.received = 0
        # Bit i: counter `received - i` was seen. It only chooses the reason of a refusal.
        self._seen = 0

    @property
    def spent(self) -> bool:
        """Whether no counter is left. A new session must begin first."""
        return self.sent >= frames_per_session_max

    def seal(self, kind: int, payload: bytes) -> bytes:
        """A frame under the next counter, as bytes for the line."""
        assert not self.spent, "frames_per_session_max"
        self.sent += 1
        body = frame_body(kind, suite_hmac, self.sent, payload)
        return encode_frame(body, self._send.tag(body))

    def wrote(self, frame: Frame) -> bool:
        """Whether the peer's key made this tag."""
        return same(frame.tag, self._receive.tag(frame.body))

    def sealed(self, frame: Frame) -> bool:
        """Whether our own key made this tag: somebody sends our frames back to us."""
        return same(frame.tag, self._send.tag(frame.body))

    def admit(self, frame: Frame) -> str:
        """Checks the counter of a frame that the peer wrote: "" or the reason to refuse it."""
        ahead = frame.counter - self.received
        if ahead > 0:
            if frame.counter > frames_per_session_max:
                return "spent"
            # The peer chooses the distance: shifting by more than the window would cost memory.
            self._seen = self._seen << ahead & (1 << window_bits) - 1 if ahead < window_bits else 0
            self._seen |= 1
            self.received = frame.counter
            return ""
        if -ahead < window_bits and not self._seen >> -ahead & 1:
            return "out-of-order"
        return "replayed"


def session_channel(key: bytes, nonces: bytes, is_host: bool) -> Channel:
    """The channel of one end. Each direction has a key, made from the board key and both nonces."""
    down = hkdf_sha256(key, nonces, b"m2m serial 1 host to board")
    up = hkdf_sha256(key, nonces, b"m2m serial 1 board to host")
    return Channel(down, up) if is_host else Channel(up, down)
