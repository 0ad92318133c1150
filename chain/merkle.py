"""Merkle trees over a block's records, as in RFC 9162, section 2.1.

Leaves are hashed with prefix 0x00 and nodes with 0x01: a leaf cannot pass for a node.
Trees are lists of leaf hashes; nothing is stored. Sizes are counts of leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

__all__ = ["EMPTY_ROOT", "PATH_MAX", "leaf_hash", "paths", "root", "root_from_path"]

EMPTY_ROOT = sha256(b"").digest()  # RFC 9162, section 2.1.1
PATH_MAX = 32  # hashes in a path: 2**32 leaves


def leaf_hash(leaf: bytes) -> bytes:
    return sha256(b"\x00" + leaf).digest()


def _level_up(level: Sequence[bytes]) -> list[bytes]:
    """The next level towards the root; an odd node at the end is carried up as it is."""
    pairs = zip(level[::2], level[1::2], strict=False)
    upper = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    if len(level) % 2:
        upper.append(level[-1])
    return upper


def root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The tree head of RFC 9162, section 2.1.1."""
    if not leaf_hashes:
        return EMPTY_ROOT
    level = leaf_hashes
    while len(level) > 1:
        level = _level_up(level)
    return level[0]


def paths(leaf_hashes: Sequence[bytes]) -> list[tuple[bytes, ...]]:
    """The inclusion proof of every leaf (section 2.1.3.1), each from the leaf upwards. The tree is
    hashed once, not once per leaf."""
    levels = []
    level = leaf_hashes
    while len(level) > 1:
        levels.append(level)
        level = _level_up(level)
    return [_siblings(levels, index) for index in range(len(leaf_hashes))]


def _siblings(levels: Sequence[Sequence[bytes]], index: int) -> tuple[bytes, ...]:
    """The sibling of each node from leaf `index` up to the root. An odd node at the end of a level
    has none."""
    beside = ((level, (index >> height) ^ 1) for height, level in enumerate(levels))
    return tuple(level[sibling] for level, sibling in beside if sibling < len(level))


def root_from_path(leaf: bytes, index: int, size: int, hashes: Sequence[bytes]) -> bytes | None:
    """The root that leaf hash `leaf` at `index` of `size` leads to (section 2.1.3.2).

    None if the path has the wrong length for that place.
    """
    if not 0 <= index < size:
        return None
    value, at, last = leaf, index, size - 1
    for sibling in hashes:
        if last == 0:
            return None
        if at % 2 or at == last:
            value = sha256(b"\x01" + sibling + value).digest()
            while at % 2 == 0 and at:
                at //= 2
                last //= 2
        else:
            value = sha256(b"\x01" + value + sibling).digest()
        at //= 2
        last //= 2
    return value if last == 0 else None
