"""A checker's finding: the fault, and its exact place."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from chain.quorum import Quorum

__all__ = ["Finding", "lost_ledgers"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`field` of the block at `height` in `file` is wrong; height 0 is the file as a whole."""

    file: str
    height: int
    field: str
    detail: str

    def __str__(self) -> str:
        where = f"height {self.height}, {self.field}" if self.height else self.field
        return f"{self.file}: {where}: {self.detail}"


def lost_ledgers(names: Sequence[str], quorum: Quorum) -> str:
    """Says that these replicas send no votes, and whether the chain can go on."""
    text = f"{' and '.join(names)}: ledger lost, no votes are sent"
    if len(names) > quorum.faulty:
        text += f"; {quorum.strong} of {quorum.n} votes are needed: this network cannot go on"
    return text
