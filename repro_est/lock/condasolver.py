"""Solving by a real conda, mamba or micromamba, for who has one and trusts it more: `repro lock --conda PATH`.

The program is asked for a dry run into an empty prefix with an empty package cache, so that its answer names every
package with its hashes. Its answer becomes the same lock as rattler's.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from repro_est.errors import LockError
from repro_est.lock.conda import channel_urls
from repro_est.lock.condarequest import CondaRequest
from repro_est.lock.lockfile import public_url
from repro_est.lock.values import CondaPackage

_OVERRIDES = {"__cuda": "CONDA_OVERRIDE_CUDA", "__glibc": "CONDA_OVERRIDE_GLIBC", "__osx": "CONDA_OVERRIDE_OSX"}


def solve_by_program(program: Path, request: CondaRequest, platform: str) -> list[CondaPackage]:
    """Solves the specs for one platform by a conda program.

    Raises:
        LockError: it found no solution, or did not answer in conda's JSON.
    """
    environment = {**os.environ, "CONDA_SUBDIR": platform, "CONDA_OVERRIDE_GLIBC": "2.28", "CONDA_OVERRIDE_CUDA": ""}
    environment |= {_OVERRIDES[name]: value for name, value in request.virtual_packages if name in _OVERRIDES}
    with tempfile.TemporaryDirectory(prefix="repro-lock-") as directory:
        environment["CONDA_PKGS_DIRS"] = f"{directory}/pkgs"
        command = [str(program), "create", "--dry-run", "--json", "--override-channels", "--prefix", f"{directory}/env"]
        command += [word for url in channel_urls(request) for word in ("--channel", url)]
        try:
            done = subprocess.run([*command, *request.specs], capture_output=True, text=True, env=environment)
        except OSError as error:
            raise LockError(f"--conda {program}: cannot be run: {error.strerror}") from None
    try:
        answer: Any = json.loads(done.stdout)
        if not answer.get("success", done.returncode == 0):
            message = answer.get("message") or answer.get("error") or "; ".join(answer.get("solver_problems", ()))
            raise LockError(f"{program.name}, {platform}: {message}", hint="change a spec in conda_packages")
        actions = answer["actions"]
        rows = {row["name"]: row for key in ("LINK", "FETCH") for row in actions.get(key, ()) if "url" in row}
        return sorted((_package(row, platform) for row in rows.values()), key=lambda package: package.name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        said = done.stderr.strip() or done.stdout.strip()[:500] or repr(error)
        raise LockError(f"--conda {program}: did not answer as conda does (code {done.returncode}): {said}") from None


def _package(row: dict[str, Any], platform: str) -> CondaPackage:
    filename = str(row.get("fn") or row["url"].rsplit("/", 1)[-1])
    if not row.get("sha256") or not row.get("md5"):
        raise LockError(f"{filename}: the program gives no sha256 and md5 for it, so it cannot be locked")
    stem = filename.removesuffix(".conda").removesuffix(".tar.bz2")
    return CondaPackage(
        name=str(row["name"]),
        version=str(row["version"]),
        build=stem.rsplit("-", 2)[2],
        filename=filename,
        sha256=str(row["sha256"]),
        md5=str(row["md5"]),
        url=public_url(str(row["url"])),
        platform=platform,
        depends=tuple(sorted(text for text in map(str, row.get("depends", ())) if not text.startswith("__"))),
    )
