"""One mistake in how the values of a lab fit together."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Mistake"]


@dataclass(frozen=True)
class Mistake:
    """`message` is "what is wrong; fix", `loc` the path of the value.

    `whole` marks mistakes that are certain only if no malformed value was dropped (counting
    replicas, for example): `load` leaves them out while there are other mistakes.
    """

    loc: tuple[str | int, ...]
    message: str
    whole: bool = False
