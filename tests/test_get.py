"""`repro get`: nothing that was at the destination is lost unless the copy stands in its place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import Workshop, as_root, missing

SCRIPT = "import os\nos.mkdir('outputs/deep')\nopen('outputs/model.bin', 'w').write('m')\nopen('outputs/deep/x', 'w').write('x')\n"


@pytest.fixture
def trained(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    """A project with a run; the current directory is one below it, with a file of the user."""
    workshop.run(workshop.recipe(SCRIPT))
    workshop.write("mine/here/notes.txt", "mine")
    monkeypatch.chdir(workshop.root / "mine" / "here")
    return workshop


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if "cache" not in path.parts)


@pytest.mark.parametrize(
    ("destination", "reason"),
    [
        (".", "is the current directory"),
        ("..", "or one around it"),
        ("../..", "or one around it"),
        ("../here", "is the current directory"),
        ("/", "or one around it"),
        ("../../cache", "holds the store"),
        ("../../cache/blobs", "is a part of it"),
    ],
)
def test_what_somebody_stands_on_is_never_replaced(trained: Workshop, destination: str, reason: str) -> None:
    before = everything(trained.root)
    for force in ([], ["--force"]):
        done = trained.repro("get", "@", "outputs", destination, *force)
        assert (done.code, reason in done.err) == (2, True), done.err
    assert everything(trained.root) == before
    assert trained.repro("verify").code == 0


def test_a_mount_point_is_never_replaced(trained: Workshop) -> None:
    if not as_root():
        missing("a mount point needs root")
    place = trained.root / "disk"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(place)]).returncode != 0:
        missing("no permission to mount")
    try:
        done = trained.repro("get", "@", "outputs", str(place), "--force")
    finally:
        subprocess.run(["umount", str(place)], check=True)
    assert (done.code, "is a mount point" in done.err) == (2, True)


def test_a_directory_is_replaced_when_it_is_forced(trained: Workshop) -> None:
    trained.write("mine/here/old/stale", "x")
    assert trained.repro("get", "@", "outputs", "old").code == 2
    assert trained.repro("get", "@", "outputs", "old", "-f").code == 0
    assert everything(Path("old")) == ["deep", "deep/x", "model.bin"]
    assert everything(Path()) == ["notes.txt", "old", "old/deep", "old/deep/x", "old/model.bin"]


def test_a_failure_at_the_last_step_leaves_what_was_there(trained: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    trained.write("mine/here/old/stale", "x")

    def fail(source: object, destination: object) -> None:
        raise OSError(5, "Input/output error", str(source))

    with monkeypatch.context() as broken:
        broken.setattr(os, "replace", fail)
        assert trained.repro("get", "@", "outputs", "old", "-f").code == 5
    assert everything(Path()) == ["notes.txt", "old", "old/stale"]


@pytest.mark.parametrize("target", ["elsewhere", "notes.txt", "nowhere"])
def test_a_symlink_is_replaced_itself_and_never_what_it_points_to(trained: Workshop, target: str) -> None:
    trained.write("mine/here/elsewhere/kept", "kept")
    Path("link").symlink_to(target)
    refused = trained.repro("get", "@", "outputs", "link")
    assert (refused.code, "link: is a symlink that exists already" in refused.err) == (2, True), refused.err
    assert trained.repro("get", "@", "outputs", "link", "--force").code == 0
    assert everything(Path("link")) == ["deep", "deep/x", "model.bin"]
    assert not Path("link").is_symlink()
    assert everything(Path("elsewhere")) == ["kept"]
    assert Path("notes.txt").read_text() == "mine"


def test_a_directory_replaces_a_file_only_when_it_is_forced(trained: Workshop) -> None:
    done = trained.repro("get", "@", "outputs", "notes.txt")
    assert (done.code, "notes.txt: is a file that exists already" in done.err) == (2, True)
    assert Path("notes.txt").read_text() == "mine"
