"""Replicas as real processes over real sockets: agreement, kill -9 at any time, and trouble."""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from chain.genesis import Genesis
from chain.keys import Es256
from chain.ledger.ledger import Ledger
from nodes.byzantine.config import Byzantine, Trick
from nodes.config import Address, ReplicaConfig
from nodes.keygen import CERTIFICATE_FILE, KEY_FILE, keygen
from nodes.replica.process import main
from testbed.bench.network import ReplicaNetwork
from tests.nodes.cluster import Cluster, until

STRANGERS = 200
Story = Callable[[Cluster], Awaitable[None]]


def play(cluster: Cluster, story: Story) -> None:
    async def scene() -> None:
        async with cluster:
            await story(cluster)

    asyncio.run(scene())


def replayed(cluster: Cluster, replica: int) -> Ledger:
    """The replica's file, checked from the genesis with every signature."""
    with cluster.ledger(replica) as file:
        ledger = Ledger(Genesis.decode(file.genesis), Es256())
        for stored in file.blocks():
            ledger.append(stored.block, check_signatures=True)
            spki = ledger.membership.spki(replica)
            assert spki is not None
            assert Es256().verify(spki, stored.block.head, stored.signature)
    return ledger


def test_four_replicas_agree_over_tls_and_end_cleanly_on_sigterm(tmp_path: Path) -> None:
    """Devices are admitted, their data become final, all four chains are one and hold from the
    genesis; SIGTERM ends each replica with exit code 0 and everything on disk. Strangers cost a few
    lines of log however often they come."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=5)
        for _ in range(STRANGERS):
            await calls(cluster.network.ports[0])
        await until(lambda: cluster.events(0, "link-refused"))
        height = await cluster.level()  # later blocks need not have reached every replica
        for replica in cluster.network.replicas:
            assert cluster.network.terminate(replica) == 0
            assert cluster.height(replica) >= height
            assert cluster.network.stderr(replica) == ""
        assert cluster.same_chain()
        assert replayed(cluster, 2).height >= height
        assert len(cluster.events(0, "link-refused")) < 30

    play(Cluster(tmp_path), story)


async def calls(port: int) -> None:
    """A stranger, which speaks another protocol."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    with contextlib.suppress(ConnectionError):
        await reader.read()
    writer.close()


def test_killed_replicas_come_back_and_nothing_final_is_lost(tmp_path: Path) -> None:
    """kill -9 of the primary: a view change, progress; restarted it catches up. Then all are killed
    at once."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=3)
        cluster.network.kill(0)
        await cluster.data(times=3)
        await until(lambda: cluster.events(1, "view"), "a view change")
        cluster.network.start(0)
        await cluster.caught_up(0)
        await cluster.data(times=3)
        await cluster.level()
        assert cluster.same_chain()
        final, head = cluster.client.height, cluster.client.head_hash
        for replica in cluster.network.replicas:
            cluster.network.kill(replica)
        cluster.network.start()
        await cluster.data(times=2)
        await cluster.level()
        assert cluster.client.height > final
        assert cluster.same_chain()
        with cluster.ledger(1) as ledger:
            assert next(ledger.blocks(final)).block.hash == head

    play(Cluster(tmp_path), story)


@pytest.mark.soak
def test_any_replica_is_killed_again_and_again_under_load(tmp_path: Path) -> None:
    """Whatever was final for the client is on every chain afterwards, exactly once."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        cluster.load.start()
        rng = random.Random(5)
        for _ in range(5):
            victim = rng.randrange(4)
            await cluster.progress(20)
            cluster.network.kill(victim)
            await cluster.progress(5)
            cluster.network.start(victim)
            await cluster.caught_up(victim)
        await cluster.load.stop()
        assert cluster.load.denied == []
        assert cluster.client.conflicts == 0
        await cluster.level()
        assert cluster.same_chain()
        final = cluster.load.finished + len(cluster.devices)
        for replica in cluster.network.replicas:
            items = cluster.items(replica)
            assert len(items) == len(set(items)) == final

    play(Cluster(tmp_path, body_source=3), story)


async def votes_again(cluster: Cluster) -> None:
    """Once replica 3 is past all that it may have voted on, with the same chain."""
    await until(lambda: cluster.events(3, "abstaining"), "the end of the abstention is known")
    await cluster.data(times=40)
    await until(lambda: cluster.events(3, "voting-again"), "votes again")
    await cluster.level()
    assert cluster.same_chain()


def test_a_damaged_ledger_is_moved_aside_and_fetched_again_without_voting(tmp_path: Path) -> None:
    """The replica says so, takes no part in votes until its chain is past all that it may have
    voted on, and ends with the same chain. (One that is deleted: test_pruning.)"""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=5)
        await cluster.level()
        cluster.network.terminate(3)
        with closing(sqlite3.connect(cluster.network.ledger(3))) as database, database:
            database.execute("UPDATE blocks SET head = zeroblob(length(head)) WHERE height > 2")
        cluster.network.start(3)
        assert "Moved to" in cluster.network.stderr(3)
        before = cluster.client.height
        await until(lambda: cluster.height(3) >= before, "fetched again")
        await votes_again(cluster)

    play(Cluster(tmp_path), story)


DISK_BYTES = 64 * 1024  # of one file, less than the log of some requests


def test_a_full_disk_is_waited_for_with_a_clear_line_and_no_damage(tmp_path: Path) -> None:
    """The replica stops voting; the others go on; when there is room it comes back by itself."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=2)
        network = cluster.network
        pid = network.pid(3)
        limit = (DISK_BYTES, resource.RLIM_INFINITY)  # what a full disk would refuse, this does
        resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
        cluster.load.start()
        await until(lambda: "has room" in network.stderr(3), "the replica says that it waits")
        assert network.stderr(3).count("\n") == 1
        await cluster.progress(20)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        await until(lambda: len(cluster.events(3, "started")) == 2, "it begins again")
        assert network.pid(3) == pid
        await cluster.load.stop()
        final = await cluster.level()
        assert cluster.same_chain()
        assert replayed(cluster, 3).height >= final

    play(Cluster(tmp_path), story)


@pytest.mark.parametrize(
    "byzantine",
    [
        pytest.param(Byzantine(Trick.SILENT), id="silent"),
        pytest.param(Byzantine(Trick.EQUIVOCATE), id="equivocate"),
        *(
            pytest.param(each, id=each.trick, marks=pytest.mark.soak)
            for each in (
                Byzantine(Trick.BAD_SIGNATURE),
                Byzantine(Trick.FLOOD, probability=0.3, seed=1),
                Byzantine(Trick.DELAY, message="PP", delay_ms=200),
            )
        ),
    ],
)
def test_a_byzantine_primary_cannot_stop_or_split_the_others(
    tmp_path: Path, byzantine: Byzantine
) -> None:
    """The same wrapper as in the simulator, around a real process."""

    async def story(cluster: Cluster) -> None:
        await cluster.admit()
        await cluster.data(times=5)
        honest = [cluster.heads(n) for n in (1, 2, 3)]
        longest = max(honest, key=len)
        assert all(chain == longest[: len(chain)] for chain in honest)

    play(Cluster(tmp_path, byzantine={0: byzantine}, identities=2), story)


def started(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nodes.replica.process", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def network(tmp_path: Path) -> Iterator[ReplicaNetwork]:
    """No replica runs yet."""
    made = Cluster(tmp_path).network
    yield made
    made.stop()


def test_a_gone_parent_ends_the_replica(network: ReplicaNetwork) -> None:
    network.start(0)
    assert network.hang_up(0) == 0


def test_a_port_is_nobody_elses_before_its_replica_listens_and_while_it_is_dead(
    network: ReplicaNetwork,
) -> None:
    for _ in range(2):
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", network.ports[0]))
        network.start(0)
        network.kill(0)


@pytest.mark.parametrize("which", ["listen", "metrics"])
def test_a_taken_port_is_one_clear_line_and_exit_3(tmp_path: Path, which: str) -> None:
    network = Cluster(tmp_path).network
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = ReplicaConfig.load(network.config(0))
        port_taken = {which: Address("127.0.0.1", port)}
        network.config(0).write_bytes(
            msgspec.json.encode(msgspec.structs.replace(config, **port_taken))
        )
        ended = started(network.config(0))
    assert ended.returncode == 3
    assert ended.stderr.count("\n") == 1
    assert f"127.0.0.1:{port}" in ended.stderr
    assert not config.ready or not Path(config.ready).exists(), "it never said that it serves"


def test_a_store_in_use_is_exit_3(network: ReplicaNetwork) -> None:
    network.start(0)
    config = ReplicaConfig.load(network.config(0))
    other = network.home(0) / "other.json"
    listen = msgspec.structs.replace(config.listen, port=0)
    other.write_bytes(msgspec.json.encode(msgspec.structs.replace(config, listen=listen)))
    ended = started(other)
    assert ended.returncode == 3
    assert "another process" in ended.stderr


BAD_CONFIGS: dict[str, tuple[dict[str, object], str]] = {
    "unknown field": ({"colour": "red"}, "colour"),
    "wrong type": ({"replica": "zero"}, "$.replica"),
    "negative": ({"replica": -1}, "$.replica"),
    "port": ({"listen": {"host": "127.0.0.1", "port": 70_000}}, "$.listen.port"),
    "no genesis": ({"genesis": "nowhere.json"}, "nowhere.json"),
    "certificate": ({"clients": [{"name": "x", "certificate": "no"}]}, "clients[0].certificate"),
    "byzantine": ({"byzantine": {"trick": "silent"}}, "byzantine"),
    "another's key": ({"replica": 1}, "another key"),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_a_bad_config_is_exit_2_naming_the_field(
    tmp_path: Path,
    case: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    changes, named = BAD_CONFIGS[case]
    network = Cluster(tmp_path).network
    raw = msgspec.json.decode(network.config(0).read_bytes())
    network.config(0).write_bytes(msgspec.json.encode({**raw, **changes}))
    monkeypatch.setattr(sys, "argv", ["replica", "--config", str(network.config(0))])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert named in (printed := capfd.readouterr().err)
    assert "Traceback" not in printed


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    network = Cluster(tmp_path).network
    (tmp_path / "r0" / KEY_FILE).chmod(0o644)
    ended = started(network.config(0))
    assert ended.returncode == 2
    assert "chmod 600" in ended.stderr


def test_a_replica_with_another_key_than_the_genesis_says_does_not_start(tmp_path: Path) -> None:
    """(That its peers would refuse it is shown in test_tls_wire.)"""
    network = Cluster(tmp_path, identities=1).network
    other = tmp_path / "other"
    keygen(other)
    for name in (KEY_FILE, CERTIFICATE_FILE):
        (network.home(3) / name).write_bytes((other / name).read_bytes())
    ended = started(network.config(3))
    assert ended.returncode == 2
    assert "another key" in ended.stderr
