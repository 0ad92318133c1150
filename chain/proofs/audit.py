"""The offline verifier: checks a stored chain from genesis and names the first defect.

Everything is recomputed: links, roots, every signature of every record, what each operation leads
to, and the replicas' signatures over heads. Reading the files is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from chain.block import Block
from chain.errors import PeerFault
from chain.genesis import Genesis
from chain.keys import Es256, Scheme
from chain.ledger.ledger import Ledger
from chain.proofs.proof import HeadSeal, check_seals

__all__ = ["Checked", "Defect", "verify_chain"]


class Defect(Exception):
    """The first thing that is wrong: `field` of the block at `height`."""

    def __init__(self, height: int, field: str, detail: str) -> None:
        super().__init__(f"height {height}: {field}: {detail}")
        self.height = height
        self.field = field


class Checked(msgspec.Struct, frozen=True):
    """Block `height` is sound. `proven` is the highest block so far that f+1 signatures make final:
    they vouch for all below. The last block's bytes are certain only if `proven` reaches it.
    `pruned` records lack payload and device signature: what they say rests on `proven`.
    """

    height: int
    records: int
    proven: int
    pruned: int


def verify_chain(
    genesis: Genesis,
    blocks: Iterable[Block],
    seals: Callable[[int], Sequence[HeadSeal]],
    scheme: Scheme | None = None,
) -> Iterator[Checked]:
    """Checks block after block, from height 1. `seals(height)` gives the stored signatures over the
    head of that height (none, or at least f+1 of the epoch that decided it). Raises Defect."""
    verifier = scheme or Es256()
    ledger = Ledger(genesis, verifier)
    proven = 0
    for height, block in enumerate(blocks, start=1):
        membership = ledger.membership
        try:
            stored = sorted(seals(height))
            if stored:
                check_seals(block.head, stored, membership, verifier)
                proven = height
            ledger.append(block, check_signatures=True)
        except PeerFault as fault:
            raise Defect(height, _field(fault), str(fault)) from fault
        pruned = sum(not record.item for record in block.records)
        yield Checked(height, len(block.records), proven, pruned)


def _field(fault: PeerFault) -> str:
    """The field at fault: the ledger's messages begin with it, other codes say it themselves."""
    if fault.code in ("bad-link", "bad-body", "bad-execution"):
        message = str(fault).partition(": ")[2]
        return message.partition(" of height")[0]
    return {"bad-seal": "head signature", "bad-head": "head"}.get(fault.code, "record item")
