"""The sizes of quorums for n replicas."""

from __future__ import annotations

from typing import NamedTuple

from chain.errors import Misuse

__all__ = ["REPLICAS_MAX", "REPLICAS_MIN", "Quorum"]

REPLICAS_MIN = 4  # fewer tolerate no fault
REPLICAS_MAX = 256


class Quorum(NamedTuple):
    """Vote counts for a membership of n replicas.

    `faulty` = f = floor((n-1)/3); `strong` = q = ceil((n+f+1)/2): any two such quorums share
    an honest replica. (2f+1 is the same for n = 3f+1, but unsafe at n = 5 and 6.) `weak` = f+1: one
    honest replica is among them.
    """

    n: int
    faulty: int
    strong: int
    weak: int

    @classmethod
    def of(cls, n: int) -> Quorum:
        if n < REPLICAS_MIN:
            raise Misuse(f"n = {n} tolerates no fault; pBFT needs at least {REPLICAS_MIN}")
        f = (n - 1) // 3
        return cls(n=n, faulty=f, strong=-(-(n + f + 1) // 2), weak=f + 1)
