"""Translates Mosquitto's log to that of the embedded broker: `removed NODE`, refusals by reason.

Other lines are passed on. Mosquitto 2.0 logs a denied publish or subscription only if it logs every
packet, which is off.
"""

from __future__ import annotations

import logging
import re
from collections import Counter

__all__ = ["MosquittoLog"]

log = logging.getLogger(__name__)

_REMOVED = re.compile(r"^dynsec: .* \| deleteClient \| username=(\S+)$")
_COUNTED = {
    "logins": re.compile(r"^New client connected from (\S+)"),
    "oversized": re.compile(r"^Client (\S+) disconnected due to oversize packet"),
    "bad-login": re.compile(r"^Client (\S+) disconnected, not authorised"),
    "bad-certificate": re.compile(r"^OpenSSL Error.*:(certificate verify failed|peer did not)"),
    # Mosquitto 2.0 has no words for a retained message that it refuses.
    "retain-denied": re.compile(
        r"^(?:Bad socket read/write on client (\S+): Unknown error"
        r"|Client (\S+) disconnected due to QoS too high or retain not supported)"
    ),
    "bad-packet": re.compile(r"^Client (\S+) disconnected due to (?:malformed|protocol)"),
    "connections-full": re.compile(
        # tcpd: with no descriptor left, the wrapper cannot open hosts.allow and denies.
        r"^(?:Client connection from (\S+) denied(?:: max_conn| access by tcpd)"
        r"|Unable to accept new connection)"
    ),
}


class MosquittoLog:
    """`counts` has refusals by reason, logins and removals, like `Door.counts`."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def take(self, line: str) -> None:
        """Takes one line that Mosquitto printed."""
        if removed := _REMOVED.match(line):
            self.counts["removed"] += 1
            log.info("removed %s", removed[1])
            return
        for reason, pattern in _COUNTED.items():
            if found := pattern.match(line):
                self.counts[reason] += 1
                if reason != "logins":
                    log.warning("refused: %s by %s", reason, found[found.lastindex or 0] or "?")
                return
        log.warning("mosquitto: %s", line)
