"""The package `azureml` made of a table: which names there are in which module, and where each really comes from.

    Finder({"azureml.core": {"Run": "repro_est:Run"}}, Refusals(REFUSED)).install()

A name is looked up when it is used. One that the table of refused names knows is a `Placeholder`: old code imports more
than it uses. One that nobody knows is an error at its import, with the nearest name that there is.
"""

from __future__ import annotations

import difflib
import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .refused import Refusals


class Finder(MetaPathFinder, Loader):
    """Serves `azureml` and all below it.

    Args:
        surface: for each module its names; a value is `module:name` to take the thing from, or the thing itself.
        refusals: the names that have no meaning here.
        unknown: makes the error of a name nobody knows, of its message and a hint, `""` for none.
    """

    def __init__(
        self,
        surface: Mapping[str, Mapping[str, object]],
        refusals: Refusals,
        unknown: Callable[[str, str], ImportError] = lambda message, hint: ImportError(f"{message}; {hint}"),
    ) -> None:
        self._surface, self._refusals, self._unknown = surface, refusals, unknown

    def install(self) -> None:
        """Serves from now on, before everything that is installed."""
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] != "azureml":
            return None
        if self._is_module(fullname):
            return ModuleSpec(fullname, self, is_package=True)
        raise self._error(fullname, list(self._surface))

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name, self)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing is to be done: names are looked up when they are used."""

    def names(self, module: str) -> list[str]:
        """Returns what a module offers, submodules left out."""
        return sorted(self._surface.get(module, {}))

    def value(self, module: str, name: str) -> object:
        """Returns what a name of a module stands for.

        Raises:
            Exception: it is unknown; the error that `unknown` makes.
        """
        names = self._surface.get(module, {})
        found = names.get(name)
        full = f"{module}.{name}"
        if isinstance(found, str) and ":" in found:
            place, _, attribute = found.partition(":")
            return getattr(import_module(place), attribute)
        if name in names:
            return found
        if self._refusals.reason(full):
            return self._refusals.placeholder(full)
        if self._is_module(full):
            return import_module(full)
        raise self._error(full, [f"{module}.{known}" for known in self.names(module)])

    def _is_module(self, name: str) -> bool:
        below = f"{name}."
        return (
            name in self._surface
            or self._refusals.reason(name) is not None
            or any(module.startswith(below) for module in self._surface)
        )

    def _error(self, name: str, known: Sequence[str]) -> ImportError:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
        hint = f"did you mean {near[0]}?" if near else "docs/migrate-from-azureml.md lists what there is"
        return self._unknown(f"{name}: the shim of Azure's SDK does not know it", hint)


class _Module(ModuleType):
    """A module whose names are those of its finder."""

    def __init__(self, name: str, finder: Finder) -> None:
        super().__init__(name, f"{name}, by repro.")
        self._finder = finder
        self.__all__ = finder.names(name)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self._finder.value(self.__name__, name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> Sequence[str]:
        return [*super().__dir__(), *self._finder.names(self.__name__)]
