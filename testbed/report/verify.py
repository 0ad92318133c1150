"""Checks that a bundle is complete, and that its derived files follow from its raw files."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from testbed.bundle import Bundle, RunFolder
from testbed.checks.evidence import Evidence
from testbed.errors import ConfigurationError
from testbed.hosts.files import digest
from testbed.manifest import Manifest, RunEntry, code_sha256
from testbed.report.archive import SUMS, files, is_derived, read_sums
from testbed.report.derive import rebuild

__all__ = ["verify_bundle"]


def verify_bundle(bundle: Bundle) -> Iterator[str]:
    """What is wrong with a bundle, one line each: files that were changed, lost or added; runs
    that lack what the manifest says of them; inputs that are not what was run; derived files that
    do not follow from the raw files."""
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
    is_rebuilt = manifest.code_sha256 == code_sha256()
    lacking = set(_promised(manifest, there, derived=bool(sums) and not is_rebuilt)) - there
    yield from (f"{name} is missing, and not in {SUMS}" for name in sorted(lacking - sums.keys()))
    for run in bundle.runs:
        entry = run.entry
        if not entry.complete:
            why = f" ({entry.reason})" if entry.reason else ""
            yield f"{entry.path} is {entry.state}{why}; fix: testbed resume {bundle.typed}"
        elif not _has_files(entry, there):
            yield f"{entry.path} is {entry.state}, but nothing of it is there"
        elif entry.state == "done":
            yield from (f"{entry.path} is done, but lacks {each}" for each in _uncollected(run))
        for attempt in entry.attempts:
            if not (bundle.path / attempt.path).is_dir():
                yield f"{attempt.path} is missing"
    if not lacking & {*manifest.inputs}:
        yield from (f"{name} is not what was run" for name in bundle.altered(manifest))
    if is_rebuilt:
        yield from _rederived(bundle, there, {*sums})
    # Another version may judge and draw differently: then only the sums say something.


def _promised(manifest: Manifest, there: set[str], *, derived: bool) -> Iterator[str]:
    """The files that every bundle with this manifest must have. Other files depend on the lab, or
    on the version that made them. Runs without any file are left out."""
    yield from manifest.inputs
    if derived:
        yield from ("summary.json", "report.html", "junit.xml")
    for entry in manifest.runs:
        if entry.complete and _has_files(entry, there):
            yield f"{entry.path}/genesis.json"
            yield f"{entry.path}/raw/run.jsonl"
            if derived:
                yield f"{entry.path}/summary.json"
                yield f"{entry.path}/report.html"


def _has_files(entry: RunEntry, there: set[str]) -> bool:
    return any(name.startswith(f"{entry.path}/") for name in there)


def _uncollected(run: RunFolder) -> tuple[str, ...]:
    """Logs and ledgers without which a run would be invalid, not done."""
    try:
        return Evidence(run).uncollected
    except ConfigurationError:  # a schedule of another version, or none: that is said already
        return ()


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
