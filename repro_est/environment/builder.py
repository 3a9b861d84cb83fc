"""Building a prefix: every step from locked artifacts to a read-only directory, in a scratch directory of its own.

Two kinds of base. Without conda packages it is a relocatable virtual environment of an interpreter of this machine,
which uv makes. With conda packages, python among them, rattler links them, with the final path in the files that name
it. Wheels are copied on top of either (`unpacked`).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from repro_est.digest import EnvironmentKey, Sha256
from repro_est.environment.artifacts import Artifacts
from repro_est.environment.payload import RECORD, payload
from repro_est.environment.unpacked import Unpacked, Wheel
from repro_est.errors import EnvironmentBuildError
from repro_est.files import make_read_only, sha256_file, sync_filesystem, write_atomic
from repro_est.lock.interpreters import Interpreter
from repro_est.lock.uv import readable, uv_environment, uv_path
from repro_est.lock.values import Lock, Package
from repro_est.observer import Observer
from repro_est.store.guard import full_disk_in, store_error
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
                self._compile(prefix)
            else:
                self._create(prefix, scratch)
            self._place([self._wheel(package, scratch) for package in packages], prefix)
            self._uv(["pip", "check", "--python", str(prefix / "bin" / "python")], scratch, "the packages of the lock")
            self._finish(prefix)
        self._observer.event("built", key=self._key)

    # ---- steps

    def _link(self, prefix: Path, scratch: Path) -> None:
        """Links conda packages, with the path the prefix will have."""
        from repro_est.lock.conda import link

        final = str(self._store.layout.environment(self._key).absolute())
        packages = self._artifacts.conda
        prefix.mkdir()
        link(packages, {item.sha256: self._artifacts.path(item) for item in packages}, prefix, final, scratch)

    def _create(self, prefix: Path, scratch: Path) -> None:
        assert self._interpreter is not None
        arguments = ["venv", "--relocatable", "--no-project", "--python", str(self._interpreter.path), str(prefix)]
        self._uv(arguments, scratch, "the virtual environment")

    def _place(self, wheels: Sequence[Wheel], prefix: Path) -> None:
        python = self._interpreter.path if self._interpreter else prefix / "bin" / "python"
        Unpacked(self._store, python, self._lock.python).place(wheels, prefix)

    def _wheel(self, package: Package, scratch: Path) -> Wheel:
        artifact, path = self._artifacts.artifact(package), self._artifacts.path(package)
        if artifact.is_wheel:
            return Wheel(path, Sha256(artifact.sha256))
        built = self._built_wheel(package, path, scratch)
        return Wheel(built, sha256_file(built))

    def _built_wheel(self, package: Package, sdist: Path, scratch: Path) -> Path:
        """Builds a wheel of an sdist, in a virtual environment of the pinned build packages, without network."""
        builder, output = scratch / f"build-{package.name}", scratch / f"wheel-{package.name}"
        self._create(builder, scratch)
        self._place([self._wheel(pinned, scratch) for pinned in package.build], builder)
        arguments = ["build", "--wheel", "--no-build-isolation", "--no-index", "--offline", "--out-dir", str(output)]
        arguments += ["--python", str(builder / "bin" / "python"), str(sdist)]
        self._uv(arguments, scratch, f"{package.name} {package.version}, which is built from source")
        return next(output.glob("*.whl"))

    def _compile(self, prefix: Path) -> None:
        """Compiles every conda package once. One process each: `compileall -j2` is not deterministic, -j1 is."""
        libraries = [path for path in prefix.glob("lib/python3*") if path.is_dir() and not path.is_symlink()]
        packages = [entry for library in libraries for entry in (library / "site-packages").glob("*")]
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
        whole = seal(prefix, except_for=RECORD)
        tree = payload(whole, standalone=self._interpreter is None)
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
        final.parent.mkdir(exist_ok=True)
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
            number = full_disk_in(said)
            if number is not None and (full := store_error(self._store.layout.root, number)):
                raise full
            raise EnvironmentBuildError(
                f"{subject}: cannot be installed\n{said}",
                hint="change the package or its bounds, and lock again",
            )
