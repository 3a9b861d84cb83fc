"""`Keyvault` of old code: secrets are variables of the environment here, and are never written down."""

from __future__ import annotations

import os
from collections.abc import Iterable

from repro_est.errors import UsageError


class Keyvault:
    """The variables of this process."""

    def get_secret(self, name: str) -> str:
        """Returns the value of a variable.

        Raises:
            UsageError: it is not set.
        """
        variable = name.replace("-", "_").upper() if "-" in name else name
        if variable not in os.environ:
            raise UsageError(f"secret {name!r}: no such variable in the environment", hint=f"export {variable}=...")
        return os.environ[variable]

    def get_secrets(self, secrets: Iterable[str]) -> dict[str, str]:
        return {name: self.get_secret(name) for name in secrets}
