"""Python interpreters of this machine: the one a specifier asks for, and the one an exact version names.

The one that runs `repro` comes first, then whatever uv finds; nothing is downloaded.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from repro_est.errors import LockError
from repro_est.files import sha256_file


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A base interpreter (never a virtual environment's).

    Args:
        version: exact, `3.11.7`.
    """

    path: Path
    version: str

    def fingerprint(self) -> str:
        """Returns the SHA-256 of the executable: another build of the same version is another interpreter."""
        return sha256_file(self.path)


def running() -> Interpreter:
    """Returns the base interpreter of this process."""
    base: str = getattr(sys, "_base_executable", sys.executable)
    return Interpreter(Path(os.path.realpath(base)), platform.python_version())


def find_interpreter(asked: str | None) -> Interpreter:
    """Returns an interpreter for a version or specifier; None is the running one.

    Raises:
        LockError: there is none on this machine.
    """
    here = running()
    if asked is None or fits(asked, here.version):
        return here
    from repro_est.lock.uv import uv_environment, uv_path

    command = [uv_path(), "python", "find", "--no-project", "--no-python-downloads", "--system", asked.replace(" ", "")]
    done = subprocess.run(command, capture_output=True, text=True, env=uv_environment())
    path = Path(done.stdout.strip())
    if done.returncode == 0 and path.is_file():
        version = subprocess.run(
            [str(path), "-I", "-c", "import platform; print(platform.python_version())"], capture_output=True, text=True
        ).stdout.strip()
        if fits(asked, version):
            return Interpreter(Path(os.path.realpath(path)), version)
    raise LockError(
        f"python {asked}: no such interpreter on this machine, repro runs on {here.version}",
        hint='install it, or write [environment] python = "'
        + ".".join(here.version.split(".")[:2])
        + '" and lock again',
    )


def fits(asked: str, version: str) -> bool:
    """Whether an exact version is what was asked for: a version or its start (`3.11`), or a specifier."""
    if version == asked or version.startswith(asked + "."):
        return True
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        return SpecifierSet(asked).contains(version, prereleases=True)
    except InvalidSpecifier:
        return False
