"""Running uv: where it is, what of the environment it gets, and what its failures mean.

Index settings come from uv's own variables and, where those are not set, from pip's. Credentials travel in the
environment and in netrc, never in an argument list.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence

from repro_est.errors import InfrastructureError, LockError

_FROM_PIP = {
    "PIP_INDEX_URL": "UV_DEFAULT_INDEX",
    "PIP_EXTRA_INDEX_URL": "UV_INDEX",
    "PIP_FIND_LINKS": "UV_FIND_LINKS",
    "PIP_CERT": "SSL_CERT_FILE",
}
_UNREACHABLE = re.compile(
    r"Failed to fetch|error sending request|dns error|Connection refused|timed out|Could not connect|"
    r"client error|Network connectivity is disabled|network was disabled",
    re.IGNORECASE,
)
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def uv_path() -> str:
    """Returns the uv that was installed with `repro`."""
    from uv import find_uv_bin

    return find_uv_bin()


def uv_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment uv runs in: this one, without a project's or virtual environment's settings."""
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "CONDA_PREFIX")}
    for pip, uv in _FROM_PIP.items():
        if pip in environment and uv not in environment:
            environment[uv] = environment[pip]
    return {**environment, "UV_NO_PROGRESS": "1", "NO_COLOR": "1", "UV_NO_CONFIG": "1", **(extra or {})}


def run_uv(arguments: Sequence[str], *, what: str, extra: Mapping[str, str] | None = None) -> str:
    """Runs uv and returns its standard output.

    Args:
        what: the subject of an error message.
        extra: environment variables on top.

    Raises:
        LockError: uv says the requirements cannot be had; its explanation is the message.
        InfrastructureError: the index cannot be reached.
    """
    done = subprocess.run([uv_path(), *arguments], capture_output=True, text=True, env=uv_environment(extra))
    if done.returncode == 0:
        return done.stdout
    text = readable(done.stderr)
    if "No solution found" in text or not _UNREACHABLE.search(text):
        raise LockError(f"{what}: {text}", hint="change the requirement, its bounds, or the Python version")
    raise InfrastructureError(
        f"{what}: the package index cannot be reached\n{text}", hint="check the network and UV_* settings"
    )


def readable(text: str) -> str:
    """Returns uv's explanation without drawing, colour, wrapping and hints about uv itself."""
    lines: list[str] = []
    for raw in _ANSI.sub("", text).splitlines():
        line = raw.strip().lstrip("×╰─▶│├ ").strip()
        if not line or line.startswith(
            ("warning:", "Resolved ", "Using Python", "Downloading ", "Building ", "Built ")
        ):
            continue
        if line.startswith("hint:"):
            break
        lines.append(line.removeprefix("error: ").removeprefix("cause: "))
    return " ".join(lines).replace("when resolving dependencies Because", "when resolving dependencies: because")
