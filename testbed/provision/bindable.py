"""Runs on a host: finds ports on which nobody listens; see `ports`.   ADDRESS COUNT PORTS

Prints at most COUNT of the JSON list PORTS, as a JSON list.
"""

from __future__ import annotations

import json
import socket
import sys

__all__ = ["bindable"]


def bindable(address: str, count: int, candidates: list[int]) -> list[int]:
    """The first `count` ports that can be bound at the address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found: list[int] = []
    for port in candidates:
        if len(found) == count:
            break
        with socket.socket(family) as attempt:
            try:
                attempt.bind((address, port))
            except OSError:
                continue
            found.append(port)
    return found


if __name__ == "__main__":
    print(json.dumps(bindable(sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]))))  # noqa: T201
