"""One party's link: length-prefixed frames in both directions, bounded in both.

A frame is a 4-byte big-endian length and that many bytes. The length is checked before the frame is
read. Frames that the other end does not take yet wait in a bounded queue. A full queue drops its
oldest frame; after a STATUS message that frame is sent again. `tls_wire` makes the connections.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Protocol, cast

from chain.pbft.messages import FRAME_BYTES_MAX
from nodes.ports import Party

__all__ = [
    "CLIENT_FRAME_BYTES_MAX",
    "SEND_QUEUE_BYTES_MAX",
    "Connection",
    "Link",
    "LinkOwner",
    "frame_bytes_max",
]

CLIENT_FRAME_BYTES_MAX = 65_536  # what a gateway may send us; what we send it may be a block
# Per party, beside the transport's own buffer. The largest frame must not be dropped because of a
# few small ones behind it.
SEND_QUEUE_BYTES_MAX = FRAME_BYTES_MAX + 2 * 1024 * 1024
WRITE_BYTES_MAX = 512 * 1024  # written to the transport at once
_LENGTH_BYTES = 4
_READ_BYTES_MAX = 65_536  # taken from the transport at once
_UNIDENTIFIED_BYTES_MAX = 65_536  # held while the handshake's end is on its way to us


def frame_bytes_max(party: Party) -> int:
    """Gateways send requests, replicas send batches and blocks."""
    return FRAME_BYTES_MAX if isinstance(party, int) else CLIENT_FRAME_BYTES_MAX


class LinkOwner(Protocol):
    """What a connection reports to."""

    def made(self, connection: Connection, transport: asyncio.Transport) -> None: ...

    def received(self, link: Link, frames: list[bytes]) -> None: ...

    def lost(self, link: Link, connection: Connection, reason: str) -> None: ...


class Link:
    """The sending side, kept while connections come and go."""

    def __init__(self, party: Party) -> None:
        self.party = party
        self.frame_bytes_max = frame_bytes_max(party)
        self.connection: Connection | None = None
        self.dropped = 0
        self.frames = 0  # that came
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0

    @property
    def congested(self) -> bool:
        return self.connection is None or self.connection.paused

    def queue(self, frame: bytes) -> None:
        """Queues a frame. Without a connection it is dropped at once."""
        if self.connection is None:
            self.dropped += 1
            return
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        while self._queued_bytes > SEND_QUEUE_BYTES_MAX and len(self._queue) > 1:
            self._queued_bytes -= len(self._queue.popleft())
            self.dropped += 1

    def flush(self) -> None:
        """Writes what the transport takes, many frames in one write."""
        queue = self._queue
        while queue and self.connection is not None and not self.connection.paused:
            parts: list[bytes] = []
            size = 0
            while queue and size < WRITE_BYTES_MAX:
                frame = queue.popleft()
                parts.append(len(frame).to_bytes(_LENGTH_BYTES, "big"))
                parts.append(frame)
                size += len(frame)
            self._queued_bytes -= size
            self.connection.write(b"".join(parts))

    def disconnected(self) -> None:
        self.connection = None
        self.dropped += len(self._queue)
        self._queue.clear()
        self._queued_bytes = 0


class Connection(asyncio.BufferedProtocol):
    """One TLS connection. `attach` gives it to the party whose certificate was shown.

    Buffered, because TLS would otherwise allocate an object of 256 KB for every read.
    """

    def __init__(self, owner: LinkOwner) -> None:
        self.paused = False
        self.heard = False
        self._owner = owner
        self._link: Link | None = None
        self._transport: asyncio.Transport | None = None
        self._chunk = memoryview(bytearray(_READ_BYTES_MAX))
        self._buffer = bytearray()  # what has arrived and is not yet cut into frames
        self._wanted = _LENGTH_BYTES  # bytes without which no frame can be cut
        self._closed_because: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are not derived from asyncio's.
        self._owner.made(self, cast("asyncio.Transport", transport))

    def attach(self, link: Link, transport: asyncio.Transport) -> None:
        transport.set_write_buffer_limits(high=WRITE_BYTES_MAX)
        self._link = link
        self._transport = transport
        link.connection = self
        if self._buffer:
            self._parse(link)

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def pause_reading(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, reason: str) -> None:
        self._closed_because = self._closed_because or reason
        if self._transport is not None:
            self._transport.abort()

    def finish(self) -> None:
        """Closes after what is written has left."""
        if self._transport is not None:
            self._transport.close()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self._link is not None:
            self._link.flush()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._chunk

    def buffer_updated(self, nbytes: int) -> None:
        self._buffer += self._chunk[:nbytes]
        if self._link is not None:
            self._parse(self._link)
        elif len(self._buffer) > _UNIDENTIFIED_BYTES_MAX:
            self.close("talks before it is identified")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._link is not None:
            reason = self._closed_because or (str(exc) if exc else "closed by the other end")
            self._owner.lost(self._link, self, reason)

    def _parse(self, link: Link) -> None:
        if len(self._buffer) < self._wanted:
            return
        data = bytes(self._buffer)
        frames: list[bytes] = []
        at = 0
        while True:
            self._wanted = _LENGTH_BYTES
            start = at + _LENGTH_BYTES
            if start > len(data):
                break
            size = int.from_bytes(data[at:start], "big")
            if size > link.frame_bytes_max:
                self.close(f"frame of {size} bytes announced, {link.frame_bytes_max} allowed")
                break
            end = start + size
            if end > len(data):
                self._wanted = end - at
                break
            frames.append(data[start:end])
            at = end
        del self._buffer[:at]
        if frames and self._closed_because is None:
            self.heard = True
            self._owner.received(link, frames)
