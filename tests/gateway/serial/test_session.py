"""Both ends of a serial session on a line that a test holds in its hands.

Stories push bytes through a pair; the property lets an adversary do what it likes to the line and
asks that no reading is ever delivered twice, out of order, or that the board did not take.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.serial import board_session, frames, seal
from gateway.serial.board_session import BoardSession
from gateway.serial.frames import FrameDecoder, encode_frame, frame_body, no_tag
from gateway.serial.host_session import Console, HostSession, Taken, Timing
from gateway.serial.session import Connected, RefusedFrame
from gateway.serial.tinycbor import encode

key = bytes(range(32))


class Pair:
    """A host, a board, the bytes between them, and a clock. Nothing moves by itself."""

    def __init__(self, *, board_key: bytes = key, host_key: bytes = key, **host: Any) -> None:
        self.now_ms = 1_000
        self.random = random.Random(1)
        self.host_key, self.board_key = host_key, board_key
        self.host_options = host
        self.saved = (0, 0)
        self.events: list[Any] = []
        self.sampled: dict[tuple[int, int], tuple[int, ...]] = {}
        self.boot = 0
        self.board: BoardSession
        self.lost: list[str] = []  # why the port had to be reopened
        self.reboot()
        self.reopen()

    @property
    def taken(self) -> list[tuple[int, int]]:
        return [event.reading.id for event in self.events if isinstance(event, Taken)]

    @property
    def refused(self) -> Counter[str]:
        return Counter(event.reason for event in self.events if isinstance(event, RefusedFrame))

    @property
    def ups(self) -> list[int]:
        return [event.boot for event in self.events if isinstance(event, Connected)]

    def reopen(self) -> None:
        """The host's process starts, with what it saved."""
        options: dict[str, Any] = {"board_id": "th01", "key_version": 1, **self.host_options}
        self.host = HostSession(
            host_id="pi01",
            key=self.host_key,
            random=self.random.randbytes,
            highest=self.saved,
            **options,
        )
        self.host.start(self.now_ms)

    def reboot(self, *, power_loss: bool = False) -> None:
        """The board starts; its journal has what it held."""
        held = self.board.held if self.boot and not power_loss else []
        self.boot += 1
        self.board = BoardSession(
            board_id="th01",
            key=self.board_key,
            key_version=1,
            boot=self.boot,
            random=self.random.randbytes,
            held=held,
        )

    def sample(self, count: int = 1) -> None:
        for _ in range(count):
            values = (self.random.randint(-9999, 9999),)
            self.sampled[self.board.sample(values, self.now_ms).id] = values

    def to_host(self, data: bytes) -> None:
        fresh = self.host.receive(data, self.now_ms)
        self.events += fresh
        for event in fresh:
            if isinstance(event, Taken):
                self.saved = event.reading.id
        self.host.acknowledge()

    def to_board(self, data: bytes) -> None:
        self.board.receive(data, self.now_ms)

    def pump(self) -> None:
        """A good line, until both are silent."""
        for _ in range(100):
            down, up = self.host.data_to_send(), self.board.data_to_send()
            if not down and not up:
                return
            self.to_board(down)
            self.to_host(up)
        pytest.fail("the two never stop talking")

    def wait(self, ms: int, *, step_ms: int = 100, pump: bool = True) -> None:
        for _ in range(ms // step_ms):
            self.now_ms += step_ms
            reason = self.host.tick(self.now_ms)
            self.board.tick(self.now_ms)
            if reason is not None:
                self.lost.append(reason)
                self.reopen()
            if pump:
                self.pump()


def connected(**host: Any) -> Pair:
    pair = Pair(**host)
    pair.pump()
    assert pair.ups == [1]
    return pair


def frames_in(data: bytes) -> list[bytes]:
    return [chunk + b"\x00" for chunk in data.split(b"\x00") if chunk]


def test_three_passes_then_readings() -> None:
    """Both prove the key, then each reading arrives once and the board forgets it."""
    pair = connected()
    pair.sample(40)
    pair.pump()
    assert pair.taken == [(1, number) for number in range(1, 41)]
    assert len(pair.board.held) == 0
    assert not pair.refused
    taken = [event.reading for event in pair.events if isinstance(event, Taken)]
    assert {reading.id: reading.values for reading in taken} == pair.sampled


def test_readings_are_mapped_to_the_hosts_clock() -> None:
    """The board knows only ms since boot; half of a ping's round trip bounds the error."""
    pair = connected()
    pair.sample()
    pair.now_ms += 30
    pair.pump()
    (event,) = [event for event in pair.events if isinstance(event, Taken)]
    assert event.sampled_ms is not None
    assert event.uncertainty_ms is not None
    assert abs(event.sampled_ms - (pair.now_ms - 30)) <= event.uncertainty_ms


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"board_key": b"\x01" * 32}, "bad-proof"),
        ({"host_key": b"\x01" * 32}, "bad-proof"),
        ({"board_id": "th02"}, "wrong-board"),
        ({"key_version": 2}, "key-version"),
    ],
)
def test_another_key_or_board_never_comes_up(change: dict[str, Any], reason: str) -> None:
    """No session, no reading; the host says why and gives the port up."""
    pair = Pair(**change)
    pair.sample()
    pair.wait(6_000)
    assert not pair.ups
    assert not pair.taken
    assert not pair.board.is_up
    assert reason in pair.lost
    assert pair.refused[reason] > 0


def test_the_board_asks_for_proof_too() -> None:
    """A host without the key learns nothing, even if it accepts any board."""
    pair = Pair()
    hello = pair.host.data_to_send()
    pair.to_board(hello)
    pair.board.data_to_send()
    body = frame_body(3, 1, 1, encode([]))
    pair.to_board(encode_frame(body, seal.Mac(b"\x01" * 32).tag(b"H")))
    assert pair.board.counters == {"bad-proof": 1}
    assert not pair.board.is_up


def test_a_hello_without_proof_does_not_end_a_session() -> None:
    """Anyone on the line can say HELLO; only the key holder's session replaces another."""
    pair = connected()
    stranger = HostSession(
        host_id="evil", board_id="th01", key=bytes(32), key_version=1, random=random.randbytes
    )
    stranger.start(0)
    pair.to_board(stranger.data_to_send())
    pair.sample()
    pair.pump()
    assert pair.taken == [(1, 1)]


def test_replayed_frames_are_refused_and_counted() -> None:
    """At once, later, in the next session and in the next boot."""
    pair = connected()
    pair.sample(3)
    captured = pair.board.data_to_send()
    pair.to_host(captured)
    assert pair.taken == [(1, 1), (1, 2), (1, 3)]
    pair.to_host(captured)
    assert pair.refused == {"replayed": 3}
    pair.host.start(pair.now_ms)
    pair.pump()
    pair.to_host(captured)
    assert pair.refused == {"replayed": 3, "old-session": 3}
    pair.reboot()
    pair.reopen()
    pair.pump()
    pair.to_host(captured)
    assert pair.refused == {"replayed": 3, "old-session": 3, "bad-tag": 3}
    assert len(pair.taken) == 3


def test_a_captured_handshake_is_worth_nothing() -> None:
    """Fresh nonces on both sides: neither end accepts the other's old proof."""
    pair = Pair()
    hello = pair.host.data_to_send()
    pair.to_board(hello)
    answer = pair.board.data_to_send()
    pair.to_host(answer)
    proof = frames_in(pair.host.data_to_send())[0]
    pair.reboot()
    pair.reopen()
    pair.to_board(hello + proof)
    pair.to_host(answer)
    assert pair.board.counters == {"bad-proof": 1}
    assert pair.refused == {"bad-proof": 1}
    assert not pair.board.is_up
    assert not pair.ups


def test_a_late_answer_to_an_earlier_hello_is_no_attack() -> None:
    """A board that was slow to start answers every HELLO; only the last one counts."""
    pair = Pair()
    pair.wait(2_500, pump=False)
    pair.pump()
    assert pair.ups == [1]
    assert not pair.refused
    assert pair.host.counters == {"late-answer": 2}


def test_reflected_and_reordered_frames_are_refused() -> None:
    """Keys belong to a direction, counters to a moment."""
    pair = connected()
    pair.wait(3_000, pump=False)
    ping = pair.host.data_to_send()
    pair.to_host(ping)
    assert pair.refused == {"reflected": 1}
    pair.sample(2)
    first, second = frames_in(pair.board.data_to_send())
    pair.to_host(second + first)
    assert pair.refused == {"reflected": 1, "out-of-order": 1}
    pair.wait(3_000)
    assert pair.taken == [(1, 1), (1, 2)]


def test_noise_is_not_an_attack() -> None:
    """A flipped bit breaks the CRC, a forger's frame has a good CRC and a bad tag."""
    pair = connected()
    pair.sample(2)
    first, second = frames_in(pair.board.data_to_send())
    spoiled = bytearray(first)
    spoiled[10] ^= 4
    pair.to_host(bytes(spoiled))
    assert not pair.refused
    assert sum(n for word, n in pair.host.counters.items() if word.startswith("noise")) == 1
    decoded = FrameDecoder().feed(second)[0]
    assert isinstance(decoded, frames.Frame)
    pair.to_host(encode_frame(decoded.body, bytes(16)))
    assert pair.refused == {"bad-tag": 1}
    pair.wait(3_000)
    assert pair.taken == [(1, 1), (1, 2)]


@pytest.mark.parametrize(
    ("kind", "suite", "reason"),
    [(4, 2, "bad-suite"), (4, 0, "bad-suite"), (99, 1, "bad-kind"), (1, 1, "reflected")],
)
def test_other_suites_and_kinds_are_refused(kind: int, suite: int, reason: str) -> None:
    """There is nothing to downgrade to."""
    pair = connected()
    pair.to_host(encode_frame(frame_body(kind, suite, 9, b"\x80"), no_tag))
    assert pair.refused == {reason: 1}


@pytest.mark.parametrize("payload", [b"", b"\x80", b"\x01", encode([1, 1, 5, [], [0, 0]]), b"\xff"])
@pytest.mark.parametrize("kind", [4, 7])
def test_a_board_that_seals_nonsense_is_refused(
    kind: int, payload: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even the key holder must send well-formed messages."""
    pair = connected()
    seal_frame = seal.Channel.seal
    with monkeypatch.context() as patch:
        patch.setattr(seal.Channel, "seal", lambda channel, *_: seal_frame(channel, kind, payload))
        pair.sample()  # it seals this in place of the reading
        pair.to_host(pair.board.data_to_send())
    assert pair.refused == {"malformed": 1}
    pair.wait(5_000)
    assert pair.taken == [(1, 1)], "the reading is sent again"


def test_lost_readings_are_sent_again_and_lost_acknowledgements_cost_nothing() -> None:
    """Each reading arrives exactly once, in order."""
    pair = connected()
    pair.sample(5)
    lines = frames_in(pair.board.data_to_send())
    pair.to_host(lines[0] + lines[2] + lines[3] + lines[4])
    assert pair.taken == [(1, 1)]
    pair.pump()
    assert pair.taken == [(1, n) for n in range(1, 6)]
    pair.sample()
    pair.to_host(pair.board.data_to_send())
    pair.host.data_to_send()
    pair.wait(3_000)
    assert pair.taken == [(1, n) for n in range(1, 7)]
    assert len(pair.board.held) == 0


def test_readings_outlive_both_ends() -> None:
    """Reboots of either side, at any moment, neither lose nor repeat."""
    pair = connected()
    pair.sample(3)
    pair.to_host(pair.board.data_to_send())  # taken; the acknowledgement never arrives
    pair.reboot()
    pair.sample(2)
    pair.reopen()
    pair.pump()
    assert pair.taken == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2)]
    assert all(event.missed == 0 for event in pair.events if isinstance(event, Taken))


def test_a_full_queue_drops_the_oldest_and_the_host_knows_how_many() -> None:
    """Bounded memory on the board; nothing is missing silently."""
    pair = Pair()
    pair.sample(board_session.readings_held_max + 10)
    pair.pump()
    missed = [event.missed for event in pair.events if isinstance(event, Taken)]
    assert missed == [10] + [0] * (board_session.readings_held_max - 1)
    assert pair.board.counters["dropped-oldest"] == 10


def test_readings_lost_with_the_power_are_counted_when_it_can_be_known() -> None:
    """Without a journal the number of the next reading still shows it."""
    pair = connected()
    pair.sample(2)
    pair.reboot(power_loss=True)
    pair.reopen()
    pair.sample(1)
    pair.pump()
    assert pair.taken == [(2, 1)]


def test_a_board_whose_boot_counter_went_back_is_refused() -> None:
    """A copy of an old board is no board of ours."""
    pair = Pair()
    pair.saved = (5, 9)
    pair.reopen()
    pair.pump()
    assert pair.refused == {"boot-rollback": 1}
    assert not pair.ups


def test_a_board_that_counts_a_boot_twice_is_refused() -> None:
    """Its new readings have old numbers: they are no repetitions, and must not vanish as such."""
    pair = connected()
    pair.sample(40)
    pair.pump()
    pair.boot -= 1
    pair.reboot(power_loss=True)
    pair.wait(3_000)
    assert pair.ups == [1, 1]
    pair.sample()
    pair.pump()
    assert pair.refused["boot-rollback"] == 1
    assert len(pair.board.held) == 1


def test_a_reboot_is_noticed_at_once_by_the_greeting() -> None:
    """No timeout needed: the board that greets has no session."""
    pair = connected()
    pair.now_ms += 1_000
    pair.reboot()
    pair.to_host(b"\x00m2m-board/1 th01 boot=2 key=1 firmware=00\r\n\x00")
    pair.pump()
    assert pair.ups == [1, 2]
    assert any(isinstance(event, Console) for event in pair.events)


def test_a_reboot_without_greeting_is_noticed_by_the_next_ping() -> None:
    """The board says that it knows no session; the host says HELLO."""
    pair = connected()
    pair.reboot()
    pair.wait(3_000)
    assert pair.ups == [1, 2]


def test_silence_is_noticed() -> None:
    """Pings without answer end the session after a stated time, and not before."""
    pair = connected()
    pair.wait(6_900, pump=False)
    assert pair.lost == []
    pair.wait(200, pump=False)
    assert "silent" in pair.lost


@pytest.mark.parametrize("timing", [Timing(rekey_ms=5_000), Timing(rekey_frames=20)])
def test_keys_are_renewed_by_time_and_by_use(timing: Timing) -> None:
    """A re-key loses and refuses nothing."""
    pair = connected(timing=timing)
    for _ in range(100):
        pair.sample()
        pair.wait(100)
    assert len(pair.ups) > 2
    assert len(pair.taken) == 100
    assert not pair.refused
    assert not pair.board.counters


def test_a_board_ends_a_session_that_its_host_forgot_to_renew() -> None:
    """The limit holds even if only one side keeps it."""
    pair = connected(timing=Timing(rekey_ms=10**9))
    pair.wait(board_session.session_ms_max + 4_000, step_ms=1_000)
    assert len(pair.ups) == 2


def test_a_session_that_used_up_its_counters_is_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many frames of one direction as there are counters, then new keys. It may have more to say
    than that at once."""
    monkeypatch.setattr(seal, "frames_per_session_max", 15)
    pair = connected(timing=Timing(rekey_frames=10**9))
    for _ in range(20):
        pair.sample()
        pair.wait(500)
    pair.sample(20)
    pair.wait(5_000)
    assert len(pair.taken) == 40
    assert pair.board.counters["spent"] > 0
    assert len(pair.ups) > 1
    assert not pair.refused


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_any_bytes_leave_both_ends_well(pieces: list[bytes]) -> None:
    """Never an exception, never a reading; the session goes on."""
    pair = connected()
    for piece in pieces:
        pair.to_host(piece)
        pair.to_board(piece)
    pair.to_host(b"\x00")
    pair.to_board(b"\x00")
    pair.sample()
    pair.wait(9_000)
    assert pair.taken == [(1, 1)]


@given(
    st.integers(1, 8), st.integers(0, 3), st.integers(0, 1 << 20), st.binary(max_size=60), st.data()
)
def test_frames_with_a_good_crc_and_any_content_leave_both_ends_well(
    kind: int, suite: int, counter: int, payload: bytes, data: st.DataObject
) -> None:
    """A forger computes CRCs too."""
    tag = data.draw(st.one_of(st.just(no_tag), st.binary(min_size=16, max_size=16)))
    line = encode_frame(frame_body(kind, suite, counter, payload), tag)
    for pair in (connected(), Pair()):
        pair.to_host(line)
        pair.to_board(line)
        pair.sample()
        pair.wait(3_000)
        assert pair.taken == [(1, 1)]


class HostileLine:
    """An adversary between the two: sees every frame, and decides what becomes of it."""

    def __init__(self) -> None:
        self.pair = Pair()
        self.transit: dict[bool, list[bytes]] = {True: [], False: []}
        self.past: list[bytes] = []
        self.lost: set[tuple[int, int]] = set()

    def collect(self) -> None:
        """Frames that the two want to send are now in the adversary's hands."""
        sent = {True: self.pair.board.data_to_send(), False: self.pair.host.data_to_send()}
        for up, data in sent.items():
            self.transit[up] += frames_in(data)
            self.past += frames_in(data)

    def deliver(self, line: bytes, *, up: bool) -> None:
        (self.pair.to_host if up else self.pair.to_board)(line)

    def happen(self, event: str, number: int) -> None:
        """What befalls the two ends."""
        pair = self.pair
        match event:
            case "sample":
                pair.sample(1 + number % 3)
            case "wait":
                pair.wait(number % 9_000, step_ms=500, pump=False)
            case "reopen":
                pair.reopen()
            case "reboot":
                pair.reboot()
            case "power-loss":
                self.lost |= {reading.id for reading in pair.board.held}
                pair.reboot(power_loss=True)

    def attack(self, deed: str, number: int, *, up: bool) -> None:
        """What befalls one frame on its way."""
        queue = self.transit[up]
        if deed == "old":
            if self.past:
                self.deliver(self.past[number % len(self.past)], up=up)
            return
        if not queue:
            return
        line = queue.pop(number % len(queue) if deed == "swap" else 0)
        if deed == "flip":
            spoiled = bytearray(line)
            spoiled[number % (len(line) - 1)] ^= 1 << number % 8
            line = bytes(spoiled)
        if deed != "drop":
            self.deliver(line, up=up != (deed == "reflect"))
        if deed == "double":
            self.deliver(line, up=up)


happenings = ["sample", "wait", "reopen", "reboot", "power-loss"]
deeds = ["deliver", "deliver", "deliver", "drop", "double", "swap", "old", "flip", "reflect"]
actions = st.lists(
    st.tuples(st.sampled_from(happenings + deeds), st.booleans(), st.integers(0, 1 << 16)),
    max_size=60,
)


@settings(max_examples=200)
@given(actions)
def test_a_hostile_line_never_delivers_a_duplicate_or_a_forgery(
    script: list[tuple[str, bool, int]],
) -> None:
    """Whatever is lost, doubled, reordered, altered, reflected or replayed from any earlier
    session: what is delivered was sampled, once, in order; and after the line heals all that was
    not thrown away arrives.
    """
    line = HostileLine()
    pair = line.pair
    for action, up, number in script:
        line.collect()
        if action in happenings:
            line.happen(action, number)
        else:
            line.attack(action, number, up=up)
    line.collect()
    pair.wait(60_000, step_ms=500)

    assert pair.taken == sorted(set(pair.taken))
    for event in pair.events:
        if isinstance(event, Taken):
            assert pair.sampled[event.reading.id] == event.reading.values
    assert set(pair.sampled) - set(pair.taken) <= line.lost
