"""Ignore files as people really have them: odd bytes, odd patterns, odd places."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from repro_est.errors import SourceError
from repro_est.ignore import Ignore
from repro_est.snapshot import list_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text("")
    return tmp_path


def kept(source: Path) -> list[str]:
    return [path for path, _ in list_source(source, exclude=()).included]


@pytest.mark.parametrize(
    "rules",
    [
        b"\xef\xbb\xbfa.py\n",
        b"a.py\r\n",
        b"!\na.py\n",
        b"x\x0cb.py\na.py\n",
        "x\u2028b.py\na.py\n".encode(),
        b"   \n/\n[\n\\\na.py",
        b"\xff\xfe\na.py\n",
    ],
    ids=["bom", "crlf", "lone !", "form feed", "line separator", "nonsense", "not UTF-8"],
)
def test_odd_ignore_files_mean_what_they_mean_to_git(source: Path, rules: bytes) -> None:
    (source / ".gitignore").write_bytes(rules)
    subprocess.run(["git", "init", "-q", source], check=True)
    listed = subprocess.run(
        ["git", "-C", source, "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert kept(source) == sorted(set(listed) - {".gitignore"}) == ["b.py"]


def test_a_reason_names_the_line_an_editor_shows(source: Path) -> None:
    (source / ".gitignore").write_text("# one\x0c\n\n!\na.py\n")
    assert Ignore(source).reason("a.py", False) == ".gitignore:4 a.py"


def test_an_ignore_file_may_be_a_symlink_to_another_beside_it(source: Path) -> None:
    (source / ".gitignore").write_text("a.py\n")
    (source / ".amlignore").symlink_to(".gitignore")
    assert kept(source) == ["b.py"]


@pytest.mark.parametrize("target", ["/etc/gitignore", "rules.txt"])
def test_an_ignore_file_elsewhere_is_refused(source: Path, target: str) -> None:
    (source / ".gitignore").symlink_to(target)
    with pytest.raises(SourceError, match=rf"\.gitignore: symlink to {target}, expected a file"):
        kept(source)


def test_an_ignore_file_that_points_at_itself_is_refused(source: Path) -> None:
    (source / ".gitignore").symlink_to(".gitignore")
    with pytest.raises(SourceError, match=r"\.gitignore: cannot be read"):
        kept(source)


def test_directories_without_end_are_refused(source: Path) -> None:
    (source / "/".join(["d"] * 300)).mkdir(parents=True)
    (problem,) = list_source(source, exclude=()).problems
    assert "is nested too deeply, expected at most 256 directories" in problem
