"""Names of platforms, in conda's spelling (`linux-64`), which conda-lock files use too."""

from __future__ import annotations

import os
import sys

PLATFORMS = ("linux-64", "linux-aarch64", "osx-64", "osx-arm64")
"""The platforms a lock can be made for."""


def current_platform() -> str:
    """Returns the name of this machine's platform, or `<system>-<machine>` for one `repro` does not lock for."""
    machine = os.uname().machine
    if sys.platform == "darwin":
        return "osx-arm64" if machine == "arm64" else "osx-64"
    return {"x86_64": "linux-64", "aarch64": "linux-aarch64"}.get(machine, f"{sys.platform}-{machine}")
