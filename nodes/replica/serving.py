"""Decides which peers' questions are answered now.

Blocks, heads and batches come from the store. A question of 100 bytes may cost a megabyte of
reading, encoding and signing, and a peer may send 16 questions in one turn. So questions wait here:
each turn answers a share of them, peers take turns, and each peer has a budget of bytes per
interval. Questions beyond QUESTIONS_MAX are dropped; a peer that still needs an answer asks again.
"""

from __future__ import annotations

from collections import deque

from chain.pbft.effects import SendBatch, ServeBodies, ServeHeads

__all__ = [
    "PEER_BYTES_MAX",
    "QUESTIONS_MAX",
    "QUESTION_COST_BYTES",
    "TURN_BYTES_MAX",
    "Serve",
    "Serving",
]

QUESTIONS_MAX = 256  # of one peer that wait
QUESTION_COST_BYTES = 1024  # what any answer counts beside its bytes
TURN_BYTES_MAX = 256 * 1024  # a turn begins no further answer above this: one large, or many small
PEER_BYTES_MAX = 4 * 1024 * 1024  # to one peer in one interval

Serve = ServeHeads | ServeBodies | SendBatch


class Serving:
    """`interval_us`: how often each peer gets its budget again."""

    def __init__(self, interval_us: int) -> None:
        self._interval_us = interval_us
        self._began_us = 0
        self._questions: dict[int, deque[Serve]] = {}  # the peer whose turn it is comes first
        self._served: dict[int, int] = {}  # bytes, in this interval

    def __bool__(self) -> bool:
        """Whether any question waits."""
        return bool(self._questions)

    def put(self, question: Serve) -> None:
        waiting = self._questions.setdefault(question.to, deque())
        if len(waiting) < QUESTIONS_MAX:
            waiting.append(question)

    def take(self, now_us: int) -> Serve | None:
        """The next question to be answered now; None if there is none, or no budget for any."""
        if not 0 <= now_us - self._began_us < self._interval_us:
            self._began_us = now_us
            self._served.clear()
        for peer, waiting in self._questions.items():
            if self._served.get(peer, 0) < PEER_BYTES_MAX:
                question = waiting.popleft()
                del self._questions[peer]
                if waiting:
                    self._questions[peer] = waiting
                return question
        return None

    def answered(self, peer: int, size: int) -> None:
        self._served[peer] = self._served.get(peer, 0) + size + QUESTION_COST_BYTES

    def delay_us(self, now_us: int) -> int | None:
        """How long until a question may be answered; None if none waits."""
        if not self._questions:
            return None
        if any(self._served.get(peer, 0) < PEER_BYTES_MAX for peer in self._questions):
            return 0
        return max(0, self._began_us + self._interval_us - now_us)
