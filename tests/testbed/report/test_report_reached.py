"""An attack is only called held if it reached what was to stop it. A machine may be too slow or too
full for that: then there is no verdict."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from testbed.bundle import RunFolder
from testbed.campaign.kinds import attack_kinds
from tests.testbed.bundles import START_NS, judged, lines, reschedule, write_lines
from tests.testbed.report.support import Lines, change

AT_MS = 14_000
REPLAY = {"source": "captured", "window": "any", "batch": 1, "messages": ["data"]}
STOLEN = {"material": ["stolen-id"], "batch": 1}


def logged(event: str, **fields: Any) -> dict[str, Any]:
    """A line of a process's log, written while the attack was under way."""
    t = START_NS + (AT_MS + 20) * 10**6
    return {"t": t, "m": t, "boot": "b", "node": "", "event": event, **fields}


def came(outcome: str, relay: str = "rogue") -> dict[str, Any]:
    """The gateway's or the provider's word on the message."""
    return logged("request", id="ab", device="d", relay=relay, outcome=outcome)


def ended(reason: str) -> dict[str, Any]:
    """The broker's log of a connection that it ended."""
    return {"t_s": (START_NS + (AT_MS + 20) * 10**6) / 1e9, "event": f"refused: {reason} by me "}


def counts(**sums: int) -> dict[str, Any]:
    return {"t_s": (START_NS + (AT_MS + 20) * 10**6) / 1e9, "event": "counts", "counts": sums}


DAMAGED, STARTED = logged("store-damaged"), logged("started", replica=0)
EARLIER = DAMAGED | {"t": START_NS}


class Case(NamedTuple):
    """One attempt: its kind and parameters, its trial, the lines about it in one log, and what can
    be said of it."""

    kind: str
    params: dict[str, Any]
    trial: str
    log: str
    lines: list[dict[str, Any]]
    verdict: str
    mechanism: str = ""
    lasted_ms: int = 2000


def cases() -> Iterator[tuple[str, Case]]:
    denied = logged("denied", id="ab", reason="privilege")
    for named, verdict, said in (
        ("no word of it", "invalid", []),
        ("no room", "invalid", [came("refused:busy")]),
        ("no room on disk", "invalid", [came("refused:outbox-full")]),
        ("not answered yet", "invalid", [came("accepted")]),
        ("refused by the group", "held", [came("accepted"), denied]),
        ("refused by the gateway", "held", [came("refused:bad-signature")]),
    ):
        case = Case("device.impersonate", STOLEN, "ab/cd", "gateway.jsonl", said, verdict)
        yield f"impersonate: {named}", case
    for named, verdict, outcome in (
        ("no room", "invalid", "refused:busy"),
        ("known", "held", "repeat-final"),
    ):
        log = "gateway.jsonl"
        case = Case("device.replay", REPLAY, "ab@rogue#1", log, [came(outcome)], verdict)
        yield f"replay: {named}", case
    for reason, verdict in (
        ("handshakes-full", "invalid"),
        ("connect-timeout", "invalid"),
        ("name-mismatch", "held"),
    ):
        case = Case(
            "device.takeover", {"batch": 1}, "broker/x/1/me:", "log/b.log", [ended(reason)], verdict
        )
        yield f"takeover: {reason}", case
    for named, verdict, said in (
        ("not started since", "invalid", []),
        ("damaged by something earlier", "broken", [EARLIER, STARTED]),
        ("not noticed", "broken", [STARTED]),
        ("noticed", "held", [DAMAGED, STARTED]),
    ):
        yield f"alter: {named}", Case("store.alter", {}, "r1/5/ab", "r1.jsonl", said, verdict)
    for outcome, verdict in (
        ("refused:old-counter", "invalid"),
        ("accepted", "invalid"),
        ("refused:bad-mac", "held"),
    ):
        case = Case(
            "store.steal", {"batch": 1}, "ab", "r1.jsonl", [came(outcome)], verdict, "escrow"
        )
        yield f"steal: {outcome}, and not stored", case
    stopped = [counts(**{"bad-login": 9})]
    for how, verdict in (("invalid", "invalid"), ("storm", "held")):
        params = {"how": how, "rate": "50/s"}
        case = Case("device.flood", params, "flood/rogue/1", "log/b.log", stopped, verdict)
        yield f"flood: {how}, of which the broker stopped some", case
    yield "flood: too short for a reading", case._replace(lasted_ms=25, verdict="invalid")


def attempt(run: RunFolder, case: Case) -> None:
    """As if this had been the only attack of the schedule, tried once."""
    assert attack_kinds()[case.kind].unfit(case.params) is None, "the test's own parameters"
    names: list[str] = []

    def only(schedule: dict[str, Any]) -> None:
        events = schedule["trials"][0]["events"]
        first = next(each for each in events if each["category"] == "attack")
        names.append(first["id"])
        same = {"kind": case.kind, "params": case.params, "mechanism": case.mechanism}
        schedule["trials"][0]["events"] = [first | same | {"at_ms": AT_MS}]

    def sent(every: Lines) -> Lines:
        end = {"t": START_NS + (AT_MS + case.lasted_ms) * 10**6, "event": names[0]}
        return [every[0] | end | {"trials": [case.trial], "kind": case.kind}]

    reschedule(run, only)
    change(run, "attacks", sent)
    path = run.raw / case.log
    path.parent.mkdir(exist_ok=True)
    before = lines(path) if path.exists() else []
    write_lines(path, [*before, *case.lines])


CASES = dict(cases())


@pytest.mark.parametrize("name", CASES)
def test_what_reached_nothing_has_no_verdict(run: RunFolder, name: str) -> None:
    attempt(run, CASES[name])
    summary = judged(run)
    (attack,) = summary.attacks
    assert attack.verdict == CASES[name].verdict
    if attack.verdict == "invalid":
        assert (attack.observed, summary.verdict) == (0, "invalid")
        assert f"attack {attack.id}: too little was seen to arrive for a verdict" in summary.notes
