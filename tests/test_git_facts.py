"""Git facts where git itself is misled."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repro_est.git import facts


def repository(root: Path) -> str:
    """Makes a repository of one commit and returns its name."""
    root.mkdir()
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q", "-b", root.name], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", root.name], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_inside_a_git_hook_records_its_own_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository(tmp_path / "hooked")
    commit = repository(tmp_path / "source")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "hooked" / ".git"))
    found = facts(tmp_path / "source")
    assert found is not None
    assert (found.commit, found.branch) == (commit, "source")


def test_a_detached_head_has_no_branch(tmp_path: Path) -> None:
    commit = repository(tmp_path / "source")
    subprocess.run(["git", "-C", str(tmp_path / "source"), "checkout", "-q", "--detach"], check=True)
    found = facts(tmp_path / "source")
    assert found is not None
    assert (found.commit, found.branch) == (commit, "")
