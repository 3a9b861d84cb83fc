"""Check this machine and its store, and say what to do about each thing that is not well."""

from __future__ import annotations

import argparse
import os
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from repro_est.cli.common import add_json
from repro_est.console import Console, human_size
from repro_est.errors import InfrastructureError, ReproError
from repro_est.project import Project, find_project
from repro_est.store.store import Store
from repro_est.store.trials import try_out

_LOW_SPACE = 2 * 1000**3
_PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")


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
    yield from _disk(root)
    yield from _quota(project, store)
    yield _interpreters()
    yield _git()
    yield _gpu()
    yield _sandbox()
    yield from _docker(project)
    yield from _keys()
    yield from _remotes(project)
    yield from _hosts(project)


def _uv() -> Check:
    import subprocess

    from uv import find_uv_bin

    try:
        done = subprocess.run([find_uv_bin(), "--version"], capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError) as error:
        return Check("uv", False, str(error), "pip install --force-reinstall uv")
    return Check("uv", True, done.stdout.strip())


def _disk(root: Path) -> Iterator[Check]:
    for trial in try_out(root):
        yield Check(trial.name, trial.ok, trial.found, trial.remedy)


def _quota(project: Project, store: Store) -> Iterator[Check]:
    from repro_est.store.quota import size_of_store

    quota = project.keeping.quota
    if quota is not None:
        size = size_of_store(store.layout)
        words = f"{human_size(size)} of {human_size(quota)}"
        yield Check("quota", size <= quota, words, "repro gc --collect; `repro du` says what takes the space")


def _interpreters() -> Check:
    """Which Pythons an environment can be made with; a recipe may ask for another one."""
    from repro_est.errors import LockError
    from repro_est.lock.interpreters import find_interpreter

    found: list[str] = []
    for asked in _PYTHONS:
        try:
            found.append(find_interpreter(asked).version)
        except LockError:
            continue
    remedy = "install a Python 3, with `uv python install 3.11` for one"
    return Check("interpreters", bool(found), ", ".join(found) or "none found", remedy)


def _keys() -> Iterator[Check]:
    """Private keys that others may read."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    keys = sorted(Path(home, "repro", "keys").glob("*.key"))
    if not keys:
        yield Check("keys", True, "none: nothing of yours can be signed, and nothing else needs one")
    for path in keys:
        mode = stat.S_IMODE(path.lstat().st_mode)
        yield Check(f"key {path.stem}", not mode & 0o077, f"{path}, mode {mode:04o}", f"chmod 600 {path}")


def _remotes(project: Project) -> Iterator[Check]:
    """What a disk must be able to do, on each remote that is a directory; `repro remotes` asks the others."""
    from repro_est.share.settings import remotes_of

    try:
        specs = remotes_of(project)
    except ReproError as error:
        yield Check("remotes", False, error.message, error.hint or "mend repro.toml")
        return
    for spec in specs:
        if spec.scheme != "file":
            continue
        for trial in try_out(Path(spec.path)):
            yield Check(f"{spec.name}: {trial.name}", trial.ok or spec.read_only, trial.found, trial.remedy)


def _hosts(project: Project) -> Iterator[Check]:
    """Asks every host of the inventory, all at once."""
    from repro_est.hosts.inventory import find_inventory
    from repro_est.hosts.survey import survey

    try:
        inventory = find_inventory(project)
        if inventory is None:
            yield Check("hosts", True, "no inventory: recipes run on this machine only")
            return
        targets = list(inventory.targets.values())
        specs = {spec.name: spec for target in targets for spec in target.reached}
        found = survey(list(specs.values()), targets)
    except ReproError as error:
        yield Check("hosts", False, error.message, error.hint or "docs/hosts.md")
        return
    for item in found:
        problems = [finding for finding in item.findings if finding.is_problem]
        words = "; ".join(finding.what.splitlines()[0] for finding in problems) or "can be used"
        yield Check(f"host {item.spec.name}", item.state == "ok", words, "repro hosts   says what to do about each")


def _git() -> Check:
    found = shutil.which("git")
    return Check("git", True, found or "not installed: git facts are not recorded, nothing else needs it")


def _sandbox() -> Check:
    """Whether scripts are closed in; without, it is only said, for they run all the same."""
    from repro_est.launch.sandbox import remedy, trial

    why = trial()
    return Check(
        "sandbox", True, f"none: {why}; scripts see your files and the network: {remedy()}" if why else "works"
    )


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
