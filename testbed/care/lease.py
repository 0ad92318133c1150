"""Who may use a host now: a lease on the host itself, with an owner, an end and a heartbeat.

The file `lease` in a host's root is read and written under `flock` there (`lease.sh`), so two labs,
users or machines that share a host cannot both have it. A lease is timed by the host's uptime, so
changes of its clock do not matter. `Lease` renews it in the background; the lease of a dead owner
ends by itself.

The lease of a run belongs to its process. A lease made with `testbed lock` belongs to a person,
whose own commands go on under it.
"""

from __future__ import annotations

import getpass
import json
import os
import secrets
import shlex
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Self

from testbed.errors import LockedError, TestbedError
from testbed.fleet import at_once
from testbed.hosts.guard import is_alive
from testbed.hosts.port import Host, HostFault
from testbed.programs import shell

__all__ = [
    "Holder",
    "Lease",
    "break_lease",
    "claim",
    "claim_for",
    "holder",
    "me",
    "release",
    "require_free",
]

RUN_LEASE_S = 60.0
"""How long a host stays taken after its owner's last sign of life."""

SHORT_LEASE_S = 900.0

_HEARTBEATS = 4  # in one lease time: all of them must fail before the lease ends
_ANSWER_S = 20.0
_REFUSED = 55
_BROKEN = 56
_NOBODY = 44


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a host. `pid` 0: a person (`testbed lock`). `left_s`: what was left of the lease when
    we asked."""

    who: str
    pid: int
    what: str
    left_s: int = 0

    def __str__(self) -> str:
        process = f", process {self.pid}" if self.pid else ""
        return f"{self.who} ({self.what}{process}), {self.left_s} s left"

    @property
    def is_gone(self) -> bool:
        """Whether the holder was a process of this user on this machine, and has ended."""
        return bool(self.pid) and self.who == me().who and not is_alive(self.pid)

    @property
    def is_mine(self) -> bool:
        """Whether it is this person's own lock."""
        return self.is_lock_of(me())

    def is_lock_of(self, other: Holder) -> bool:
        """Whether it is the lock of the person who is, or runs, `other`."""
        return not self.pid and self.who == other.who


def me(*, person: bool = False) -> Holder:
    """This process, or the person who runs it."""
    who = f"{getpass.getuser()}@{socket.gethostname()}"
    command = shlex.join(["testbed", *sys.argv[1:]])[:200]
    return Holder(who, 0 if person else os.getpid(), command)


def holder(host: Host) -> Holder | None:
    """Who has this host now."""
    code, said = _ask(host, "show")
    return None if code == _NOBODY else _parse(host, said)[1]


def claim(host: Host, token: str, owner: Holder, lease_s: float, *, renew: bool = False) -> None:
    """Take a host, or renew the lease of `token`. Raises LockedError if somebody else has the host,
    or has taken it over before it is renewed."""
    me_said = json.dumps({"who": owner.who, "pid": owner.pid, "what": owner.what})
    length = str(round(lease_s))
    code, said = _ask(host, "renew" if renew else "claim", token, length, me_said, "")
    if code == _BROKEN:
        raise LockedError(f"{host.name} was taken over (testbed unlock --takeover -i FILE)")
    if code != _REFUSED:
        return
    theirs, present = _parse(host, said)
    if present.is_lock_of(owner) and owner.pid:
        return  # this person's own lock covers it
    if present.is_gone or present.is_lock_of(owner):
        code, said = _ask(host, "claim", token, length, me_said, theirs)
        if code != _REFUSED:
            return
        _, present = _parse(host, said)
    raise LockedError(f"{host.name} is taken by {present}")


def require_free(host: Host) -> None:
    """Raises LockedError if somebody else has the host. A person's own lock does not stop that
    person. Takes no lease."""
    present = holder(host)
    if present is not None and not (present.is_mine or present.is_gone):
        raise LockedError(f"{host.name} is taken by {present}")


def release(host: Host, token: str) -> None:
    """End the lease of `token`, if it has one."""
    _ask(host, "release", token)


def break_lease(host: Host, *, takeover: bool = False) -> None:
    """End anybody's lease. At a takeover its owner is notified. Restore the host first."""
    _ask(host, "take-over" if takeover else "break")


@contextmanager
def claim_for(host: Host, lease_s: float = SHORT_LEASE_S) -> Iterator[None]:
    """Take one host for work that is shorter than `lease_s`. Raises LockedError."""
    token = secrets.token_hex(16)
    claim(host, token, me(), lease_s)
    try:
        yield
    finally:
        with suppress(TestbedError):  # must not hide the error of the work
            release(host, token)


class Lease:
    """Takes all of these hosts or none, for the length of the `with` block.

    `on_lost` is called when a host is lost: somebody took it over, or it did not answer for the
    whole lease time.
    """

    def __init__(self, hosts: Mapping[str, Host], lease_s: float = RUN_LEASE_S) -> None:
        self._hosts = hosts
        self._lease_s = lease_s
        self._token = secrets.token_hex(16)
        self._owner = me()
        self._stop = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        self.on_lost: Callable[[str], None] = lambda _: None

    def __enter__(self) -> Self:
        problems = self._each(lambda host: claim(host, self._token, self._owner, self._lease_s))
        if problems:
            self._each(lambda host: release(host, self._token))
            locked = [p for p in problems if isinstance(p, LockedError)]
            if not locked:
                raise problems[0]
            fix = "wait, ask the owner, or: testbed unlock --takeover -i FILE (restores first)"
            raise LockedError("\n".join(map(str, locked)) + f"\n  fix: {fix}")
        self._heart.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._heart.join()
        self._each(lambda host: release(host, self._token))

    def _beat(self) -> None:
        def renew(host: Host) -> None:
            claim(host, self._token, self._owner, self._lease_s, renew=True)

        failed = 0
        while not self._stop.wait(self._lease_s / _HEARTBEATS):
            problems = self._each(renew)
            failed = failed + 1 if problems else 0
            taken = [problem for problem in problems if isinstance(problem, LockedError)]
            if taken or failed >= _HEARTBEATS:
                self.on_lost(str((taken or problems)[0]))
                return

    def _each(self, work: Callable[[Host], None]) -> list[TestbedError]:
        def one(host: Host) -> TestbedError | None:
            try:
                work(host)
            except TestbedError as error:
                return error
            return None

        return [error for error in at_once(one, self._hosts.values()) if error is not None]


def _ask(host: Host, *arguments: str) -> tuple[int, str]:
    """Returns the exit code (0, refused, broken or nobody) and what was printed."""
    result = host.run(shell("care/lease.sh", *arguments), timeout_s=_ANSWER_S, check=False)
    if result.exit_code not in (0, _REFUSED, _BROKEN, _NOBODY):
        raise HostFault(host.name, "lease", result.stderr.strip() or "no answer")
    return result.exit_code, result.stdout


def _parse(host: Host, said: str) -> tuple[str, Holder]:
    try:
        token, left, text = said.split(" ", 2)
        return token, Holder(**json.loads(text), left_s=int(left))
    except (ValueError, TypeError) as error:
        fix = f"remove {host.root}/lease there if nobody uses the lab"
        raise HostFault(host.name, "read lease", f"damaged: {said[:200]!r}", fix) from error
