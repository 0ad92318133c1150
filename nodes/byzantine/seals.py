"""False seals: a replica tells gateways of blocks that do not exist. Also for the simulator."""

from __future__ import annotations

import msgspec

from chain.block import Block, Head
from chain.keys import Signer
from chain.pbft.messages import ClientMessage, Seal, encode

__all__ = ["false_seal"]

_messages = msgspec.msgpack.Decoder(ClientMessage)


def false_seal(frame: bytes, signer: Signer) -> bytes:
    """Replaces a seal by one of a head with another time, correctly signed. Other frames stay."""
    seal = _messages.decode(frame)
    if not isinstance(seal, Seal):
        return frame
    true = Head.decode(seal.head)
    head = msgspec.structs.replace(true, time_us=true.time_us - 1).encode()
    block = seal.block and Block(head, seal.block.records)
    return encode(
        msgspec.structs.replace(seal, head=head, signature=signer.sign(head), block=block)
    )
