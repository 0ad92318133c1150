"""Verdicts can fail: the table of testbed/campaign/README.md is whole, and what no running network
shows is shown on a bundle."""

from __future__ import annotations

import json
import random
import re
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from chain.ledger.operations import Data
from chain.ledger.statement import OK
from gateway.serial.frames import encode_frame, frame_body
from gateway.serial.session import kind_pong, kind_reading
from gateway.serial.tinycbor import encode
from testbed.bundle import RunFolder
from testbed.campaign.kinds import attack_kinds
from testbed.checks.evidence import Evidence
from testbed.checks.logs import DataAdded, SerialFrame
from testbed.checks.records import board_readings
from testbed.checks.tap import Tap
from testbed.checks.trials import recorded
from testbed.faults.on_host.edit_ledger import rehash
from testbed.report.summary import AttackResult
from tests.testbed.bundles import START_NS, Story, judged, lines, reschedule, write_lines

ROOT = Path(__file__).parents[2]
PROPERTIES = {"agreement", "validity", "exactly-once", "no-unauthorised-commit", "durability"}


# --- the table ----------------------------------------------------------------------------------


def test_every_kind_of_verdict_was_seen_to_fail_by_a_test() -> None:
    """Whoever adds a kind of attack breaks something, sees its verdict, and adds a row."""
    text = (ROOT / "testbed/campaign/README.md").read_text()
    table = text.partition("## Verdicts that were seen to fail")[2].partition("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    shown = {name for row in rows for name in re.findall(r"`([\w.-]+)`", row[0])}
    assert shown >= attack_kinds().keys() | PROPERTIES
    for row in rows:
        (file, name) = re.findall(r"`(test_\w+)\.(\w+)`", row[-1])[0]
        (path,) = (ROOT / "tests/testbed").rglob(f"{file}.py")
        assert f"def test_{name}(" in path.read_text(), row


# --- a ledger edited on f+1 disks ---------------------------------------------------------------


class At(random.Random):
    """Has `rehash` rewrite the block of one height: it loses its last record."""

    def __init__(self, height: int) -> None:
        super().__init__(0)
        self._height = height

    def randrange(self, *_: Any) -> int:
        return self._height - 1


def rehashed(run: RunFolder, story: Story, disks: int, scratch: Path) -> None:
    """The same lie on so many disks, each signed with its replica's own key: a record that a device
    has a receipt for is gone."""
    evidence = Evidence(run)
    receipts = {answer.id for answer in evidence.events(DataAdded)}
    last = {entry.height: entry.statement.request.hex() for entry in evidence.longest.entries}
    height = next(height for height, request in last.items() if request in receipts)
    for replica, path in enumerate(run.ledgers[:disks]):
        key = scratch / f"{replica}.pem"
        key.touch(0o600)
        key.write_bytes(
            story.world.replicas[replica]._private.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        rehash(path, At(height), str(key))


@pytest.mark.parametrize(("disks", "verdict"), [(0, "passed"), (1, "failed"), (2, "failed")])
def test_a_ledger_that_was_rewritten_on_disks_is_found(
    run: RunFolder, story: Story, tmp_path: Path, disks: int, verdict: str
) -> None:
    """Each file is valid in itself. With f+1 the lie has as many signatures as a client wants."""
    rehashed(run, story, disks, tmp_path)
    summary = judged(run)
    held = {each.name: each.held for each in summary.properties}
    assert summary.verdict == verdict
    assert held["agreement"] is held["validity"] is (disks == 0)
    assert held["durability"] is (disks == 0), "a device has the receipt of a record that is gone"


# --- messages that were held up -----------------------------------------------------------------

GONE = "ab" * 32


def attacked_by(run: RunFolder, kind: str, params: dict[str, Any], *trials: str) -> None:
    """As if the attack had been one event of another kind, from 20 s to 24 s after the start."""
    named: list[dict[str, Any]] = []

    def change(schedule: dict[str, Any]) -> None:
        events = schedule["trials"][0]["events"]
        attack = next(each for each in events if each["category"] == "attack")
        named.append(attack | {"kind": kind, "at_ms": 20_000, "params": params})
        others = [each for each in events if each["category"] != "attack"]
        schedule["trials"][0]["events"] = [*others, *named]

    reschedule(run, change)
    line = {"t": at(24_000), "id": named[0]["fault"], "event": named[0]["id"]}
    write_lines(run.raw / "attacks.jsonl", [line | {"trials": list(trials), "details": {}}])


def held_up(run: RunFolder, how: str) -> None:
    """Somebody in the middle says that he held `GONE` up."""
    params = {"how": how, "by_ms": 500, "copies": 1}
    attacked_by(run, "device.mitm", params, f"{GONE}/{'cd' * 32}")


def at(ms: int) -> int:
    return START_NS + ms * 1_000_000


def attack_of(run: RunFolder) -> AttackResult:
    (attack,) = judged(run).attacks
    return attack


def log(run: RunFolder, name: str, **line: Any) -> None:
    path = run.raw / f"{name}.jsonl"
    found = lines(path)
    write_lines(path, [*found, found[-1] | line])


def came(run: RunFolder, request: str, ms: int) -> None:
    log(run, "gateway", t=at(ms), event="request", id=request, relay="r", outcome="accepted")


def receipted(run: RunFolder, request: str, ms: int, latency_ms: float) -> None:
    phone = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    log(run, phone, t=at(ms), event="admitted", id=request, latency_ms=latency_ms)


# --- what was taken although it should not ------------------------------------------------------

RECORDED: dict[str, dict[str, Any]] = {
    "device.impersonate": {"material": ["stolen-id"], "batch": 1},
    "device.mitm": {"how": "alter", "by_ms": 500, "copies": 1},
    "device.escalate": {"batch": 1},
    "device.sybil": {"batch": 1},
}


@pytest.mark.parametrize("kind", RECORDED)
def test_bytes_of_the_attacker_in_a_record_that_took_effect_are_a_success(
    run: RunFolder, kind: str
) -> None:
    taken = next(body for body, status in recorded(Evidence(run)).items() if status == OK)
    attacked_by(run, kind, RECORDED[kind], f"{GONE}/{taken}", f"{GONE}/{'ef' * 32}")
    assert (attack_of(run).verdict, attack_of(run).successes) == ("broken", 1)


@pytest.mark.parametrize("kind", ["device.takeover", "device.topic-hijack", "device.eavesdrop"])
def test_a_broker_that_lets_the_attacker_in_is_a_success(run: RunFolder, kind: str) -> None:
    attacked_by(run, kind, {"batch": 2}, "guess/a:accepted", "guess/b:bad-login")
    attack = attack_of(run)
    assert (attack.verdict, attack.successes) == ("broken", 1)
    assert attack.refused == {"broker:bad-login": 1}


def test_a_flood_that_leaves_no_honest_reading_answered_is_a_success(run: RunFolder) -> None:
    params = {"rate": "400/s", "how": "valid"}
    attacked_by(run, "device.flood", params, "flood/r")
    came(run, GONE, 21_000)
    assert attack_of(run).verdict == "held"
    for path in run.raw.glob("*.jsonl"):
        kept = [
            line
            for line in lines(path)
            if line.get("event") != "data" or not at(20_000) <= line["t"] <= at(24_000)
        ]
        write_lines(path, kept)
    assert (attack_of(run).verdict, attack_of(run).successes) == ("broken", 1)


def test_a_value_of_the_attacker_in_a_boards_record_is_a_success(run: RunFolder) -> None:
    """The board's own bytes stand for those that he altered."""
    evidence = Evidence(run)
    board, value = next(
        (board, json.loads(entry.operation.payload)["values"][0])
        for entry, (board, _, _) in board_readings(evidence.longest.entries)
        if isinstance(entry.operation, Data)
    )
    frame = next(iter(Tap(evidence.serial(board)).digests))
    params = {"how": "alter", "by_ms": 500, "copies": 1}
    attacked_by(run, "serial.mitm", params, f"serial/{board}/{frame}/{value}")
    assert (attack_of(run).verdict, attack_of(run).successes) == ("broken", 1)


def test_a_receipt_for_a_dropped_message_is_a_success_of_the_man_in_the_middle(
    run: RunFolder,
) -> None:
    held_up(run, "drop")
    came(run, GONE, 25_000)
    assert (attack_of(run).verdict, attack_of(run).observed) == ("held", 1)
    receipted(run, GONE, 26_000, 5.0)
    assert (attack_of(run).verdict, attack_of(run).successes) == ("broken", 1)


def test_a_false_answer_that_a_device_believes_is_a_success_of_the_man_in_the_middle(
    run: RunFolder,
) -> None:
    held_up(run, "answer")
    came(run, GONE, 25_000)
    assert attack_of(run).verdict == "invalid", "no device says that an answer came"
    phone = next(path.stem for path in run.raw.glob("phones*.jsonl"))
    log(run, phone, t=at(20_500), event="bad-message", reason="bad-proof", topic="t", count=3)
    found = attack_of(run)
    assert (found.verdict, found.refused) == ("held", {"device:bad-proof": 3})
    receipted(run, GONE, 26_000, 5.0)
    assert (attack_of(run).verdict, attack_of(run).successes) == ("broken", 1)


def test_his_word_that_he_dropped_a_message_is_not_enough(run: RunFolder) -> None:
    held_up(run, "drop")
    assert attack_of(run).verdict == "invalid", "nobody else knows of that message"
    came(run, GONE, 22_000)
    came(run, GONE, 25_000)
    assert attack_of(run).verdict == "invalid", "it came all the same"


@pytest.mark.parametrize(("late_ms", "seen"), [(499, 0), (501, 1)])
def test_his_word_that_he_delayed_a_message_is_not_enough(
    run: RunFolder, late_ms: int, seen: int
) -> None:
    held_up(run, "delay")
    came(run, GONE, 21_000 + late_ms)
    receipted(run, GONE, 22_000, 1000.0)  # asked for at 21 s
    assert attack_of(run).observed == seen


def frame(t_ms: int, counter: int, kind: int, *fields: Any) -> SerialFrame:
    line = encode_frame(frame_body(kind, 1, counter, encode(list(fields))), bytes(16))[:-1]
    return SerialFrame(t=t_ms * 1_000_000, dir="from-board", frame=line.hex())


def reading(t_ms: int, counter: int, at_ms: int) -> SerialFrame:
    return frame(t_ms, counter, kind_reading, 1, counter, at_ms, [7], [0, 0])


def test_the_tap_misses_frames_that_were_dropped_and_knows_late_ones() -> None:
    shown = [
        reading(1_000, 1, 500),
        reading(2_000, 2, 1_500),
        reading(6_000, 6, 5_400),  # 3, 4 and 5 did not come; 0.1 s late
        frame(7_000, 2, kind_pong, 0, 6_500),  # a new session, without its first frame
        SerialFrame(t=8_000_000_000, dir="to-board", frame="00"),
    ]
    tap = Tap(shown)
    assert tap.missing(3_000 * 10**6, 5_000 * 10**6) == 3
    assert tap.missing(0, 9_000 * 10**6) == 4
    digest = sha256(bytes.fromhex(shown[2].frame)).hexdigest()
    assert tap.is_late(digest, 100.0)
    assert not tap.is_late(digest, 101.0)
    assert not tap.is_late("no such frame", 1.0)


# --- the broker's door --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "observed"), [("thief", 1), ("somebody-else", 0), ("<unknown>", 1)]
)
def test_what_a_broker_refused_of_others_is_not_the_attackers(
    run: RunFolder, sender: str, observed: int
) -> None:
    """Where it closed the connection, only its log says so. Mosquitto does not always name whom."""

    trial = "broker/guessed-password/1/thief,10.0.0.9:4711:"
    attacked_by(run, "device.takeover", {"batch": 1}, trial)
    refusal = {"t_s": at(20_500) / 1e9, "event": f"refused: bad-login by {sender} somewhat"}
    (run.raw / "log").mkdir(exist_ok=True)
    write_lines(run.raw / "log" / "broker.log", [refusal])
    assert attack_of(run).observed == observed
    assert attack_of(run).verdict == ("held" if observed else "invalid")
