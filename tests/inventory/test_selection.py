"""Hosts and boards are chosen by name, role, capability and kind."""

from __future__ import annotations

import pytest

from inventory.load import load_lab, packaged
from inventory.selection import board_labels, chosen, host_labels

LAB = load_lab(packaged("first-lab"))
HOSTS = {name: host_labels(LAB, name) for name in LAB.hosts}
BOARDS = {name: board_labels(LAB, name) for name in LAB.boards}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("pi03", ["pi03"]),
        ("pi03, pi01", ["pi01", "pi03"]),
        ("role:environment", ["pi02", "pi03"]),
        ("role:gateway,role:mobile,pi01", ["pi01", "pi04"]),
        ("cap:nft", ["pi01", "pi02", "pi03", "pi04"]),
        ("", []),
        (" , ", []),
    ],
)
def test_names_and_labels_choose_hosts_each_once_in_the_order_of_the_file(
    text: str, names: list[str]
) -> None:
    assert chosen(text, HOSTS) == (names, None)


@pytest.mark.parametrize("text", ["pi09", "role:replca", "role:broker,pi1", "replica", "cap:clock"])
def test_a_word_that_chooses_nothing_is_named(text: str) -> None:
    names, unknown = chosen(text, HOSTS)
    assert (names, unknown) == ([], text.rpartition(",")[2])


def test_boards_are_chosen_by_kind_and_by_their_host() -> None:
    assert chosen("kind:esp32", BOARDS) == (["th02"], None)
    assert chosen("host:pi02", BOARDS) == (["th01"], None)
    assert chosen("role:environment", BOARDS) == (["th01", "th02"], None)
