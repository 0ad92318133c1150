"""The wire between replicas and gateways: mutual TLS 1.3 with pinned certificates.

Every certificate is self-signed and known beforehand; there is no authority whose key could be
stolen. A party with another key is refused in the handshake, in both directions. Of two replicas
the one with the higher id dials, so each pair has one connection; gateways dial every replica.
Frames and queues are in `link`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from gateway.tasks import Tasks
from nodes.exits import Trouble
from nodes.ports import Party
from nodes.wire.inbox import Inbox
from nodes.wire.link import Connection, Link
from nodes.wire.tally import Tally

__all__ = ["TlsWire", "client_context", "server_context"]

HANDSHAKE_S_MAX = 5.0
HANDSHAKES_MAX = 64  # at once; for one more the oldest has to go
DIAL_DELAY_S_MIN = 0.05
DIAL_DELAY_S_MAX = 1.0
SILENT_MS_MAX = 10_000  # unacknowledged data for so long means the other end is gone
_BACKLOG = 128


class TlsWire:
    """Implements `ports.Wire`. Received frames go to `inbox`, then `on_readable` is called.

    `certificates` maps each party to its DER certificate; `dial` has the addresses of those that we
    connect to.
    `on_link(party, up, reason)` reports links, `on_refused(reason)` refused strangers, `on_failure`
    a bug in a background task.
    """

    def __init__(
        self,
        *,
        key_file: Path,
        certificate_file: Path,
        certificates: Mapping[Party, bytes],
        dial: Mapping[Party, tuple[str, int]],
        inbox: Inbox,
        on_readable: Callable[[], None] = lambda: None,
        on_link: Callable[[Party, bool, str], None],
        on_refused: Callable[[str], None],
        on_failure: Callable[[BaseException], None] | None = None,
        tally: Tally | None = None,
    ) -> None:
        self._inbox = inbox
        self._tally = tally
        self._on_readable = on_readable
        self._on_link = on_link
        self._on_refused = on_refused
        self._parties = {certificate: party for party, certificate in certificates.items()}
        self._links = {party: Link(party) for party in certificates}
        self._dial = dict(dial)
        self._own = (certificate_file, key_file)
        self._contexts = {
            party: client_context(self._own, certificates[party]) for party in self._dial
        }
        self._server_context = server_context(self._own, list(certificates.values()))
        self._listener: socket.socket | None = None
        self._tasks = Tasks(on_failure)
        self._lost: dict[Party, asyncio.Event] = {party: asyncio.Event() for party in self._dial}
        self._full: set[Party] = set()
        self._dirty: dict[Party, Link] = {}
        self._gathering = False
        self._handshakes: deque[asyncio.Task[None]] = deque()  # oldest first

    def listen(self, host: str, port: int) -> int:
        """Returns the port (chosen by the system if 0 was asked). Raises Trouble if it is taken."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        except OSError as error:
            raise Trouble(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        self._listener.setblocking(False)
        self._tasks.start(self._accept(self._listener))
        bound: int = self._listener.getsockname()[1]
        return bound

    def start(self) -> None:
        """Dials until the wire is closed."""
        for party in self._dial:
            self._tasks.start(self._keep_dialling(party))

    def send(self, party: Party, frame: bytes) -> None:
        """Sends at the loop's next round, or at the end of `together`."""
        link = self._links.get(party)
        if link is None:
            return
        if not self._dirty and not self._gathering:
            asyncio.get_running_loop().call_soon(self.flush)
        self._dirty[party] = link
        link.queue(frame)
        if self._tally is not None:
            self._tally.add(self._tally.sent, party, frame)

    def together(self, release: Callable[[], None]) -> None:
        """Calls `release` and sends its frames now, in one write to each party. Otherwise the loop
        might read other frames first, and would need one more round."""
        self._gathering = True
        release()
        self._gathering = False
        self.flush()

    def flush(self) -> None:
        """Sends now."""
        dirty, self._dirty = self._dirty, {}
        for link in dirty.values():
            link.flush()

    def congested(self, party: Party) -> bool:
        link = self._links.get(party)
        return link is None or link.congested

    @property
    def connected(self) -> list[Party]:
        return [party for party, link in self._links.items() if link.connection is not None]

    def dropped(self) -> dict[Party, int]:
        """Frames that were not sent, by party, since the start."""
        return {party: link.dropped for party, link in self._links.items() if link.dropped}

    def heard(self) -> dict[Party, int]:
        """Frames received from each replica since the start."""
        links = self._links.items()
        return {party: link.frames for party, link in links if isinstance(party, int)}

    def resume(self) -> None:
        """To be called after taking from the inbox: reads again from parties that were full."""
        for party in [party for party in self._full if not self._inbox.full(party)]:
            self._full.discard(party)
            connection = self._links[party].connection
            if connection is not None:
                connection.resume_reading()

    async def close(self) -> None:
        self.flush()
        await self._tasks.stop()
        if self._listener is not None:
            self._listener.close()
        for link in self._links.values():
            if link.connection is not None:
                link.connection.finish()

    def received(self, link: Link, frames: list[bytes]) -> None:
        for frame in frames:
            self._inbox.put(link.party, frame)
            if self._tally is not None:
                self._tally.add(self._tally.received, link.party, frame)
        link.frames += len(frames)
        if self._inbox.full(link.party) and link.connection is not None:
            self._full.add(link.party)
            link.connection.pause_reading()
        self._on_readable()

    def lost(self, link: Link, connection: Connection, reason: str) -> None:
        if link.connection is not connection:
            return  # replaced by a newer one
        link.disconnected()
        self._full.discard(link.party)
        if link.party in self._lost:
            self._lost[link.party].set()
        self._on_link(link.party, False, reason)

    def made(self, connection: Connection, transport: asyncio.Transport) -> None:
        """Finds the party by its certificate. Its new connection replaces an old one."""
        tls = transport.get_extra_info("ssl_object")
        party = self._parties.get(tls.getpeercert(binary_form=True) or b"")
        if party is None:
            self._on_refused("a certificate that is not pinned")
            transport.abort()
            return
        _tune(transport)
        link = self._links[party]
        if link.connection is not None:
            old = link.connection
            link.disconnected()
            old.close("replaced by a newer connection")
        connection.attach(link, transport)  # first: `on_link` may send at once
        self._on_link(party, True, "")

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or the other end gave up already
                self._on_refused(_reason(error))
                await asyncio.sleep(DIAL_DELAY_S_MIN)
                continue
            if len(self._handshakes) >= HANDSHAKES_MAX:
                # Many connections that say nothing must keep nobody out.
                self._on_refused("too many handshakes at once")
                self._handshakes.popleft().cancel()
            self._handshakes.append(self._tasks.start(self._handshake(sock)))

    async def _handshake(self, sock: socket.socket) -> None:
        connection = Connection(self)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._server_context,
                ssl_handshake_timeout=HANDSHAKE_S_MAX,
            )
        except Exception as error:  # whatever a stranger's bytes raise
            self._on_refused(_reason(error))
            sock.close()
        finally:
            task = asyncio.current_task()
            if task is not None and task in self._handshakes:  # or it had to make room
                self._handshakes.remove(task)

    async def _keep_dialling(self, party: Party) -> None:
        host, port = self._dial[party]
        loop = asyncio.get_running_loop()
        delay_s = DIAL_DELAY_S_MIN
        last_reason = ""
        while True:
            connection = Connection(self)
            lost = self._lost[party]
            lost.clear()
            try:
                await loop.create_connection(
                    lambda made=connection: made,  # type: ignore[misc]
                    host,
                    port,
                    ssl=self._contexts[party],
                    server_hostname="",
                    ssl_handshake_timeout=HANDSHAKE_S_MAX,
                )
            except (OSError, TimeoutError) as error:
                if (reason := _reason(error)) != last_reason:
                    last_reason = reason
                    self._on_link(party, False, reason)
            else:
                last_reason = ""
                if self._links[party].connection is connection:
                    await lost.wait()
                if connection.heard:
                    delay_s = DIAL_DELAY_S_MIN
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, DIAL_DELAY_S_MAX)


def server_context(own: tuple[Path, Path], pinned: list[bytes]) -> ssl.SSLContext:
    """TLS 1.3, the other end must show one of the `pinned` DER certificates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0
    return _pinned(context, own, pinned)


def client_context(own: tuple[Path, Path], pinned: bytes) -> ssl.SSLContext:
    """TLS 1.3, the other end must show exactly the `pinned` DER certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # the certificate itself is pinned
    return _pinned(context, own, [pinned])


def _pinned(context: ssl.SSLContext, own: tuple[Path, Path], pinned: list[bytes]) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(*own)
    if pinned:
        context.load_verify_locations(cadata=b"".join(pinned))
    return context


def _tune(transport: asyncio.Transport) -> None:
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(OSError, AttributeError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENT_MS_MAX)


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or error}"
    return str(error) or type(error).__name__
