"""The types of fields that several formats share, with their limits. Sizes are bytes.

The genesis document, signed operations, records and replica messages use them.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from chain.keys import DIGEST_BYTES, SIGNATURE_BYTES

__all__ = [
    "FRAME_BYTES_MAX",
    "Counter",
    "Der",
    "DeviceKind",
    "Hash",
    "Kinds",
    "Privilege",
    "ReplicaId",
    "Services",
    "Signature",
    "Spki",
    "Text",
    "Time",
]

# One frame on a replica link; larger ones are refused before they are read. The genesis refuses
# parameters with which an honest replica would have to send more.
FRAME_BYTES_MAX = 8 * 1024 * 1024

Hash = Annotated[bytes, msgspec.Meta(min_length=DIGEST_BYTES, max_length=DIGEST_BYTES)]
Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
# An envelope states the length of its key in one byte.
Spki = Annotated[bytes, msgspec.Meta(min_length=32, max_length=255)]
ReplicaId = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Counter = Annotated[int, msgspec.Meta(ge=1, le=2**62)]
Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]  # microseconds since 1970
Privilege = Annotated[int, msgspec.Meta(ge=0, le=255)]
Text = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]  # characters
DeviceKind = Literal["mobile", "environment"]
Kinds = Annotated[tuple[DeviceKind, ...], msgspec.Meta(min_length=1, max_length=2)]
Der = Annotated[bytes, msgspec.Meta(min_length=1, max_length=2048)]  # a certificate
Services = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1, max_length=16)]
