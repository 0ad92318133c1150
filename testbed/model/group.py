"""The risk of an authentication group that is smaller than 2f+1: exact, for every size.

The sums are those of `chain.ledger.auth_group`, which also judge the policy. This module has the
limits of the parameters, the table over m, and the format of such numbers.
"""

from __future__ import annotations

from decimal import Context, Decimal
from fractions import Fraction

import msgspec

from chain.ledger.auth_group import denial, false_accept
from chain.quorum import REPLICAS_MIN
from testbed.errors import ConfigurationError

__all__ = ["FORMULA", "REPLICAS_MAX", "GroupRisk", "group_risk", "group_table", "scientific"]

REPLICAS_MAX = 1000  # the exact sums of a whole table take a second there

FORMULA = (
    "false accept  P[x >= k]   = sum over x = k..m of C(f,x) C(n-f,m-x) / C(n,m)\n"
    "denial        P[x > m-k]  = sum over x = m-k+1..m of the same\n"
    "x: how many of the m drawn members are faulty"
)


class GroupRisk(msgspec.Struct, frozen=True, kw_only=True):
    """`m` members are drawn from `n` replicas of which `f` are faulty; `k` accepts admit.

    `false_accept`: faulty members alone admit any device. `denial`: they refuse an honest one. Both
    are per draw: an accomplice may ask again with another nonce.
    """

    n: int
    f: int
    m: int
    k: int
    false_accept: Fraction
    denial: Fraction


def group_risk(n: int, f: int, m: int, k: int | None = None) -> GroupRisk:
    """The exact risk. `k` is a majority of m if it is not given. Raises ConfigurationError for
    impossible parameters."""
    _check(n, f)
    if not 1 <= m <= n:
        raise ConfigurationError(f"-m {m}: a group has 1 to n = {n} members")
    k = m // 2 + 1 if k is None else k
    if not 1 <= k <= m:
        raise ConfigurationError(f"-k {k}: 1 to m = {m} of the members must accept")
    return GroupRisk(
        n=n, f=f, m=m, k=k, false_accept=false_accept(n, f, m, k), denial=denial(n, f, m, k)
    )


def group_table(n: int, f: int, k: int | None = None) -> tuple[GroupRisk, ...]:
    """The risks over m, up to the size at which f liars can do nothing: odd sizes to 2f+1 if k is a
    majority; from k to k+f if k is fixed."""
    _check(n, f)
    if k is None:
        return tuple(group_risk(n, f, m) for m in range(1, min(2 * f + 1, n) + 1, 2))
    if not 1 <= k <= n:
        raise ConfigurationError(f"-k {k}: 1 to n = {n}")
    return tuple(group_risk(n, f, m, k) for m in range(k, min(k + f, n) + 1))


def scientific(value: Fraction, digits: int = 4) -> str:
    """Writes a number with `digits` significant digits, however small it is. A float would end at
    1e-308."""
    if value.denominator == 1:
        return str(value.numerator)
    context = Context(prec=digits + 10)
    quotient = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return f"{quotient:.{digits - 1}e}"


def _check(n: int, f: int) -> None:
    if not REPLICAS_MIN <= n <= REPLICAS_MAX:
        raise ConfigurationError(
            f"-n {n}: pBFT needs {REPLICAS_MIN} replicas; {REPLICAS_MAX} at most"
        )
    if f < 0:
        raise ConfigurationError(f"-f {f}: a count of faulty replicas, 0 or more")
    if f > (n - 1) // 3:
        raise ConfigurationError(
            f"-f {f}: {n} replicas tolerate at most {(n - 1) // 3} faulty ones; with more "
            "the chain itself is lost, whatever the group"
        )
