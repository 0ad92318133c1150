"""The authentication group: which replicas judge an access request, and how often liars win.

Replicas are ranked by a hash of request id and epoch. Every replica recomputes the ranking, so no
primary chooses. With the default m = 2f+1 and k = f+1, f liars can neither admit nor deny anybody.
A smaller group is a random draw: `false_accept` and `denial` compute how often a draw is bad. A
device that colludes with replicas can draw again: it varies its nonce.
"""

from __future__ import annotations

from fractions import Fraction
from hashlib import sha256
from math import comb

from chain.errors import Misuse
from chain.genesis import Membership, Policy

__all__ = ["accepted_by", "denial", "false_accept", "members"]


def members(request: bytes, membership: Membership, size: int) -> tuple[int, ...]:
    """The ids of the `size` members that judge this request, ascending."""
    prefix = b"m2m/1/group\0" + request + membership.epoch.to_bytes(4, "big")
    ranked = sorted(
        membership.ids, key=lambda each: sha256(prefix + each.to_bytes(4, "big")).digest()
    )
    return tuple(sorted(ranked[:size]))


def accepted_by(
    request: bytes, endorsers: tuple[int, ...], membership: Membership, policy: Policy
) -> bool:
    """True if at least k distinct members of the request's group are among `endorsers`."""
    size, needed = policy.group(membership.quorum)
    group = members(request, membership, size)
    return len(set(endorsers).intersection(group)) >= needed


def _tail(n: int, f: int, m: int, least: int) -> Fraction:
    """Pr[a group of m drawn from n, f of them faulty, holds at least `least` faulty]."""
    if not 0 <= f <= n or not 1 <= m <= n:
        raise Misuse(f"a group of {m} from {n} replicas with {f} faulty")
    # comb gives 0 where a draw is impossible, so the sum needs no other limits.
    ways = sum(comb(f, x) * comb(n - f, m - x) for x in range(max(least, 0), m + 1))
    return Fraction(ways, comb(n, m))


def false_accept(n: int, f: int, m: int, k: int) -> Fraction:
    """The chance that liars alone reach k accepts: sum over x >= k of C(f,x)C(n-f,m-x)/C(n,m)."""
    return _tail(n, f, m, k)


def denial(n: int, f: int, m: int, k: int) -> Fraction:
    """The chance that liars can keep an honest device out: Pr[x > m-k]."""
    return _tail(n, f, m, m - k + 1)
