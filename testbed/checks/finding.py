"""What a checker found to be wrong, and exactly where."""

from __future__ import annotations

import msgspec

__all__ = ["Finding"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """`field` of the block at `height` in `file` is wrong; height 0 is the file as a whole."""

    file: str
    height: int
    field: str
    detail: str

    def __str__(self) -> str:
        where = f"height {self.height}, {self.field}" if self.height else self.field
        return f"{self.file}: {where}: {self.detail}"
