"""The interpreter that a virtual environment of another machine can stand on here."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from repro_est.hostside.objects import digest_of

_DIRECTORIES = ("/usr/local/bin", "/usr/bin", "/opt/python/bin")


def find(version: str, path: str, sha256: str) -> dict[str, Any]:
    """Returns `path`, `version`, `sha256` of an interpreter: the very same one, else another build of its version.

    Args:
        version: of the interpreter the environment was made with, `3.11.7`.
        path, sha256: where that one is, and its content.

    Returns:
        `path` None when there is none; `found` then lists what there is.
    """
    if _digest(path) == sha256:
        return {"path": path, "version": version, "sha256": sha256, "same": True}
    wanted = ".".join(version.split(".")[:2])
    found: list[str] = []
    candidates = [path]
    for directory in dict.fromkeys([*os.environ.get("PATH", "").split(":"), *_DIRECTORIES]):
        candidates += [os.path.join(directory, "python" + wanted), os.path.join(directory, "python3")]
    for candidate in dict.fromkeys(candidates):
        have = _version(candidate)
        if have is None:
            continue
        real = os.path.realpath(candidate)
        digest = _digest(real)
        if have == version and digest is not None:
            return {"path": real, "version": have, "sha256": digest, "same": False}
        found.append(f"{candidate} ({have})")
    return {"path": None, "found": found}


def _version(path: str) -> str | None:
    """Asks an interpreter for its version; None for what is none, or stands on another prefix than its own."""
    if not os.access(path, os.X_OK):
        return None
    program = "import sys; print('%d.%d.%d' % sys.version_info[:3], sys.prefix == sys.base_prefix)"
    try:
        done = subprocess.run(
            [path, "-I", "-S", "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    answer = re.fullmatch(r"(\d+\.\d+\.\d+) True\s*", done.stdout.decode("utf-8", "replace"))
    return answer.group(1) if answer else None


def _digest(path: str) -> str | None:
    try:
        return digest_of(path)
    except OSError:
        return None
