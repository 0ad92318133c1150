"""The state of each process of a running lab, from its supervisor and from its files.

Files and memory are read on this machine only. For other hosts, only the supervisor's answer is
known.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path

import msgspec
import psutil

from chain.quorum import Quorum
from nodes.replica.process import ABSTENTION
from testbed.checks.finding import lost_ledgers
from testbed.standing.control import Look, ProcessState, ask
from testbed.standing.running_lab import RunningLab

__all__ = ["NodeState", "look", "without_votes"]

# The file with each role's blocks, relative to its directory.
_BLOCKS = {
    "replica": "ledger.sqlite",
    "gateway": "copy.sqlite",
    "mobile": "state/copy.sqlite",
    "environment": "state/copy.sqlite",
}

_HEIGHT = "SELECT max(height) FROM blocks"
_NOTE = "SELECT count(*) FROM meta WHERE name = ?"


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """None means unknown. `since_s` is wall time; `lag`: blocks behind the highest replica.
    `abstains`: a replica that lost its ledger and sends no votes yet."""

    name: str
    role: str
    host: str
    process: ProcessState
    since_s: float | None
    height: int | None
    abstains: bool
    lag: int | None
    memory_bytes: int | None
    files: int | None
    disk_bytes: int | None


def look(running: RunningLab) -> list[NodeState]:
    """Every process, in the order of their start. Raises LabFault.

    A plugged board is no process; its state is in `testbed.boards.state`.
    """
    processes = ask(Path(running.home), Look())
    files_of = {
        name: Path(node.directory) / _BLOCKS[node.role]
        for name, node in running.nodes.items()
        if node.directory is not None and node.role in _BLOCKS
    }
    heights = {name: _number(path, _HEIGHT) for name, path in files_of.items()}
    replicas = [heights.get(n) for n, node in running.nodes.items() if node.role == "replica"]
    newest = max((height for height in replicas if height is not None), default=None)
    found = []
    for name, process in processes.items():
        node, height = running.nodes[name], heights.get(name)
        since_s, memory, files = _of_process(process.pid if node.directory is not None else None)
        found.append(
            NodeState(
                name=name,
                role=node.role,
                host=node.host,
                process=process,
                since_s=since_s,
                height=height,
                abstains=node.role == "replica"
                and name in files_of
                and bool(_number(files_of[name], _NOTE, f"note/{ABSTENTION}")),
                lag=None if height is None or newest is None else max(0, newest - height),
                memory_bytes=memory,
                files=files,
                disk_bytes=None if node.directory is None else _size(Path(node.directory)),
            )
        )
    return found


def _of_process(pid: int | None) -> tuple[float | None, int | None, int | None]:
    """(start, resident bytes, open files)."""
    with suppress(psutil.Error):
        if pid is not None:
            process = psutil.Process(pid)
            return process.create_time(), process.memory_info().rss, process.num_fds()
    return None, None, None


def without_votes(states: Sequence[NodeState]) -> str:
    """Says which replicas send no votes, and whether the chain can go on without them; "" if all
    vote."""
    names = [state.name for state in states if state.abstains]
    if not names:
        return ""
    quorum = Quorum.of(sum(state.role == "replica" for state in states))
    stuck = len(names) > quorum.faulty
    return lost_ledgers(names, quorum) + ("; end it with `testbed down -i FILE`" if stuck else "")


def _number(path: Path, query: str, *values: str) -> int | None:
    with suppress(sqlite3.Error):
        if path.exists():
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
                return int(database.execute(query, values).fetchone()[0] or 0)
    return None


def _size(directory: Path) -> int:
    total = 0
    for path in directory.rglob("*"):
        with suppress(OSError):  # the process has ended meanwhile
            total += path.lstat().st_size
    return total
