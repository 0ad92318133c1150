"""Topics: what is built is read back, anything else is refused, and the table of permissions."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chain.errors import Misuse, PeerFault
from gateway.mqtt.topics import (
    AccessRule,
    Action,
    HeadTopic,
    Request,
    Response,
    Role,
    Status,
    Topic,
    Up,
    access_rules,
    covers,
    parse,
)

NET, A, B, C = "0" * 16, "a" * 64, "b" * 64, "c" * 64
ROOT = f"m2m/1/{NET}"

hexes = st.text("0123456789abcdef", min_size=64, max_size=64)
nets = st.text("0123456789abcdef", min_size=16, max_size=16)
kinds = st.from_regex(r"[a-z][a-z0-9-]{0,31}", fullmatch=True)
topics: st.SearchStrategy[Topic] = st.one_of(
    st.builds(Up, nets, hexes, hexes, kinds),
    st.builds(Request, nets, hexes),
    st.builds(Response, nets, hexes, kinds),
    st.builds(Status, nets, hexes),
    st.builds(HeadTopic, nets),
)


@given(topics)
def test_whatever_is_built_is_read_back(topic: Topic) -> None:
    assert parse(str(topic)) == topic
    assert len(str(topic)) <= 256


@given(
    st.text() | st.lists(st.sampled_from(["m2m", "1", "up", NET, A, "+", "#", ""])).map("/".join)
)
def test_any_text_is_read_or_refused_and_never_read_as_something_else(text: str) -> None:
    with suppress(PeerFault):
        assert str(parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#",
        f"{ROOT}/up/{A}/{B}",
        f"{ROOT}/up/{A}/{B}/data/more",
        f"{ROOT}/up/{A}//data",
        f"{ROOT}/up/+/{B}/data",
        f"{ROOT}/up/{A}/{B}/#",
        f"{ROOT}/up/{A}/{B}/Data",
        f"{ROOT}/up/{A}/{B}/{'k' * 33}",
        f"{ROOT}/up/{A}/{B}/data\n",
        f"{ROOT}/up/{A.upper()}/{B}/data",
        f"{ROOT}/up/{A[1:]}/{B}/data",
        f"/{ROOT}/chain/head",
        f"{ROOT}/chain/head/",
        f"m2m/2/{NET}/chain/head",
        f"m2m/1/{NET}0/chain/head",
        "m2m/1/" + "x" * 70_000,
    ],
)
def test_near_misses_are_refused(text: str) -> None:
    with pytest.raises(PeerFault, match="bad-topic"):
        parse(text)


def test_a_wrong_level_of_our_own_is_a_bug() -> None:
    with pytest.raises(Misuse, match="kind"):
        Response(NET, A, "Not a kind")


@pytest.mark.parametrize(
    ("role", "action", "asked", "allowed"),
    [
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/up/{A}/{A}/data", True),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/req/{A}", True),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/up/{A}/{B}/data", False),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/up/{B}/{A}/data", False),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/req/{B}", False),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/rsp/{A}/data", False),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/chain/head", False),
        (Role.DEVICE, Action.PUBLISH, f"{ROOT}/status/{A}", False),
        (Role.DEVICE, Action.SUBSCRIBE, f"{ROOT}/rsp/{A}/#", True),
        (Role.DEVICE, Action.SUBSCRIBE, f"{ROOT}/rsp/{A}/data", True),
        (Role.DEVICE, Action.SUBSCRIBE, f"{ROOT}/rsp/+/data", False),
        (Role.DEVICE, Action.SUBSCRIBE, f"{ROOT}/rsp/{B}/#", False),
        (Role.DEVICE, Action.SUBSCRIBE, "#", False),
        (Role.RELAY, Action.PUBLISH, f"{ROOT}/up/{A}/{B}/data", True),
        (Role.RELAY, Action.PUBLISH, f"{ROOT}/up/{C}/{B}/data", False),
        (Role.RELAY, Action.PUBLISH, f"{ROOT}/status/{A}", True),
        (Role.RELAY, Action.PUBLISH, f"{ROOT}/status/{B}", False),
        (Role.RELAY, Action.SUBSCRIBE, f"{ROOT}/req/+", True),
        (Role.RELAY, Action.SUBSCRIBE, f"{ROOT}/rsp/{B}/#", False),
        (Role.NEWCOMER, Action.PUBLISH, f"{ROOT}/up/{A}/{A}/enrol", True),
        (Role.NEWCOMER, Action.PUBLISH, f"{ROOT}/up/{A}/{A}/data", False),
        (Role.NEWCOMER, Action.SUBSCRIBE, f"{ROOT}/chain/head", True),
        (Role.GATEWAY, Action.SUBSCRIBE, f"{ROOT}/up/+/+/+", True),
        (Role.GATEWAY, Action.PUBLISH, f"{ROOT}/rsp/{B}/data", True),
        (Role.GATEWAY, Action.PUBLISH, f"{ROOT}/up/{B}/{B}/data", False),
        (Role.OBSERVER, Action.SUBSCRIBE, f"{ROOT}/up/+/+/data", True),
        (Role.OBSERVER, Action.SUBSCRIBE, f"{ROOT}/rsp/+/+", False),
        (Role.OBSERVER, Action.SUBSCRIBE, f"{ROOT}/#", False),
        (Role.ADMIN, Action.SUBSCRIBE, f"{ROOT}/up/+/+/+", False),
    ],
)
def test_who_may_use_which_topic(role: Role, action: Action, asked: str, allowed: bool) -> None:
    mine = access_rules(role, NET, A)
    assert any(g.action is action and covers(g.pattern, asked) for g in mine) is allowed


def test_no_role_but_the_gateway_reads_all_answers_and_none_publishes_with_a_wildcard_root() -> (
    None
):
    for role in Role:
        for rule in access_rules(role, NET, A):
            assert not rule.pattern.startswith(("+", "#"))
            assert not covers(rule.pattern, f"{ROOT}/rsp/{B}/x") or role is Role.GATEWAY
    assert AccessRule(Action.SUBSCRIBE, f"{ROOT}/rsp/+/+") not in access_rules(Role.GATEWAY, NET, A)


levels = st.lists(st.sampled_from(["a", "b"]), min_size=1, max_size=4)
filters = st.lists(st.sampled_from(["a", "b", "+"]), max_size=3).flatmap(
    lambda head: st.sampled_from([head, [*head, "#"]]).filter(bool)
)


@given(filters, filters, levels)
def test_a_covered_filter_matches_nothing_outside_its_pattern(
    pattern: list[str], asked: list[str], topic: list[str]
) -> None:
    pattern_text, asked_text, topic_text = "/".join(pattern), "/".join(asked), "/".join(topic)
    if covers(pattern_text, asked_text) and covers(asked_text, topic_text):
        assert covers(pattern_text, topic_text)
