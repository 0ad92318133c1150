"""Writes the files that a bundle needs for other people: README.md, ro-crate-metadata.json and
SHA256SUMS.

The sums protect against damage, not against a person who changes the sums too. Ledgers protect
themselves (`testbed ledger verify`). The sums of measured files are written when a campaign ends. A
later `testbed report` keeps them, so that a changed file is found. `verify` checks them.
"""

from __future__ import annotations

from pathlib import Path

from testbed.bundle import LIVE, Bundle, Folder
from testbed.bundle_lock import LOCK
from testbed.errors import ConfigurationError
from testbed.hosts.files import digest
from testbed.report.results import replay_command
from testbed.report.summary import Summary
from testbed.report.templates import render

__all__ = ["SUMS", "describe", "files", "is_derived", "read_sums", "seal"]

SUMS = "SHA256SUMS"
_DERIVED_FILES = ("summary.json", "report.html", "junit.xml", "README.md", "ro-crate-metadata.json")
_DERIVED_FOLDERS = ("derived", "plots")


def describe(bundle: Bundle, summary: Summary) -> None:
    """Write the RO-Crate metadata (version 1.1) of a bundle, and README.md for people who evaluate
    it: each claim, its result, and the commands that check it."""
    manifest = bundle.manifest
    readme = render(
        "bundle.md.j2", summary=summary, manifest=manifest, replay=replay_command(manifest)
    )
    bundle.write("README.md", f"{readme}\n")
    bundle.write_json("ro-crate-metadata.json", _crate(bundle, summary))


def seal(bundle: Bundle, *, measured: bool) -> None:
    """Write the sums of all files. The sums of measured files are written again only with
    `measured`: something was measured since then. Otherwise they stay, also of files that are
    lost, and none is written of what was added."""
    before = {} if measured else read_sums(bundle)
    sums = {name: value for name, value in before.items() if not is_derived(name)}
    new = (name for name in files(bundle) if not before or is_derived(name))
    sums |= {name: digest(bundle.path / name) for name in new}
    bundle.write(SUMS, "".join(f"{value}  {name}\n" for name, value in sorted(sums.items())))


def files(bundle: Bundle) -> list[str]:
    """The sorted relative names of all files, without the sums, incomplete files, and files that
    exist only while a bundle is written. Links are left out: we write none."""
    found = (path for path in bundle.path.rglob("*") if path.is_file() and not path.is_symlink())
    names = (path.relative_to(bundle.path) for path in found if not path.match(".*.part"))
    return sorted(name for name in map(Path.as_posix, names) if name not in (SUMS, LOCK, LIVE))


def is_derived(name: str) -> bool:
    """Whether a file is derived, by its place in the bundle or in the folder of a run."""
    parts = name.split("/")
    if parts[0] == "attempts":
        return False
    if parts[0] == "run":
        parts = parts[2:]
    return len(parts) > 0 and (
        name in _DERIVED_FILES or parts[0] in (*_DERIVED_FOLDERS, *_DERIVED_FILES)
    )


def read_sums(bundle: Folder) -> dict[str, str]:
    """The sums by relative file name; empty if there are none. Raises ConfigurationError."""
    if not (bundle.path / SUMS).exists():
        return {}
    sums = {}
    text = bundle.read(SUMS).decode(errors="replace").removesuffix("\n")
    for number, line in enumerate(text.split("\n") if text else (), 1):
        value, space, name = line.partition("  ")
        if not space or len(value) != 64 or not name:
            raise ConfigurationError(f"{bundle.path / SUMS}:{number}: not a line of sha256sum")
        sums[name] = value
    return sums


def _crate(bundle: Bundle, summary: Summary) -> dict[str, object]:
    """RO-Crate 1.1: what this directory is and which files matter."""
    parts = {
        "summary.json": "Verdicts and figures, for programs",
        "report.html": "The same for people, with all plots",
        "inputs/schedule.json": "Everything that was to happen",
        "manifest.json": "From which code and packages, and the state of each run",
    }
    parts |= {
        f"{row.path}/": f"Run {row.index} ({row.arm}, trial {row.trial})"
        for row in summary.runs
        if row.summary
    }
    return {
        "@context": "https://w3id.org/ro/crate/1.1/context",
        "@graph": [
            {
                "@id": "ro-crate-metadata.json",
                "@type": "CreativeWork",
                "about": {"@id": "./"},
                "conformsTo": {"@id": "https://w3id.org/ro/crate/1.1"},
            },
            {
                "@id": "./",
                "@type": "Dataset",
                "name": summary.run,
                "description": f"Result of the campaign {summary.campaign}: {summary.verdict}",
                "datePublished": bundle.manifest.started,
                "hasPart": [{"@id": name} for name in parts],
            },
            *(
                {
                    "@id": name,
                    "@type": "Dataset" if name.endswith("/") else "File",
                    "description": about,
                }
                for name, about in parts.items()
            ),
        ],
    }
