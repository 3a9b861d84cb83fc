"""Datasets as inputs of a run, as Azure ML's classes say it, and where outputs go.

Everything a script is given becomes an input of the recipe: `{input = "NAME"}` in its parameters, `[inputs.NAME]` for
what it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol, runtime_checkable

from repro_est.api.datastore import (
    DERIVED_NAME,
    DataPath,
    DataReference,
    Datastore,
    Source,
    checked_name,
    place_is_not_taken,
    source_of,
)
from repro_est.api.home import Home, root_of
from repro_est.api.registereddata import Entry, read_entries, write_entries
from repro_est.errors import InputError, UsageError

__all__ = [
    "Consumed",
    "DataPath",
    "DataReference",
    "Dataset",
    "DatasetConsumptionConfig",
    "Datastore",
    "FileDataset",
    "FileDatasetFactory",
    "OutputFileDatasetConfig",
    "TabularDataset",
    "TabularDatasetFactory",
]

_MODES = {"mount": "mount", "copy": "copy", "direct": "mount", "download": "copy"}


@runtime_checkable
class Consumed(Protocol):
    """What may stand among `inputs` and in `script_params`: an input under a name.

    `is_named` says whether the caller chose the name; the estimator numbers the others.
    """

    @property
    def name(self) -> str: ...

    @property
    def is_named(self) -> bool: ...

    def to_recipe(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class DatasetConsumptionConfig:
    """A dataset as an input of a run.

    Args:
        name: of the input; the script finds it as `run.input_datasets[NAME]` and `$REPRO_INPUT_NAME`.
        dataset: what it is.
        mode: "mount", read-only and in place, or "copy", private to the run; Azure ML's "direct" is "mount", and
            "download" is "copy".
        is_named: whether the caller chose the name.
    """

    name: str
    dataset: FileDataset
    mode: str = "mount"
    is_named: bool = True

    def __post_init__(self) -> None:
        checked_name(self.name, "as_named_input: name")
        mode = _MODES.get(self.mode)
        if mode is None:
            known = " or ".join(map(repr, _MODES))
            raise UsageError(f"input {self.name!r}: mode: got {self.mode!r}, expected {known}")
        object.__setattr__(self, "mode", mode)

    def as_mount(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Returns the input, to be seen where it is; the script is told the path."""
        place_is_not_taken("as_mount", path_on_compute)
        return replace(self, mode="mount")

    def as_download(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Returns the input, to be copied for the run, which may change its copy; the script is told the path."""
        place_is_not_taken("as_download", path_on_compute)
        return replace(self, mode="copy")

    def as_direct(self) -> DatasetConsumptionConfig:
        """Returns the input as it is: the script opens it by `run.input_datasets[NAME]`."""
        return self

    def as_hdfs(self) -> NoReturn:
        """Refused: there is no Hadoop here."""
        raise UsageError(f"as_hdfs: input {self.name!r}: there is no Hadoop here", hint="as_mount() or as_download()")

    def to_recipe(self) -> dict[str, str]:
        """Returns `[inputs.NAME]`, as TOML has it."""
        return {**self.dataset.source.to_recipe(), "mode": self.mode}


@dataclass(frozen=True, slots=True)
class OutputFileDatasetConfig:
    """A directory that the script writes to: `outputs/NAME`, kept with everything else below `outputs/`.

    Args:
        name: of the directory.
        destination, source: of Azure's storage and machine; only None is taken, as a run writes to its outputs only.
    """

    name: str = "output"
    destination: None = None
    source: None = None

    def __post_init__(self) -> None:
        checked_name(self.name, "OutputFileDatasetConfig: name")
        for name, value in (("destination", self.destination), ("source", self.source)):
            if value is not None:
                raise UsageError(
                    f"OutputFileDatasetConfig {self.name!r}: {name}: got {value!r}, and a run writes to outputs/ only",
                    hint=f"leave it out, and `repro get HASH outputs/{self.name}` afterwards",
                )

    def as_mount(self, *, disable_metadata_cache: bool = False) -> OutputFileDatasetConfig:
        return self

    def as_upload(self, overwrite: bool = False, source_globs: object = None) -> OutputFileDatasetConfig:
        return self

    def register_on_complete(self, name: str, description: str | None = None, tags: object = None) -> NoReturn:
        """Refused: outputs have a name already."""
        raise UsageError(
            f"register_on_complete: outputs of a run have a name already, which does not change: "
            f"`run:HASH/outputs/{self.name}`",
            hint=f'Dataset.File.from_files("run:HASH/outputs/{self.name}").register(workspace, "{name}")',
        )

    @property
    def path(self) -> str:
        """What the script is given: relative to the directory it runs in."""
        return f"outputs/{self.name}"


@dataclass(frozen=True, slots=True)
class FileDataset:
    """A file or a directory.

    Args:
        source: where it is.
        registered_as: its name in the project, or None.
    """

    source: Source
    registered_as: str | None = None

    @property
    def name(self) -> str | None:
        return self.registered_as

    def as_named_input(self, name: str) -> DatasetConsumptionConfig:
        """Returns it as an input of a run; the name is of letters, digits and `_`."""
        return DatasetConsumptionConfig(name, self)

    def as_mount(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Returns it as an input without a name of the caller's."""
        return self._unnamed().as_mount(path_on_compute)

    def as_download(self, path_on_compute: str | None = None) -> DatasetConsumptionConfig:
        """Returns it as an input without a name of the caller's, copied for the run."""
        return self._unnamed().as_download(path_on_compute)

    def as_hdfs(self) -> NoReturn:
        """Refused: there is no Hadoop here."""
        self._unnamed().as_hdfs()

    def _unnamed(self) -> DatasetConsumptionConfig:
        named = self.registered_as is not None
        return DatasetConsumptionConfig(self.registered_as or DERIVED_NAME, self, is_named=named)

    def to_path(self) -> list[str]:
        """Returns the files, `/`-rooted as in Azure ML: `/a.csv`, `/more/b.csv`."""
        path = self._local("to_path")
        if path.is_file():
            return [f"/{path.name}"]
        return sorted(f"/{file.relative_to(path).as_posix()}" for file in path.rglob("*") if file.is_file())

    def register(
        self,
        workspace: Home | None,
        name: str,
        description: str | None = None,
        tags: object = None,
        create_new_version: bool = False,
    ) -> FileDataset:
        """Writes the name and the path into the project's `datasets.toml`; content stays where it is.

        Args:
            create_new_version: take the name over from another path; which content a run saw is in its record.

        Raises:
            UsageError: the name is another path's.
        """
        checked_name(name, "register: name")
        root = root_of(workspace)
        known, entry = read_entries(root), Entry(self.source.absolute(), isinstance(self, TabularDataset))
        if known.get(name, entry) != entry and not create_new_version:
            raise UsageError(f"dataset {name!r}: is {known[name]} already, got {entry}", hint="create_new_version=True")
        write_entries(root, {**known, name: entry})
        return replace(self, source=entry.source, registered_as=name)

    def _local(self, what: str) -> Path:
        if not self.source.is_local or self.source.path is None:
            raise UsageError(f"{what}: {self.source.path or self.source.url} is read inside a run only")
        path = Path(self.source.path).expanduser()
        if not path.exists():
            raise InputError(f"{what}: {path}: no such file or directory")
        return path


@dataclass(frozen=True, slots=True)
class TabularDataset(FileDataset):
    """A file of delimited text, or a directory of them with the same columns.

    Args:
        separator: between columns.
        header: whether the first line has their names.
    """

    separator: str = ","
    header: bool = True

    def to_pandas_dataframe(self) -> Any:
        """Returns the rows of all files, in the order of their names.

        Raises:
            UsageError: pandas is not installed here.
        """
        try:
            pandas = import_module("pandas")
        except ImportError:
            raise UsageError("to_pandas_dataframe: pandas is not installed here", hint="pip install pandas") from None
        path = self._local("to_pandas_dataframe")
        files = [path] if path.is_file() else sorted(file for file in path.iterdir() if file.is_file())
        header = 0 if self.header else None
        parts = [pandas.read_csv(file, sep=self.separator, header=header) for file in files]
        return pandas.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]


class FileDatasetFactory:
    """`Dataset.File`."""

    @staticmethod
    def from_files(path: Any, validate: bool = True, *, sha256: str | None = None) -> FileDataset:
        """Returns a file or a directory as a dataset.

        Args:
            path: a path, `(datastore, "a/path")`, a list of one, `run:...`, `model:...`, `recipe:...`, or a URL.
            validate: whether it must be there now.
            sha256: of the file at a URL.

        Raises:
            UsageError: it names no single file or directory.
            InputError: it is not there.
        """
        return FileDataset(source_of(path, validate=validate, sha256=sha256))


class TabularDatasetFactory:
    """`Dataset.Tabular`."""

    @staticmethod
    def from_delimited_files(
        path: Any, validate: bool = True, *, separator: str = ",", header: bool = True, sha256: str | None = None
    ) -> TabularDataset:
        """Returns a file of delimited text, or a directory of them, as a dataset; the rest as in `from_files`."""
        source = source_of(path, validate=validate, sha256=sha256)
        return TabularDataset(source, separator=separator, header=header)


class Dataset:
    """Makers of datasets, and those a project has by name."""

    File = FileDatasetFactory
    Tabular = TabularDatasetFactory

    @staticmethod
    def get_by_name(workspace: Home | None, name: str, version: str | int = "latest") -> FileDataset:
        """Returns a registered dataset.

        Raises:
            UsageError: there is none of this name, or a version was asked for.
        """
        if version != "latest":
            raise UsageError(
                f"dataset {name!r}: got version {version!r}, and a project keeps the path only, not versions of it",
                hint="content is hashed with every run; register each version under a name of its own",
            )
        known = Dataset.get_all(workspace)
        if name not in known:
            there = ", ".join(known) or "none"
            raise UsageError(
                f"dataset {name!r}: is not registered in this project, there are: {there}",
                hint=f'Dataset.File.from_files(PATH).register(workspace, "{name}")',
            )
        return known[name]

    @staticmethod
    def get_all(workspace: Home | None) -> dict[str, FileDataset]:
        """Returns the registered datasets by name."""
        return {name: _restored(name, entry) for name, entry in read_entries(root_of(workspace)).items()}


def _restored(name: str, entry: Entry) -> FileDataset:
    return (TabularDataset if entry.tabular else FileDataset)(entry.source, name)
