"""A manufacturer made with the openssl command line: what comes out is not of our making."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["Manufacturer"]

DAYS_LONG = 36_500


class Manufacturer:
    """A root in `root`, and device identities below `directory`: key.pem and chain.pem."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.root = directory / "root.pem"
        _openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self._root_key)
        _openssl(
            *("req", "-x509", "-new", "-key", self._root_key, "-subj", f"/CN={directory.name}"),
            *("-days", DAYS_LONG, "-out", self.root),
        )

    @property
    def _root_key(self) -> Path:
        return self.directory / "root.key"

    def make(self, name: str) -> Path:
        """The directory of a new device's identity."""
        made = self.directory / name
        made.mkdir()
        key, request, rules = made / "key.pem", made / "request.pem", made / "rules"
        _openssl(
            *("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-out", key),
        )
        key.chmod(0o600)
        _openssl("req", "-new", "-key", key, "-subj", f"/CN={name}", "-out", request)
        rules.write_text("basicConstraints=critical,CA:FALSE\n")
        _openssl(
            *("x509", "-req", "-in", request, "-CA", self.root, "-CAkey", self._root_key),
            *("-CAcreateserial", "-days", DAYS_LONG, "-extfile", rules, "-out", made / "chain.pem"),
        )
        return made


def _openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)
