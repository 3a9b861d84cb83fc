"""Locks, prefixes, images and containers beside uv, `docker build` and `docker run`.

What needs a Docker daemon, a registry and the lab's base image is left out where they are not (`make lab-up`).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from benchmarks.measure import Command, interleaved, report

BIN = Path(sys.executable).parent
REPRO, UV = str(BIN / "repro"), str(BIN / "uv")
LAB = Path(__file__).parents[1] / ".lab"
REGISTRY = "127.0.0.1:5000"
DOCKER = "/usr/bin/docker"  # Debian's: as old as its daemon, so that both of its builders work

_PIP = '[estimator]\nsource_directory = "source"\nentry_script = "train.py"\npip_packages = ["scikit-learn", "numpy", "pandas"]\n'

_IMAGE_WORK = """
import statistics, time
from pathlib import Path
from repro_est.cli.common import TerminalObserver, open_store
from repro_est.console import Console
from repro_est.images.daemon import connect
from repro_est.images.obtain import environment_image
from repro_est.lock.lockfile import loads
from repro_est.platforms import current_platform
project, store = open_store()
lock, client, taken = loads(Path("job.lock").read_bytes(), Path("job.lock")), connect(), []
for _ in range(9):
    started = time.perf_counter()
    environment_image(lock, current_platform(), project, store, TerminalObserver(Console()), client)
    taken.append(time.perf_counter() - started)
print(1000 * statistics.median(taken))
"""


def _project(root: Path, recipe: str, script: str = "") -> None:
    (root / "repro.toml").write_text(f'[images]\nbase = "{LAB}/base.tar"\n')
    (root / "source").mkdir()
    (root / "source" / "train.py").write_text(script)
    (root / "job.toml").write_text(recipe)


def _run(root: Path, *words: str) -> str:
    return subprocess.run(words, cwd=root, check=True, capture_output=True, text=True).stdout


def _peer_lock(root: Path) -> list[str]:
    (root / "wanted.in").write_text("scikit-learn\nnumpy\npandas\n")
    version = ".".join(map(str, sys.version_info[:2]))
    words = [UV, "pip", "compile", "-q", "--generate-hashes", "--python-version", version]
    return [*words, "wanted.in", "-o", "locked.txt"]


def bench_lock(root: Path) -> None:
    """scikit-learn, numpy and pandas from the index; both know it from before."""
    _project(root, _PIP)
    commands = {
        "repro lock": Command([REPRO, "lock", "job.toml"], root, lambda: (root / "job.lock").unlink(missing_ok=True)),
        "uv pip compile": Command(_peer_lock(root), root, lambda: (root / "locked.txt").unlink(missing_ok=True)),
    }
    targets = {"uv pip compile": ("<=", 2.0)}
    report("Lock of scikit-learn, numpy and pandas", interleaved(commands, rounds=7), "repro lock", targets)


def bench_prefix(root: Path) -> None:
    """The prefix of that lock: nothing there; everything there but the prefix. With byte code, and beside uv without."""
    _project(root, _PIP)
    _run(root, REPRO, "lock", "job.toml")
    _run(root, *_peer_lock(root))
    os.environ["UV_CACHE_DIR"] = str(root / "uv-cache")
    sync = f"{UV} venv -q venv && VIRTUAL_ENV=venv {UV} pip sync -q --require-hashes locked.txt"

    number = iter(range(10_000))

    def away(*names: str) -> None:
        """Moves aside: ext4 looks for inodes slowly while many were freed in the last minute."""
        for name in names:
            if (root / name).exists():
                (root / name).rename(root / f"old{next(number)}")

    def nothing() -> None:
        away("cache", "uv-cache", "venv")

    def packages() -> None:
        away("cache/envs", "venv")

    for title, prepare, wanted, rounds in (("nothing there", nothing, 2.0, 3), ("packages there", packages, 1.5, 5)):
        commands = {
            "repro env build": Command([REPRO, "env", "build", "job.toml"], root, prepare),
            "uv, with byte code": Command(["sh", "-c", f"{sync} --compile-bytecode"], root, prepare),
            "uv, without": Command(["sh", "-c", sync], root, prepare),
        }
        targets = {name: ("<=", wanted) for name in commands if name.startswith("uv")}
        report(f"Prefix, {title}", interleaved(commands, rounds=rounds), "repro env build", targets)
    del os.environ["UV_CACHE_DIR"]


def _has_lab() -> bool:
    there = subprocess.run([DOCKER, "info"], capture_output=True).returncode == 0 if Path(DOCKER).exists() else False
    if not there or not (LAB / "base.tar").exists():
        print("\nImages and containers: left out, they need Docker and the lab's base (`make lab-up` as root)")
        return False
    return True


def _conda(*packages: str) -> str:
    listed = ", ".join(f'"{package}"' for package in ("python", *packages))
    return (
        '[estimator]\nsource_directory = "source"\nentry_script = "train.py"\n'
        f'conda_packages = [{listed}]\n[environment]\nchannels = ["./channel"]\n'
    )


def _forget_images() -> None:
    words = [DOCKER, "images", "--format", "{{.Repository}}:{{.Tag}}", "repro-env"]
    listed = subprocess.run(words, capture_output=True, text=True).stdout.split()
    if listed:
        subprocess.run([DOCKER, "rmi", *listed], capture_output=True)


def bench_image(root: Path) -> None:
    """The image of scikit-learn's environment, load included, beside `docker build` of the same packages."""
    if not _has_lab():
        return
    from tests.lab import channel

    (root / "wheels").mkdir()
    channel.download(["scikit-learn", "pip"], root / "wheels")
    extra = channel.build(root / "channel", root / "wheels")
    next((root / "wheels").glob("pip-*")).unlink()
    _project(root, _conda("scikit-learn", "pip", "alpha"))
    (root / "python.toml").write_text(_conda("pip"))
    release = iter(range(1, 1000))

    def publish() -> None:
        """A new version of one small package, on the channel and as a wheel."""
        version = f"{next(release)}.{os.urandom(2).hex()}".translate(str.maketrans("abcdef", "123456"))
        extra.add_module("alpha", version)
        for wheel in (root / "wheels").glob("alpha-*"):
            wheel.unlink()
        _wheel(root / "wheels" / f"alpha-{version}-py3-none-any.whl", version)
        _run(root, REPRO, "lock", "job.toml", "--update", "alpha")

    extra.add_module("alpha", "0.0")
    _wheel(root / "wheels" / "alpha-0.0-py3-none-any.whl", "0.0")
    _run(root, REPRO, "lock", "job.toml")
    _forget_images()
    made = _run(root, REPRO, "image", "build", "python.toml", "--json")
    subprocess.run([DOCKER, "tag", made.split('"image_id": "')[1].split('"')[0], "bench-python:1"], check=True)
    (root / "Dockerfile").write_text(
        "FROM bench-python:1\nCOPY wheels /wheels\n"
        'RUN ["python", "-m", "pip", "install", "--no-index", "--find-links=/wheels", "scikit-learn", "alpha"]\n'
    )
    (root / ".dockerignore").write_text("*\n!wheels\n")
    fresh = ["--no-cache", "-q", "-t", "bench-peer:1", "."]

    number = iter(range(1000))

    def forget() -> None:
        """Another base, on which no daemon has a layer, and no layer in the store. Nothing is removed: ext4 then looks for inodes slowly."""
        mark = next(number)
        shutil.copy(LAB / "base.tar", root / f"base{mark}.tar")
        with tarfile.open(root / f"base{mark}.tar", "a") as base:
            base.addfile(tarfile.TarInfo(f"etc/mark{mark}"))
        (root / "repro.toml").write_text(f'[images]\nbase = "base{mark}.tar"\n')
        for name in ("layers", "images"):
            if (root / "cache" / name).exists():
                (root / "cache" / name).rename(root / f"old-{name}{mark}")

    ours = Command([REPRO, "image", "build", "job.toml"], root, forget)
    peers = {
        "docker build": Command(["env", "DOCKER_BUILDKIT=0", DOCKER, "build", *fresh], root),
        "docker build, BuildKit": Command(["env", "DOCKER_BUILDKIT=1", DOCKER, "build", *fresh], root),
    }
    results = interleaved({"repro image build": ours, **peers}, rounds=3)
    report("Full image, loaded", results, "repro image build", dict.fromkeys(peers, (">=", 3.0)))
    _run(root, REPRO, "image", "build", "job.toml")
    ours = Command([REPRO, "image", "build", "job.toml"], root, publish)
    changed = {
        name: Command([word for word in peer.words if word != "--no-cache"], root, publish)
        for name, peer in peers.items()
    }
    results = interleaved({"repro image build": ours, **changed}, rounds=3)
    report("One package changed, loaded", results, "repro image build", dict.fromkeys(peers, (">=", 20.0)))
    _push(root, publish)
    subprocess.run([DOCKER, "rmi", "-f", "bench-peer:1", "bench-python:1"], capture_output=True)
    _forget_images()


def _push(root: Path, publish: object) -> None:
    """How much a registry grows by when one package changed."""
    assert callable(publish)
    grown: dict[str, int] = {}
    storage = next(iter(LAB.glob("docker-registry-5000")), LAB / "registry")
    for _ in range(2):  # the first push sends everything
        publish()
        _run(root, "env", "DOCKER_BUILDKIT=0", DOCKER, "build", "-q", "-t", f"{REGISTRY}/bench/peer:1", ".")
        before = _size(storage)
        _run(root, DOCKER, "push", "-q", f"{REGISTRY}/bench/peer:1")
        between = _size(storage)
        _run(root, REPRO, "image", "push", "job.toml", "--to", f"{REGISTRY}/bench/ours")
        grown = {"docker": between - before, "repro": _size(storage) - between}
    share = grown["repro"] / grown["docker"]
    print("\nOne package changed, pushed")
    print(
        f"  repro {grown['repro'] / 1e3:.0f} kB, docker {grown['docker'] / 1e3:.0f} kB: {share:.2%}, "
        f"wanted under 1%: {'met' if share < 0.01 else 'MISSED'}"
    )


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _wheel(path: Path, version: str) -> None:
    import zipfile

    info = f"alpha-{version}.dist-info"
    content = {
        "alpha.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: alpha\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    content[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in [*content, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            archive.writestr(name, text)


def bench_container(root: Path) -> None:
    """A run in a container beside `docker run` of the same command; and what is done about images when only code changed."""
    if not _has_lab():
        return
    import json

    from tests.lab import channel

    channel.build(root / "channel").add_module("alpha")
    _project(root, _conda("alpha"), "open('outputs/x', 'w').write('1')\n")
    _run(root, REPRO, "run", "job.toml", "-t", "docker", "-q")
    image = json.loads(_run(root, REPRO, "image", "build", "job.toml", "--json"))["image_id"]
    (root / "outputs").mkdir()
    user = f"{os.getuid()}:{os.getgid()}"
    peer = [DOCKER, "run", "--rm", "--init", "--network", "none", "-u", user, "-w", "/work"]
    peer += ["-v", f"{root}/source:/work", "-v", f"{root}/outputs:/work/outputs", image, "python", "train.py"]
    (root / "source" / "outputs").mkdir()
    number = iter(range(1000))

    def edit() -> None:
        (root / "source" / "train.py").write_text(f"open('outputs/x', 'w').write('{next(number)}')\n")

    commands = {
        "repro run -t docker": Command([REPRO, "run", "job.toml", "-t", "docker", "-q"], root, edit),
        "docker run": Command(peer, root),
    }
    results = interleaved(commands, rounds=7)
    report("A run in a container, only code changed", results, "repro run -t docker", {})
    added = results["repro run -t docker"] - results["docker run"]
    print(f"  added by repro: {added * 1000:.0f} ms, wanted at most 500: {'met' if added <= 0.5 else 'MISSED'}")
    milliseconds = float(_run(root, str(BIN / "python"), "-c", _IMAGE_WORK))
    word = "met" if milliseconds <= 50 else "MISSED"
    print(f"  image work, 0 layers made: {milliseconds:.0f} ms, wanted at most 50: {word}")
    _forget_images()
