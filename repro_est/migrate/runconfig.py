"""Azure ML's `.runconfig`, as SDK 1.0 to 1.6x wrote it: YAML with a line for every setting, most at their default.

A setting at its default is passed over in silence; any other is taken, changed or dropped with a note. The source
directory is the file's own, or the one around `.azureml/` or `aml_config/`.
"""

from __future__ import annotations

import re
from typing import Any

from repro_est.errors import UsageError
from repro_est.migrate import azure
from repro_est.migrate.azure import Section
from repro_est.migrate.command import CommandLine, split_command
from repro_est.migrate.draft import AZURE_SETTINGS, Draft, Place, Unknown
from repro_est.migrate.entry import put_source
from repro_est.migrate.packages import put_variables
from repro_est.migrate.words import Word, put_words
from repro_est.migrate.yamlfile import YamlFile

_FRAMEWORKS = ("python", "pytorch", "tensorflow", "cntk", "")
_READ = """script arguments command target framework communicator maxRunDurationSeconds nodeCount environment
    environmentVariables mpi pytorch tensorflow parallelTask docker dataReferences data outputData history amlCompute
    name jobName"""
_OF_OTHER_TARGETS = "hdi spark containerInstance cmk8sCompute aiSuperComputer batchAi identity"
_DEFAULTS: dict[str, Any] = {
    "autoprepareenvironment": True,
    "commandreturncodeconfig": {"returnCode": "Zero", "successfulReturnCodes": []},
}
_DATA_WORD = r"\$AZUREML_DATAREFERENCE_(\w+)|DatasetConsumptionConfig:(\w+)|\$\{?AZUREML_DATASET_(\w+)\}?"
_OUTPUT_WORD = r"DatasetOutputConfig:(\w+)"


def read_runconfig(file: YamlFile, draft: Draft) -> None:
    """Fills a draft from a `.runconfig`.

    Raises:
        UsageError: it runs something that is no Python script.
    """
    _Reader(file, draft).read()


class _Reader:
    def __init__(self, file: YamlFile, draft: Draft) -> None:
        self._file, self._draft = file, draft
        self._top = Section(file.content, lambda path: Place(file.shown, file.line(path)))
        parent = file.path.absolute().parent
        self._source = parent.parent if parent.name in AZURE_SETTINGS else parent

    def read(self) -> None:
        top, draft = self._top, self._draft
        framework = str(top.get("framework") or "")
        if framework.lower() not in _FRAMEWORKS:
            raise UsageError(f"{top.place('framework')}: framework: got {framework!r}, expected one that runs Python")
        self._data()
        line = self._command()
        put_source(draft, self._source, line.script, top.place("script" if top.get("script") else "command"))
        put_words(draft, line.words)
        azure.put_target(draft, top.get("target"), top.place("target"), "target")
        azure.put_duration(
            draft, top.get("max_run_duration_seconds"), top.place("max_run_duration_seconds"), "maxRunDurationSeconds"
        )
        azure.put_environment(draft, top.section("environment"), self._source)
        variables = top.section("environment_variables")
        put_variables(draft, dict(variables.content), lambda name: variables.place(str(name)))
        docker = top.section("docker")
        if docker.get("use_docker") is True:
            azure.put_shm_size(draft, docker.get("shm_size"), docker.place("shm_size"))
            azure.put_container(draft, docker.place("use_docker"), "useDocker")
        self._processes(framework)
        self._rest()

    def _command(self) -> CommandLine:
        top = self._top
        if top.get("script") or not top.get("command"):
            script = top.get("script")
            if script is not None and not isinstance(script, str):
                raise UsageError(f"{top.place('script')}: script: got {script!r}, expected the name of a file")
            return CommandLine(script, tuple(self._arguments()))
        command = top.get("command")
        text = command if isinstance(command, str) else " ".join(map(str, top.rows("command")))
        line = split_command(text, top.place("command"), {})
        for name, value in line.variables.items():
            put_variables(self._draft, {name: value}, lambda _: top.place("command"))
        words = tuple(Word(self._meant(word.value), word.place) for word in line.words)
        return CommandLine(line.script, words)

    def _arguments(self) -> list[Word]:
        if isinstance(given := self._top.get("arguments"), str):
            return [Word(self._meant(word), self._top.place("arguments")) for word in given.split()]
        path = self._top.step("arguments")
        words = []
        for number, item in enumerate(self._top.rows("arguments")):
            where = Place(self._file.shown, self._file.line((*path, number)))
            text = self._file.text((*path, number))
            words.append(Word(text if isinstance(item, bool) else self._meant(item), where))
        return words

    def _meant(self, word: Any) -> Any:
        """What a word stands for: an input, an output, or itself."""
        if match := re.fullmatch(_DATA_WORD, str(word)):
            name = next(filter(None, match.groups()))
            if name in (self._draft.document.get("inputs") or {}):
                return {"input": name}
            return Unknown(str(word))
        if match := re.fullmatch(_OUTPUT_WORD, str(word)):
            return f"outputs/{match[1]}"
        return word

    def _data(self) -> None:
        for table in ("dataReferences", "data"):
            for name in (section := self._top.section(table)).names():
                item = section.section(name)
                mode = str(item.get("mode") or item.get("mechanism") or "mount").lower()
                azure.put_input(
                    self._draft, name, section.place(name), f"{table}.{name}", was=_where(item), copied=mode != "mount"
                )
        for name in (section := self._top.section("outputData")).names():
            why = f'write it to "outputs/{name}": what is there is kept'
            self._draft.changed(section.place(name), f"outputData.{name}", why)

    def _processes(self, framework: str) -> None:
        top, draft = self._top, self._draft
        mpi, torch, tensorflow = top.section("mpi"), top.section("pytorch"), top.section("tensorflow")
        parallel = top.section("parallelTask")
        communicator = str(top.get("communicator") or "None")
        kind = "" if communicator.lower() == "none" else communicator
        nodes = top.get("node_count")
        backend = torch.get("communication_backend") if framework.lower() == "pytorch" else None
        if not kind and backend and (torch.get("process_count") or (nodes or 1) > 1):
            kind = str(backend)
        place = top.place("communicator" if not kind or "communicator" in top else "framework")
        if kind and azure.plain(kind) not in azure.BACKENDS:
            draft.todo(place, f"communicator {kind}", "expected mpi, torch or tensorflow", azure.TRAINING)
            kind = ""
        training = azure.BACKENDS.get(azure.plain(kind))
        per_node = {"mpi": mpi.get("process_count_per_node"), "none": parallel.get("worker_count_per_node")}
        azure.put_processes(
            draft,
            kind,
            place,
            nodes=nodes or mpi.get("node_count"),
            per_node=per_node.get(str(training)),
            total=torch.get("process_count"),
            backend=backend,
            workers=tensorflow.get("worker_count"),
            servers=tensorflow.get("parameter_server_count"),
        )

    def _rest(self) -> None:
        top, draft = self._top, self._draft
        history = top.section("history")
        if history.get("output_collection") is False:
            draft.changed(history.place("output_collection"), "outputCollection", "outputs are always kept")
        watched = [str(name) for name in history.rows("directories_to_watch") if str(name) != "logs"]
        if watched:
            why = "what is not below `outputs/` or `logs/` is not kept: write it there"
            draft.dropped(history.place("directories_to_watch"), f"directoriesToWatch {', '.join(watched)}", why)
        machines = top.section("amlCompute")
        if machines.get("vm_size"):
            draft.dropped(machines.place("vm_size"), f"vmSize {machines.get('vm_size')}", azure.NO_MACHINES)
        known = {azure.plain(name) for name in f"{_READ} {_OF_OTHER_TARGETS}".split()}
        for name in top.names():
            value = top.get(name)
            if azure.plain(name) in known or value is None or _is_empty(value):
                continue
            if value != _DEFAULTS.get(azure.plain(name)):
                draft.dropped(top.place(name), name, "has no meaning here")


def _where(item: Section) -> str:
    """Where an item of `data` or `dataReferences` was, in a few words."""
    location = item.section("data_location")
    dataset, path = location.section("dataset"), location.section("data_path")
    if item.get("data_store_name"):
        return f"{item.get('path_on_data_store') or '/'} of the datastore {item.get('data_store_name')}"
    if dataset.content:
        name, version = dataset.get("name") or dataset.get("id"), dataset.get("version")
        return f"the dataset {name}" + (f" in version {version}" if version else "")
    if path.content:
        return f"{path.get('relative_path') or '/'} of the datastore {path.get('datastore_name')}"
    return str(location.get("uri") or "data of Azure ML")


def _is_empty(value: Any) -> bool:
    if isinstance(value, dict):
        return all(_is_empty(item) for item in value.values())
    return value in (None, "", [], False)
