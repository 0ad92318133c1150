"""Runs on a board's host, in our directory: prints the state of each board from the files there,
as JSON of `state.Files` by the board's name.

Arguments: READER NAME... READER: the process that reads these boards. It need not run.
"""

from __future__ import annotations

import json
import mmap
import sys
from pathlib import Path
from typing import Any

__all__ = ["main"]

STARTED = b'"event":"started"'


def flashed(name: str) -> str | None:
    """The hash of the firmware that was written to the board."""
    try:
        return str(json.loads(Path(name, "flashed.json").read_bytes())["firmware_sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def port(name: str) -> str | None:
    """The device to which the board's link points."""
    link = Path(name, "port")
    return str(link.resolve()) if link.exists() else None


def last_event(reader: str, name: str) -> dict[str, Any] | None:
    """The newest event of this board since its reader's latest start."""
    wanted = b'"event":"board","board":"' + name.encode() + b'",'
    for file in ("events.jsonl", "events.jsonl.1"):
        path = Path(reader, file)
        if not path.exists() or not path.stat().st_size:
            continue
        with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as log:
            at, started = log.rfind(wanted), log.rfind(STARTED)
            if at > started:
                begin, end = log.rfind(b"\n", 0, at) + 1, log.find(b"\n", at)
                line = json.loads(log[begin : end if end >= 0 else len(log)])
                return {"state": line["state"], "at_s": line["t"] / 1e9}
            if started >= 0:
                return None
    return None


def last_reading_s(reader: str, name: str) -> float | None:
    """When the newest reading was taken from the board. The file exists before the first reading,
    with number 0."""
    path = Path(reader, "state", f"{name}.highest.json")
    try:
        _, number = json.loads(path.read_bytes())
        return path.stat().st_mtime if number else None
    except (OSError, ValueError):
        return None


def main() -> None:
    reader, *names = sys.argv[1:]
    found = {
        name: {
            "firmware": flashed(name),
            "port": port(name),
            "event": last_event(reader, name),
            "reading_s": last_reading_s(reader, name),
        }
        for name in names
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
