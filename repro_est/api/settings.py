"""Objects whose settings scripts change after they were made: equal when they say the same, and deaf to no typo."""

from __future__ import annotations

import difflib
from inspect import get_annotations
from typing import Any

from repro_est.errors import UsageError


class Settings:
    """A base for them; a subclass annotates its settings."""

    def __setattr__(self, name: str, value: object) -> None:
        known = [item for base in type(self).__mro__ for item in get_annotations(base)]
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise UsageError(
                f"{type(self).__name__}: {name}: no such setting, there are: {', '.join(known) or 'none'}",
                hint=f"did you mean `{near[0]}`?" if near else None,
            )
        super().__setattr__(name, self._checked(name, value))

    def _checked(self, name: str, value: Any) -> Any:
        """Returns the value to keep.

        Raises:
            UsageError: the setting cannot have it.
        """
        return value

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]  # they change

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in vars(self).items())})"


def wrong(where: object, name: str, value: object, expected: str, hint: str | None = None) -> UsageError:
    """Returns the error for a setting: where, got and expected."""
    return UsageError(f"{type(where).__name__}: {name}: got {value!r}, expected {expected}", hint=hint)
