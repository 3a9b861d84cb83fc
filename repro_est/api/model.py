"""Registered models in Python: Azure ML's `Model`, over the registry of a store.

    from repro_est import Model
    model = Model(None, "digits@production")         # or a name with `version=`; None is the project around here
    model.download("serve")
    Model.register(None, "net.onnx", "net", tags={"stage": "dev"})

A version never changes. Tags can be changed afterwards, and aliases moved; both keep their history (`store.chain`).
"""

from __future__ import annotations

import builtins
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from repro_est.errors import UsageError, VerificationError
from repro_est.inputs import as_input
from repro_est.project import find_project
from repro_est.registration import Labels, register_file
from repro_est.snapshot import tree_in_place
from repro_est.store import models as registry
from repro_est.store.aliases import Aliases
from repro_est.store.checkout import check_out
from repro_est.store.models import Models, Reference
from repro_est.store.store import Store
from repro_est.store.trees import Tree

Filter = Sequence[str | Sequence[str]]
"""Which tags or properties a model must have: `"key"`, or `["key", "value"]`, all of them."""


class HasStore(Protocol):
    """A workspace, as far as models are concerned."""

    @property
    def store(self) -> Store: ...


class Model:
    """One registered version.

    Args:
        workspace: whose registry; None is the project around the current directory.
        name: `NAME`, `NAME:VERSION` or `NAME@ALIAS`.
        id: `NAME:VERSION`, as Azure ML has it.
        version: a number; None is the latest that has what the other arguments ask for.
        tags, properties: what it must have, see `Filter`.
        run_id: the run that made it.
        model_framework: what it was made with.

    Raises:
        UsageError: no such model, version or alias; what there is is named.

    Example:
        >>> Model(None, "digits", version=3).tags
        {'stage': 'dev'}
    """

    def __init__(
        self,
        workspace: HasStore | None,
        name: str | None = None,
        id: str | None = None,  # noqa: A002 -- Azure ML's name
        tags: Filter | None = None,
        properties: Filter | None = None,
        version: int | None = None,
        run_id: str | None = None,
        model_framework: str | None = None,
    ) -> None:
        self._store = _store(workspace)
        reference = _reference(name, id, version)
        if reference.version is not None or reference.alias:
            self._record = Models(self._store.layout).find(reference)
        else:
            known = Models(self._store.layout).known(reference.name)
            found = [record for record in known if _matches(record, tags, properties, run_id, model_framework)]
            if not found:
                there = ", ".join(str(record.version) for record in known)
                raise UsageError(f"model:{reference.name}: no version has all that was asked for, of: {there}")
            self._record = found[-1]

    @classmethod
    def of(cls, record: registry.Model, store: Store) -> Model:
        """Returns a version that is known already."""
        model = cls.__new__(cls)
        model._store, model._record = store, record
        return model

    # ---- many

    @staticmethod
    def list(
        workspace: HasStore | None = None,
        name: str | None = None,
        tags: Filter | None = None,
        properties: Filter | None = None,
        run_id: str | None = None,
        latest: bool = False,
        framework: str | None = None,
    ) -> builtins.list[Model]:
        """Returns the versions that have all that is asked for, by name and version; none is no error.

        Args:
            latest: only the latest of these of each model.
        """
        store = _store(workspace)
        models = Models(store.layout)
        records = models.versions(name) if name is not None else models.all()
        found = [record for record in records if _matches(record, tags, properties, run_id, framework)]
        if latest:
            found = [*{record.name: record for record in found}.values()]
        return [Model.of(record, store) for record in found]

    @staticmethod
    def register(
        workspace: HasStore | None,
        model_path: str | Path,
        model_name: str,
        tags: Mapping[str, Any] | None = None,
        properties: Mapping[str, Any] | None = None,
        description: str | None = None,
        *,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        always_new: bool = False,
    ) -> Model:
        """Registers a file or directory of this machine that belongs to no run; a copy of it is kept.

        What a run has written is registered with `run.register_model`, so that it can be traced.

        Args:
            always_new: make a new version of the same bytes too, which else are the version they were.

        Raises:
            InputError: no such file.
            UsageError: a name that no model may have, a framework's version without the framework, or a tag that is
                not text or a number.
        """
        said = labels(
            model_name,
            tags=tags,
            properties=properties,
            description=description,
            model_framework=model_framework,
            model_framework_version=model_framework_version,
        )
        store = _store(workspace)
        return Model.of(register_file(store, Path(model_path), model_name, said, always_new=always_new), store)

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None, _workspace: HasStore | None = None) -> str:
        """Returns the path of a model's file or directory: a read-only copy, every byte checked just now.

        Args:
            model_name: `NAME`, `NAME:VERSION` or `NAME@ALIAS`.

        Raises:
            UsageError: no such model.
            VerificationError: its bytes were changed or are gone.
        """
        model = Model(_workspace, model_name, version=version)
        return str(_viewed(model._record, model._store))

    # ---- what it is

    @property
    def name(self) -> str:
        return self._record.name

    @property
    def version(self) -> int:
        return self._record.version

    @property
    def id(self) -> str:
        """`NAME:VERSION`."""
        return self._record.id

    @property
    def description(self) -> str:
        return self._record.description

    @property
    def tags(self) -> dict[str, str]:
        """A copy; `add_tags` and `remove_tags` change them."""
        return dict(self._record.tags)

    @property
    def properties(self) -> dict[str, str]:
        """A copy; they never change."""
        return dict(self._record.properties)

    @property
    def framework(self) -> str:
        return self._record.framework

    @property
    def framework_version(self) -> str:
        return self._record.framework_version

    model_framework, model_framework_version = framework, framework_version  # Azure ML's names

    @property
    def run_id(self) -> str:
        """The run that made it, `""` when no run did."""
        return self._record.run

    @property
    def path(self) -> str:
        """Where it stood in the outputs of its run."""
        return self._record.path

    @property
    def created_time(self) -> datetime.datetime:
        """When it was registered, UTC."""
        return datetime.datetime.fromisoformat(self._record.created)

    @property
    def aliases(self) -> builtins.list[str]:
        """The aliases that point at this version now."""
        pointing = Models(self._store.layout).aliases(self.name)
        return sorted(alias for alias, version in pointing.items() if version == self.version)

    # ---- what can be done with it

    def download(self, target_dir: str | Path = ".", exist_ok: bool = False) -> str:
        """Copies it into a directory, every byte checked, and returns the path of the copy.

        Args:
            target_dir: made when it is not there.
            exist_ok: replace what has the same name there.

        Raises:
            UsageError: something of that name is there.
            VerificationError: its bytes were changed or are gone.
        """
        tree, directory = self._store.read_tree(self._record.tree), Path(target_dir)
        destination = directory / self._record.path.rpartition("/")[2]
        if destination.exists() and not exist_ok:
            raise UsageError(f"{destination}: exists already", hint="exist_ok=True replaces it")
        directory.mkdir(parents=True, exist_ok=True)
        check_out(tree, destination, self._store, force=exist_ok, hint="exist_ok=True replaces it")
        return str(destination)

    def add_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags; one that is there gets the new value."""
        self._retagged(_texts(tags, f"model {self.id}: tags"), [])

    def remove_tags(self, tags: Sequence[str]) -> None:
        """Removes tags.

        Raises:
            UsageError: it has no such tag.
        """
        self._retagged({}, [tags] if isinstance(tags, str) else tags)

    def promote(self, alias: str, why: str = "") -> str:
        """Points an alias at this version; returns the head of the history, which somebody may keep.

        Raises:
            UsageError: no name for an alias.
        """
        Models(self._store.layout).promote(self.name, self.version, alias, why=why)
        return Aliases(self._store.layout, self.name).head()

    def _retagged(self, tags: Mapping[str, str], remove: Sequence[str]) -> None:
        self._record = Models(self._store.layout).tag(self.name, self.version, tags, remove=remove)

    def __repr__(self) -> str:
        return f"Model(name={self.name!r}, version={self.version}, run_id={self.run_id!r}, tags={self.tags!r})"

    def __eq__(self, other: object) -> bool:
        same_store = isinstance(other, Model) and other._store.layout == self._store.layout
        return same_store and isinstance(other, Model) and other.id == self.id

    def __hash__(self) -> int:
        return hash((self._store.layout, self.id))


def labels(
    model_name: str,
    *,
    tags: Mapping[str, Any] | None = None,
    properties: Mapping[str, Any] | None = None,
    description: str | None = None,
    model_framework: str | None = None,
    model_framework_version: str | None = None,
) -> Labels:
    """Returns what is said of a model, in Azure ML's words, as the registry keeps it.

    Raises:
        UsageError: a tag or property that is neither text nor a number, or a framework's version without the framework.
    """
    said = Labels(
        description=description or "",
        tags=_texts(tags or {}, f"model {model_name}: tags"),
        properties=_texts(properties or {}, f"model {model_name}: properties"),
        framework=model_framework or "",
        framework_version=str(model_framework_version or ""),
    )
    registry.check_labels(model_name, said.framework, said.framework_version)
    return said


def _store(workspace: HasStore | None) -> Store:
    return workspace.store if workspace is not None else Store.open(find_project().store)


def _reference(name: str | None, model_id: str | None, version: int | None) -> Reference:
    text = name if name is not None else model_id
    reference = registry.parse_reference(text) if isinstance(text, str) else None
    if reference is None:
        raise UsageError(f"model: got {text!r}, expected NAME, NAME:VERSION or NAME@ALIAS")
    if version is None:
        return reference
    if not isinstance(version, int | str) or isinstance(version, bool) or not str(version).isdecimal():
        raise UsageError(f"model:{reference.name}: version: got {version!r}, expected a number from 1")
    if reference.alias or reference.version not in (None, int(version)):
        raise UsageError(f"model: got {text!r} and version {version}, expected one of the two")
    return Reference(reference.name, int(version))


def _matches(
    record: registry.Model,
    tags: Filter | None,
    properties: Filter | None,
    run_id: str | None,
    framework: str | None,
) -> bool:
    return (
        _has(record.tags, tags, "tags")
        and _has(record.properties, properties, "properties")
        and run_id in (None, record.run)
        and framework in (None, record.framework)
    )


def _has(there: Mapping[str, str], wanted: Filter | None, what: str) -> bool:
    for item in wanted or ():
        pair = [item] if isinstance(item, str) else [*item]
        if not 1 <= len(pair) <= 2:
            raise UsageError(f'{what}: got {item!r}, expected "key" or ["key", "value"]')
        if pair[0] not in there or (len(pair) == 2 and there[pair[0]] != str(pair[1])):
            return False
    return True


def _texts(values: Mapping[str, Any], what: str) -> dict[str, str]:
    if not isinstance(values, Mapping):
        raise UsageError(f"{what}: got {type(values).__name__}, expected a dict")
    for key, value in values.items():
        if not isinstance(key, str) or not isinstance(value, str | int | float):
            raise UsageError(f"{what}: got {key!r}: {value!r} ({type(value).__name__}), expected text or a number")
    return {key: str(value) for key, value in values.items()}


def _viewed(record: registry.Model, store: Store) -> Path:
    """Returns where a version lies readable below the store; a view that is not what it should be is made anew."""
    tree, place = store.read_tree(record.tree), store.layout.model_view(record.name, record.version)
    path = place / (tree.entries[0].path if tree.single_file else record.path.rpartition("/")[2])
    expected = as_input(tree, store)
    for _ in range(2):
        if not path.exists():
            _make_view(tree, place if tree.single_file else path, store)
        if tree_in_place(path).hash == expected:
            return path
        store.discard(place)
    raise VerificationError(f"model {record.id}: its bytes in the store were changed", hint="repro verify --repair")


def _make_view(tree: Tree, place: Path, store: Store) -> None:
    place.parent.mkdir(exist_ok=True)
    try:
        store.view(tree, place)
    except OSError:
        if not place.exists():  # else somebody else has just made it
            raise
