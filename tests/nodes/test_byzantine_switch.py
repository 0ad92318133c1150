"""A running replica becomes Byzantine by an order in a local file, and honest when it is gone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.pbft.effects import Effect
from nodes.byzantine.config import Byzantine, ByzantineConfig
from nodes.byzantine.switch import (
    LOOK_S,
    ORDER_BYTES_MAX,
    BadOrder,
    Switch,
    misbehaviour,
    read_order,
)
from nodes.config import ConfigError, ReplicaConfig
from tests.nodes.cluster import Cluster
from tests.nodes.test_byzantine import MEMBERSHIP, NETWORK, SIGNERS, proposal

HONEST: list[Effect] = [proposal()]


class Told:
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
        self.orders = directory / "byzantine.json"
        self.told = Told()
        self.now_s = 0.0
        self.start()

    def start(self) -> None:
        def make(wanted: Byzantine) -> object:
            return misbehaviour(
                wanted, me=0, network=NETWORK, signer=SIGNERS[0], membership=lambda: MEMBERSHIP
            )

        self.switch = Switch(self.orders, make, self.told, lambda: self.now_s)  # type: ignore[arg-type]

    def order(self, data: bytes, mode: int = 0o600) -> None:
        self.orders.write_bytes(data)
        self.orders.chmod(mode)

    def says(self) -> list[object]:
        self.now_s += LOOK_S
        return [*self.switch.rewrite(HONEST)]


@pytest.fixture
def replica(tmp_path: Path) -> Replica:
    return Replica(tmp_path)


def test_an_order_holds_while_its_file_is_there_and_both_are_told(replica: Replica) -> None:
    assert replica.says() == HONEST
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    assert replica.says() == []
    replica.orders.unlink()
    assert replica.says() == HONEST
    assert replica.told.names == ["byzantine", "byzantine-acts", "honest"]
    assert replica.told.events[-1] == ("honest", {"trick": "silent", "acts": 2})


def test_a_new_order_replaces_the_old_one(replica: Replica) -> None:
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    replica.order(b'{"trick": "silent", "message": "C"}')
    assert replica.says() == HONEST


def test_a_restart_is_honest_even_if_nobody_was_left_to_take_the_order_back(
    replica: Replica,
) -> None:
    replica.order(b'{"trick": "silent"}')
    assert replica.says() == []
    replica.start()
    assert replica.says() == HONEST
    assert not replica.orders.exists()


@pytest.mark.parametrize(
    ("data", "mode", "named"),
    [
        (b'{"trick": "lazy"}', 0o600, "lazy"),
        (b"{}", 0o600, "trick"),
        (b'{"trick": "silent", "colour": 1}', 0o600, "colour"),
        (b'{"trick": "censor", "client": "x"}', 0o600, "client"),
        (b"nonsense", 0o600, "byzantine.json"),
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
    ((event, fields),) = replica.told.events
    assert event == "byzantine-refused"
    assert named in str(fields["reason"])


@settings(max_examples=100)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_an_order_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("order") / "byzantine.json"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(BadOrder):
        read_order(path)


def test_without_the_switch_in_its_config_a_replica_cannot_be_switched(tmp_path: Path) -> None:
    """An honest replica's config knows no such field; a liar's has the switch or one trick."""
    config = Cluster(tmp_path).network.config(0)
    raw = msgspec.json.decode(config.read_bytes())
    orders = {"byzantine_orders": "byzantine.json"}
    both = {"byzantine": {"trick": "silent"}, **orders}
    config.write_bytes(msgspec.json.encode({**raw, **orders}))
    with pytest.raises(ConfigError, match="byzantine_orders"):
        ReplicaConfig.load(config)
    for wrong in ({}, both):
        config.write_bytes(msgspec.json.encode({**raw, **wrong}))
        with pytest.raises(ConfigError, match="one of byzantine and byzantine_orders"):
            ByzantineConfig.load(config)
