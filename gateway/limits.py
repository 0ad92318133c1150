"""Rate limits: token buckets, one for each source, asked before any signature is checked.

Pure: the caller gives the clock. The gateway drops messages above the rate, the broker's door only
delays them. Both count by reason. The size limit of each queue is beside that queue.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from chain.errors import Misuse

__all__ = ["SHARES", "LogLimit", "RateLimiter", "TokenBucket"]


class TokenBucket:
    """`burst` tokens at first and `rate_per_s` more each second, never more than `burst`."""

    __slots__ = ("burst", "filled_at_s", "rate_per_s", "tokens")

    def __init__(self, rate_per_s: float, burst: float, now_s: float) -> None:
        if rate_per_s <= 0 or burst < 1:
            raise Misuse(f"a bucket of rate {rate_per_s}/s and burst {burst} lets nothing through")
        self.rate_per_s, self.burst = rate_per_s, burst
        self.tokens, self.filled_at_s = burst, now_s

    def _fill(self, now_s: float) -> None:
        # A clock that steps back adds nothing and removes nothing.
        gained = max(0.0, now_s - self.filled_at_s) * self.rate_per_s
        self.tokens = min(self.burst, self.tokens + gained)
        self.filled_at_s = now_s

    def take(self, now_s: float, *, leave: float = 0) -> bool:
        """Takes one token and leaves at least `leave`. Returns False if that cannot be."""
        self._fill(now_s)
        if self.tokens < 1 + leave:
            return False
        self.tokens -= 1
        return True

    def full(self, now_s: float) -> bool:
        """Whether it equals a new bucket, so that it can be forgotten."""
        self._fill(now_s)
        return self.tokens >= self.burst

    def wait_s(self, now_s: float) -> float:
        """Seconds until `take` will succeed."""
        self._fill(now_s)
        return max(0.0, (1 - self.tokens) / self.rate_per_s)


class LogLimit(logging.Filter):
    """Limits the warnings in a log, which strangers can cause as often as they like: at most
    `burst` at once and `rate_per_s` after that. The next one says how many were left out. Our
    own messages, which are below WARNING, always pass."""

    def __init__(self, rate_per_s: float, burst: float, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._bucket = TokenBucket(rate_per_s, burst, clock())
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        if not self._bucket.take(self._clock()):
            self._left_out += 1
            return False
        record.left_out, self._left_out = self._left_out, 0
        return True


SHARES = 16


class _Source(NamedTuple):
    bucket: TokenBucket
    share: TokenBucket


class RateLimiter:
    """Admits at most `rate_per_s` messages of each source, and `total_rate_per_s` of all together.

    A few sources that use their rate to the full would take the total from everybody. So a source
    that sends more than 1/SHARES of the total leaves half of the total's burst to the others.

    It remembers at most `sources_max` sources. The least recently seen source is forgotten only
    when its buckets are full again. Otherwise the *new* source is refused, so nobody can escape an
    empty bucket by inventing names. The limit on the total prevents the same.

    `counts` has `admitted`, `rate` (limit of the source), `total` and `sources` (table full).
    """

    def __init__(
        self,
        *,
        rate_per_s: float,
        burst: float,
        total_rate_per_s: float,
        total_burst: float,
        sources_max: int,
        clock: Callable[[], float],
    ) -> None:
        if sources_max < 1:
            raise Misuse("sources_max must be at least 1")
        self.counts: Counter[str] = Counter()
        self._rate_per_s, self._burst = rate_per_s, burst
        self._sources_max = sources_max
        self._clock = clock
        self._sources: OrderedDict[str, _Source] = OrderedDict()
        self._total = TokenBucket(total_rate_per_s, total_burst, clock())

    def __len__(self) -> int:
        return len(self._sources)

    def admit(self, source: str) -> bool:
        """Whether one message of `source` may go on to the costly checks. Counts the outcome."""
        reason = self._refusal(source, self._clock())
        self.counts[reason or "admitted"] += 1
        return reason is None

    def _refusal(self, source: str, now_s: float) -> str | None:
        known = self._sources.get(source)
        if known is None:
            if not self._make_room(now_s):
                return "sources"
            known = self._sources[source] = self._new(now_s)
        self._sources.move_to_end(source)
        # The source's bucket first: a source above its rate takes nothing from the total.
        if not known.bucket.take(now_s):
            return "rate"
        leave = 0 if known.share.take(now_s) else self._total.burst / 2
        return None if self._total.take(now_s, leave=leave) else "total"

    def _new(self, now_s: float) -> _Source:
        total = self._total
        share = TokenBucket(total.rate_per_s / SHARES, max(1, total.burst / SHARES), now_s)
        return _Source(TokenBucket(self._rate_per_s, self._burst, now_s), share)

    def _make_room(self, now_s: float) -> bool:
        if len(self._sources) < self._sources_max:
            return True
        oldest, known = next(iter(self._sources.items()))
        if not (known.bucket.full(now_s) and known.share.full(now_s)):
            return False
        del self._sources[oldest]
        return True
