"""Where data of a run is: a path of this machine, a path below a datastore, an address, or a form of the recipe's own.

A datastore is a directory with a name. Nothing is read here but names; content is hashed when a plan is made.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

from repro_est.api.home import Home, root_of
from repro_est.errors import InputError, UsageError
from repro_est.files import same_file

DERIVED_NAME = "input"
"""What an input is called that the caller gave no name."""

DEFAULT_STORES = ("workspacefilestore", "workspaceblobstore")
"""What Azure ML calls the storage of a workspace; here both are the directory of its project."""

_NAME = r"[A-Za-z0-9_]+"
_FORMS = ("run:", "model:", "recipe:")


def checked_name(name: object, what: str) -> str:
    """Returns a name of letters, digits and `_`.

    Raises:
        UsageError: it is not one.
    """
    if not isinstance(name, str) or not re.fullmatch(_NAME, name):
        raise UsageError(f"{what}: got {name!r}, expected letters, digits and `_`")
    return name


def place_is_not_taken(what: str, path_on_compute: str | None) -> None:
    """Warns of a path that Azure ML would have put an input to."""
    if path_on_compute is not None:
        warnings.warn(
            f"{what}: path_on_compute={path_on_compute!r} is not used: "
            "the script gets the path as an argument and as $REPRO_INPUT_NAME",
            stacklevel=4,
        )


@dataclass(frozen=True, slots=True)
class Source:
    """What an input is made of.

    Args:
        path: as a recipe has it: absolute, relative to the current directory, or `run:...`, `model:...`, `recipe:...`.
        url: an http(s) address, in place of a path.
        sha256: of the file at the address.
    """

    path: str | None = None
    url: str | None = None
    sha256: str | None = None

    def to_recipe(self) -> dict[str, str]:
        """Returns keys of `[inputs.NAME]`, as TOML has them."""
        given = {"path": self.path, "url": self.url, "sha256": self.sha256}
        return {key: value for key, value in given.items() if value is not None}

    def absolute(self) -> Source:
        """Returns the same source, whatever the current directory is."""
        return Source(os.path.abspath(Path(self.path).expanduser())) if self.path and self.is_local else self

    @property
    def is_local(self) -> bool:
        return self.path is not None and not self.path.startswith(_FORMS)


@dataclass(frozen=True, slots=True)
class Datastore:
    """A directory with a name; where a run is given one, the whole directory is an input of that name.

    Args:
        name: letters, digits and `_`.
        directory: kept as an absolute path.
    """

    name: str
    directory: Path

    def __post_init__(self) -> None:
        checked_name(self.name, "Datastore: name")
        object.__setattr__(self, "directory", Path(os.path.abspath(self.directory)))

    @property
    def is_named(self) -> bool:
        return True

    def to_recipe(self) -> dict[str, str]:
        """Returns `[inputs.NAME]`, as TOML has it."""
        return {"path": str(self.directory), "mode": "mount"}

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> DataReference:
        """Returns a reference to what is at a path below the directory; None is all of it."""
        return DataReference(self, data_reference_name, path)

    def as_mount(self) -> DataReference:
        return self.path()

    def as_download(self, path_on_compute: str | None = None) -> DataReference:
        return self.path().as_download(path_on_compute)

    def file(self, relative: str | PathLike[str] | None) -> Path:
        """Returns the absolute path of something below the directory.

        Raises:
            UsageError: it would be outside.
        """
        if not (relative is None or isinstance(relative, str | PathLike)):
            raise UsageError(f"datastore {self.name!r}: got {relative!r}, expected a path below {self.directory}")
        path = Path(os.path.normpath(self.directory / (relative or ".")))
        if not path.is_relative_to(self.directory):
            raise UsageError(f"datastore {self.name!r}: got {str(relative)!r}, which is outside of {self.directory}")
        return path

    def upload(
        self,
        src_dir: str | PathLike[str],
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copies the files of a directory below the datastore's, and returns a reference to where they are.

        Raises:
            InputError: there is no such directory.
            UsageError: another file is in the place of one, and it is not to be overwritten.
        """
        source = Path(src_dir)
        if not source.is_dir():
            raise InputError(f"upload: src_dir: got {str(src_dir)!r}, no such directory: {source.absolute()}")
        files = sorted(path for path in source.rglob("*") if path.is_file())
        return self.upload_files(map(str, files), str(source), target_path, overwrite, show_progress)

    def upload_files(
        self,
        files: Iterable[str],
        relative_root: str | None = None,
        target_path: str | None = None,
        overwrite: bool = False,
        show_progress: bool = True,
    ) -> DataReference:
        """Copies files below the datastore's directory, and returns a reference to where they are.

        Args:
            relative_root: the part of their paths that is left out; None keeps their names only.

        Raises:
            InputError: there is no such file.
            UsageError: another file is in the place of one, and it is not to be overwritten.
        """
        for file in map(Path, files):
            inside = os.path.relpath(file, relative_root) if relative_root is not None else file.name
            target = self.file(os.path.join(target_path or "", inside))
            if not file.is_file():
                raise InputError(f"upload: got {str(file)!r}, no such file: {file.absolute()}")
            if target.exists() and (file.samefile(target) or same_file(file, target)):
                continue
            if target.exists() and not overwrite:
                raise UsageError(f"upload: {target}: is there already and is not {file}", hint="overwrite=True")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
        return self.path(target_path)

    @classmethod
    def get_default(cls, workspace: Home | None = None) -> Datastore:
        """Returns the directory of the workspace's project as a datastore."""
        return cls(DEFAULT_STORES[0], root_of(workspace))

    @classmethod
    def get(cls, workspace: Home | None, datastore_name: str) -> Datastore:
        """Returns the directory of the workspace's project by one of the names that Azure ML's default stores have.

        Raises:
            UsageError: another name; a project keeps no list of directories.
        """
        if datastore_name not in DEFAULT_STORES:
            raise UsageError(
                f"Datastore.get: got {datastore_name!r}, expected {' or '.join(map(repr, DEFAULT_STORES))}",
                hint=f'Datastore("{datastore_name}", DIRECTORY) for any other directory',
            )
        return cls(datastore_name, root_of(workspace))

    @staticmethod
    def register_azure_blob_container(*arguments: object, **options: object) -> NoReturn:
        """Refused: a datastore is a directory."""
        raise UsageError(
            "Datastore: storage of Azure is not reached from here, a datastore is a directory",
            hint='mount or copy it, then Datastore("NAME", DIRECTORY)',
        )

    register_azure_file_share = register_azure_data_lake_gen2 = register_azure_blob_container


@dataclass(frozen=True, slots=True)
class DataPath:
    """A path below a datastore."""

    datastore: Datastore
    path_on_datastore: str | None = None
    name: str | None = None

    def create_data_reference(
        self, data_reference_name: str | None = None, datapath_compute_binding: object = None
    ) -> DataReference:
        """Returns a reference to it, mounted."""
        return DataReference(self.datastore, data_reference_name or self.name, self.path_on_datastore)

    @property
    def source(self) -> Source:
        return Source(str(self.datastore.file(self.path_on_datastore)))


@dataclass(frozen=True, slots=True)
class DataReference:
    """A path below a datastore as an input of a run; Azure ML's older way.

    Args:
        data_reference_name: of the input; None derives one.
        path_on_datastore: None is all of it.
        mode: "mount", or "download".
    """

    datastore: Datastore
    data_reference_name: str | None = None
    path_on_datastore: str | None = None
    mode: str = "mount"
    path_on_compute: str | None = field(default=None, kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if self.data_reference_name is not None:
            checked_name(self.data_reference_name, "DataReference: name")
        if self.mode not in ("mount", "download"):
            hint = "write to outputs/, which is kept" if self.mode == "upload" else None
            raise UsageError(f"DataReference: mode: got {self.mode!r}, expected 'mount' or 'download'", hint=hint)
        place_is_not_taken("DataReference", self.path_on_compute)
        self.datastore.file(self.path_on_datastore)

    def as_mount(self) -> DataReference:
        return replace(self, mode="mount")

    def as_download(self, path_on_compute: str | None = None, overwrite: bool = False) -> DataReference:
        place_is_not_taken("as_download", path_on_compute)
        return replace(self, mode="download")

    def as_upload(self, path_on_compute: str | None = None, overwrite: bool = False) -> NoReturn:
        """Refused: what a run writes is kept with the run."""
        raise UsageError("as_upload: a run changes no datastore", hint="write to outputs/, which is kept")

    def path(self, path: str | None = None, data_reference_name: str | None = None) -> DataReference:
        """Returns a reference to what is at a path below this one."""
        below = "/".join(filter(None, (self.path_on_datastore, path)))
        return replace(
            self, path_on_datastore=below or None, data_reference_name=data_reference_name or self.data_reference_name
        )

    @property
    def name(self) -> str:
        return self.data_reference_name or DERIVED_NAME

    @property
    def is_named(self) -> bool:
        return self.data_reference_name is not None

    def to_recipe(self) -> dict[str, str]:
        """Returns `[inputs.NAME]`, as TOML has it."""
        path = str(self.datastore.file(self.path_on_datastore))
        return {"path": path, "mode": "copy" if self.mode == "download" else "mount"}


def source_of(path: Any, *, validate: bool = True, sha256: str | None = None) -> Source:
    """Returns what a `path` argument names: a path, `(datastore, path)`, a DataPath, or a list of one of them.

    Args:
        validate: whether what is on this machine must be there now.
        sha256: of the file at a URL.

    Raises:
        UsageError: it names no single file or directory.
        InputError: it is not there.
    """
    if isinstance(path, Sequence) and not isinstance(path, str | tuple):
        if len(path) != 1:
            raise UsageError(
                f"Dataset: path: got {len(path)} paths, expected one",
                hint="name the directory they are in, or make a dataset of each",
            )
        path = path[0]
    if isinstance(path, DataPath):
        path = (path.datastore, path.path_on_datastore)
    if isinstance(path, tuple):
        if len(path) != 2 or not isinstance(path[0], Datastore):
            raise UsageError(f"Dataset: path: got {path!r}, expected (datastore, 'a/path')")
        source = Source(str(path[0].file(path[1])))
    elif isinstance(path, Datastore):
        source = Source(str(path.directory))
    elif isinstance(path, str | PathLike) and str(path):
        source = _named(os.fspath(path), sha256)
    else:
        raise UsageError(f"Dataset: path: got {path!r}, expected a path, a URL or (datastore, 'a/path')")
    if sha256 is not None and source.url is None:
        raise UsageError("Dataset: sha256: goes with a URL; the content of a path is hashed anyway")
    if validate and source.is_local and source.path is not None:
        _check_there(source.path)
    return source


def _named(text: str, sha256: str | None) -> Source:
    if re.match(r"https?://", text):
        if sha256 is None or not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
            raise UsageError(
                f"Dataset: {text}: got sha256={sha256!r}, expected 64 hex digits, so that the bytes stay the same",
                hint=f'curl -sL "{text}" | sha256sum',
            )
        return Source(url=text, sha256=sha256.lower())
    if text.startswith(_FORMS):
        return Source(text)
    if "://" in text:
        raise UsageError(
            f"Dataset: got {text!r}, expected a path of this machine or an http(s) address",
            hint="fetch it once, and name the directory it is in",
        )
    return Source(text)


def _check_there(text: str) -> None:
    path = Path(text).expanduser()
    if any(sign in text for sign in "*?[") and not path.exists():
        raise InputError(
            f"Dataset: path: got the pattern {text!r}, expected a file or a directory",
            hint="name the directory; the script picks the files",
        )
    if not path.exists():
        import difflib

        beside = os.listdir(path.parent) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=1)
        raise InputError(
            f"Dataset: path: got {text!r}, no such file or directory: {os.path.abspath(path)}",
            hint=f"did you mean `{near[0]}`?" if near else None,
        )
