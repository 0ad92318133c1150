"""The tricks of a lying replica by name, their settings, and the config of its process."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from nodes.config import ReplicaConfig

__all__ = ["Byzantine", "ByzantineConfig", "Trick"]

ReplicaIds = Annotated[
    tuple[Annotated[int, msgspec.Meta(ge=0, le=2**31)], ...], msgspec.Meta(max_length=1000)
]


class Trick(StrEnum):
    """The one list of what a lying replica does: in configs, campaigns, the simulator and reports.

    Each is one function of `tricks.ACTS`.
    """

    SILENT = "silent"
    DELAY = "delay"
    CENSOR = "censor"
    WITHHOLD = "withhold"
    PARTIAL = "partial"
    BAD_SIGNATURE = "bad-signature"
    FLOOD = "flood"
    SPAM_VOTES = "spam-votes"
    OLD_MESSAGES = "old-messages"
    EQUIVOCATE = "equivocate"
    WRONG_DIGEST = "wrong-digest"
    WRONG_FIELD = "wrong-field"
    REPROPOSAL = "reproposal"
    BAD_BATCH = "bad-batch"
    FORGE_VIEW_CHANGE = "forge-view-change"
    FORGE_NEW_VIEW = "forge-new-view"
    FORGE_CHECKPOINT = "forge-checkpoint"
    LYING_TRANSFER = "lying-transfer"
    DRIBBLE = "dribble"
    LATE_EQUIVOCATION = "late-equivocation"
    CONSPIRE = "conspire"


class Byzantine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Makes a replica play one trick.

    `message` narrows it to one kind of message (its tag, as "PP"). `delay_ms` belongs to "delay"
    and "dribble", `client` (a node id) narrows "censor", `accomplices` and `deceived` (replica ids)
    belong to "conspire". `probability` and `seed` make it intermittent and repeatable. It acts from
    `start_s` to `stop_s`, in seconds of the process's life.
    """

    trick: Trick
    message: str | None = None
    delay_ms: Annotated[int, msgspec.Meta(ge=0, le=600_000)] = 0
    client: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")] | None = None
    accomplices: ReplicaIds = ()
    deceived: ReplicaIds = ()
    probability: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    seed: int = 0
    start_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    stop_s: Annotated[float, msgspec.Meta(ge=0)] | None = None


class ByzantineConfig(ReplicaConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """It lies from start to end."""

    byzantine: Byzantine
