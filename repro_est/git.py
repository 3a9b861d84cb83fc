"""Git facts of a source directory: recorded with each attempt, never hashed, never required.

Remote without credentials, branch, commit, and the patch of what was not committed. No git, no repository or a
broken one is no error: then there are no facts.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from repro_est.lock.lockfile import public_url

_TIMEOUT_SECONDS = 5
_MAX_PATCH = 10 << 20
_OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}


@dataclass(frozen=True, slots=True)
class GitFacts:
    """What git says of a directory.

    Args:
        remote: URL of `origin` without credentials, `""` for none.
        branch: `""` when the head is detached.
        dirty: tracked files differ from the commit, or there are untracked ones.
        patch: `git diff HEAD` of the directory; cut at 10 MB.
    """

    remote: str
    branch: str
    commit: str
    dirty: bool
    patch: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def facts(directory: Path) -> GitFacts | None:
    """Returns the git facts of a directory, or None where git has none."""
    commit = _git(directory, "rev-parse", "HEAD")
    if commit is None:
        return None
    remote = _git(directory, "remote", "get-url", "origin") or ""
    status = _git(directory, "status", "--porcelain", "--", ".")
    patch = _git(directory, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--", ".") if status else ""
    return GitFacts(
        remote=public_url(remote) if "://" in remote else remote,
        branch=_git(directory, "symbolic-ref", "--quiet", "--short", "HEAD") or "",
        commit=commit,
        dirty=bool(status),
        patch=(patch or "")[:_MAX_PATCH],
    )


def _environment() -> dict[str, str]:
    """Ours, less what a git hook sets: it would point every question at the repository of the hook."""
    return {name: value for name, value in os.environ.items() if name not in _OF_A_HOOK}


def _git(directory: Path, *arguments: str) -> str | None:
    """Runs git without prompts, pagers and locks; None when it fails for any reason."""
    command = ["git", "-c", "core.fsmonitor=false", "--no-optional-locks", "-C", str(directory), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TIMEOUT_SECONDS, stdin=subprocess.DEVNULL, env=_environment()
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None
