"""Tags and keys of a serial session: HMAC-SHA256, HKDF, and a channel that seals and opens frames.

Lives here: what needs a key. The order of messages is `session`, bytes are `frames`. Flashing
copies this very file to the board: MicroPython has `hashlib` and no `hmac`, so HMAC (RFC 2104)
and HKDF (RFC 5869) stand here, tested against the standard library and `cryptography`.

Suite 1 authenticates and does not encrypt: anyone on the line can read the readings.
"""

import hashlib

from gateway.serial.frames import Frame, encode_frame, frame_body, tag_bytes

__all__ = ["Channel", "Mac", "hkdf_sha256", "key_check_value", "same", "session_channel"]

suite_hmac = 1
key_bytes = 32
nonce_bytes = 16
# The counter restarts with new keys, so one pair of keys seals at most this many frames a side.
frames_per_session_max = 1 << 16
window_bits = 64


class Mac:
    """HMAC-SHA256 under one key, its two pads made once."""

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
        """The first 16 bytes, as frames carry them (RFC 2104 section 5)."""
        return self.digest(data)[:tag_bytes]


def same(one: bytes, other: bytes) -> bool:
    """Equality in a time that does not tell where the difference is."""
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
    """8 bytes that tell two board keys apart and give nothing of them away."""
    return Mac(key).digest(b"kcv")[:8]


class Channel:
    """Both directions of one session: seals what we send, opens what the peer sends."""

    def __init__(self, send_key: bytes, receive_key: bytes) -> None:
        self._send = Mac(send_key)
        self._receive = Mac(receive_key)
        self.sent = 0
        self.received = 0
        # Bit i: counter `received - i` was seen. Only to name a refusal: neither is accepted.
        self._seen = 0

    @property
    def spent(self) -> bool:
        """No counter is left: a new session must come first."""
        return self.sent >= frames_per_session_max

    def seal(self, kind: int, payload: bytes) -> bytes:
        """The bytes for the line, under the next counter."""
        assert not self.spent, "frames_per_session_max"
        self.sent += 1
        body = frame_body(kind, suite_hmac, self.sent, payload)
        return encode_frame(body, self._send.tag(body))

    def wrote(self, frame: Frame) -> bool:
        """The peer's key made this tag."""
        return same(frame.tag, self._receive.tag(frame.body))

    def sealed(self, frame: Frame) -> bool:
        """Our own key made this tag: somebody sends our frames back to us."""
        return same(frame.tag, self._send.tag(frame.body))

    def admit(self, frame: Frame) -> str:
        """Take the counter of a frame that the peer wrote: "" or the reason to refuse it."""
        ahead = frame.counter - self.received
        if ahead > 0:
            if frame.counter > frames_per_session_max:
                return "spent"
            # Shifting by a chosen distance would cost the board memory: beyond the window all is 0.
            self._seen = self._seen << ahead & (1 << window_bits) - 1 if ahead < window_bits else 0
            self._seen |= 1
            self.received = frame.counter
            return ""
        if -ahead < window_bits and not self._seen >> -ahead & 1:
            return "out-of-order"
        return "replayed"


def session_channel(key: bytes, nonces: bytes, is_host: bool) -> Channel:
    """The channel of one end: one key per direction, from the board key and both nonces."""
    down = hkdf_sha256(key, nonces, b"m2m serial 1 host to board")
    up = hkdf_sha256(key, nonces, b"m2m serial 1 board to host")
    return Channel(down, up) if is_host else Channel(up, down)
