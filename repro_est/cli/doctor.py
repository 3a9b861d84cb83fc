"""Check this machine and its store, and say what to do about each thing that is not well."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from repro_est.cli.common import add_json
from repro_est.console import Console, human_size
from repro_est.errors import InfrastructureError, ReproError
from repro_est.project import Project, find_project
from repro_est.store.store import Store

_LOW_SPACE = 2 * 1000**3


class Check(NamedTuple):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    checks = list(_checks())
    bad = [check for check in checks if not check.ok]
    if arguments.json:
        console.json([check._asdict() for check in checks])
        return InfrastructureError.exit_code if bad else 0
    for check in checks:
        mark = console.style("ok  ", "green", out=True) if check.ok else console.style("BAD ", "red", out=True)
        console.out(f"{mark}  {check.name:<12} {check.found}")
        if not check.ok:
            console.out(f"{'':>6}{'':<13}-> {check.remedy}")
    return InfrastructureError.exit_code if bad else 0


def _checks() -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Check("python", sys.version_info >= (3, 11), f"{version} at {sys.executable}", "use Python 3.11 or newer")
    yield _uv()
    try:
        project = find_project()
        store = Store.open(project.store)
    except ReproError as error:
        yield Check("store", False, error.message, error.hint or "set REPRO_STORE to a directory you can write to")
        return
    root = store.layout.root
    yield Check("store", True, f"{root} (format {store.layout.format_file.read_text().strip()})")
    space = shutil.disk_usage(root)
    yield Check(
        "space",
        space.free > _LOW_SPACE,
        f"{human_size(space.free)} free of {human_size(space.total)}",
        "free some space, or set REPRO_STORE to another disk",
    )
    yield from _file_system(root)
    yield _git()
    yield _gpu()
    yield from _docker(project)


def _uv() -> Check:
    import subprocess

    from uv import find_uv_bin

    try:
        done = subprocess.run([find_uv_bin(), "--version"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("uv", False, str(error), "pip install --force-reinstall uv")
    return Check("uv", True, done.stdout.strip())


def _file_system(root: Path) -> Iterator[Check]:
    """What the store needs of its file system, tried out in a directory of its own."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="doctor-", dir=root))
    except OSError as error:
        yield Check(
            "writable", False, str(error), "set REPRO_STORE to a directory you can write to; reading still works"
        )
        return
    trials: tuple[tuple[str, Callable[[Path], bool], str], ...] = (
        ("rename", _renames, "keep the store on a local POSIX file system"),
        ("hard links", _links, "keep the store on a local POSIX file system"),
        ("locks", _locks, "keep the store on a file system with flock(2)"),
        ("exec bit", _exec_bit, "mount the store's file system without `noexec`/fixed modes"),
        ("case", _keeps_case, "use a case-sensitive volume for the store"),
    )
    try:
        for name, trial, remedy in trials:
            try:
                ok, found = trial(directory), ""
            except OSError as error:
                ok, found = False, f": {error.strerror}"
            yield Check(name, ok, f"{'works' if ok else 'does not work'}{found}", remedy)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _renames(directory: Path) -> bool:
    (directory / "a").write_bytes(b"new")
    (directory / "b").write_bytes(b"old")
    os.replace(directory / "a", directory / "b")
    return (directory / "b").read_bytes() == b"new"


def _links(directory: Path) -> bool:
    (directory / "one").write_bytes(b"")
    os.link(directory / "one", directory / "two")
    return (directory / "two").stat().st_nlink == 2


def _locks(directory: Path) -> bool:
    import fcntl

    with open(directory / "lock", "w") as first, open(directory / "lock", "w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _exec_bit(directory: Path) -> bool:
    path = directory / "program"
    path.write_bytes(b"")
    path.chmod(0o755)
    executable = path.stat().st_mode & 0o111 == 0o111
    path.chmod(0o644)
    return executable and not path.stat().st_mode & 0o111


def _keeps_case(directory: Path) -> bool:
    (directory / "case").write_bytes(b"")
    return not (directory / "CASE").exists()


def _git() -> Check:
    found = shutil.which("git")
    return Check("git", True, found or "not installed: git facts are not recorded, nothing else needs it")


def _docker(project: Project) -> Iterator[Check]:
    """What the target docker needs; without a daemon it is only said, for nothing else needs one."""
    from repro_est.images.daemon import connect

    try:
        version = connect().version()["Version"]
        yield Check("docker", True, f"Docker {version}")
    except InfrastructureError as error:
        yield Check("docker", True, f"{error.message}: recipes with the target docker cannot run here")
    if project.base is None:
        yield Check("base image", True, "[images] base names none: an image needs a custom_docker_image")
    else:
        state = "" if project.base.is_file() else ": no such file, so no image can be made on it"
        yield Check("base image", True, f"{project.base}{state}")


def _gpu() -> Check:
    found = shutil.which("nvidia-smi")
    return Check(
        "gpu", True, f"nvidia-smi at {found}" if found else "no nvidia-smi: recipes with use_gpu = true cannot run here"
    )
