"""Groups of things, in the order in which they come."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

__all__ = ["grouped"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


def grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    """The things by their key; keys in the order of their first thing."""
    groups: dict[K, list[T]] = {}
    for each in things:
        groups.setdefault(key(each), []).append(each)
    return groups
