"""Azure ML's objects in a Python script or a notebook: each `Estimator(...)` or `ScriptRunConfig(...)` is a recipe.

The program is read by `evaluate` and never executed. Relative paths start at the file's own directory, as they did when
it was run there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.migrate import azure
from repro_est.migrate.azure import Section
from repro_est.migrate.command import split_command
from repro_est.migrate.data import Data
from repro_est.migrate.draft import Draft, Place, Unknown
from repro_est.migrate.entry import ENTRY, SOURCE, put_source
from repro_est.migrate.environment import environment_table
from repro_est.migrate.evaluate import Items, Program, Row, Thing
from repro_est.migrate.notebook import Source, read_source
from repro_est.migrate.packages import PIP, Packages, put_variables
from repro_est.migrate.presets import PRESETS, Preset
from repro_est.migrate.words import Word, put_params, put_words

_ESTIMATORS = ("Estimator", *PRESETS)
_CONFIGS = (*_ESTIMATORS, "ScriptRunConfig")
_HOMES = ("azureml", "repro_est")
_UNREAD = {
    "HyperDriveConfig": "a sweep: run the recipe once for each value, with --set",
    "PythonScriptStep": "a step of a pipeline: make it a ScriptRunConfig, or write a recipe by hand",
    "EstimatorStep": "a step of a pipeline; its estimator is read if it is in this file",
    "AutoMLConfig": "repro searches no models",
}
_PYTHON_OF_PRESETS = "3.6.2"
_SCRIPT_RUN_CONFIG = ("source_directory", "script", "arguments", "run_config")
_OLD_NAMES = {
    "custom_docker_base_image": "custom_docker_image",
    "conda_dependencies_file_path": "conda_dependencies_file",
    "pip_requirements_file_path": "pip_requirements_file",
}
_SILENT = ("_disable_validation", "_show_lint_warnings", "_show_package_warnings", "_enable_optimized_mode")


def read_python(path: Path, shown: str, directory: Path, name: str | None) -> tuple[Draft, ...]:
    """Returns a draft for each estimator of a file, or for the one with this name.

    Raises:
        UsageError: it is not Python, there is none in it, or none with this name.
    """
    source = read_source(path, shown)
    try:
        program = Program(source.tree, path.name)
    except RecursionError:
        raise UsageError(f"{shown}: is nested too deeply to be read") from None
    found = _named(program)
    if not found:
        known = ", ".join(f"{name}(...)" for name in _CONFIGS)
        raise UsageError(f"{shown}: found no call of Azure ML's, expected one of: {known}")
    if name is not None and name not in found:
        listed = ", ".join(f"`{known}`" for known in found)
        raise UsageError(
            f"{shown}: no estimator `{name}`, expected one of: {listed}", hint=f"--name {next(iter(found))}"
        )
    chosen = {name: found[name]} if name is not None else found
    return tuple(
        _Reader(Draft(key, shown, directory), source, program, path, call).draft() for key, call in chosen.items()
    )


def _named(program: Program) -> dict[str, Thing]:
    """The estimators by the names of their variables; a name that is there twice gets a number."""
    found: dict[str, Thing] = {}
    for call in program.calls:
        if call.name not in _CONFIGS or not _is_azure(call):
            continue
        name = call.variable or call.name.lower()
        number = 1
        while (key := name if number == 1 else f"{name}-{number}") in found:
            number += 1
        found[key] = call
    return found


def _is_azure(call: Thing) -> bool:
    """Whether a class is Azure ML's: imported from there, or, in a piece of a program, not imported at all."""
    return not call.module or call.module.split(".")[0] in _HOMES


class _Reader:
    """Fills a draft from one estimator."""

    def __init__(self, draft: Draft, source: Source, program: Program, path: Path, call: Thing) -> None:
        self._draft, self._source, self._program, self._call = draft, source, program, call
        self._base = path.absolute().parent
        self._data = Data(draft, program, source, self._base)
        self._given = dict(call.kwargs)
        names = ("source_directory",) if call.name in _ESTIMATORS else _SCRIPT_RUN_CONFIG
        self._given |= dict(zip(names, call.args, strict=False))

    def draft(self) -> Draft:
        for old, new in _OLD_NAMES.items():
            if old in self._given:
                self._given.setdefault(new, self._given.pop(old))
                self._call.lines.setdefault(new, self._call.line_of(old))
        self._directory = self._source_directory()
        if self._call.name in _ESTIMATORS:
            self._estimator()
        else:
            self._script_run_config()
        self._shared()
        for thing in self._call.more:
            why = f"what `{thing.text}` holds is not known without running it"
            self._draft.todo(self._source.place(thing.line), f"**{thing.text}", why, ("estimator",))
        for name in self._given:
            if name not in _SILENT:
                self._draft.dropped(self._place(name), name, "unknown parameter of Azure ML")
        self._around()
        return self._draft

    # ---- arguments

    def _take(self, name: str) -> Any:
        """Takes an argument out of what was given, as a plain value: what is not known is an Unknown."""
        return plain_value(self._given.pop(name, None))

    def _take_text(self, name: str) -> str | Unknown | None:
        """Takes an argument that names a file or a directory."""
        value = self._given.pop(name, None)
        return value if value is None or isinstance(value, str) else unknown_value(value)

    def _place(self, name: str) -> Place:
        return self._source.place(self._call.line_of(name))

    def _source_directory(self) -> Path:
        value = self._take_text("source_directory")
        if not isinstance(value, Unknown):
            return self._base / (value or ".")
        name = str(plain_value(self._given.get("entry_script") or self._given.get("script")))
        candidates = [path for path in self._base.rglob("*.py") if path.name == Path(name).name]
        place = self._place("source_directory")
        if len(candidates) == 1:
            shown = self._draft.shown(candidates[0].parent)
            self._draft.changed(place, f"source_directory {value.text}", f"not known; the script is in {shown}")
            return candidates[0].parent
        self._draft.unknown(place, "source_directory", value, SOURCE)
        return self._base

    def _put_source(self, script: Any, name: str) -> None:
        written = [file for file in self._source.written if Path(file).name == Path(str(script)).name]
        hint = "a cell writes it: save it as a file" if written else "no such file"
        put_source(self._draft, self._directory, script, self._place(name), hint=hint)

    # ---- Estimator and its presets

    def _estimator(self) -> None:
        self._put_source(self._take("entry_script"), "entry_script")
        use_gpu = self._take("use_gpu")
        if use_gpu is True:
            self._draft.took(self._place("use_gpu"), "use_gpu", azure.USE_GPU, True)
        elif isinstance(use_gpu, Unknown):
            self._draft.unknown(self._place("use_gpu"), "use_gpu", use_gpu, azure.USE_GPU)
        self._params()
        self._processes()
        self._packages()
        self._image()
        self._inputs()
        variables = self._given.get("environment_variables")
        self._variables(variables, "environment_variables")
        self._given.pop("environment_variables", None)
        if (use_docker := self._take("use_docker")) is not None and use_docker is not False:
            azure.put_container(self._draft, self._place("use_docker"), "use_docker")
        for name in ("vm_size", "vm_priority", "source_directory_data_store"):
            if self._take(name) is not None:
                self._draft.dropped(self._place(name), name, azure.NO_MACHINES)

    def _params(self) -> None:
        params = self._given.pop("script_params", None)
        if params is None:
            return
        place = self._place("script_params")
        if not isinstance(params, Items):
            self._draft.unknown(place, "script_params", unknown_value(params), ("estimator", "script_params"))
            return
        entries: dict[str, tuple[Place, Any]] = {}
        for flag, value in params.items():
            where = self._source.place(params.lines.get(flag, self._call.line_of("script_params")))
            entries[str(flag)] = (where, self._data.word(value, where, name=str(flag).strip("-")))
        put_params(self._draft, entries)
        self._more(params.more, "script_params", ("estimator", "script_params"))

    def _more(self, things: list[Thing], what: str, key: tuple[str, ...]) -> None:
        for thing in things:
            why = f"`{thing.text}` may change it, which is not known without running it"
            self._draft.todo(self._source.place(thing.line), what, why, key, f"may be changed by {thing.text}")

    def _processes(self) -> None:
        nodes, per_node = self._take("node_count"), self._take("process_count_per_node")
        old, new = self._given.pop("distributed_backend", None), self._given.pop("distributed_training", None)
        workers, servers = self._take("worker_count"), self._take("parameter_server_count")
        name = "distributed_training" if new is not None else "distributed_backend" if old else "node_count"
        if new is None or (isinstance(new, str) and not isinstance(new, Thing)):
            kind = str(new or old or "")
            azure.put_processes(
                self._draft,
                kind if not isinstance(old, Thing) else "",
                self._place(name),
                nodes=nodes,
                per_node=per_node,
                workers=workers,
                servers=servers,
            )
            return
        self._distributed(new, self._place(name), nodes, per_node)

    def _distributed(self, thing: Any, place: Place, nodes: Any, per_node: Any = None) -> None:
        """Puts an `MpiConfiguration(...)` or another of its kind."""
        if not isinstance(thing, Thing) or azure.plain(thing.name) not in azure.BACKENDS:
            if thing is not None:
                more = ': "mpi", "torch" or "tensorflow"?'
                self._draft.unknown(place, "distributed training", unknown_value(thing), azure.TRAINING, more)
            azure.put_processes(self._draft, "", place, nodes=nodes, per_node=per_node)
            return

        def argument(name: str, position: int | None = None) -> Any:
            return plain_value(thing.attributes.get(name, thing.get(name, position)))

        kind = azure.plain(thing.name)
        is_torch, is_mpi = azure.BACKENDS[kind] == "torch", azure.BACKENDS[kind] == "mpi"
        backend = argument("communication_backend", 0) if is_torch else None
        if kind == "pytorchconfiguration" and backend is None:
            backend = "Nccl"
        azure.put_processes(
            self._draft,
            thing.name,
            place,
            nodes=argument("node_count") or nodes,
            per_node=argument("process_count_per_node", 0) if is_mpi else argument("worker_count_per_node") or per_node,
            total=argument("process_count", 1) if is_torch else None,
            backend=backend,
            workers=argument("worker_count", 0),
            servers=argument("parameter_server_count", 1),
        )

    def _packages(self) -> None:
        environment = self._given.pop("environment_definition", None)
        if environment is not None:
            self._environment(environment, "environment_definition")
        packages = Packages(self._draft, self._directory)
        for name, take in (("pip_packages", packages.pip), ("conda_packages", packages.conda)):
            self._package_list(name, take)
        file = self._take_text("pip_requirements_file")
        if isinstance(file, Unknown):
            azure.put_unknown_packages(self._draft, file, self._place("pip_requirements_file"))
        elif file:
            place = self._place("pip_requirements_file")
            packages.requirements_file(self._directory / file, place, "pip_requirements_file")
        has_file = self._put_conda_file()
        if (preset := PRESETS.get(self._call.name)) and not has_file and environment is None:
            self._preset(preset, packages)
        packages.finish()

    def _package_list(self, name: str, take: Any) -> None:
        value = self._given.pop(name, None)
        if isinstance(value, Row):
            for number, item in enumerate(value):
                where = self._source.place(
                    value.lines[number] if number < len(value.lines) else self._call.line_of(name)
                )
                if isinstance(item, str):
                    take(item, where)
                else:
                    azure.put_unknown_packages(self._draft, Unknown(str(plain_value(item))), where)
            self._more(value.more, name, PIP)
        elif isinstance(value, Thing):
            azure.put_unknown_packages(self._draft, Unknown(value.text), self._place(name))

    def _put_conda_file(self) -> bool:
        file = self._take_text("conda_dependencies_file")
        if isinstance(file, Unknown):
            azure.put_unknown_packages(self._draft, file, self._place("conda_dependencies_file"))
        elif file:
            path, place = self._directory / file, self._place("conda_dependencies_file")
            azure.put_conda_file(self._draft, path, place, "conda_dependencies_file")
        return file is not None

    def _preset(self, preset: Preset, packages: Packages) -> None:
        place = self._place("framework_version")
        version = self._take("framework_version")
        if isinstance(version, Unknown):
            self._draft.unknown(place, "framework_version", version, PIP)
            return
        named = {re.split(r"[\s\[<>=!~;]", text, maxsplit=1)[0].lower() for text in self._draft.get(PIP) or []}
        if version is None and preset.package not in named:
            why = f"none is named, so it is the one Azure ML took: {preset.default}"
            self._draft.changed(place, f"{self._call.name} framework_version", why)
        script = self._directory / str(self._draft.get(ENTRY))
        gpu = self._draft.get(azure.USE_GPU) is True
        for requirement in preset.packages(str(version or preset.default), script, use_gpu=gpu):
            if requirement.partition("==")[0] not in named:  # one of the user's own wins, as it did
                packages.pip(requirement, place)
        self._draft.changed(place, self._call.name, "its other packages are left out: name what the script needs")
        azure.note_python(self._draft, place, self._call.name, _PYTHON_OF_PRESETS)

    def _image(self) -> None:
        image, managed = self._take("custom_docker_image"), self._take("user_managed")
        details = self._given.pop("image_registry_details", None)
        has_image = False
        if image is not None:
            registry = Section(_registry(details), lambda _: self._place("image_registry_details"))
            place = self._place("custom_docker_image")
            has_image = azure.put_image(self._draft, image, place, "custom_docker_image", registry=registry)
        elif details is not None:
            self._draft.dropped(self._place("image_registry_details"), "image_registry_details", "no image is named")
        if managed is True and has_image:
            key = ("estimator", "user_managed")
            self._draft.took(self._place("user_managed"), "user_managed", key, True)
        elif managed:
            why = "used the Python that was there; repro locks one: list what it had in pip_packages"
            self._draft.todo(self._place("user_managed"), "user_managed", why, PIP)
        azure.put_shm_size(self._draft, self._take("shm_size"), self._place("shm_size"))

    def _inputs(self) -> None:
        inputs = self._given.pop("inputs", None)
        for item in inputs if isinstance(inputs, Row) else [inputs] if inputs is not None else []:
            self._data.word(item, self._place("inputs"), name="data")

    # ---- ScriptRunConfig

    def _script_run_config(self) -> None:
        config = self._call.attributes.get("run_config")
        if not isinstance(config, Thing):
            config = self._given.get("run_config")
        given = self._given.pop("run_config", None)
        config = given if given is not None and not (isinstance(config, Thing) and config.attributes) else config
        script, command = self._take("script"), self._given.pop("command", None)
        arguments = self._given.pop("arguments", None)
        if script is None and command is not None:
            self._command(command)
        else:
            self._put_source(script, "script")
            self._arguments(arguments, "arguments")
        table = self._run_config(config)
        environment = self._given.pop("environment", None)
        if environment is not None:
            self._environment(environment, "environment")
        elif "environment" in table:
            azure.put_environment(self._draft, table.section("environment"), self._directory)
        self._docker_runtime()
        job = self._given.pop("distributed_job_config", None)
        if job is not None:
            self._distributed(job, self._place("distributed_job_config"), plain_value(table.get("node_count")))
        else:
            self._communicator(table)
        if "target" in table:
            azure.put_target(self._draft, table.get("target"), table.place("target"), "target")

    def _arguments(self, arguments: Any, name: str) -> None:
        if arguments is None:
            return
        if not isinstance(arguments, Row):
            self._draft.unknown(self._place(name), name, unknown_value(arguments), ("estimator", "arguments"))
            return
        words: list[Word] = []
        for number, item in enumerate(arguments):
            line = arguments.lines[number] if number < len(arguments.lines) else self._call.line_of(name)
            before = words[-1].value if words and isinstance(words[-1].value, str) else ""
            where = self._source.place(line)
            words.append(Word(self._data.word(item, where, name=before.strip("-") or "data"), where))
        put_words(self._draft, words)
        self._more(arguments.more, name, ("estimator", "arguments"))

    def _command(self, command: Any) -> None:
        place = self._place("command")
        values: dict[str, Any] = {}
        if isinstance(command, Row):
            parts: list[str] = []
            for number, item in enumerate(command):
                value = self._data.word(item, place, name="data")
                values[f"word{number}"] = value
                parts.append(value if isinstance(value, str) else f"{{word{number}}}")
            command = " ".join(parts)
        if not isinstance(command, str):
            self._put_source(plain_value(command), "command")
            return
        line = split_command(command, place, values)
        self._put_source(line.script, "command")
        put_words(self._draft, line.words)
        put_variables(self._draft, line.variables, lambda _: place)
        for change in line.changes:
            self._draft.changed(place, "command", change)

    def _run_config(self, config: Any) -> Section:
        """The table of a `RunConfiguration`, by what was set on it."""
        if isinstance(config, Thing) and config.called and config.name not in ("RunConfiguration",):
            why = f"what `{config.text}` holds is not known: import its .runconfig file by itself"
            self._draft.todo(self._source.place(config.line), "run_config", why, ("estimator",))
        table, lines = environment_table(config) if isinstance(config, Thing) else ({}, {})
        default = config.line if isinstance(config, Thing) else self._call.line
        return Section(table, lambda path: self._source.place(_line(lines, path, default)))

    def _communicator(self, table: Section) -> None:
        communicator = table.get("communicator")
        kind = communicator if isinstance(communicator, str) and communicator.lower() != "none" else ""
        mpi, torch, tensorflow = (table.section(name) for name in ("mpi", "pytorch", "tensorflow"))
        azure.put_processes(
            self._draft,
            kind,
            table.place("communicator" if kind else "node_count"),
            nodes=table.get("node_count"),
            per_node=mpi.get("process_count_per_node") if kind else None,
            total=torch.get("process_count"),
            workers=tensorflow.get("worker_count"),
            servers=tensorflow.get("parameter_server_count"),
        )

    def _docker_runtime(self) -> None:
        docker = self._given.pop("docker_runtime_config", None)
        if not isinstance(docker, Thing):
            return
        place = self._place("docker_runtime_config")
        azure.put_shm_size(self._draft, plain_value(docker.get("shm_size")), place)
        if plain_value(docker.get("use_docker", 0)) is True:
            azure.put_container(self._draft, place, "use_docker")
        if docker.get("arguments") is not None:
            self._draft.dropped(place, "docker arguments", "repro starts the container; see [docker]")

    # ---- both

    def _environment(self, environment: Any, name: str) -> None:
        place = self._place(name)
        if not isinstance(environment, Thing) or not (environment.called or environment.attributes):
            azure.put_unknown_packages(self._draft, unknown_value(environment), place)
            return
        table, lines = environment_table(environment)
        where = Section(table, lambda path: self._source.place(_line(lines, path, environment.line)))
        azure.put_environment(self._draft, where, self._base)

    def _shared(self) -> None:
        azure.put_target(self._draft, self._take("compute_target"), self._place("compute_target"))
        duration = self._take("max_run_duration_seconds")
        azure.put_duration(self._draft, duration, self._place("max_run_duration_seconds"), "max_run_duration_seconds")
        resume = self._take("resume_from")
        if resume is not None:
            text = getattr(resume, "text", resume)
            why = f"`{text}` is data of Azure ML: name a run or a directory of yours"
            self._draft.todo(self._place("resume_from"), "resume_from", why, ("estimator",), f"resume_from was {text}")

    def _variables(self, variables: Any, name: str) -> None:
        if isinstance(variables, Items):
            lines = variables.lines
            plain = {key: plain_value(item) for key, item in variables.items()}
            put_variables(self._draft, plain, lambda key: self._source.place(lines.get(key, self._call.line_of(name))))
            self._more(variables.more, name, ("estimator", "environment_variables"))
        elif variables is not None:
            table = ("estimator", "environment_variables")
            self._draft.unknown(self._place(name), name, unknown_value(variables), table)

    # ---- the rest of the program

    def _around(self) -> None:
        """What else of the program belongs to the recipe: the experiment, and models registered from its run."""
        draft, place = self._draft, self._source.place
        names = {}
        for call in self._program.calls:
            if call.name == "Experiment" and _is_azure(call) and isinstance(name := call.get("name", 1), str):
                names[name] = call
            elif call.name in _UNREAD and _is_azure(call):
                draft.dropped(place(call.line), call.name, _UNREAD[call.name])
            elif call.name == "register_model" and self._is_own_run(call.owner):
                self._model(call)
        if len(names) == 1:
            name, call = names.popitem()
            draft.took(place(call.line), "Experiment", ("experiment_name",), name)
        for where in self._source.unread:
            draft.dropped(where, "cell", "is no Python")

    def _is_own_run(self, run: Any) -> bool:
        return isinstance(run, Thing) and run.name == "submit" and self._call in (*run.args, *run.kwargs.values())

    def _model(self, call: Thing) -> None:
        name, path = plain_value(call.get("model_name", 0)), plain_value(call.get("model_path", 1))
        place = self._source.place(call.line)
        if isinstance(name, str) and isinstance(path, str) and re.match(r"(\./)?outputs/.", path):
            self._draft.took(place, "register_model", ("models", name), {"path": path.removeprefix("./").rstrip("/")})
        else:
            self._draft.dropped(place, "register_model", "needs a name and a path below outputs/: [models.NAME]")


def plain_value(value: Any) -> Any:
    """A value of the program as a draft takes it; what is not known is an Unknown."""
    return Unknown(value.text) if isinstance(value, Thing) else value


def unknown_value(value: Any) -> Unknown:
    """A value of the program that is of no use as it is."""
    return Unknown(value.text if isinstance(value, Thing) else repr(value))


def _registry(details: Any) -> Mapping[str, Any]:
    """The table of a `ContainerRegistry`, by what it was made with and what was set on it."""
    if not isinstance(details, Thing):
        return {}
    table = {**details.kwargs, **details.attributes}
    return {name: plain_value(value) for name, value in table.items() if name in ("address", "username", "password")}


def _line(lines: Mapping[tuple[str | int, ...], int], path: tuple[str | int, ...], default: int) -> int:
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, default)
