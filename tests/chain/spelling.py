"""Messages in the notation of the paper, for transcripts."""

from __future__ import annotations

from chain.pbft.messages import (
    Bodies,
    Checkpoint,
    Commit,
    FetchBodies,
    FetchHeads,
    Heads,
    NewView,
    Prepare,
    PrePrepare,
    Proposal,
    ReplicaMessage,
    StatusMessage,
    ViewChange,
    decode_body,
)

__all__ = ["SPELLING", "describe"]

SPELLING = {
    "PrePrepare": "PRE-PREPARE",
    "ViewChange": "VIEW-CHANGE",
    "NewView": "NEW-VIEW",
    "StatusMessage": "STATUS",
    "FetchHeads": "FETCH-HEADS",
    "FetchBodies": "FETCH-BODIES",
    "FetchBatch": "FETCH-BATCH",
}


def describe(message: ReplicaMessage, contents: dict[bytes, str]) -> str:
    """One message in the paper's notation."""
    name = SPELLING.get(type(message).__name__, type(message).__name__.upper())
    match message:
        case PrePrepare() | Prepare() | Commit():
            null = Proposal.digest_of(Proposal.null(message.seq).encode())
            what = "null" if message.digest == null else contents.get(message.digest, "?")
            return f"{name} v{message.view} n{message.seq} {what} of {message.sender}"
        case Checkpoint():
            return f"{name} n{message.seq} of {message.sender}"
        case ViewChange():
            proofs = [decode_body(proof.pre_prepare.body) for proof in message.prepared]
            proven = [entry.seq for entry in proofs if isinstance(entry, PrePrepare)]
            detail = f"h{message.stable_seq} P{proven}"
            return f"{name} v{message.view} {detail} of {message.sender}"
        case NewView():
            votes = [decode_body(entry.body).sender for entry in message.view_changes]
            opened = [decode_body(entry.body) for entry in message.pre_prepares]
            ordered = ", ".join(
                describe(entry, contents).split()[2] + " " + contents.get(entry.digest, "null")
                for entry in opened
                if isinstance(entry, PrePrepare)
            )
            return f"{name} v{message.view} V{votes} O[{ordered}]"
        case StatusMessage():
            state = "active" if message.active else "pending"
            detail = f"h{message.stable_seq} e{message.executed}"
            return f"{name} v{message.view} {state} {detail}"
        case FetchHeads():
            return f"{name} from {message.start}"
        case Heads():
            return f"{name} {message.start}..{message.start + len(message.heads) - 1}"
        case FetchBodies():
            return f"{name} {message.start}..{message.stop}"
        case Bodies():
            return f"{name} {message.start}..{message.start + len(message.blocks) - 1}"
        case _:
            return name
