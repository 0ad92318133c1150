"""Checks that a bundle is complete, and that its derived files follow from its raw files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.bundle import Bundle
from testbed.errors import ConfigurationError
from testbed.manifest import code_sha256
from testbed.report.archive import SUMS, digest, files, is_derived, read_sums
from testbed.report.derive import rebuild

__all__ = ["verify_bundle"]


def verify_bundle(bundle: Bundle) -> Iterator[str]:
    """What is wrong with a bundle, one line each: files that were changed, lost or added; inputs
    that are not what was run; derived files that do not follow from the raw files."""
    sums = read_sums(bundle)
    if not sums:
        yield f"no {SUMS}: the campaign did not end, or another version made it"
    there = set(files(bundle))
    for name, wanted in sums.items():
        if name not in there:
            yield f"{name} is missing"
        elif digest(bundle.path / name) != wanted:
            yield f"{name} was changed"
    yield from (f"{name} was added" for name in sorted(there - sums.keys()) if sums)
    manifest = bundle.manifest
    for entry in manifest.runs:
        if not entry.complete:
            why = f" ({entry.reason})" if entry.reason else ""
            yield f"{entry.path} is {entry.state}{why}; fix: testbed resume {bundle.typed}"
    yield from (f"{name} is not what was run" for name in bundle.altered(manifest))
    if manifest.code_sha256 == code_sha256():
        yield from _rederived(bundle, there, {*sums})
    # Another version may judge and draw differently: then only the sums say something.


def _rederived(bundle: Bundle, names: set[str], summed: set[str]) -> Iterator[str]:
    """Derived files that differ when they are rebuilt in a copy of the bundle."""
    with TemporaryDirectory(prefix="verify-") as scratch:
        needed = sum((bundle.path / n).stat().st_size for n in names)
        free = shutil.disk_usage(scratch).free
        if needed > free:
            yield f"nothing can be derived: a copy needs {needed} bytes, {scratch} has {free}"
            return
        # Under another name: what is derived does not depend on it.
        copy = Bundle(Path(shutil.copytree(bundle.path, Path(scratch) / "copy", symlinks=True)))
        try:
            rebuild(copy, pdf=any(name.endswith(".pdf") for name in names))
        except ConfigurationError as error:
            why = str(error).replace(str(copy.path), str(bundle.path))
            yield f"nothing can be derived from it: {why}"
            return
        for name in sorted(filter(is_derived, names)):
            path = copy.path / name
            if not path.exists() or path.read_bytes() != (bundle.path / name).read_bytes():
                yield f"{name} is not what its raw files give"
        if not summed:
            return  # never sealed: said already
        for name in sorted({*filter(is_derived, files(copy))} - names - summed):
            yield f"{name} is missing, and not in {SUMS}"
