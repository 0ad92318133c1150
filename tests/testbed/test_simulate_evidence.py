"""The judge of evidence can say no: it reports what proves nothing and accepts what proves."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from testbed.simulate.evidence import Accusation, fault_of

_encode = msgspec.msgpack.encode
A, B = b"a" * 32, b"b" * 32


def _frame(*message: object) -> bytes:
    return _encode([_encode(message), b"signed by 1", b""])


def _view_change(sender: int, stable: int, *prepared: tuple[int, int, bytes]) -> bytes:
    proofs = [
        [[_encode(["PP", 0, 0, view, seq, digest]), b"", b""], []] for view, seq, digest in prepared
    ]
    return _encode(["VC", 0, sender, 3, stable, A, [], proofs])


def _new_view(digest: bytes) -> bytes:
    votes = [_view_change(0, 8, (1, 9, A)), _view_change(2, 8, (2, 9, B)), _view_change(3, 4)]
    order = [_encode(["PP", 0, 1, 3, 9, digest])]
    return _frame("NV", 0, 1, 3, [[v, b"", b""] for v in votes], [[o, b"", b""] for o in order])


def _head(height: int) -> bytes:
    return b"head %d" % height


def _heads(last: int, proven: int, *, of: int = 0) -> bytes:
    """The heads from 1 to `last`, the numbers of which are `of` too low, under a checkpoint."""
    checkpoints = [[_encode(["CP", 0, sender, proven, A]), b"", b""] for sender in (0, 2, 3)]
    return _frame("DH", 0, 1, 1, [_head(n - of) for n in range(1, last + 1)], checkpoints)


def _judge(reason: str, *frames: bytes, signed: bool = True) -> str | None:
    return fault_of(
        Accusation(culprit=1, reason=reason, evidence=list(frames)),
        verify=lambda body, signature: signed,
        chain=lambda height: hashlib.sha256(_head(height)).digest(),
        log_window=4,
    )


@pytest.mark.parametrize(
    ("reason", "frames"),
    [
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A), _frame("C", 0, 1, 2, 5, B))),
        ("equivocation-checkpoint", (_frame("CP", 0, 1, 8, A), _frame("CP", 0, 1, 8, B))),
        ("bad-new-view", (_new_view(A),)),
        ("lying-heads", (_heads(2, 2, of=1),)),
        ("lying-heads", (_heads(2, 4),)),
        ("bad-view-change", (_encode([_view_change(1, 8, (0, 13, A)), b"", b""]),)),
    ],
)
def test_what_contradicts_itself_or_the_rules_holds(reason: str, frames: tuple[bytes, ...]) -> None:
    assert _judge(reason, *frames) is None
    assert _judge(reason, *frames, signed=False) == "the culprit did not sign it"


@pytest.mark.parametrize(
    ("reason", "frames"),
    [
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A), _frame("C", 0, 1, 2, 5, A))),
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A), _frame("C", 0, 1, 3, 5, B))),
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A), _frame("C", 1, 1, 2, 5, B))),
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A), _frame("P", 0, 1, 2, 5, B))),
        ("equivocation-commit", (_frame("C", 0, 1, 2, 5, A),)),
        ("equivocation-commit", (_frame("C", 0, 2, 2, 5, A), _frame("C", 0, 2, 2, 5, B))),
        ("bad-new-view", (_new_view(B),)),
        ("lying-heads", (_heads(2, 2),)),
        ("bad-view-change", (_encode([_view_change(1, 8, (0, 12, A)), b"", b""]),)),
        ("bad-manners", (_frame("C", 0, 1, 2, 5, A),)),
    ],
)
def test_what_an_honest_replica_may_have_said_proves_nothing(
    reason: str, frames: tuple[bytes, ...]
) -> None:
    assert _judge(reason, *frames) is not None
