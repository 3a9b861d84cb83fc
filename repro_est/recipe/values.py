"""A recipe as frozen values: what a person asked for, after `extends` and `--set`, before anything is pinned.

Nothing here reads a file. `repro_est.recipe.schema` says which key becomes which field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from repro_est.layout import Layout
from repro_est.recipe.reproducible import UNSAID, Reproducible

_ONE_PROCESS = Layout()
_HOST = r"[A-Za-z0-9][A-Za-z0-9.-]*(:\d+)?"
_IMAGE = rf"({_HOST}/)?[a-z0-9]+([._/-]+[a-z0-9]+)*(:[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?"


@dataclass(frozen=True, slots=True)
class InputReference:
    """`{input = "NAME"}` in an argument: the path under which the run sees that input."""

    name: str


Word = str | InputReference
"""One word of the script's command line."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One key of `script_params`: a flag and the words after it (none for a bare flag)."""

    name: str
    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """The base image a recipe names: `custom_docker_image`, or a `dockerfile` it is built of.

    Args:
        name: `REGISTRY/NAME:TAG` or `...@sha256:...`, `""` for a Dockerfile.
        dockerfile: absolute path of a Dockerfile, or of a directory with one, which then is the context.
        shown: as the recipe writes it.
        user_managed: the image's own Python runs the script, and nothing is installed on top.
    """

    name: str
    dockerfile: Path | None
    shown: str
    user_managed: bool = False


def is_image_name(text: str) -> bool:
    """Whether a text names an image: `[HOST[:PORT]/]NAME[:TAG][@sha256:...]` (distribution, reference grammar)."""
    return re.fullmatch(_IMAGE, text) is not None


@dataclass(frozen=True, slots=True)
class Estimator:
    """`[estimator]`, with the names of Azure ML's Estimator.

    Args:
        source_directory: absolute directory that becomes the snapshot.
        entry_script: POSIX path relative to it.
        script_params: in the order of the recipe; `false` ones are left out already.
        arguments: plain words after the parameters.
        compute_target: where to run; recorded, never hashed.
        pip_packages: PEP 508 requirements of the recipe, as written.
        pip_requirements_file: absolute path, or None.
        conda_packages: MatchSpecs, as written.
        conda_dependencies_file: absolute path of a conda environment file, or None.
        environment_definition: absolute path of what packages and image are taken from, or None.
        image: base image, or None; a run then needs a container.
        use_gpu: a GPU must be there, and the run may see it; without it the run sees none.
        environment_variables: hashed.
        max_run_duration_seconds: None is no limit.
        layout: nodes, processes and what joins them.
        retries: tries more after a failure of hosts; recorded.
        heartbeat_seconds: a rank silent for so long is hung, None is no limit; recorded.
    """

    source_directory: Path
    entry_script: str
    script_params: tuple[Parameter, ...] = ()
    arguments: tuple[Word, ...] = ()
    compute_target: str = "local"
    pip_packages: tuple[str, ...] = ()
    pip_requirements_file: Path | None = None
    conda_packages: tuple[str, ...] = ()
    conda_dependencies_file: Path | None = None
    environment_definition: Path | None = None
    image: ImageRequest | None = None
    use_gpu: bool = False
    environment_variables: tuple[tuple[str, str], ...] = ()
    max_run_duration_seconds: float | None = None
    layout: Layout = _ONE_PROCESS
    retries: int = 0
    heartbeat_seconds: float | None = None

    @property
    def asks_for_packages(self) -> bool:
        files = (self.pip_requirements_file, self.conda_dependencies_file)
        return bool(self.pip_packages or self.conda_packages or any(files))


@dataclass(frozen=True, slots=True)
class EnvironmentRequest:
    """`[environment]`: what the resolver is told besides the packages.

    Args:
        python: PEP 440 specifier or version (`"3.11"`, `">=3.11,<3.13"`); None is the running Python's minor version.
        platforms: conda-style names (`linux-64`, `linux-aarch64`, `osx-arm64`, `osx-64`); empty is this machine's.
        index_url: simple index in place of the default one; None is uv's own configuration.
        extra_index_urls: searched as well.
        find_links: directories or URLs with wheels.
        as_of: `YYYY-MM-DD` or RFC 3339: nothing newer is taken.
        channels: conda channels in order of priority, as written: URLs, names, or paths.
        channel_directory: what paths among them are relative to.
        virtual_packages: sorted `(name, version)`: what the target has, such as `("__cuda", "12.4")`.
        conda_lock_file: absolute path of a conda-lock file that is taken as it is, or None.
        network: the script may use the network.
    """

    python: str | None = None
    platforms: tuple[str, ...] = ()
    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    as_of: str | None = None
    channels: tuple[str, ...] = ()
    channel_directory: Path = Path()
    virtual_packages: tuple[tuple[str, str], ...] = ()
    conda_lock_file: Path | None = None
    network: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What a container may use: `[docker]` and `shm_size`. Sizes in bytes; None is no limit, or Docker's default."""

    memory: int | None = None
    cpus: float | None = None
    shm_size: int | None = None


class InputMode(StrEnum):
    MOUNT = "mount"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class PathInput:
    """`path = "..."`: a file or directory of this machine; absolute here."""

    path: Path


@dataclass(frozen=True, slots=True)
class UrlInput:
    """`url = "https://..."` with its SHA-256 (hex)."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class RunInput:
    """`path = "run:HASH/outputs/..."`: a file or directory of an earlier run's `outputs` or `logs`."""

    run: str
    path: str


@dataclass(frozen=True, slots=True)
class ModelInput:
    """`path = "model:NAME:VERSION"`, or `model:NAME@ALIAS`, which is looked up when the plan is made.

    Args:
        version: None when an alias is given.
    """

    name: str
    version: int | None = None
    alias: str = ""


@dataclass(frozen=True, slots=True)
class RecipeInput:
    """`path = "recipe:prep.toml/outputs/..."`: of another recipe's run, which is made first where it is not there."""

    recipe: Recipe
    path: str


@dataclass(frozen=True, slots=True)
class Input:
    """`[inputs.NAME]`."""

    name: str
    source: PathInput | UrlInput | RunInput | ModelInput | RecipeInput
    mode: InputMode = InputMode.MOUNT


@dataclass(frozen=True, slots=True)
class Outputs:
    """`[outputs]`: what a successful run must have written.

    Args:
        required: POSIX paths or globs below the work directory, such as `outputs/model.joblib`.
        metrics: JSON file of an object of numbers, read into the run's record when it is there.
    """

    required: tuple[str, ...] = ()
    metrics: str = "outputs/metrics.json"


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """`[models.NAME]`: register this output under a name when the run succeeds."""

    name: str
    path: str
    description: str = ""
    tags: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """A whole recipe.

    Args:
        path: absolute path of the recipe file.
        files: the recipe and every file it extends, absolute and without symlinks; the recipe first.
        names: `(name, file)`: the absolute name by which each was asked for, which may lead through symlinks.
        experiment_name, tags, description, reproducible: recorded, never hashed.
        secrets: names of environment variables given to the script; the names are hashed, no value ever is.
        salt: hashed; changing it forces another run.
        compat_azureml: `import azureml.core` works in the script.
        sandbox_required: the script is not to run without a sandbox; recorded.
    """

    path: Path
    files: tuple[Path, ...]
    estimator: Estimator
    environment: EnvironmentRequest = EnvironmentRequest()
    limits: Limits = Limits()
    inputs: tuple[Input, ...] = ()
    outputs: Outputs = Outputs()
    reproducible: Reproducible = UNSAID
    models: tuple[ModelRequest, ...] = ()
    secrets: tuple[str, ...] = ()
    salt: str = ""
    experiment_name: str = ""
    description: str = ""
    tags: tuple[tuple[str, str], ...] = field(default=())
    names: tuple[tuple[Path, Path], ...] = ()
    compat_azureml: bool = False
    sandbox_required: bool = False

    @property
    def name(self) -> str:
        """The file name without its ending: what listings show."""
        return self.path.stem

    @property
    def needed(self) -> tuple[Recipe, ...]:
        """The recipes whose runs are inputs of this one, each once; not those that they need themselves."""
        found = {
            item.source.recipe.path: item.source.recipe for item in self.inputs if isinstance(item.source, RecipeInput)
        }
        return tuple(found.values())

    @property
    def with_needed(self) -> tuple[Recipe, ...]:
        """This recipe and all that it needs, directly or not, each once."""
        found, pending = {self.path: self}, list(self.needed)
        while pending:
            recipe = pending.pop(0)
            if recipe.path not in found:
                found[recipe.path] = recipe
                pending += recipe.needed
        return tuple(found.values())

    @property
    def lock_path(self) -> Path:
        """`<recipe>.lock`, beside the recipe."""
        return self.path.with_suffix(".lock")

    @property
    def conda_lock_path(self) -> Path:
        """The conda-lock file: the one the recipe takes, else `<recipe>.conda-lock.yml` beside it."""
        return self.environment.conda_lock_file or self.path.with_suffix(".conda-lock.yml")
