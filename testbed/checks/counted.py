"""The counts of gateways and brokers. They are complete; the logs of single refusals are limited.

Both log the sums since their start, once a second while these grow. The sums are not by sender:
they include refused messages of attackers and of all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

__all__ = ["Counted"]

_REFUSED = "refused:"
_NO_REFUSALS = frozenset({"logins", "removed", "slowed", "dropped", "unacknowledged"})
_Sums = list[tuple[int, Counter[str]]]


class _Line(msgspec.Struct, frozen=True):
    """A line of a gateway's log (`t` in ns, sums as fields) or of a broker's (`t_s`, sums in
    `counts`)."""

    event: str
    t: int = 0
    t_s: float = 0.0
    counts: dict[str, int] = {}


class Counted:
    """`raw`: the directory of a run's raw files."""

    def __init__(self, raw: Path) -> None:
        self._sums: list[_Sums] = []
        for layer, pattern in (("gateway", "*.jsonl"), ("broker", "log/*.log")):
            for path in sorted(raw.glob(pattern)):
                if sums := list(_sums(path, layer)):
                    self._sums.append(sums)

    def refused(self, begin_ns: int, end_ns: int) -> Counter[str]:
        """What was refused between two wall times, by "layer:reason"."""
        found: Counter[str] = Counter()
        for sums in self._sums:
            found += _at(sums, end_ns) - _at(sums, begin_ns)
        return found


def _at(sums: _Sums, t_ns: int) -> Counter[str]:
    """The newest sums at this time. A restarted process begins at zero."""
    return next((each for t, each in reversed(sums) if t <= t_ns), Counter())


def _sums(path: Path, layer: str) -> Iterator[tuple[int, Counter[str]]]:
    for line in path.read_bytes().splitlines():
        if b'"counts"' not in line:
            continue
        try:
            entry = msgspec.json.decode(line, type=_Line)
            if entry.event != "counts":
                continue
            if layer == "gateway":
                fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
                sums = {
                    name.removeprefix(_REFUSED): msgspec.json.decode(value, type=int)
                    for name, value in fields.items()
                    if name.startswith(_REFUSED)
                }
            else:
                sums = {n: value for n, value in entry.counts.items() if n not in _NO_REFUSALS}
        except msgspec.DecodeError:
            continue  # torn by a kill
        yield (
            entry.t or round(entry.t_s * 1e9),
            Counter({f"{layer}:{n}": v for n, v in sums.items()}),
        )
