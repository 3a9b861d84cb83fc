"""Every table and key a recipe may have, in one list.

The list drives reading (`load`), its error messages, the JSON Schema (`jsonschema`), the reference in
docs/recipe.md and the test that changes each key and watches the run hash. A key that a later version will build
is here too, with the sentence that refuses it: nothing is ever ignored.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

from repro_est.layout import Backend, Binding
from repro_est.recipe.reproducible import Determinism


class Category(StrEnum):
    """What a key has to do with the run hash."""

    HASHED = "hashed"
    POLICY = "policy"  # a hit may be asked to match it
    RECORDED = "recorded"
    LOCATED = "located"  # says where something is; what is found there is hashed


class Type(StrEnum):
    """What a value must be; the text is what an error message says was expected."""

    STRING = "a string"
    BOOLEAN = "true or false"
    INTEGER = "an integer"
    NUMBER = "a number"
    STRINGS = "an array of strings"
    STRING_TABLE = "a table of strings"
    PARAMS = "a table of flags"
    WORDS = "an array of words"
    STRING_OR_STRINGS = "a string or an array of strings"
    BACKEND = "a backend, or a table with its type"
    TOLERANCES = "a table of tolerances"
    ANY = "anything"


class Key(NamedTuple):
    """One key.

    Args:
        table: `""` for the top level; `inputs` and `models` stand for `inputs.NAME` and `models.NAME`.
        default: the value that says nothing.
        later: why a value other than the default is refused, or None when it works.
        choices: the only strings allowed, empty for any.
        least, most: bounds of a number, both allowed.
    """

    table: str
    name: str
    type: Type
    category: Category
    doc: str
    default: Any = None
    later: str | None = None
    choices: tuple[str, ...] = ()
    required: bool = False
    least: int | None = None
    most: int | None = None


OLD_BACKENDS = {
    "none": Backend.NONE,
    "mpi": Backend.MPI,
    "gloo": Backend.TORCH,
    "nccl": Backend.TORCH,
    "ps": Backend.TENSORFLOW,
}
"""Values of `distributed_backend`, and what each is called now."""

BACKEND_KEYS: dict[Backend, tuple[str, ...]] = {
    Backend.NONE: ("node_count", "process_count_per_node"),
    Backend.MPI: ("node_count", "process_count_per_node"),
    Backend.TORCH: ("node_count", "process_count_per_node", "process_count", "communication_backend"),
    Backend.TENSORFLOW: ("node_count", "process_count_per_node", "worker_count", "parameter_server_count"),
}
"""What may stand beside `type` in the table of `distributed_training`; Azure ML's names."""

_H, _P, _R, _L = Category.HASHED, Category.POLICY, Category.RECORDED, Category.LOCATED
_PRESET = (
    "belongs to the presets of the Python API, which only declare a package; "
    'write it here: pip_packages = ["torch==2.13.*"]'
)
_NO_MEANING = "has no meaning here: repro runs on machines you name; leave it out"

KEYS = (
    Key("", "extends", Type.STRING_OR_STRINGS, _L, "Recipes this one is laid over; tables merge, all else replaces."),
    Key(
        "", "secrets", Type.STRINGS, _H, "Names of environment variables the script gets; only the names are kept.", ()
    ),
    Key("", "salt", Type.STRING, _H, "Any text; changing it makes another run.", ""),
    Key("", "experiment_name", Type.STRING, _R, "For listings.", ""),
    Key("", "description", Type.STRING, _R, "For people.", ""),
    Key("", "tags", Type.STRING_TABLE, _R, "For filters.", {}),
    Key("estimator", "source_directory", Type.STRING, _L, "Directory taken as the snapshot.", "."),
    Key("estimator", "entry_script", Type.STRING, _H, "Python file or notebook in it that is run.", required=True),
    Key(
        "estimator",
        "script_params",
        Type.PARAMS,
        _H,
        'Flags in order: `""` or true is a bare flag, false leaves it out, an array is spread, '
        '{input = "NAME"} is the path of an input.',
        {},
    ),
    Key("estimator", "arguments", Type.WORDS, _H, "Plain words after the flags: positionals, repeats, empty ones.", ()),
    Key("estimator", "compute_target", Type.STRING, _R, "Where to run: local, docker, an inventory's target.", "local"),
    Key(
        "estimator", "pip_packages", Type.STRINGS, _L, "Requirements (PEP 508); what they are locked to is hashed.", ()
    ),
    Key("estimator", "pip_requirements_file", Type.STRING, _L, "A requirements.txt, added to pip_packages."),
    Key("estimator", "use_gpu", Type.BOOLEAN, _H, "A GPU must be there; without it the script sees none.", False),
    Key("estimator", "environment_variables", Type.STRING_TABLE, _H, "Variables of the script.", {}),
    Key("estimator", "max_run_duration_seconds", Type.NUMBER, _R, "TERM, then KILL, after this long."),
    Key("estimator", "node_count", Type.INTEGER, _H, "Nodes: one host each.", 1, least=1, most=10_000),
    Key("estimator", "process_count_per_node", Type.INTEGER, _H, "Processes on each node.", 1, least=1, most=1_024),
    Key(
        "estimator",
        "distributed_training",
        Type.BACKEND,
        _H,
        'What joins the processes: "none", "mpi", "torch", "tensorflow", or a table: '
        '{type = "mpi", process_count_per_node = 2}, {type = "torch", process_count = 4}, '
        '{type = "tensorflow", worker_count = 3, parameter_server_count = 1}.',
        "none",
    ),
    Key(
        "estimator",
        "distributed_backend",
        Type.STRING,
        _H,
        "Old name of distributed_training; gloo and nccl mean torch, ps means tensorflow with one parameter server.",
        choices=tuple(OLD_BACKENDS),
    ),
    Key(
        "estimator",
        "gpus_per_process",
        Type.INTEGER,
        _H,
        "GPUs of each process; 1 with use_gpu.",
        least=1,
        most=1_024,
    ),
    Key(
        "estimator",
        "gpu_binding",
        Type.STRING,
        _H,
        "host: all ranks of a host see its GPUs and pick by LOCAL_RANK; rank: each sees its own only.",
        "host",
        choices=tuple(Binding),
    ),
    Key("estimator", "retries", Type.INTEGER, _R, "Tries more after failures of hosts.", 0, least=0, most=10),
    Key(
        "estimator",
        "heartbeat_seconds",
        Type.NUMBER,
        _R,
        "A rank that neither writes nor touches $REPRO_HEARTBEAT for so long is hung; no limit by default.",
    ),
    Key("estimator", "conda_packages", Type.STRINGS, _L, "Conda specs; what they are locked to is hashed.", ()),
    Key("estimator", "conda_dependencies_file", Type.STRING, _L, "A conda environment file, added to both lists."),
    Key(
        "estimator",
        "custom_docker_image",
        Type.STRING,
        _L,
        "Base image, `NAME:TAG` or `NAME@sha256:...`; what it is locked to is hashed.",
    ),
    Key("estimator", "image_registry_details", Type.STRING_TABLE, _L, 'Its registry: {address = "host:5000"}.', {}),
    Key("estimator", "dockerfile", Type.STRING, _L, "Base image built of this Dockerfile, or of a directory with one."),
    Key("estimator", "user_managed", Type.BOOLEAN, _H, "Use the image's own Python, with no packages on top.", False),
    Key("estimator", "use_docker", Type.BOOLEAN, _R, 'Azure ML\'s way to say compute_target = "docker".', False),
    Key("estimator", "shm_size", Type.STRING, _R, 'Size of /dev/shm in a container, "2g".'),
    Key(
        "estimator",
        "environment_definition",
        Type.STRING,
        _L,
        "An environment that Azure ML saved (directory or JSON) or a conda environment file, in place of the keys of "
        "packages and image.",
    ),
    Key("estimator", "framework_version", Type.STRING, _L, "Of a framework preset.", None, _PRESET),
    Key(
        "estimator",
        "resume_from",
        Type.STRING,
        _L,
        "What to go on from, said as the `path` of an input; the script gets `--resume-from PATH`.",
    ),
    Key("estimator", "source_directory_data_store", Type.ANY, _L, "Shared project folder.", None, _NO_MEANING),
    Key("estimator", "vm_size", Type.ANY, _R, "Azure's machine type.", None, _NO_MEANING),
    Key("estimator", "vm_priority", Type.ANY, _R, "Azure's machine priority.", None, _NO_MEANING),
    Key(
        "estimator",
        "inputs",
        Type.ANY,
        _L,
        "Azure's list of inputs.",
        None,
        "is a table of its own here: [inputs.NAME]",
    ),
    Key(
        "environment",
        "python",
        Type.STRING,
        _L,
        'Version or specifier, "3.11" or ">=3.11,<3.13"; the exact one is locked.',
    ),
    Key("environment", "platforms", Type.STRINGS, _L, "Platforms to lock for; default: this machine's.", ()),
    Key("environment", "index_url", Type.STRING, _L, "Simple index instead of the configured one."),
    Key("environment", "extra_index_urls", Type.STRINGS, _L, "Indexes searched as well.", ()),
    Key("environment", "find_links", Type.STRINGS, _L, "Directories or pages with wheels.", ()),
    Key("environment", "as_of", Type.STRING, _L, "Take nothing newer: YYYY-MM-DD or RFC 3339."),
    Key("environment", "channels", Type.STRINGS, _L, "Conda channels by priority: URLs, names, paths.", ()),
    Key("environment", "virtual_packages", Type.STRING_TABLE, _L, 'What the target has: {__cuda = "12.4"}.', {}),
    Key("environment", "conda_lock_file", Type.STRING, _L, "A conda-lock file to take in place of packages."),
    Key("environment", "network", Type.BOOLEAN, _H, "The script may use the network; off by default.", False),
    Key("docker", "memory", Type.STRING, _R, 'Most memory of the container, "8g".'),
    Key("docker", "cpus", Type.NUMBER, _R, "Most processors of the container, 1.5."),
    Key(
        "inputs",
        "path",
        Type.STRING,
        _L,
        "File or directory; `run:HASH/outputs/...`; `model:NAME:VERSION`, `model:NAME@ALIAS`; "
        "`recipe:FILE.toml/outputs/...`, run first.",
    ),
    Key("inputs", "url", Type.STRING, _L, "http(s) address of a file; needs sha256."),
    Key("inputs", "sha256", Type.STRING, _H, "Of the file at url, 64 hex digits."),
    Key(
        "inputs",
        "mode",
        Type.STRING,
        _R,
        "mount: read-only, in place; copy: private.",
        "mount",
        choices=("mount", "copy"),
    ),
    Key("outputs", "required", Type.STRINGS, _P, "Paths or globs a success must have written.", ()),
    Key("outputs", "metrics", Type.STRING, _R, "JSON object of numbers kept as metrics.", "outputs/metrics.json"),
    Key("models", "path", Type.STRING, _R, "Output registered under this name.", required=True),
    Key("models", "description", Type.STRING, _R, "For people.", ""),
    Key("models", "tags", Type.STRING_TABLE, _R, "For filters.", {}),
    Key(
        "reproducible",
        "class",
        Type.STRING,
        _R,
        "What executing it again gives: bitwise, the same bytes; tolerance, numbers near enough; none, no promise.",
        "bitwise",
        choices=tuple(Determinism),
    ),
    Key(
        "reproducible",
        "metrics",
        Type.TOLERANCES,
        _R,
        "How far a metric may be off: {accuracy = 0.01} is absolute, or {accuracy = {rtol = 1e-3, atol = 1e-6}}.",
        {},
    ),
    Key(
        "reproducible",
        "files",
        Type.TOLERANCES,
        _R,
        'The same for the numbers in files, by path or glob: {"outputs/*.npy" = {rtol = 1e-6}}; npy, npz, json, csv.',
        {},
    ),
    Key(
        "reproducible",
        "ignore",
        Type.STRINGS,
        _R,
        "Paths or globs of outputs that may be anything, and `metrics/NAME`.",
        (),
    ),
    Key(
        "compat", "azureml", Type.BOOLEAN, _H, "The script may `import azureml.core`; what it uses of it works.", False
    ),
    Key("sandbox", "required", Type.BOOLEAN, _R, "Without a sandbox the script is not to run.", False),
)

NAMED_TABLES = ("inputs", "models")
"""Tables whose keys are names chosen by the user."""

LATER_TABLES = {
    "remotes": "belongs into repro.toml, for a whole project",
}
"""Tables of later versions, refused with a sentence."""

TABLES = ("estimator", "environment", "docker", "inputs", "outputs", "models", "reproducible", "compat", "sandbox")


def keys_of(table: str) -> dict[str, Key]:
    """Returns the keys of one table by name."""
    return {key.name: key for key in KEYS if key.table == table}
