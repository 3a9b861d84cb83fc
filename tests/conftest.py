"""What the tests share: a project made on the spot, a package index of tiny wheels, and the command line.

Nothing here stands in for a part of `repro`: uv, interpreters, processes, file systems and locks are real.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import pytest

from repro_est.cli.main import main
from repro_est.store.store import Store
from tests.lab.base import build as build_base
from tests.lab.channel import build as build_channel
from tests.lab.conda_package import Channel
from tests.lab.hosts import Cluster, LabError, reserved_subnet, unable
from tests.lab.slurm import Slurm

if TYPE_CHECKING:
    from docker import DockerClient


class Done(NamedTuple):
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Workshop:
    """A project directory with a store of its own, and `repro` to run in it."""

    def __init__(self, root: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self._capfd = capfd

    @property
    def store(self) -> Store:
        return Store.open(self.root / "cache")

    def write(self, path: str, text: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    def recipe(self, script: str, more: str = "", *, name: str = "job", estimator: str = "") -> str:
        """Writes a recipe whose source is one script, and returns its name for the command line."""
        self.write(f"{name}/train.py", script)
        self.write(
            f"{name}.toml",
            f'[estimator]\nsource_directory = "{name}"\nentry_script = "train.py"\n{estimator}\n{more}',
        )
        return f"{name}.toml"

    def repro(self, *words: str) -> Done:
        """Runs one command in this process."""
        self._capfd.readouterr()
        try:
            code = main(words)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        captured = self._capfd.readouterr()
        return Done(code, captured.out, captured.err)

    def run(self, recipe: str, *words: str) -> dict[str, Any]:
        """Runs a recipe that must succeed and returns the last event."""
        done = self.repro("run", recipe, "--json", *words)
        assert done.code == 0, done.err + done.out
        return json.loads(done.out.splitlines()[-1])


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Workshop:
    root = tmp_path / "project"
    root.mkdir()
    (root / "repro.toml").write_text("")
    monkeypatch.chdir(root)
    monkeypatch.delenv("REPRO_STORE", raising=False)
    return Workshop(root, capfd)


@pytest.fixture
def unenclosed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts run without a sandbox: those of the test look at, or are looked at from, what is outside."""
    monkeypatch.setenv("REPRO_SANDBOX", "none")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


class PackageIndex:
    """A simple index (PEP 503) on disk, for tiny packages made by the tests."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return self.root.as_uri()

    def wheel(
        self,
        name: str,
        version: str = "1.0",
        *,
        requires: tuple[str, ...] = (),
        files: Mapping[str, str] | None = None,
        tag: str = "py3-none-any",
    ) -> Path:
        """Adds a wheel; by default it holds one module with `VERSION`."""
        module = name.replace("-", "_")
        info = f"{module}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {requirement}\n" for requirement in requires)
        content = dict(files or {f"{module}.py": f"VERSION = {version!r}\n"})
        content[f"{info}/METADATA"] = metadata
        content[f"{info}/WHEEL"] = f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n"
        record = "".join(f"{path},{_record_hash(text)},{len(text.encode())}\n" for path, text in content.items())
        content[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
        path = self._place(name) / f"{module}-{version}-{tag}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            for inside, text in content.items():
                archive.writestr(zipfile.ZipInfo(inside, (1980, 1, 1, 0, 0, 0)), text)
        return self._publish(name, path)

    def sdist(self, name: str, version: str, files: Mapping[str, str]) -> Path:
        """Adds a source distribution."""
        path = self._place(name) / f"{name}-{version}.tar.gz"
        content = {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", **files}
        with tarfile.open(path, "w:gz") as archive:
            for inside, text in content.items():
                member = tarfile.TarInfo(f"{name}-{version}/{inside}")
                member.size = len(text.encode())
                archive.addfile(member, io.BytesIO(text.encode()))
        return self._publish(name, path)

    def _place(self, name: str) -> Path:
        directory = self.root / name.lower().replace("_", "-")
        directory.mkdir(exist_ok=True)
        return directory

    def _publish(self, name: str, path: Path) -> Path:
        links = [
            f'<a href="{file.name}#sha256={hashlib.sha256(file.read_bytes()).hexdigest()}">{file.name}</a><br>'
            for file in sorted(path.parent.iterdir())
            if file.name != "index.html"
        ]
        (path.parent / "index.html").write_text(f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>")
        return path


def _record_hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return "sha256=" + base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


@pytest.fixture
def index(tmp_path: Path) -> PackageIndex:
    return PackageIndex(tmp_path / "index")


def missing(reason: str) -> NoReturn:
    """Skips visibly what this machine cannot do; where the lab is required, as in CI, that is a failure."""
    if os.environ.get("REPRO_LAB") == "required":
        pytest.fail(f"REPRO_LAB=required, and {reason}")
    pytest.skip(reason)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts file systems of a few megabytes; needs root."""
    import subprocess

    mounted: list[Path] = []

    def mount(size: int) -> Path:
        if os.geteuid() != 0:
            missing("a full disk needs root, to mount a small one")
        place = tmp_path / f"disk{len(mounted)}"
        place.mkdir()
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)])
        if done.returncode != 0:
            missing("no permission to mount a small disk")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=False)


def _remove_image(client: DockerClient, image: str) -> None:
    """Removes an image; a container of it that is just going holds it for a moment."""
    from docker.errors import APIError, ImageNotFound

    for _ in range(50):
        try:
            client.images.remove(image, force=True)
        except ImageNotFound:
            return
        except APIError as error:
            last = error
            time.sleep(0.1)
        else:
            return
    raise last


def as_root() -> bool:
    return os.geteuid() == 0


@pytest.fixture(scope="session")
def base_channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """A conda channel with a real Python, made once for each test process."""
    if not sys.platform.startswith("linux"):
        missing("the lab makes conda packages of a Linux Python only")
    return build_channel(tmp_path_factory.mktemp("channel"))


@pytest.fixture
def channel(base_channel: Channel, tmp_path: Path) -> Channel:
    """A channel of the test's own, with a Python in it."""
    return base_channel.clone(tmp_path / "channel")


@pytest.fixture(scope="session")
def base_tar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base image: the few files a Python needs, of this Debian."""
    if not shutil.which("dpkg-query"):
        missing("the lab makes its base image of Debian packages")
    path = tmp_path_factory.mktemp("base") / "base.tar"
    build_base(path)
    return path


@pytest.fixture
def docker(workshop: Workshop, base_tar: Path) -> Iterator[DockerClient]:
    """The Docker daemon, in a project with a base image; what the test leaves there is removed."""
    import docker
    from docker.errors import DockerException

    try:
        client = docker.from_env()
        client.ping()
    except (DockerException, OSError):
        missing("no Docker daemon answers (`make lab-up` as root starts one)")
    (workshop.root / "repro.toml").write_text(f'[images]\nbase = "{base_tar}"\n')
    before = {image.id for image in client.images.list(all=True)}
    ours = ("repro-env:", "repro-run:", "repro-base:", "lab-", "127.0.0.1:")
    yield client
    left = client.containers.list(all=True, filters={"label": f"repro.store={workshop.root / 'cache'}"})
    for container in left:
        container.remove(force=True)
    for image in client.images.list():
        if image.id not in before and any(tag.startswith(ours) for tag in image.tags):
            _remove_image(client, str(image.id))
    assert left == []


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three hosts for each test process, on a subnet of their own; h3 has a dockerd. Tests take `hosts`."""
    if reason := unable():
        missing(reason)
    with reserved_subnet() as subnet:
        cluster = Cluster(tmp_path_factory.mktemp("hosts"), subnet)
        try:
            cluster.up(3)
            yield cluster
        except LabError as error:
            missing(f"the hosts of the lab did not come up: {error}")
        finally:
            cluster.down()


@pytest.fixture
def hosts(cluster: Cluster) -> Iterator[Cluster]:
    """The hosts, all up and clean; the test must leave them as clean, but for what it excused with `may_leave`.

    Homes, with the stores in them, stay as the last test left them; `hosts.wipe` empties one.
    """
    cluster.reset()
    yield cluster
    left = cluster.all_leftovers()
    cluster.reset()
    assert left == {}


@pytest.fixture
def lab(workshop: Workshop, hosts: Cluster) -> Cluster:
    """The hosts, and in the project an inventory of them with the targets `lab` and `docker-lab`."""
    hosts.inventory(workshop.root / "inventory.toml")
    with open(workshop.root / "repro.toml", "a") as file:
        file.write('[hosts]\ninventory = "inventory.toml"\n')
    return hosts


@pytest.fixture
def slurm(hosts: Cluster) -> Iterator[Slurm]:
    """A Slurm on the hosts, for this test; `slurm.target()` is what an inventory says of it."""
    slurm = Slurm(hosts)
    try:
        slurm.up()
    except LabError as error:
        slurm.down()
        missing(f"Slurm did not come up: {error}")
    yield slurm
    slurm.down()
