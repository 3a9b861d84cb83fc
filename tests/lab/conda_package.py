"""Writing conda packages: the `.conda` format (CEP 12), bit for bit the same each time, and wheels turned into them.

A `.conda` file is a zip of two zstd tars: `pkg-*` with the files, `info-*` with `index.json` and `paths.json`.
"""

from __future__ import annotations

import configparser
import email
import hashlib
import io
import json
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zstandard
from packaging.requirements import Requirement

EPOCH = 1577836800  # 2020-01-01
PLACEHOLDER = ("/opt/" + "_placeholder" * 30)[:255]
"""What stands for the prefix in files that name it; 255 characters, as conda-build makes it."""


@dataclass(frozen=True)
class Content:
    """One file of a package; `placeholder` is `text` or `binary` when it names the prefix."""

    data: bytes = b""
    mode: int = 0o644
    link: str | None = None
    placeholder: str | None = None


class Channel:
    """A channel directory: packages by subdir, and `repodata.json` for each."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._records: dict[str, dict[str, Any]] = {"linux-64": {}, "linux-aarch64": {}, "noarch": {}}

    @property
    def url(self) -> str:
        return self.root.as_uri()

    def clone(self, root: Path) -> Channel:
        """Returns a channel with the same packages in another directory."""
        shutil.copytree(self.root, root, copy_function=os.link)
        for index in root.glob("*/repodata.json"):
            index.unlink()
        made = Channel(root)
        made._records = {subdir: dict(records) for subdir, records in self._records.items()}
        made._write_index()
        return made

    def add_module(self, name: str, version: str = "1.0", *, depends: Iterable[str] = (), **more: Any) -> Path:
        """Adds a noarch Python package of one module, with what pip wants to know of it."""
        info = f"site-packages/{name}-{version}.dist-info"
        files = {
            f"site-packages/{name}.py": Content(
                f"VERSION = {version!r}\n\n\ndef main():\n    print(VERSION)\n".encode()
            ),
            f"{info}/METADATA": Content(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode()),
            f"{info}/WHEEL": Content(b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
            f"{info}/INSTALLER": Content(b"conda\n"),
        }
        points = [f"{name} = {name}:main"]
        return self.add(
            name,
            version,
            files,
            build="py_0",
            noarch="python",
            entry_points=points,
            depends=["python", *depends],
            **more,
        )

    def add(
        self,
        name: str,
        version: str,
        files: Mapping[str, Content],
        *,
        build: str = "0",
        depends: Iterable[str] = (),
        subdir: str = "noarch",
        noarch: str | None = "generic",
        entry_points: Iterable[str] = (),
        timestamp: int = EPOCH,
    ) -> Path:
        """Adds a package and writes the channel's index."""
        index: dict[str, Any] = {
            "name": name,
            "version": version,
            "build": build,
            "build_number": 0,
            "depends": sorted(depends),
            "constrains": [],
            "subdir": subdir,
            "timestamp": timestamp * 1000,
            "license": "test",
            **({"noarch": noarch} if noarch else {"platform": "linux", "arch": "x86_64"}),
        }
        path = self.root / subdir / f"{name}-{version}-{build}.conda"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_conda(path.stem, index, files, list(entry_points)))
        data = path.read_bytes()
        self._records[subdir][path.name] = {
            **index,
            "md5": hashlib.md5(data).hexdigest(),
            "sha256": hashlib.sha256(data).hexdigest(),
            "size": len(data),
        }
        self._write_index()
        return path

    def add_wheel(self, wheel: Path, *, python: str) -> Path:
        """Turns a wheel into a package for `python` ("3.11"): noarch when it is pure."""
        archive = zipfile.ZipFile(wheel)
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA")).split("/")[0]
        metadata = email.message_from_bytes(archive.read(f"{info}/METADATA"))
        pure = email.message_from_bytes(archive.read(f"{info}/WHEEL"))["Root-Is-Purelib"].lower() == "true"
        site = "site-packages" if pure else f"lib/python{python}/site-packages"
        files = dict(_wheel_files(archive, site, pure=pure))
        files[f"{site}/{info}/INSTALLER"] = Content(b"conda\n")
        points = list(_entry_points(archive, info))
        major, minor = python.split(".")
        depends = [f"python >={python},<{major}.{int(minor) + 1}.0a0", *_depends(metadata, python)]
        name = metadata["Name"].lower().replace("_", "-")
        if pure:
            return self.add(
                name, metadata["Version"], files, build="py_0", depends=depends, noarch="python", entry_points=points
            )
        for point in points:
            command, module, function = (part.strip() for part in point.replace("=", ":").split(":"))
            text = f"#!{PLACEHOLDER}/bin/python\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            files[f"bin/{command}"] = Content(text.encode(), 0o755, placeholder="text")
        build = f"py{major}{minor}_0"
        return self.add(
            name,
            metadata["Version"],
            files,
            build=build,
            depends=[*depends, "__glibc >=2.17"],
            subdir="linux-64",
            noarch=None,
        )

    def _write_index(self) -> None:
        for subdir, records in self._records.items():
            place = self.root / subdir
            place.mkdir(parents=True, exist_ok=True)
            content = {"info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "repodata_version": 1}
            (place / "repodata.json").write_text(json.dumps(content, indent=1, sort_keys=True))


def tree(root: Path) -> dict[str, Content]:
    """Returns the files of a directory."""
    found: dict[str, Content] = {}
    for directory, names, files in os.walk(root):
        for name in [*files, *(item for item in names if os.path.islink(os.path.join(directory, item)))]:
            path = Path(directory, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[relative] = Content(link=os.readlink(path))
            else:
                found[relative] = Content(path.read_bytes(), 0o755 if path.stat().st_mode & 0o100 else 0o644)
    return found


def _conda(stem: str, index: dict[str, Any], files: Mapping[str, Content], entry_points: list[str]) -> bytes:
    info = {
        "info/index.json": index,
        "info/paths.json": {"paths": _paths(files), "paths_version": 1},
        "info/about.json": {},
    }
    if index.get("noarch") == "python":
        info["info/link.json"] = {
            "noarch": {"type": "python", "entry_points": entry_points},
            "package_metadata_version": 1,
        }
    about = {name: Content(json.dumps(content, sort_keys=True).encode()) for name, content in info.items()}
    about["info/files"] = Content("".join(f"{name}\n" for name in sorted(files)).encode())
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_STORED) as archive:
        parts = {
            "metadata.json": b'{"conda_pkg_format_version": 2}',
            f"pkg-{stem}.tar.zst": _tar(files),
            f"info-{stem}.tar.zst": _tar(about),
        }
        for name, data in parts.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data)
    return output.getvalue()


def _paths(files: Mapping[str, Content]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, content in sorted(files.items()):
        if content.link is not None:
            rows.append({"_path": name, "path_type": "softlink"})
            continue
        row = {
            "_path": name,
            "path_type": "hardlink",
            "sha256": hashlib.sha256(content.data).hexdigest(),
            "size_in_bytes": len(content.data),
        }
        if content.placeholder:
            row |= {"prefix_placeholder": PLACEHOLDER, "file_mode": content.placeholder}
        rows.append(row)
    return rows


def _tar(files: Mapping[str, Content]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.mtime, member.mode = EPOCH, content.mode
            if content.link is not None:
                member.type, member.linkname = tarfile.SYMTYPE, content.link
                archive.addfile(member)
            else:
                member.size = len(content.data)
                archive.addfile(member, io.BytesIO(content.data))
    return zstandard.ZstdCompressor(level=3).compress(output.getvalue())


def _wheel_files(archive: zipfile.ZipFile, site: str, *, pure: bool) -> Iterable[tuple[str, Content]]:
    for item in archive.infolist():
        if item.is_dir() or item.filename.endswith(".dist-info/RECORD"):
            continue
        content = Content(archive.read(item), 0o755 if (item.external_attr >> 16) & 0o100 else 0o644)
        top, _, rest = item.filename.partition("/")
        if not top.endswith(".data"):
            yield f"{site}/{item.filename}", content
            continue
        kind, _, inside = rest.partition("/")
        if kind in ("purelib", "platlib"):
            yield f"{site}/{inside}", content
        elif kind == "scripts":
            yield ("python-scripts/" if pure else "bin/") + inside, Content(content.data, 0o755)
        elif kind == "data":
            yield inside, content


def _entry_points(archive: zipfile.ZipFile, info: str) -> Iterable[str]:
    if f"{info}/entry_points.txt" in archive.namelist():
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        parser.read_string(archive.read(f"{info}/entry_points.txt").decode())
        if parser.has_section("console_scripts"):
            yield from (f"{name} = {value}" for name, value in parser["console_scripts"].items())


def _depends(metadata: Any, python: str) -> Iterable[str]:
    environment = {"extra": "", "python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    for text in metadata.get_all("Requires-Dist", []):
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            bounds = ",".join(sorted(str(item) for item in requirement.specifier if item.operator != "~="))
            yield f"{requirement.name.lower().replace('_', '-')} {bounds}".strip()
