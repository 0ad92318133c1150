"""What a host tells about itself when it is asked, before anything of ours is on it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from testbed.hosts.port import Host, HostFault

__all__ = ["STAMP", "TREE", "Facts", "Stamp", "probe"]

STAMP = "env/stamp.json"
"""Below the root: what the environment there was made from."""

TREE = """
import hashlib, os
def tree(top):
    # Names and sizes of all that was brought; what Python compiled for itself may come and go.
    seen = []
    for folder, folders, files in os.walk(top):
        folders[:] = [name for name in folders if name != "__pycache__"]
        paths = [os.path.join(folder, name) for name in files if name != "stamp.json"]
        seen += ["%s %d" % (path, os.lstat(path).st_size) for path in paths]
    return hashlib.sha256("\\n".join(sorted(seen)).encode("utf-8", "replace")).hexdigest()
"""
"""Python for the host: `tree("env")` tells whether files of the environment are missing."""

_NO_PYTHON = 9

# The newest Python that a host has tells about itself and the host; one round trip.
_PROBE_SHELL = """
for python in python3 python3.14 python3.13 python3.12 python3.11; do
  if "$python" -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    exec "$python" -c "$1"
  fi
done
echo "no Python 3.11 or newer: $(python3 --version 2>&1 | head -n 1)" >&2
exit 9
"""
_PROBE = (
    TREE
    + """
import importlib.util, json, os, platform, shutil, sys
from pathlib import Path
def read(path):
    try:
        return Path(path).read_text()
    except OSError:
        return ""
release = [l.split("=", 1)[1].strip('"') for l in read("/etc/os-release").splitlines()
           if l.startswith("PRETTY_NAME=")]
libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in os.confstr_names else ""
print(json.dumps({
    "system": release[0] if release else platform.system(),
    "machine": platform.machine(),
    "bits": 64 if sys.maxsize > 2**32 else 32,
    "python": "%d.%d" % sys.version_info[:2],
    "interpreter": sys.executable,
    "glibc": (libc or "").split(" ")[-1],
    "magic": importlib.util.MAGIC_NUMBER.hex(),
    "disk_free_mb": shutil.disk_usage(".").free // 2**20,
    "stamp": read("env/stamp.json") or "{}",
    "tree": tree("env"),
}))
"""
)


class Stamp(msgspec.Struct, frozen=True):
    """What an environment was made from: keys of the two archives, and the host's interpreter;
    and `tree`, what it was when it had proved itself."""

    dependencies: str = ""
    code: str = ""
    interpreter: str = ""
    tree: str = ""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host told about itself. Without its `tree` an environment is `damaged`, and its stamp
    does not count."""

    system: str
    machine: str
    python: str
    interpreter: str
    glibc: str
    magic: str
    disk_free_mb: int
    stamp: Stamp
    damaged: bool = False


def probe(host: Host) -> Facts:
    """Ask a host what it is. Raises LabFault with the fix when it has no usable Python."""
    result = host.run(["sh", "-c", _PROBE_SHELL, "probe", _PROBE], check=False)
    if result.exit_code == _NO_PYTHON:
        fix = "on the host: sudo apt-get install python3 (Debian 12, Raspberry Pi OS 12 or newer)"
        raise HostFault(host.name, "probe", result.stderr.strip(), fix)
    try:
        raw: dict[str, Any] = json.loads(result.stdout)
        bits, tree = raw.pop("bits"), raw.pop("tree")
        raw["stamp"] = msgspec.json.decode(raw["stamp"], type=Stamp)
        facts = Facts(**raw)
    except (ValueError, TypeError, KeyError, msgspec.ValidationError) as error:
        said = result.stderr.strip() or result.stdout
        raise HostFault(host.name, "probe", f"strange answer ({error}): {said[:500]}") from error
    if bits != 64:
        fix = "install a 64-bit system on it"
        raise HostFault(host.name, "probe", f"a 32-bit Python ({facts.machine})", fix)
    if facts.stamp.code and facts.stamp.tree != tree:
        return replace(facts, stamp=Stamp(), damaged=True)
    return facts
