"""Answers to requests that are final, kept for those who ask again; bounded in bytes.

Without it, one replayed request would cost the gateway the decoding and hashing of a whole block.
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

__all__ = ["Answer", "AnswerCache"]

ANSWER_BYTES_MAX = 16 * 1024 * 1024
_ENTRY_BYTES = 512  # about what one entry takes beside its payload


class Answer(msgspec.Struct, frozen=True):
    """`payload` is a receipt, or an `Admitted` if the record made a key an identity. `epoch` is
    the epoch of its block, `node` the one that its record is about."""

    node: bytes
    is_welcome: bool
    payload: bytes
    epoch: int


class AnswerCache:
    """Answers by request id, and proofs that a key has ended by its node id. The one that was used
    least recently makes room."""

    def __init__(self, bytes_max: int = ANSWER_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self.bytes = 0

    def get(self, request: bytes) -> Answer | None:
        answer = self._answers.get(request)
        if answer is not None:
            self._answers.move_to_end(request)
        return answer

    def put(self, request: bytes, answer: Answer) -> None:
        if request in self._answers:
            return
        self._answers[request] = answer
        self.bytes += _size(answer)
        while self.bytes > self._bytes_max:
            _, dropped = self._answers.popitem(last=False)
            self.bytes -= _size(dropped)


def _size(answer: Answer) -> int:
    return _ENTRY_BYTES + len(answer.payload)
