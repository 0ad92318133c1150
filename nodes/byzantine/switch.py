"""Switches a running replica between honest and Byzantine, by orders in a local file.

Only a replica whose config names such a file (`byzantine_orders`) can be switched at all; nothing
that arrives over the network reaches it. The order is a `Byzantine` as JSON. It holds while
the file is there: taking the file away makes the replica honest again, and so does a restart,
which begins by removing it. A file that others than the replica's own user could have written is
refused. What was ordered, and how often it was acted upon, is in the event log.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from chain.genesis import Membership
from chain.keys import Signer
from chain.pbft.effects import Effect
from nodes.byzantine.config import Byzantine, Trick
from nodes.byzantine.conspiracy import Conspiracy
from nodes.byzantine.tricks import ACTS
from nodes.byzantine.wrapper import Misbehaviour
from nodes.ports import Events
from nodes.replica.driver import Delayed

__all__ = ["LOOK_S", "ORDER_BYTES_MAX", "BadOrder", "Switch", "misbehaviour", "read_order"]

ORDER_BYTES_MAX = 4096
LOOK_S = 0.05  # how often the file is looked at, whenever the replica does something
REPORT_S = 0.5  # at most so often the count of acts is logged


class BadOrder(Exception):
    """The message says what is wrong with it."""


def misbehaviour(
    wanted: Byzantine,
    *,
    me: int,
    network: bytes,
    signer: Signer,
    membership: Callable[[], Membership],
    active: Callable[[], bool] = lambda: True,
) -> Misbehaviour:
    """The wrapper that a config or an order asks for."""
    return Misbehaviour(
        ACTS[wanted.trick],
        me=me,
        network=network,
        signer=signer,
        membership=membership,
        rng=random.Random(wanted.seed),  # noqa: S311 - repeatable on purpose
        message=wanted.message,
        delay_us=wanted.delay_ms * 1000,
        probability=wanted.probability,
        client=bytes.fromhex(wanted.client) if wanted.client else None,
        conspiracy=Conspiracy(frozenset(wanted.accomplices), frozenset(wanted.deceived)),
        active=active,
    )


class Switch:
    """`make` builds the wrapper that an order asks for. The host calls `rewrite` with every list of
    effects; while there is no order they pass unchanged."""

    def __init__(
        self,
        path: Path,
        make: Callable[[Byzantine], Misbehaviour],
        events: Events,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        path.unlink(missing_ok=True)
        self._path = path
        self._make = make
        self._events = events
        self._now_s = now_s
        self._look_at_s = 0.0
        self._report_at_s = 0.0
        self._reported_acts = 0
        self._file: tuple[int, int, int] | None = None
        self._trick: Trick | None = None
        self._acting: Misbehaviour | None = None

    def rewrite(self, effects: list[Effect]) -> list[Effect | Delayed]:
        """What is carried out instead of `effects`."""
        now_s = self._now_s()
        if now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_S
            self._look()
        if self._acting is None:
            return [*effects]
        changed = self._acting.rewrite(effects)
        if self._acting.acts != self._reported_acts and now_s >= self._report_at_s:
            self._report_at_s = now_s + REPORT_S
            self._reported_acts = self._acting.acts
            self._events.emit("byzantine-acts", trick=self._trick, acts=self._reported_acts)
        return changed

    def _look(self) -> None:
        try:
            found = self._path.stat()
            file = (found.st_ino, found.st_mtime_ns, found.st_size)
        except OSError:
            file = None
        if file == self._file:
            return
        self._file = file
        if self._acting is not None:
            self._events.emit("honest", trick=self._trick, acts=self._acting.acts)
            self._acting = None
        if file is not None:
            self._take()

    def _take(self) -> None:
        try:
            wanted = read_order(self._path)
        except (BadOrder, OSError) as error:
            self._events.emit("byzantine-refused", reason=str(error))
            return
        self._acting, self._trick, self._reported_acts = self._make(wanted), wanted.trick, 0
        self._events.emit("byzantine", **msgspec.to_builtins(wanted))


def read_order(path: Path) -> Byzantine:
    """Raises BadOrder, OSError."""
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise BadOrder(f"{path.name}: others could have written it; chmod 600")
        data = file.read(ORDER_BYTES_MAX + 1)
    if len(data) > ORDER_BYTES_MAX:
        raise BadOrder(f"{path.name}: longer than {ORDER_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(data, type=Byzantine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadOrder(f"{path.name}: {error}") from error
