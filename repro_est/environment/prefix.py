"""The prefix of an environment: a read-only directory of installed packages, made once per key.

    envs/<key>/           a relocatable virtual environment without pip
    envs/<key>/env.json   written last: key, document, interpreter, tree of the payload

How it is made: every artifact is fetched and checked against its SHA-256, and checked again right before use; uv
installs them without network, into a directory of our own, with a cache of its own that is removed afterwards, so
that no file shares an inode with anything; sdists are built first, with the pinned packages and nothing else; the
byte code is compiled once, deterministically; the write bits go; and a rename makes it visible. Two builders at
once: one builds, the other waits and uses it. A killed one leaves a directory in `tmp/` that `repro gc` removes.

A prefix may be moved: nothing in it names its own path, only the base interpreter's (docs/decisions/0008).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey, Sha256, TreeHash
from repro_est.environment.key import environment_document, environment_key
from repro_est.errors import EnvironmentBuildError, LockError
from repro_est.files import make_read_only, sync_filesystem, write_atomic
from repro_est.lock.fetch import fetch, verify_file
from repro_est.lock.interpreters import Interpreter, find_interpreter
from repro_est.lock.uv import readable, uv_environment, uv_path
from repro_est.lock.values import Artifact, Lock, Package
from repro_est.observer import Observer
from repro_est.platforms import current_platform
from repro_est.scan import scan
from repro_est.store.blobs import digest_file
from repro_est.store.guard import writing
from repro_est.store.layout import Layout
from repro_est.store.leases import Leases
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

_RECORD = "env.json"
_FORMAT = 1
_EPOCH = "315532800"  # 1980-01-01, the earliest time a zip file can hold
_PARALLEL_FETCHES = 8


@dataclass(frozen=True, slots=True)
class Prefix:
    """A built environment.

    Args:
        interpreter: version and fingerprint of the base interpreter, recorded with every attempt.
    """

    path: Path
    key: EnvironmentKey
    interpreter: Mapping[str, str]

    @property
    def python(self) -> Path:
        return self.path / "bin" / "python"


def realise(lock: Lock, store: Store, observer: Observer) -> Prefix:
    """Returns the prefix of a lock on this machine, building it when it is not there.

    Raises:
        VerificationError: an artifact is not what was locked.
        EnvironmentBuildError: no such interpreter, or an installation failed.
    """
    document = environment_document(lock, current_platform())
    key = environment_key(document)
    found = present(store.layout, key)
    if found is not None:
        return found
    interpreter = _interpreter(lock.python)

    def on_wait(owner: object) -> None:
        observer.event("waiting", owner=str(owner), environment=key)

    with Leases(store.layout).hold(f"env-{key}", on_wait=on_wait):
        found = present(store.layout, key)
        if found is not None:
            return found
        with writing(store.layout.environment(key)):
            _Builder(lock, document, key, interpreter, store, observer).build()
    built = present(store.layout, key)
    if built is None:
        raise EnvironmentBuildError(f"environment {key}: was built and is not usable", hint="repro doctor")
    return built


def present(layout: Layout, key: EnvironmentKey) -> Prefix | None:
    """Returns the prefix if it is whole and its interpreter is still the one it was made with."""
    path = layout.environment(key)
    try:
        record = json.loads((path / _RECORD).read_bytes())
        interpreter = record["interpreter"]
        status = os.stat(interpreter["path"])
    except (OSError, ValueError, KeyError):
        return None
    if [status.st_size, status.st_mtime_ns] != interpreter["stat"]:
        return None
    return Prefix(path, key, {name: interpreter[name] for name in ("path", "version", "sha256")})


def verify_prefix(path: Path, store: Store) -> list[str]:
    """Returns the files of a prefix that are not as they were built; byte code is not looked at."""
    record = json.loads((path / _RECORD).read_bytes())
    before = store.read_tree(TreeHash(record["tree"])).by_path()
    after = payload(path).by_path()
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))


def payload(path: Path) -> Tree:
    """Returns the installed files as a tree: without byte code, the record, and what names this machine."""
    found, problems = scan(path, shown=str(path), exclude=_not_payload, links_may_leave=True)
    if problems:
        raise EnvironmentBuildError("\n".join(problems))
    entries: list[Entry] = []
    for item in found:
        if item.kind in (Kind.SYMLINK, Kind.DIRECTORY):
            entries.append(Entry(item.path, item.kind, target=item.target))
        else:
            content = digest_file(path / item.path, with_sha256=False)
            entries.append(Entry(item.path, item.kind, content.xxh3, content.size))
    return Tree.of(entries)


def _not_payload(path: str, is_directory: bool) -> bool:
    named = path in (_RECORD, "pyvenv.cfg") or path.startswith("bin/python")
    return named or path.endswith(".pyc") or (is_directory and path.endswith("__pycache__"))


def _interpreter(version: str) -> Interpreter:
    try:
        return find_interpreter(version)
    except LockError as error:
        raise EnvironmentBuildError(error.message, hint=error.hint) from None


class _Builder:
    """Builds one prefix in a scratch directory and renames it into place."""

    def __init__(
        self,
        lock: Lock,
        document: Mapping[str, Any],
        key: EnvironmentKey,
        interpreter: Interpreter,
        store: Store,
        observer: Observer,
    ) -> None:
        self._lock, self._document, self._key = lock, document, key
        self._interpreter, self._store, self._observer = interpreter, store, observer
        self._platform = str(document["platform"])

    def build(self) -> None:
        packages = [package for package in self._lock.packages if package.artifact(self._platform)]
        pinned = [build for package in packages if not self._artifact(package).is_wheel for build in package.build]
        self._fetch([*packages, *pinned])
        self._observer.event("building", key=self._key, packages=len(packages))
        with claimed_directory(self._store.layout, "tmp") as scratch:
            prefix = scratch / "prefix"
            self._create(prefix, scratch)
            wheels = [self._wheel(package, scratch) for package in packages]
            self._install(prefix, wheels, scratch)
            self._compile(prefix)
            self._finish(prefix)
        self._observer.event("built", key=self._key)

    # ---- artifacts

    def _artifact(self, package: Package) -> Artifact:
        artifact = package.artifact(self._platform)
        if artifact is None:
            raise EnvironmentBuildError(f"{package.name} {package.version}: has no file for {self._platform}")
        return artifact

    def _path(self, artifact: Artifact) -> Path:
        return self._store.layout.package(Sha256(artifact.sha256), artifact.filename)

    def _fetch(self, packages: Sequence[Package]) -> None:
        """Fetches what is missing and checks what is there; nothing is installed that was not read and verified."""
        missing = [package for package in packages if not self._path(self._artifact(package)).exists()]
        if missing:
            size = sum(self._artifact(package).size or 0 for package in missing)
            self._observer.event("fetching", count=len(missing), bytes=size)

        def arrived(count: int) -> None:
            self._observer.event("progress", bytes=count)

        def one(package: Package) -> None:
            artifact = self._artifact(package)
            path, what = self._path(artifact), f"{package.name} {package.version}"
            if path.exists():
                verify_file(path, artifact.sha256, what=what)
            else:
                fetch(artifact.url, artifact.sha256, path, what=what, on_bytes=arrived)

        with ThreadPoolExecutor(_PARALLEL_FETCHES) as pool:
            list(pool.map(one, packages))

    # ---- steps

    def _create(self, prefix: Path, scratch: Path) -> None:
        arguments = ["venv", "--relocatable", "--no-project", "--python", str(self._interpreter.path), str(prefix)]
        self._uv(arguments, scratch, "the virtual environment")

    def _install(self, prefix: Path, wheels: Sequence[Path], scratch: Path) -> None:
        if not wheels:
            return
        arguments = ["pip", "install", "--python", str(prefix / "bin" / "python"), "--no-deps", "--no-index"]
        arguments += ["--link-mode", "hardlink", *map(str, self._gathered(wheels, scratch))]
        self._uv(arguments, scratch, f"environment {self._key[:12]}")
        for directory in prefix.glob("lib/python*/site-packages/*.dist-info"):
            _forget_origin(directory)
        self._uv(["pip", "check", "--python", str(prefix / "bin" / "python")], scratch, "the packages of the lock")

    def _gathered(self, wheels: Sequence[Path], scratch: Path) -> list[Path]:
        directory = scratch / "wheels"
        directory.mkdir(exist_ok=True)
        gathered = [directory / wheel.name for wheel in wheels]
        for wheel, place in zip(wheels, gathered, strict=True):
            if wheel != place and not place.exists():
                place.symlink_to(wheel)
        return gathered

    def _wheel(self, package: Package, scratch: Path) -> Path:
        artifact = self._artifact(package)
        return self._path(artifact) if artifact.is_wheel else self._built_wheel(package, artifact, scratch)

    def _built_wheel(self, package: Package, sdist: Artifact, scratch: Path) -> Path:
        """Builds a wheel of an sdist, in a virtual environment of the pinned build packages, without network."""
        builder, output = scratch / f"build-{package.name}", scratch / f"wheel-{package.name}"
        self._create(builder, scratch)
        self._install(builder, [self._path(self._artifact(pinned)) for pinned in package.build], scratch)
        arguments = ["build", "--wheel", "--no-build-isolation", "--no-index", "--offline", "--out-dir", str(output)]
        arguments += ["--python", str(builder / "bin" / "python"), str(self._path(sdist))]
        self._uv(arguments, scratch, f"{package.name} {package.version}, which is built from source")
        return next(output.glob("*.whl"))

    def _compile(self, prefix: Path) -> None:
        """Compiles every package once. One process per package: `compileall -j2` is not deterministic, -j1 is."""
        packages = [entry for site in prefix.glob("lib/python*/site-packages") for entry in site.iterdir()]
        command = [str(prefix / "bin" / "python"), "-I", "-m", "compileall", "-q", "-j1"]
        command += ["--invalidation-mode", "unchecked-hash"]

        def one(entry: Path) -> None:
            relative = str(entry.relative_to(prefix))
            subprocess.run(
                [*command, "-s", str(prefix), "-p", "/env", str(prefix / relative)],
                env={"PYTHONHASHSEED": "0", "PATH": os.defpath},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        code = [entry for entry in packages if entry.is_dir() and not entry.name.endswith(".dist-info")]
        code += [entry for entry in packages if entry.suffix == ".py"]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(one, code))

    def _finish(self, prefix: Path) -> None:
        for pattern in ("activate*", "deactivate*", "*.bat"):  # for shells; they name the directory they were made in
            for script in (prefix / "bin").glob(pattern):
                script.unlink()
        for name in (".gitignore", "CACHEDIR.TAG", ".lock"):
            (prefix / name).unlink(missing_ok=True)
        tree = payload(prefix)
        self._store.write_tree(tree)
        status = os.stat(self._interpreter.path)
        record = {
            "format": _FORMAT,
            "key": self._key,
            "environment": self._document,
            "tree": tree.hash,
            "interpreter": {
                "path": str(self._interpreter.path),
                "version": self._interpreter.version,
                "sha256": self._interpreter.fingerprint(),
                "stat": [status.st_size, status.st_mtime_ns],
            },
        }
        write_atomic(prefix / _RECORD, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")
        for directory, _, _ in os.walk(prefix):
            if directory != str(prefix):
                os.chmod(directory, 0o755)
        make_read_only(prefix)
        os.chmod(prefix, 0o755)  # a directory is renamed only by who may write to it
        sync_filesystem(prefix)
        final = self._store.layout.environment(self._key)
        if final.exists():  # made with an interpreter that is not the same any more
            self._observer.event("message", message=f"environment {self._key[:12]}: made anew, its interpreter changed")
            self._store.discard(final)
        os.rename(prefix, final)
        os.chmod(final, 0o555)

    def _uv(self, arguments: Sequence[str], scratch: Path, subject: str) -> None:
        """Runs uv without network and configuration, with a cache inside the scratch directory."""
        environment = uv_environment(
            {"UV_CACHE_DIR": str(scratch / "uv-cache"), "SOURCE_DATE_EPOCH": _EPOCH, "PYTHONHASHSEED": "0", "TZ": "UTC"}
        )
        for name in ("UV_INDEX", "UV_DEFAULT_INDEX", "UV_FIND_LINKS", "UV_EXTRA_INDEX_URL", "UV_INDEX_URL"):
            environment.pop(name, None)
        done = subprocess.run(
            [uv_path(), *arguments, "--quiet"], capture_output=True, text=True, env=environment, cwd=scratch
        )
        if done.returncode != 0:
            raise EnvironmentBuildError(
                f"{subject}: cannot be installed\n{readable(done.stderr) or readable(done.stdout)}",
                hint="change the package or its bounds, and lock again",
            )


def _forget_origin(dist_info: Path) -> None:
    """Removes what says from which path and when a package was installed, also from its RECORD."""
    record = dist_info / "RECORD"
    origins = [name for name in ("direct_url.json", "uv_cache.json") if (dist_info / name).exists()]
    if not origins or not record.exists():
        return
    lines = record.read_text("utf-8").splitlines(keepends=True)
    kept = [line for line in lines if not any(f"{dist_info.name}/{name}," in line for name in origins)]
    temporary = record.with_name("RECORD.new")
    temporary.write_text("".join(kept), "utf-8")
    temporary.replace(record)
    for name in origins:
        (dist_info / name).unlink()
