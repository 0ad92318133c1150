"""The wire: pinned keys in both directions, bounded frames and queues, links that come back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from nodes.config import certificate_der
from nodes.exits import Trouble
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.ports import Party
from nodes.wire import tls_wire as module
from nodes.wire.inbox import QUEUE_BYTES_MAX, Inbox
from nodes.wire.link import CLIENT_FRAME_BYTES_MAX, SEND_QUEUE_BYTES_MAX, Connection
from nodes.wire.tls_wire import TlsWire

DEADLINE_S = 60.0  # generous: other tests share the machine


class End:
    """One end of the wire with what it heard."""

    def __init__(
        self,
        directory: Path,
        certificates: dict[Party, bytes],
        dial: dict[Party, tuple[str, int]] | None = None,
        *,
        take: bool = True,
    ) -> None:
        self.frames: list[tuple[Party, bytes]] = []
        self.links: list[tuple[Party, bool, str]] = []
        self.refused: list[str] = []
        self.inbox = Inbox()
        self.taking = take
        self.on_up: Callable[[], None] = lambda: None
        self.wire = TlsWire(
            key_file=directory / KEY_FILE,
            certificate_file=directory / CERTIFICATE_FILE,
            certificates=certificates,
            dial=dial or {},
            inbox=self.inbox,
            on_readable=self.readable,
            on_link=self.linked,
            on_refused=self.refused.append,
        )

    def linked(self, party: Party, up: bool, reason: str) -> None:
        self.links.append((party, up, reason))
        if up:
            self.on_up()

    def readable(self) -> None:
        if self.taking:
            while self.inbox:
                self.frames += self.inbox.take()
            self.wire.resume()


class Keys:
    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, name: str) -> tuple[Path, bytes]:
        directory = self.root / name
        return directory, certificate_der(keygen(directory).certificate)


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Every story on both loops: boards without uvloop run the plain one."""
    factory = pytest.importorskip("uvloop").new_event_loop if request.param == "uvloop" else None

    def on_loop(story: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(100):
                await story()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return on_loop


def test_frames_travel_in_order_both_ways_and_the_link_comes_back(run: Run, keys: Keys) -> None:
    """Frames of every size arrive whole and in order; after a restart the dialler reconnects."""

    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        low = End(dir0, {1: cert1})
        port = low.wire.listen("127.0.0.1", 0)
        high = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        high.wire.start()
        await until(lambda: high.wire.connected and low.wire.connected)
        sent = [bytes([n % 256]) * size for n, size in enumerate([0, 1, 70_000, 3_000_000, 5])]
        for frame in sent:
            high.wire.send(0, frame)
            low.wire.send(1, frame)
        await until(lambda: len(low.frames) == len(sent) == len(high.frames))
        assert [frame for _, frame in low.frames] == sent
        assert [frame for _, frame in high.frames] == sent

        await low.wire.close()
        await until(lambda: not high.wire.connected)
        again = End(dir0, {1: cert1})
        again.wire.listen("127.0.0.1", port)
        await until(lambda: again.wire.connected and high.wire.connected)
        high.wire.send(0, b"still here")
        await until(lambda: again.frames == [(1, b"still here")])
        await high.wire.close()
        await again.wire.close()

    run(story)


def test_what_is_sent_together_leaves_in_one_write_and_asks_for_no_further_round(
    run: Run, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[int] = []
    flushes: list[object] = []
    write, flush = Connection.write, TlsWire.flush

    def noted_write(connection: Connection, data: bytes) -> None:
        writes.append(len(data))
        write(connection, data)

    def noted_flush(wire: TlsWire) -> None:
        flushes.append(wire)
        flush(wire)

    monkeypatch.setattr(Connection, "write", noted_write)
    monkeypatch.setattr(TlsWire, "flush", noted_flush)

    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        low = End(dir0, {1: cert1})
        port = low.wire.listen("127.0.0.1", 0)
        high = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        high.wire.start()
        await until(lambda: high.wire.connected and low.wire.connected)

        def release() -> None:
            high.wire.send(0, bytes(10))
            high.wire.send(0, bytes(20))

        high.wire.together(release)
        assert writes == [4 + 10 + 4 + 20]
        await until(lambda: len(low.frames) == 2)
        assert len(flushes) == 1
        high.wire.send(0, bytes(5))  # outside, it leaves by itself
        await until(lambda: len(low.frames) == 3)
        await high.wire.close()
        await low.wire.close()

    run(story)


def test_what_is_said_at_link_up_arrives(run: Run, keys: Keys) -> None:
    """A gateway subscribes while the link is being reported to it."""

    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        replica = End(dir0, {"gateway": cert1})
        port = replica.wire.listen("127.0.0.1", 0)
        gateway = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        gateway.on_up = lambda: gateway.wire.send(0, b"subscribe")
        gateway.wire.start()
        await until(lambda: replica.frames == [("gateway", b"subscribe")])
        assert gateway.wire.dropped() == {}
        await gateway.wire.close()
        await replica.wire.close()

    run(story)


def test_a_dialler_with_another_key_is_refused(run: Run, keys: Keys) -> None:
    """Whoever shows a certificate that is not pinned gets no link and can send nothing."""

    async def story() -> None:
        (dir0, cert0), (_, cert1), (dir2, _) = keys("0"), keys("1"), keys("2")
        low = End(dir0, {1: cert1})
        port = low.wire.listen("127.0.0.1", 0)
        stranger = End(dir2, {0: cert0}, {0: ("127.0.0.1", port)})
        stranger.wire.start()
        await until(lambda: low.refused)
        stranger.wire.send(0, b"let me in")
        await until(lambda: len(low.refused) >= 2)
        assert low.links == []
        assert low.frames == []
        assert "certificate" in low.refused[0]
        await stranger.wire.close()
        await low.wire.close()

    run(story)


def test_a_listener_with_another_key_is_refused(run: Run, keys: Keys) -> None:
    """Whoever answers at a peer's address without the peer's key gets no link."""

    async def story() -> None:
        (_, cert0), (dir1, cert1), (dir2, _) = keys("0"), keys("1"), keys("2")
        impostor = End(dir2, {1: cert1})
        port = impostor.wire.listen("127.0.0.1", 0)
        high = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        high.wire.start()
        await until(lambda: high.links)
        assert not high.wire.connected
        party, up, reason = high.links[0]
        assert (party, up) == (0, False)
        assert "certificate" in reason
        await high.wire.close()
        await impostor.wire.close()

    run(story)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, None], ids=["tls1.2", "plain"])
def test_nothing_older_than_tls_1_3_is_spoken(
    run: Run, keys: Keys, version: ssl.TLSVersion | None
) -> None:
    async def story() -> None:
        (dir0, _), (dir1, cert1) = keys("0"), keys("1")
        low = End(dir0, {1: cert1})
        port = low.wire.listen("127.0.0.1", 0)
        context = None
        if version is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            context.maximum_version = version
            context.load_cert_chain(dir1 / CERTIFICATE_FILE, dir1 / KEY_FILE)

        async def talk() -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
            writer.write(b"\0\0\0\4spam" * 16)
            await reader.readexactly(64)

        with pytest.raises((OSError, asyncio.IncompleteReadError)):
            await talk()
        await until(lambda: low.refused)
        assert low.links == []
        await low.wire.close()

    run(story)


def test_an_announced_length_over_the_limit_ends_the_connection_before_it_is_read(
    run: Run,
    keys: Keys,
) -> None:
    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        server = End(dir0, {"gateway": cert1})
        port = server.wire.listen("127.0.0.1", 0)
        client = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        client.wire.start()
        await until(lambda: client.wire.connected and server.wire.connected)
        client.wire.send(0, bytes(CLIENT_FRAME_BYTES_MAX + 1))
        await until(lambda: any(not up for _, up, _ in server.links))
        assert "allowed" in server.links[1][2]
        assert server.frames == []
        await client.wire.close()
        await server.wire.close()

    run(story)


def test_a_party_that_takes_nothing_costs_a_bounded_queue_and_keeps_the_newest(
    run: Run, keys: Keys
) -> None:
    """Frames to a peer that does not read are dropped oldest first; the newest arrives."""

    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        low = End(dir0, {1: cert1})
        port = low.wire.listen("127.0.0.1", 0)
        slow = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)}, take=False)
        slow.wire.start()
        await until(lambda: slow.wire.connected and low.wire.connected)
        frame_bytes = 100_000
        count = 3 * (SEND_QUEUE_BYTES_MAX + QUEUE_BYTES_MAX) // frame_bytes + 200
        for n in range(count):
            low.wire.send(1, n.to_bytes(4, "big") * (frame_bytes // 4))
            await asyncio.sleep(0)
        await until(lambda: low.wire.congested(1))
        assert low.wire.dropped()[1] > 0
        slow.taking = True
        slow.readable()
        await until(
            lambda: slow.frames and slow.frames[-1][1][:4] == (count - 1).to_bytes(4, "big")
        )
        numbers = [int.from_bytes(frame[:4], "big") for _, frame in slow.frames]
        assert numbers == sorted(set(numbers))
        await slow.wire.close()
        await low.wire.close()

    run(story)


def test_a_crowd_of_silent_strangers_keeps_no_replica_out(
    run: Run, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anybody can connect and say nothing. Whoever has been silent for longest makes room."""
    monkeypatch.setattr(module, "HANDSHAKE_S_MAX", 4 * DEADLINE_S)

    async def story() -> None:
        (dir0, cert0), (dir1, cert1) = keys("0"), keys("1")
        server = End(dir0, {1: cert1})
        port = server.wire.listen("127.0.0.1", 0)
        crowd = [
            await asyncio.open_connection("127.0.0.1", port)
            for _ in range(module.HANDSHAKES_MAX + 1)
        ]
        client = End(dir1, {0: cert0}, {0: ("127.0.0.1", port)})
        client.wire.start()
        await until(lambda: client.wire.connected and server.wire.connected)
        oldest, _ = crowd[0]
        async with asyncio.timeout(DEADLINE_S):
            with contextlib.suppress(ConnectionError):
                assert await oldest.read() == b""
        for _, writer in crowd:
            writer.close()
        await client.wire.close()
        await server.wire.close()

    run(story)


def test_a_taken_port_is_trouble_that_names_the_address(run: Run, keys: Keys) -> None:
    async def story() -> None:
        directory, certificate = keys("0")
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(Trouble, match=f"127.0.0.1:{port}"):
                End(directory, {1: certificate}).wire.listen("127.0.0.1", port)

    run(story)
