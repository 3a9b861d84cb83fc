"""What a script has around it: its Python and the packages that are installed."""

from __future__ import annotations

import platform
from importlib import metadata

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Mapping


class Surroundings:
    """The environment of a script.

    Args:
        packages: version by name.
    """

    def __init__(self, name: str, python: str, packages: Mapping[str, str]) -> None:
        self.name, self.python, self.packages = name, python, packages

    def __repr__(self) -> str:
        return f"Environment({self.name!r}, Python {self.python}, {len(self.packages)} packages)"


def surroundings() -> Surroundings:
    """Returns the environment of this process."""
    found = {str(item.metadata["Name"]): item.version for item in metadata.distributions() if item.metadata["Name"]}
    return Surroundings("repro", platform.python_version(), dict(sorted(found.items())))
