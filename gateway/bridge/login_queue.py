"""Login changes on their way to the broker: which is made next, and which are on its disk.

Pure. `logins` decides the changes; `nodes.gateway.broker_logins` asks the broker. Changes of one
name are merged and the newest counts, so the queue is bounded by the number of identities.

A broker confirms a change a moment before it is on its disk, and a power cut takes such a change
back. So a change is settled only when the broker has answered a request that was sent SETTLED_S
after the confirmation, over the same connection. After a new connection, all changes that are not
settled are made once more.
"""

from __future__ import annotations

from itertools import chain, islice

import msgspec

from gateway.bridge.logins import LoginChange
from gateway.broker.security import User

__all__ = ["SETTLED_S", "LoginQueue", "QueuedChange"]

PARTING_S = 0.3  # time for a device to get the receipt of its own revocation
REMOVALS_AT_ONCE_MAX = 64
SETTLED_S = 2.0  # a broker that lives so long after it confirmed a change has it on disk


class QueuedChange(msgspec.Struct):
    """A change that waits. `user` is None for a removal. `again`: it was confirmed before, over an
    earlier connection."""

    name: str
    user: User | None
    height: int
    since_s: float
    due_s: float
    again: bool = False
    confirmed_s: float = 0.0


class LoginQueue:
    """Times are those of one monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._removals: dict[str, QueuedChange] = {}
        self._additions: dict[str, QueuedChange] = {}
        # Confirmed and not settled, the oldest first.
        self._removed: dict[str, QueuedChange] = {}
        self._added: dict[str, QueuedChange] = {}
        self._connection = 0

    def change(self, change: LoginChange, now_s: float) -> None:
        """Takes one change of the ledger."""
        due_s = now_s + PARTING_S if change.parting else now_s
        fresh = QueuedChange(change.name, change.user, change.height, now_s, due_s)
        if change.user is not None:
            self._additions[change.name] = fresh
            return
        self._additions.pop(change.name, None)
        waiting = self._removals.get(change.name)
        if waiting is None or waiting.again:
            self._removals[change.name] = fresh

    def connected(self, connection: int) -> bool:
        """Notes the number of the connection to the broker. Returns whether it is new: then the
        broker may have had a power cut, and changes that are not settled wait again."""
        if connection == self._connection:
            return False
        self._connection = connection
        for name, each in self._added.items():
            if name not in self._removals:  # a removal that waits is newer
                self._additions.setdefault(name, _marked_again(each))
        for name, each in self._removed.items():
            self._removals.setdefault(name, _marked_again(each))
        self._added, self._removed = {}, {}
        return True

    def adds(self, name: str) -> bool:
        """Whether this login is still to be added."""
        return name in self._additions

    def next(self, now_s: float, *, may_add: bool) -> list[QueuedChange] | None:
        """The next request to the broker: removals, or one addition. An empty list asks for any
        answer, which settles earlier changes. None: there is nothing to ask."""
        due = (each for each in self._removals.values() if each.due_s <= now_s)
        if removals := list(islice(due, REMOVALS_AT_ONCE_MAX)):
            return removals
        if may_add:
            for name, addition in self._additions.items():
                if name not in self._removals:  # a removal that waits is older and goes first
                    return [addition]
        oldest = [next(iter(each.values()), None) for each in (self._added, self._removed)]
        if any(each and each.confirmed_s + SETTLED_S <= now_s for each in oldest):
            return []
        return None

    def answered(
        self, made: list[QueuedChange], asked_s: float, connection: int, now_s: float
    ) -> list[QueuedChange]:
        """The broker has made these changes. It was asked at `asked_s`, and the connection is this
        one now. Returns the changes that count: not those over another connection, and not an
        addition that a removal has overtaken."""
        if connection != self._connection:
            return []
        for unsettled in (self._added, self._removed):
            self._drop_settled(unsettled, asked_s)
        return [each for each in made if self._confirm(each, now_s)]

    def _confirm(self, change: QueuedChange, now_s: float) -> bool:
        waiting = self._removals if change.user is None else self._additions
        if waiting.get(change.name) is not change:
            return False
        del waiting[change.name]
        change.confirmed_s = now_s
        self._added.pop(change.name, None)
        if change.user is None:
            self._removed.pop(change.name, None)  # so that the newest stands last
            self._removed[change.name] = change
        else:
            self._added[change.name] = change
        return True

    def _drop_settled(self, unsettled: dict[str, QueuedChange], asked_s: float) -> None:
        while unsettled:
            name, oldest = next(iter(unsettled.items()))
            if oldest.confirmed_s + SETTLED_S > asked_s:
                break
            del unsettled[name]

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits and all is settled."""
        return not (self._removals or self._additions or self._removed or self._added)

    def settled(self, height: int) -> int:
        """Up to which block the broker has all changes on its disk. `height` is the newest one."""
        waiting = (self._removals, self._additions, self._removed, self._added)
        heights = (each.height for each in chain.from_iterable(map(dict.values, waiting)))
        return min(heights, default=height + 1) - 1


def _marked_again(change: QueuedChange) -> QueuedChange:
    return msgspec.structs.replace(change, due_s=change.since_s, again=True)
