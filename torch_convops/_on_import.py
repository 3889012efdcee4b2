"""What belongs to a part of torch that most programs never import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class _Finder(MetaPathFinder):
    """Finds modules where Python does, and imports the ones that wait for them right after."""

    def __init__(self) -> None:
        self.waiting: dict[str, str] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        extension = self.waiting.pop(fullname, None)
        spec = None if extension is None else PathFinder.find_spec(fullname, path, target)
        if extension is None or spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            importlib.import_module(extension)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


_finder = _Finder()
sys.meta_path.insert(0, _finder)


def on_import(module: str, extension: str) -> None:
    """Imports ``extension`` as soon as ``module`` is imported: now, where it is already.

    torch's registries of FLOP formulas and of sharding rules live in modules that take longer to import than this
    library. Without an entry the first counts nothing and says nothing, so no call must be needed to make it.
    """
    if module in sys.modules:
        importlib.import_module(extension)
    else:
        _finder.waiting[module] = extension
