"""Judges a campaign while it runs: each run after it, and the whole at the end.

Code that reads results and draws is imported only when there is something to judge.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from testbed.bundle import Bundle, RunFolder

if TYPE_CHECKING:
    from testbed.report.derive import DerivedRun
    from testbed.report.summary import Summary

__all__ = ["Judging"]


class Judging:
    """Judges the runs of a bundle, then the bundle. It remembers the run that it judged last: if
    there is only one run, its figures are also those of the bundle, and are drawn only once."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._last: DerivedRun | None = None

    def run(self, run: RunFolder) -> str | None:
        """Derive one run from its raw files. Returns the reason if it cannot be judged."""
        from testbed.report.derive import derive_run  # noqa: PLC0415 - loads what draws

        self._last = derive_run(run)
        summary = self._last.summary
        if summary.verdict != "invalid":
            return None
        return "; ".join(summary.notes) or "nothing can be said of this run"

    def unjudged(self) -> list[RunFolder]:
        """The runs that were made but not completely judged, because the program was killed or its
        disk was full."""
        return [run for run in self.bundle.runs if run.entry.complete and not run.is_derived]

    def rest(self) -> bool:
        """Judge these runs. Returns whether there is something new to say of the bundle."""
        rest = self.unjudged()
        if rest:
            (self.bundle.path / "report.html").unlink(missing_ok=True)  # it lacks these runs
        for run in rest:
            reason = self.run(run)
            if reason is not None:
                self.bundle.update(run.entry.index, state="invalid", reason=reason)
        return bool(rest) or not self.bundle.is_derived

    def whole(self) -> Summary:
        """Derive the whole bundle, after each run was judged."""
        from testbed.report.derive import derive  # noqa: PLC0415 - loads what draws

        return derive(self.bundle, self._last)
