"""Counts messages and bytes of each kind, sent to and received from each party.

The kind is read from the frame's first bytes, which have the tag in every message of
`chain.pbft.messages`; the rest is not decoded. A frame without a known tag is "other", so a
stranger cannot make the table grow.
"""

from __future__ import annotations

from typing import Final, get_args

from chain.pbft.messages import ClientMessage, ReplicaMessage
from nodes.ports import Party

__all__ = ["OTHER", "Tally", "kind_of"]

OTHER: Final = "other"
_KINDS: Final[dict[bytes, str]] = {
    str(each.__struct_config__.tag).encode(): each.__name__
    for each in (*get_args(ReplicaMessage), *get_args(ClientMessage))
}
_SIGNED = 0x93  # MessagePack: an array of three, as `Signed` is
_BODY_AT: Final = {0xC4: 3, 0xC5: 4, 0xC6: 6}  # MessagePack: bytes with a length of 1, 2, 4 bytes
_TEXT_MAX = 0x1F


def kind_of(frame: bytes) -> str:
    """The name of the message's type. Never raises."""
    at = 0
    if len(frame) > 1 and frame[0] == _SIGNED:
        at = _BODY_AT.get(frame[1], 0)
    tag = frame[at + 1 : at + 2]  # after the head of an array: a text of known length
    return _KINDS.get(frame[at + 2 : at + 2 + (tag[0] & _TEXT_MAX)], OTHER) if tag else OTHER


class Tally:
    """`sent` and `received`: messages and bytes by party and kind."""

    def __init__(self) -> None:
        self.sent: dict[tuple[Party, str], list[int]] = {}
        self.received: dict[tuple[Party, str], list[int]] = {}

    def add(self, table: dict[tuple[Party, str], list[int]], party: Party, frame: bytes) -> None:
        """`table` is `sent` or `received`."""
        key = (party, kind_of(frame))
        counts = table.get(key)
        if counts is None:
            counts = table[key] = [0, 0]
        counts[0] += 1
        counts[1] += len(frame)

    def as_fields(self) -> dict[str, dict[str, list[int]]]:
        """The counts as fields of an event: "party/kind" -> [messages, bytes]."""
        return {
            name: {f"{party}/{kind}": counts for (party, kind), counts in table.items()}
            for name, table in (("sent", self.sent), ("received", self.received))
        }
