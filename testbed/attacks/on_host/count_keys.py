"""Runs on a host: prints how many private keys some files contain.   FILE...

It looks for the bytes with which each encoding of such a key begins: PEM, PKCS #8, SEC 1 (P-256).
"""

from __future__ import annotations

import sys
from pathlib import Path

__all__: list[str] = []

BEGINNINGS = (
    b"PRIVATE KEY-----",
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107046d306b0201010420"),
    bytes.fromhex("30770201010420"),
)

if __name__ == "__main__":
    files = [each for name in sys.argv[1:] for each in Path().glob(f"{name}*")]
    sys.stdout.write(str(sum(f.read_bytes().count(b) for f in files for b in BEGINNINGS)))
