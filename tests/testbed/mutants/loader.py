"""Applies a mutant in memory: one module's source is changed on its first import.

Only for a fresh process. The text to replace must occur exactly once, so that a refactoring that
moves it breaks loudly instead of leaving a mutant that mutates nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, ModuleType

from tests.testbed.mutants.table import Mutant

__all__ = ["StaleMutantError", "apply", "fits", "mutated"]


class StaleMutantError(Exception):
    """The mutant no longer fits the source: fix `table.py`."""


def mutated(mutant: Mutant, source: str) -> str:
    """The module's source with the mutant in it. Raises StaleMutantError."""
    count = source.count(mutant.old)
    if count != 1:
        raise StaleMutantError(
            f"{mutant.name}: the text occurs {count} times in {mutant.module}, wanted once:\n"
            f"{mutant.old}"
        )
    return source.replace(mutant.old, mutant.new)


def fits(mutant: Mutant) -> None:
    """Raises StaleMutantError unless it fits the source as it is now."""
    spec = find_spec(mutant.module)
    if spec is None or spec.origin is None:
        raise StaleMutantError(f"{mutant.name}: there is no module {mutant.module}")
    compile(mutated(mutant, Path(spec.origin).read_text()), spec.origin, "exec")


class _Loader(SourceFileLoader):
    def __init__(self, mutant: Mutant, path: str) -> None:
        super().__init__(mutant.module, path)
        self._mutant = mutant

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        source = mutated(self._mutant, self.get_data(path).decode())
        return compile(source, path, "exec", dont_inherit=True)


class _Finder(MetaPathFinder):
    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self._mutant.module:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            raise StaleMutantError(f"{self._mutant.name}: there is no module {fullname}")
        spec.loader = _Loader(self._mutant, spec.origin)
        return spec


def apply(mutant: Mutant) -> None:
    """From now on this process runs the mutant. Must come before the module is imported."""
    if mutant.module in sys.modules:
        raise StaleMutantError(f"{mutant.module} is already imported: use a fresh process")
    sys.meta_path.insert(0, _Finder(mutant))
