"""Logins at the broker end as a function of the chain's state, whatever fails meanwhile."""

from __future__ import annotations

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.bridge.login_queue import SETTLED_S, LoginQueue
from gateway.bridge.logins import LoginChange
from gateway.broker.security import User
from gateway.mqtt.topics import Role

LAGS = 8  # a power cut takes back the changes of up to SETTLED_S, in so many steps


class Broker:
    """It brings each change to its disk within SETTLED_S."""

    def __init__(self) -> None:
        self.memory: frozenset[str] = frozenset()
        self.history: list[tuple[float, frozenset[str]]] = [(-SETTLED_S, self.memory)]
        self.is_up = True
        self.starts = 1

    def set(self, names: frozenset[str], now_s: float) -> None:
        self.memory = names
        self.history.append((now_s, names))

    def cut_power(self, now_s: float, lag: int) -> None:
        """The last `lag` eighths of SETTLED_S are lost."""
        disk_s = now_s - SETTLED_S * (lag % LAGS) / LAGS
        kept = [entry for entry in self.history if entry[0] <= disk_s]
        self.history, self.memory, self.is_up = kept, kept[-1][1], False


class Gateway:
    """What survives its restart is its copy of the chain and the height that it noted."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.height = self.noted = 0
        self.hears_replicas = self.reaches_broker = True
        self.connections = 0
        self.start()

    def start(self) -> None:
        self.queue, self.is_current, self.seen = LoginQueue(), False, 0
        for height in range(self.noted + 1, self.height + 1):
            self.queue.change(self.world.chain[height - 1], self.world.now_s)

    def hear(self) -> None:
        if self.hears_replicas:
            for change in self.world.chain[self.height :]:
                self.height += 1
                self.queue.change(change, self.world.now_s)
            self.is_current = True

    def reconnect(self) -> None:
        self.connections += 1

    @property
    def number(self) -> int:
        return 1000 * self.world.broker.starts + self.connections

    def work(self, *, answer_is_lost: bool = False, waits: bool = False) -> bool:
        """One message to the broker. False if there is nothing to do or no broker, unless it
        `waits` until the broker is back."""
        world, broker = self.world, self.world.broker
        if not self.reaches_broker:
            return False
        if self.queue.connected(self.number):
            self.is_current = False
        self.hear()
        changes = self.queue.next(world.now_s, may_add=self.is_current)
        if changes is None or not (broker.is_up or waits):
            return False
        if not broker.is_up:
            world.bring_broker_up()
        for change in changes:
            named = {change.name}
            there = broker.memory | named if change.user is not None else broker.memory - named
            broker.set(there, world.now_s)
        if not answer_is_lost:
            self.queue.answered(changes, world.now_s, self.number, world.now_s)
        return True

    def note(self) -> None:
        self.noted = max(self.noted, self.queue.settled(self.height))


class Step(msgspec.Struct, frozen=True):
    """A block that admits or removes somebody, work until nobody has any, time; then the event."""

    event: str
    number: int = 0
    block: int | None = None
    live: bool = False
    eighths: int = 0  # of SETTLED_S


class World:
    """The first gateway is never cut off."""

    def __init__(self, gateways: int = 1) -> None:
        self.now_s = 0.0
        self.chain: list[LoginChange] = []
        self.expected: set[str] = set()
        self.broker = Broker()
        self.gateways = [Gateway(self) for _ in range(gateways)]

    def block(self, number: int) -> None:
        """Admits or removes one of two; some leave by themselves."""
        name = "ab"[number % 2]
        user = None if name in self.expected else User(Role.DEVICE, name, "password")
        self.expected ^= {name}
        parting = user is None and number > 3
        self.chain.append(LoginChange(name, user, len(self.chain) + 1, parting))
        for each in self.gateways:
            each.hear()

    def step(self, step: Step) -> None:
        if step.block is not None:
            self.block(step.block)
        if step.live:
            self.live()
        self.now_s += SETTLED_S * step.eighths / LAGS
        self._happen(step.event, step.number)

    def _happen(self, event: str, number: int) -> None:
        gateway = self.gateways[number % len(self.gateways)]
        other = self.gateways[1] if len(self.gateways) > 1 else None
        match event:
            case "work" | "answer lost" | "wait for the broker":
                waits = event == "wait for the broker"
                gateway.work(answer_is_lost=event == "answer lost", waits=waits)
            case "note":
                gateway.note()
            case "restart":
                gateway.note()
                gateway.start()
            case "reconnect":
                gateway.reconnect()
            case "broker power" if self.broker.is_up:
                self.broker.cut_power(self.now_s, number)
            case "broker up" if not self.broker.is_up:
                self.bring_broker_up()
            case "cut off" if other:
                other.hears_replicas = other.reaches_broker = False
            case "broker only" if other and not other.reaches_broker:
                other.reaches_broker = True
                other.reconnect()
            case "healed":
                self.heal()
            case _:
                pass

    def bring_broker_up(self) -> None:
        self.broker.is_up = True
        self.broker.starts += 1

    def heal(self) -> None:
        for each in self.gateways:
            if not each.reaches_broker:
                each.reconnect()
            each.hears_replicas = each.reaches_broker = True
            each.hear()

    def settle(self) -> None:
        """Until nobody has anything to do, also not later."""
        if not self.broker.is_up:
            self.bring_broker_up()
        for _ in range(4):
            self.live()
            self.now_s += 2 * SETTLED_S

    def live(self) -> None:
        """Until nobody has anything to do now."""
        while any(each.work() for each in self.gateways):
            pass


EVENTS = ["work", "answer lost", "wait for the broker", "note", "restart", "reconnect"]
EVENTS += ["broker power", "broker up", "cut off", "broker only", "healed", "nothing"]
STEPS = st.builds(
    Step,
    st.sampled_from(EVENTS),
    number=st.integers(0, 7),
    block=st.sampled_from([None, 0, 1, 4]),
    live=st.booleans(),
    eighths=st.integers(0, 9),
)


@given(st.integers(1, 2), st.lists(STEPS, max_size=20))
@example(  # what a gateway added before it was cut off has been removed by the other one
    2,
    [Step("work", 1, block=0), Step("cut off"), Step("work", block=0), Step("broker only")],
)
@example(  # the same, and the gateway starts again while it is cut off
    2, [Step("cut off", block=0), Step("restart", 1), Step("work", block=0), Step("broker only")]
)
def test_logins_end_as_a_function_of_the_chain_whatever_fails(
    gateways: int, steps: list[Step]
) -> None:
    """Power cuts of the broker, restarts of gateways, lost answers and links, and a gateway that
    reaches the broker but no replica: it lets nobody in who was removed."""
    world = World(gateways)
    for step in steps:
        world.step(step)
    world.settle()
    assert world.broker.memory <= world.expected
    if world.gateways[-1].hears_replicas:
        assert world.broker.memory == world.expected
    world.heal()
    world.settle()
    assert world.broker.memory == world.expected
    world.broker.cut_power(world.now_s, 7)
    for each in world.gateways:
        each.note()
        assert each.noted == len(world.chain)
        each.start()
    world.settle()
    assert world.broker.memory == world.expected


def test_a_removal_that_is_lost_in_the_dark_is_not_noted_as_done() -> None:
    """The power of the broker goes right after it confirmed, and the gateway ends before the broker
    is back."""
    world = World()
    gateway = world.gateways[0]
    world.block(0)
    world.settle()
    world.block(0)
    assert gateway.work()
    world.broker.cut_power(world.now_s, 1)
    world.now_s += 100 * SETTLED_S
    for each in world.gateways:
        each.note()
        each.start()
    world.settle()
    assert world.broker.memory == world.expected == set()


def test_a_broker_that_answers_nothing_settles_nothing() -> None:
    world = World()
    gateway = world.gateways[0]
    world.block(0)
    assert gateway.work()
    world.now_s += 100 * SETTLED_S
    gateway.note()
    assert gateway.noted == 0
    assert gateway.work()
    gateway.note()
    assert gateway.noted == 1


def test_an_answer_over_a_new_connection_settles_nothing_of_the_old_one() -> None:
    world = World()
    gateway = world.gateways[0]
    world.block(0)
    assert gateway.work()
    world.now_s += 100 * SETTLED_S
    gateway.reconnect()
    assert gateway.work()
    gateway.note()
    assert gateway.noted == 0


def test_an_answer_that_waited_for_a_broker_without_power_settles_nothing() -> None:
    world = World()
    gateway = world.gateways[0]
    world.block(0)
    world.settle()
    world.block(0)
    assert gateway.work()
    world.broker.cut_power(world.now_s, 1)
    world.now_s += 100 * SETTLED_S
    assert gateway.work(waits=True)
    gateway.note()
    gateway.start()
    world.settle()
    assert world.broker.memory == world.expected == set()


def test_a_device_that_came_back_gets_its_new_role_also_after_a_power_cut() -> None:
    """Adding a login that is there changes nothing, so the removal before it is made again too."""
    queue = LoginQueue()
    queue.connected(1)
    queue.change(LoginChange("a", None, 1), 0.0)
    queue.change(LoginChange("a", User(Role.DEVICE, "a", "password"), 2), 0.0)
    done = []
    for connection in (1, 2):
        queue.connected(connection)
        while changes := queue.next(1.0, may_add=True):
            done += [each.user is not None for each in changes]
            queue.answered(changes, 1.0, connection, 1.0)
    assert done == [False, True] * 2
