"""What Azure ML's files and its Python classes both say: processes, images, targets, environments.

An environment is read from one nested table of plain values whatever it was written in. Names are compared without
case and underscores, since the SDK wrote `userManagedDependencies`, `user_managed_dependencies` and more over time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.migrate.draft import TODO, Draft, Place, Unknown
from repro_est.migrate.packages import PYTHON, Packages, Step, is_clean, put_variables
from repro_est.migrate.yamlfile import YamlFile, as_rows, as_table
from repro_est.recipe.values import is_image_name

TRAINING = ("estimator", "distributed_training")
NODES = ("estimator", "node_count")
USE_GPU = ("estimator", "use_gpu")
_IMAGE = ("estimator", "custom_docker_image")
_REGISTRY = ("estimator", "image_registry_details")
_USER_MANAGED = ("estimator", "user_managed")
_SHM_SIZE = ("estimator", "shm_size")
_TARGET = ("estimator", "compute_target")
_DURATION = ("estimator", "max_run_duration_seconds")

_DEFAULT_IMAGE = (
    r"([a-z0-9-]+(\.[a-z0-9-]+)+/)?azureml(-?curated)?/(base|base-gpu|intelmpi|openmpi|minimal|[a-z0-9.-]*-inference)"
)
_DEFAULT_SHM = "2g"
_LONGEST = 2_592_000  # 30 days: the SDK writes it into every ScriptRunConfig

NO_MACHINES = "repro runs on machines you name"

PlaceOf = Callable[[Step], Place]
"""Says where a value of a nested table stands."""

BACKENDS = {
    "mpi": "mpi",
    "openmpi": "mpi",
    "intelmpi": "mpi",
    "mpiconfiguration": "mpi",
    "gloo": "torch",
    "nccl": "torch",
    "pytorchconfiguration": "torch",
    "ps": "tensorflow",
    "parameterserver": "tensorflow",
    "tensorflowconfiguration": "tensorflow",
    "paralleltask": "none",
    "paralleltaskconfiguration": "none",
}
"""Azure ML's communicators and classes, and what each is here."""


def plain(name: object) -> str:
    """Returns a name without case and underscores."""
    return str(name).replace("_", "").lower()


class Section:
    """A nested table whose names are found in any spelling; says where each value stands."""

    def __init__(self, content: Any, place: PlaceOf, path: Step = ()) -> None:
        self.content: Mapping[Any, Any] = content if isinstance(content, Mapping) else {}
        self._place, self.path = place, path
        self._names = {plain(name): name for name in self.content}

    def __contains__(self, name: str) -> bool:
        return plain(name) in self._names

    def get(self, name: str) -> Any:
        """Returns a value, None when it is not there or empty."""
        value = self.content.get(self._names.get(plain(name)))
        return None if value in ("", [], {}) else value

    def section(self, name: str) -> Section:
        """Returns the table below a name.

        Raises:
            UsageError: there is something else.
        """
        value = self.get(name)
        if not isinstance(value, Unknown):
            value = as_table(value, self.place(name), name)
        return Section(value, self._place, self.step(name))

    def rows(self, name: str) -> list[Any]:
        """Returns the list below a name.

        Raises:
            UsageError: there is something else.
        """
        return as_rows(self.get(name), self.place(name), name)

    def step(self, name: str) -> Step:
        return (*self.path, self._names.get(plain(name), name))

    def place(self, name: str = "") -> Place:
        return self._place(self.step(name) if name else self.path)

    def names(self) -> list[str]:
        return [str(name) for name in self.content]


def put_processes(
    draft: Draft,
    kind: str,
    place: Place,
    *,
    nodes: Any = None,
    per_node: Any = None,
    total: Any = None,
    backend: Any = None,
    workers: Any = None,
    servers: Any = None,
) -> None:
    """Puts how many processes there are, and what joins them.

    Args:
        kind: a communicator or a class of Azure ML; `""` for none.
    """
    counts = {"node count": nodes, "process count per node": per_node, "process count": total}
    counts |= {"worker count": workers, "parameter server count": servers}
    for what, value in counts.items():
        if isinstance(value, Unknown):
            draft.unknown(place, what, value, TRAINING)
    nodes, per_node, total, workers, servers = (
        value if isinstance(value, int) and not isinstance(value, bool) else None for value in counts.values()
    )
    kind = plain(kind)
    training = BACKENDS.get(kind, "none")
    joined: dict[str, Any] = {"type": training}
    if training == "tensorflow":
        joined |= {"worker_count": workers or 1, "parameter_server_count": 1 if servers is None else servers}
        nodes = _tensorflow_nodes(draft, place, nodes, joined["worker_count"] + joined["parameter_server_count"])
    elif training == "torch" and total:
        joined["process_count"] = total
    elif per_node and per_node > 1:
        joined["process_count_per_node"] = per_node
    if training == "torch":
        _put_torch(draft, place, kind, joined, backend)
    if nodes and nodes > 1:
        draft.took(place, "node count", NODES, nodes)
    if training == "none" and kind:
        draft.changed(place, kind, "the processes are started, and nothing joins them")
    if joined == {"type": "none"}:
        if nodes and nodes > 1:
            draft.todo(place, "node count", 'nothing joins the nodes: "mpi", "torch" or "tensorflow"?', TRAINING)
        return
    draft.took(place, kind or "process count per node", TRAINING, training if joined == {"type": training} else joined)


def _tensorflow_nodes(draft: Draft, place: Place, nodes: int | None, total: int) -> int | None:
    if nodes and total % nodes:
        why = f"left out: {total} processes do not spread evenly over {nodes}, so each gets a node of its own"
        draft.changed(place, "node count", why)
        return None
    return nodes


def _put_torch(draft: Draft, place: Place, kind: str, joined: dict[str, Any], backend: Any) -> None:
    chosen = str(backend or kind).lower()
    if isinstance(backend, Unknown):
        draft.unknown(place, "communication backend", backend, TRAINING)
    elif chosen in ("nccl", "gloo"):
        joined["communication_backend"] = chosen
        if chosen == "nccl" and not draft.get(USE_GPU):
            draft.put(USE_GPU, True)
            draft.changed(place, "NCCL", "joins GPUs only, so use_gpu = true is in the recipe")


def put_target(draft: Draft, target: Any, place: Place, what: str = "compute_target") -> None:
    """Says what becomes of a compute target."""
    if target is None or (isinstance(target, str) and target.lower() in ("local", "")):
        return
    name = f'"{target}"' if isinstance(target, str) else target.text if isinstance(target, Unknown) else str(target)
    draft.dropped(place, f"{what} {name}", "Azure's; name a target of your inventory: repro run -t NAME")


def put_duration(draft: Draft, seconds: Any, place: Place, what: str) -> None:
    """Puts a limit of time, if it is one."""
    if isinstance(seconds, Unknown):
        draft.unknown(place, what, seconds, _DURATION)
    elif isinstance(seconds, int | float) and 0 < seconds < _LONGEST:
        draft.took(place, what, _DURATION, seconds)
    elif seconds:
        draft.dropped(place, what, f"{seconds} s is no limit")


def put_image(draft: Draft, image: Any, place: Place, what: str, *, registry: Section | None = None) -> bool:
    """Puts a base image; returns whether the recipe has it. Azure's own default images are left out."""
    address = registry.get("address") if registry else None
    if isinstance(image, Unknown):
        draft.unknown(place, what, image, _IMAGE)
        return False
    if re.match(_DEFAULT_IMAGE, str(image)) and not address:
        draft.dropped(place, f"{what} {image}", "Azure's default; custom_docker_image would keep it")
        if re.search("gpu|cuda", str(image)) and not draft.get(USE_GPU):
            draft.put(USE_GPU, True)
            draft.changed(place, str(image), "is an image for GPUs, so use_gpu = true is in the recipe")
        return False
    full = f"{address}/{image}" if isinstance(address, str) else str(image)
    if not is_image_name(full):
        draft.todo(place, what, f"{image!r} is no name of an image", _IMAGE)
        return False
    draft.took(place, what, _IMAGE, str(image))
    if isinstance(address, str) and registry:
        draft.took(registry.place("address"), "registry", _REGISTRY, {"address": address})
    for name in ("username", "password") if registry else ():
        if registry and registry.get(name):
            draft.dropped(registry.place(name), f"{name} of the registry", "no file keeps it: docker login")
    return True


def put_shm_size(draft: Draft, size: Any, place: Place) -> None:
    if isinstance(size, str) and size != _DEFAULT_SHM:
        draft.took(place, "shm size", _SHM_SIZE, size)


def put_container(draft: Draft, place: Place, what: str) -> None:
    """Says that the old run was in a container, which changes nothing in what it computes."""
    if not draft.get(_IMAGE) and not draft.get(("estimator", "dockerfile")):
        why = 'not needed: the packages are locked anyway; compute_target = "docker" runs in a container'
        draft.dropped(place, what, why)


def put_environment(draft: Draft, environment: Section, source: Path) -> None:
    """Puts an Azure ML environment.

    Args:
        source: the source directory, in which it names files.
    """
    python, docker = environment.section("python"), environment.section("docker")
    has_image = _put_docker(draft, docker, source)
    _put_python(draft, python, source, has_image=has_image)
    variables = environment.section("environment_variables")
    put_variables(draft, dict(variables.content), variables.place)
    spark = environment.section("spark")
    if spark.get("packages"):
        draft.dropped(spark.place("packages"), "spark packages", "repro runs no Spark")


def _put_docker(draft: Draft, docker: Section, source: Path) -> bool:
    has_image = False
    image, dockerfile = docker.get("base_image"), docker.get("base_dockerfile")
    if dockerfile is not None:
        put_dockerfile(draft, dockerfile, docker.place("base_dockerfile"), source)
    elif image is not None and docker.get("enabled") is not False:
        registry = docker.section("base_image_registry")
        has_image = put_image(draft, image, docker.place("base_image"), "base image", registry=registry)
    elif image is not None and not re.match(_DEFAULT_IMAGE, str(image)):
        draft.dropped(docker.place("base_image"), f"base image {image}", "docker was not enabled")
    if docker.get("gpu_support") is True and not draft.get(USE_GPU):
        draft.took(docker.place("gpu_support"), "gpuSupport", USE_GPU, True)
    if docker.get("arguments"):
        draft.dropped(docker.place("arguments"), "docker arguments", "repro starts the container; see [docker]")
    if docker.get("enabled") is True or docker.get("use_docker") is True:
        put_shm_size(draft, docker.get("shm_size"), docker.place("shm_size"))
        put_container(draft, docker.place("enabled" if "enabled" in docker else "use_docker"), "docker")
    return has_image or dockerfile is not None


def put_dockerfile(draft: Draft, dockerfile: Any, place: Place, source: Path) -> None:
    key = ("estimator", "dockerfile")
    if isinstance(dockerfile, str) and "\n" not in dockerfile and os.path.isfile(source / dockerfile):
        draft.took(place, "dockerfile", key, draft.relative(source / dockerfile))
    elif isinstance(dockerfile, Unknown):
        draft.unknown(place, "dockerfile", dockerfile, key)
    elif "\n" in str(dockerfile):
        reason = 'its text belongs into a file: dockerfile = "Dockerfile"'
        draft.todo(place, "dockerfile", reason, key, f"{reason}\n{dockerfile}")
    else:
        draft.todo(place, "dockerfile", f"got {dockerfile!r}, no such file in {source}", key)


def _put_python(draft: Draft, python: Section, source: Path, *, has_image: bool) -> None:
    if python.get("user_managed_dependencies") is True:
        place = python.place("user_managed_dependencies")
        if has_image:
            draft.took(place, "userManagedDependencies", _USER_MANAGED, True)
        else:
            why = "used the Python that was there; repro locks one: list what it had in pip_packages"
            draft.todo(place, "userManagedDependencies", why, ("estimator", "pip_packages"))
        return
    _put_requirements(draft, python, source)
    file, inline = python.get("conda_dependencies_file"), python.get("conda_dependencies")
    if isinstance(inline, Mapping) and "file" in inline:
        file = inline["file"]
    if isinstance(file, str):
        put_conda_file(draft, source / file, python.place("conda_dependencies_file"), "condaDependenciesFile")
    elif isinstance(file, Unknown):
        put_unknown_packages(draft, file, python.place("conda_dependencies_file"))
    elif isinstance(inline, Unknown):
        put_unknown_packages(draft, inline, python.place("conda_dependencies"))
    elif isinstance(inline, Mapping):
        packages = Packages(draft, source)
        packages.conda_content(dict(inline), python._place, python.step("conda_dependencies"))
        packages.finish()


def _put_requirements(draft: Draft, python: Section, source: Path) -> None:
    file, place = python.get("pip_requirements_file"), python.place("pip_requirements_file")
    if isinstance(file, Unknown):
        put_unknown_packages(draft, file, place)
    elif file is not None:
        Packages(draft, source).requirements_file(source / str(file), place, "pip_requirements_file")


def put_unknown_packages(draft: Draft, value: Unknown, place: Place) -> None:
    why = f"its packages are not known: `{value.text}`"
    draft.todo(place, "environment", why, ("estimator", "pip_packages"))


def put_conda_file(draft: Draft, path: Path, place: Place, what: str) -> None:
    """Puts a conda environment file: by its name where all of it can stay, else package by package."""
    key = ("estimator", "conda_dependencies_file")
    shown = draft.shown(path)
    try:
        file = YamlFile(path, shown)
    except UsageError as error:
        draft.todo(place, what, error.message, key)
        return
    if is_clean(file):
        draft.took(place, what, key, draft.relative(path))
        return
    draft.changed(place, what, "its packages are in the recipe now, as some cannot stay; the file is not read")
    packages = Packages(draft, path.parent)
    packages.conda_file(file)
    packages.finish()


def put_input(
    draft: Draft, name: str, place: Place, what: str, *, was: str, path: str | None = None, copied: bool = False
) -> dict[str, str]:
    """Puts an input, and returns the word that stands for its path.

    Args:
        was: what it was at Azure.
        path: where it is here, None when that is not known.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("-") or "data"
    key = ("inputs", name)
    known = draft.get(key) or {}
    value: dict[str, str] = {"path": path or known.get("path", TODO)}
    if path and "://" in path:
        value = {"url": path, "sha256": TODO}
    if copied:
        value["mode"] = "copy"
    if value.get("sha256") == TODO:
        why = "its sha256 is not known: download it once, and say it"
        draft.todo(place, what, why, (*key, "sha256"), why)
    elif value.get("path") == TODO:
        why = f"where the data is here is not known: [inputs.{name}]"
        draft.todo(place, what, why, (*key, "path"), f"where it is here; it was {was}")
    if not known:
        draft.took(place, what, key, value)
    elif known != value:
        draft.put(key, {**known, **value})
    return {"input": name}


def note_python(draft: Draft, place: Place, what: str, version: str) -> None:
    """Says which Python the old default was, where the recipe names none."""
    if draft.get(PYTHON) is None:
        why = f'Azure ran it with Python {version}; where the lock finds no wheels, say [environment] python = "..."'
        draft.changed(place, what, why)
