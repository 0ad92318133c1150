"""Which hosts answer, and since when the others do not. A loss is shown at once, by name.

Code that asks a host or follows a log on it reports here. run.jsonl has each loss and each return.
The effect of a silent host on the run is judged later, from the files.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Reach"]


class Reach:
    """`say` shows a line to people; `write(file, **fields)` logs it."""

    def __init__(
        self,
        say: Callable[[str], None],
        write: Callable[..., None],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._say = say
        self._write = write
        self._now_s = now_s
        self._lock = threading.Lock()
        self._heard_s: dict[str, float] = {}
        self._silent_since_s: dict[str, float] = {}

    def answered(self, host: str) -> None:
        with self._lock:
            self._heard_s[host] = self._now_s()
            since_s = self._silent_since_s.pop(host, None)
        if since_s is not None:
            self._record("host-back", host, since_s, f"{host} answers again, after {{}} s")

    def silent(self, host: str) -> None:
        """Note that the host did not answer. The first time is shown, with the seconds since its
        last answer."""
        with self._lock:
            if host in self._silent_since_s:
                return
            since_s = self._heard_s.get(host, self._now_s())
            self._silent_since_s[host] = since_s
        self._record("host-lost", host, since_s, f"{host} has not answered since {{}} s")

    @property
    def lines(self) -> list[str]:
        """One for each host that does not answer now."""
        with self._lock:
            silent = sorted(self._silent_since_s.items())
        return [f"{host} has not answered since {self._ago(at_s)} s" for host, at_s in silent]

    def _record(self, what: str, host: str, since_s: float, text: str) -> None:
        self._write("run", what=what, host=host, silent_s=self._ago(since_s))
        self._say(text.format(self._ago(since_s)))

    def _ago(self, at_s: float) -> int:
        return round(self._now_s() - at_s)
