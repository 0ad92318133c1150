"""A running process is made faulty by orders in a local directory, and whole when they are gone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.pbft.effects import Effect
from nodes.byzantine.config import Byzantine, ByzantineConfig
from nodes.byzantine.tricks import misbehaviour
from nodes.config import ConfigError, ReplicaConfig
from nodes.switch.edge import SwitchedEdge
from nodes.switch.effects import REPORT_S, EffectsSeam
from nodes.switch.orders import ORDER_BYTES_MAX, ORDERS_MAX, BadOrder, Orders, read_order
from nodes.switch.replica import SwitchedReplicaConfig
from tests.nodes.cluster import Cluster
from tests.nodes.test_byzantine import MEMBERSHIP, NETWORK, SIGNERS, proposal

HONEST: list[Effect] = [proposal()]


class Emitted:
    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, object]]] = []

    def emit(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.events]


class Replica:
    """A switch and a clock in the test's hand."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "switch"
        self.emitted = Emitted()
        self.now_s = 0.0
        self.start()

    def start(self) -> None:
        self.orders = Orders(self.directory)
        self.seam = EffectsSeam(
            lambda wanted: misbehaviour(
                wanted, me=0, network=NETWORK, signer=SIGNERS[0], membership=lambda: MEMBERSHIP
            ),
            self.emitted,
            lambda: self.now_s,
        )
        self.orders.add("effects", Byzantine, self.seam.take)

    def order(self, data: bytes, mode: int = 0o600, name: str = "effects.a.json") -> None:
        """Whole or not at all, as a host writes it."""
        new = self.directory / f".{name}"
        new.write_bytes(data)
        new.chmod(mode)
        new.rename(self.directory / name)

    def take_back(self, name: str = "effects.a.json") -> None:
        (self.directory / name).unlink()

    def says(self) -> list[object]:
        self.now_s += REPORT_S
        self.orders.look(self.emitted)
        return [*self.seam.rewrite(HONEST)]


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


def test_an_order_holds_while_its_file_is_there_and_both_ends_are_logged(
    replica: Replica,
) -> None:
    assert replica.says() == HONEST
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    assert replica.says() == []
    replica.take_back()
    assert replica.says() == HONEST
    assert replica.emitted.names == [
        "ordered", "byzantine", "byzantine-acts", "byzantine-acts", "order-gone", "honest"
    ]  # fmt: skip
    assert replica.emitted.events[-1] == ("honest", {"trick": "silent", "acts": 2})


def test_a_new_order_replaces_the_old_one(replica: Replica) -> None:
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    replica.order(b'{"trick": "silent", "message": "C"}')
    assert replica.says() == HONEST


def test_of_two_orders_the_newer_holds_and_then_the_older_again(replica: Replica) -> None:
    """Two events of a campaign may overlap; healing one leaves the other."""
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    replica.order(b'{"trick": "silent", "message": "C"}', name="effects.b.json")
    assert replica.says() == HONEST
    replica.take_back("effects.b.json")
    assert replica.says() == []


def test_changes_within_one_tick_of_the_directorys_clock_are_not_missed(replica: Replica) -> None:
    replica.says()
    for _ in range(50):
        replica.order(b'{"trick": "silent"}')
        stamp = replica.directory.stat().st_mtime_ns
        assert replica.says() == []
        replica.take_back()
        os.utime(replica.directory, ns=(stamp, stamp))
        assert replica.says() == HONEST


def test_a_restart_is_honest_even_if_nobody_was_left_to_take_the_order_back(
    replica: Replica,
) -> None:
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    replica.start()
    assert replica.says() == HONEST
    assert not any(replica.directory.iterdir())


@pytest.mark.parametrize(
    ("data", "mode", "named"),
    [
        (b'{"trick": "lazy"}', 0o600, "lazy"),
        (b"{}", 0o600, "trick"),
        (b'{"trick": "silent", "colour": 1}', 0o600, "colour"),
        (b'{"trick": "censor", "client": "x"}', 0o600, "client"),
        (b"nonsense", 0o600, "effects.a.json"),
        (b" " * (ORDER_BYTES_MAX + 1), 0o600, "longer"),
        (b'{"trick": "silent"}', 0o666, "chmod 600"),
        (b'{"trick": "silent"}', 0o620, "chmod 600"),
    ],
)
def test_a_bad_order_is_refused_by_name_and_the_replica_stays_honest(
    replica: Replica, data: bytes, mode: int, named: str
) -> None:
    replica.order(data, mode)
    assert replica.says() == HONEST
    ((event, fields),) = replica.emitted.events
    assert event == "order-refused"
    assert named in str(fields["reason"])


def test_an_order_for_a_seam_that_is_not_there_is_refused(replica: Replica) -> None:
    replica.order(b"{}", name="engine.a.json")
    assert replica.says() == HONEST
    assert replica.emitted.names == ["order-refused"]


def test_orders_are_bounded_and_what_is_no_order_is_left_alone(replica: Replica) -> None:
    (replica.directory / "README").write_text("no order")
    for n in range(ORDERS_MAX + 9):
        replica.order(b'{"trick": "silent"}', name=f"effects.{n:03}.json")
    assert replica.says() == []
    assert replica.emitted.names.count("ordered") == ORDERS_MAX


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_order_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("order") / "effects.a.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(BadOrder):
        read_order(path, Byzantine)


def test_without_the_switch_in_its_config_a_replica_cannot_be_switched(tmp_path: Path) -> None:
    """An honest replica's config knows no such field."""
    config = Cluster(tmp_path).network.config(0)
    raw = msgspec.json.decode(config.read_bytes())
    for field, value in (("switch", "switch"), ("byzantine", {"trick": "silent"})):
        config.write_bytes(msgspec.json.encode({**raw, field: value}))
        with pytest.raises(ConfigError, match=field):
            ReplicaConfig.load(config)
    config.write_bytes(msgspec.json.encode(raw))
    for kind, field in ((SwitchedReplicaConfig, "switch"), (ByzantineConfig, "byzantine")):
        with pytest.raises(ConfigError, match=field):
            kind.load(config)


def test_an_edge_that_begins_again_in_its_process_stays_under_its_orders(tmp_path: Path) -> None:
    """As it does when its disk was full. Another process would remove them."""
    directory = tmp_path / "switch"
    SwitchedEdge(str(directory), Emitted())
    order = directory / "wire.a.json"
    order.write_bytes(b"{}")
    SwitchedEdge(str(directory), Emitted())
    assert order.exists()
