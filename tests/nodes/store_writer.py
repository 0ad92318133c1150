"""Writes blocks and facts until it is killed, and says each height after committing it."""

from __future__ import annotations

import sys
from pathlib import Path

from chain.pbft.effects import Durable
from tests.nodes.store_support import sqlite, stored


def main(directory: Path) -> None:
    store = sqlite(directory)
    height = store.height
    while True:
        height += 1
        store.put_block(height, stored(height))
        store.put_fact(Durable("prepared", 0, height, b"certificate %d" % height))
        store.forget(height - 5)
        store.commit()
        sys.stdout.write(f"{height}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
