"""Choosing hosts and boards by name or label: `pi01,pi02`, `role:replica`, `cap:netem`,
`kind:esp32`.

A host's labels are its roles and capabilities; a board's are its kind, its host and the labels of
its host. The commands use the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from inventory.model import Lab

__all__ = ["board_labels", "chosen", "host_labels"]


def host_labels(lab: Lab, name: str) -> frozenset[str]:
    """As `role:replica`, `cap:netem`."""
    host = lab.hosts[name]
    return frozenset(
        [*(f"role:{role}" for role in host.roles), *(f"cap:{cap}" for cap in host.caps)]
    )


def board_labels(lab: Lab, name: str) -> frozenset[str]:
    """As `kind:esp32`, `host:pi02`, and what its host has."""
    board = lab.boards[name]
    return host_labels(lab, board.host) | {f"kind:{board.firmware.board}", f"host:{board.host}"}


def chosen(text: str, known: Mapping[str, Collection[str]]) -> tuple[list[str], str | None]:
    """The names that a comma-separated list of names and labels chooses, in the order of `known`,
    and the first word that chooses none."""
    words = [word for part in text.split(",") if (word := part.strip())]
    for word in words:
        if word not in known and not any(word in labels for labels in known.values()):
            return [], word
    return [n for n, labels in known.items() if any(w == n or w in labels for w in words)], None
