"""Runs on a host: copies a replica's ledger without stopping anybody.   FROM TO"""

from __future__ import annotations

import sys
from pathlib import Path

from nodes.replica.ledger_copy import copy_ledger

__all__: list[str] = []

if __name__ == "__main__":
    copy_ledger(Path(sys.argv[1]), Path(sys.argv[2]))
