"""Building a prefix: every step from locked artifacts to a read-only directory, in a scratch directory of its own.

Two kinds of base. Without conda packages it is a relocatable virtual environment of an interpreter of this machine,
which uv makes and fills. With conda packages, python among them, rattler links them, with the final path in the files
that name it, and each wheel is unpacked on top by PyPA's installer.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey
from repro_est.environment.artifacts import Artifacts
from repro_est.environment.payload import RECORD, payload
from repro_est.environment.wheels import unpack
from repro_est.errors import EnvironmentBuildError
from repro_est.files import make_read_only, sha256_file, sync_filesystem, write_atomic
from repro_est.lock.interpreters import Interpreter
from repro_est.lock.uv import readable, uv_environment, uv_path
from repro_est.lock.values import Lock, Package
from repro_est.observer import Observer
from repro_est.store.guard import store_error
from repro_est.store.scratch import claimed_directory
from repro_est.store.sealed import seal
from repro_est.store.store import Store

_FORMAT = 2
_EPOCH = "315532800"  # 1980-01-01, the earliest time a zip file can hold


class Builder:
    """Builds one prefix and renames it into place.

    Args:
        interpreter: the base of a virtual environment; None when conda brings its own.
    """

    def __init__(
        self,
        lock: Lock,
        document: Mapping[str, Any],
        key: EnvironmentKey,
        interpreter: Interpreter | None,
        store: Store,
        observer: Observer,
    ) -> None:
        self._lock, self._document, self._key = lock, document, key
        self._interpreter, self._store, self._observer = interpreter, store, observer
        self._artifacts = Artifacts(lock, str(document["platform"]), store, observer)

    def build(self) -> None:
        packages, conda = self._artifacts.packages, self._artifacts.conda
        self._artifacts.fetch()
        self._observer.event("building", key=self._key, packages=len(packages) + len(conda))
        with claimed_directory(self._store.layout, "tmp") as scratch:
            prefix = scratch / "prefix"
            if conda:
                self._link(prefix, scratch)
            else:
                self._create(prefix, scratch)
                self._install(prefix, [self._wheel(package, scratch) for package in packages], scratch)
            self._compile(prefix, standard_library=bool(conda))
            self._finish(prefix)
        self._observer.event("built", key=self._key)

    # ---- steps

    def _link(self, prefix: Path, scratch: Path) -> None:
        """Links conda packages and unpacks wheels on top; both write the path the prefix will have."""
        from repro_est.lock.conda import link

        final = str(self._store.layout.environment(self._key).absolute())
        artifacts = self._artifacts
        prefix.mkdir()
        link(artifacts.conda, {item.sha256: artifacts.path(item) for item in artifacts.conda}, prefix, final, scratch)
        for package in artifacts.packages:
            unpack(artifacts.path(package), prefix, final=final, python=self._lock.python)
        self._check(prefix, scratch)

    def _check(self, prefix: Path, scratch: Path) -> None:
        self._uv(["pip", "check", "--python", str(prefix / "bin" / "python")], scratch, "the packages of the lock")

    def _create(self, prefix: Path, scratch: Path) -> None:
        assert self._interpreter is not None
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
        self._check(prefix, scratch)

    def _gathered(self, wheels: Sequence[Path], scratch: Path) -> list[Path]:
        directory = scratch / "wheels"
        directory.mkdir(exist_ok=True)
        gathered = [directory / wheel.name for wheel in wheels]
        for wheel, place in zip(wheels, gathered, strict=True):
            if wheel != place and not place.exists():
                place.symlink_to(wheel)
        return gathered

    def _wheel(self, package: Package, scratch: Path) -> Path:
        path = self._artifacts.path(package)
        return path if self._artifacts.artifact(package).is_wheel else self._built_wheel(package, path, scratch)

    def _built_wheel(self, package: Package, sdist: Path, scratch: Path) -> Path:
        """Builds a wheel of an sdist, in a virtual environment of the pinned build packages, without network."""
        builder, output = scratch / f"build-{package.name}", scratch / f"wheel-{package.name}"
        self._create(builder, scratch)
        self._install(builder, [self._artifacts.path(pinned) for pinned in package.build], scratch)
        arguments = ["build", "--wheel", "--no-build-isolation", "--no-index", "--offline", "--out-dir", str(output)]
        arguments += ["--python", str(builder / "bin" / "python"), str(sdist)]
        self._uv(arguments, scratch, f"{package.name} {package.version}, which is built from source")
        return next(output.glob("*.whl"))

    def _compile(self, prefix: Path, *, standard_library: bool) -> None:
        """Compiles every package once. One process per package: `compileall -j2` is not deterministic, -j1 is."""
        libraries = [path for path in prefix.glob("lib/python3*") if path.is_dir() and not path.is_symlink()]
        packages = [entry for library in libraries for entry in (library / "site-packages").glob("*")]
        if standard_library:
            packages += [entry for library in libraries for entry in library.iterdir() if entry.name != "site-packages"]
        command = [str(prefix / "bin" / "python"), "-I", "-m", "compileall", "-q", "-j1"]
        command += ["--invalidation-mode", "unchecked-hash"]

        def some(entries: Sequence[Path]) -> None:
            subprocess.run(
                [*command, "-s", str(prefix), "-p", "/env", *map(str, entries)],
                env={"PYTHONHASHSEED": "0", "PATH": os.defpath},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

        directories = [item for item in packages if item.is_dir() and not item.name.endswith(".dist-info")]
        modules = sorted(item for item in packages if item.suffix == ".py")
        jobs = [[item] for item in sorted(directories) if not item.is_symlink()]
        jobs += [modules[start : start + 50] for start in range(0, len(modules), 50)]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(some, jobs))

    def _finish(self, prefix: Path) -> None:
        for pattern in ("activate*", "deactivate*", "*.bat"):  # for shells; they name the directory they were made in
            for script in (prefix / "bin").glob(pattern):
                script.unlink()
        for name in (".gitignore", "CACHEDIR.TAG", ".lock"):
            (prefix / name).unlink(missing_ok=True)
        final = self._store.layout.environment(self._key)
        tree = payload(prefix, standalone=self._interpreter is None)
        whole = seal(prefix, except_for=RECORD)
        for kept in (tree, whole):
            self._store.write_tree(kept)
        record = {
            "format": _FORMAT,
            "key": self._key,
            "environment": self._document,
            "tree": tree.hash,
            "whole": whole.hash,
            **self._base(prefix, final),
        }
        write_atomic(prefix / RECORD, json.dumps(record, indent=2, sort_keys=True).encode() + b"\n")
        for directory, _, _ in os.walk(prefix):
            if directory != str(prefix):
                os.chmod(directory, 0o755)
        make_read_only(prefix)
        os.chmod(prefix, 0o755)  # a directory is renamed only by who may write to it
        sync_filesystem(prefix)
        if final.exists():  # made with an interpreter that is not the same any more, by an older version, or moved
            message = f"environment {self._key[:12]}: made anew, it was moved or made by another version of something"
            self._observer.event("message", message=message)
            self._store.discard(final)
        os.rename(prefix, final)
        os.chmod(final, 0o555)

    def _base(self, prefix: Path, final: Path) -> dict[str, Any]:
        """What the prefix stands on: an interpreter of this machine, or a path of its own."""
        if self._interpreter is None:
            python = (prefix / "bin" / "python").resolve()
            facts = {"path": str(final / "bin" / "python"), "version": self._lock.python, "sha256": sha256_file(python)}
            return {"prefix": str(final.absolute()), "interpreter": facts}
        status = os.stat(self._interpreter.path)
        return {
            "interpreter": {
                "path": str(self._interpreter.path),
                "version": self._interpreter.version,
                "sha256": self._interpreter.fingerprint(),
                "stat": [status.st_size, status.st_mtime_ns],
            }
        }

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
            said = readable(done.stderr) or readable(done.stdout)
            for number in (errno.ENOSPC, errno.EDQUOT):
                if f"(os error {number})" in said and (full := store_error(self._store.layout.root, number)):
                    raise full
            raise EnvironmentBuildError(
                f"{subject}: cannot be installed\n{said}",
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
