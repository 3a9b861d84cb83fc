"""The machines a team has, and groups of them to run on: `inventory.toml`, read into frozen values.

    known_hosts = "known_hosts"            # default ~/.ssh/known_hosts
    [hosts.h1]                             # a host without a table is a name of ~/.ssh/config, or of DNS
    address = "10.77.0.11"
    [targets.lab]
    hosts = ["h1", "h2"]

docs/hosts.md lists the keys. Strict, as recipes are: everything wrong is said at once, with line, key, got and
expected. A path is relative to the file. Nothing here speaks with a host.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from repro_est.errors import Problem, UsageError
from repro_est.project import Project

INVENTORY_NAME = "inventory.toml"
INVENTORY_VARIABLE = "REPRO_INVENTORY"
RESERVED = ("local", "docker")
"""Targets that need no inventory."""

_RUNTIMES = ("process", "docker")
_SCHEDULERS = ("slurm",)
_HOST_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]*"
_TARGET_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"


@dataclass(frozen=True, slots=True)
class HostSpec:
    """How one host is reached, and what is said of it.

    Args:
        name: what people call it.
        address: where SSH finds it; `""` means the name.
        user, port, key: for SSH; None leaves them to ~/.ssh/config. The key is an absolute path.
        gateway: the jump host, or None.
        store: directory for its store; `~` is the home there.
        python: the interpreter there, 3.8 or newer.
        slots: ranks it takes at once; None for one a CPU.
        gpus: tables of `index` or `uuid`, `model`, `memory_mb`; None for what nvidia-smi finds.
        internal_address: where the other hosts reach it; None to find out.
        known_hosts: file of host keys; None for ~/.ssh/known_hosts.
        connect_seconds: how long it may take to answer.
        is_local: it is this machine, and needs no SSH.
    """

    name: str
    address: str = ""
    user: str | None = None
    port: int | None = None
    key: str | None = None
    gateway: HostSpec | None = None
    store: str = "~/.cache/repro"
    python: str = "python3"
    slots: int | None = None
    gpus: tuple[Mapping[str, Any], ...] | None = field(default=None, hash=False)
    labels: tuple[str, ...] = ()
    internal_address: str | None = None
    known_hosts: str | None = None
    connect_seconds: float = 15.0
    is_local: bool = False

    def to_json(self) -> dict[str, Any]:
        """Returns it as plain JSON, its jump host within."""
        content = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        content["gateway"] = self.gateway.to_json() if self.gateway is not None else None
        content["gpus"] = [dict(gpu) for gpu in self.gpus] if self.gpus is not None else None
        content["labels"] = list(self.labels)
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> HostSpec:
        gateway, gpus = content.get("gateway"), content.get("gpus")
        values = {
            **content,
            "gateway": cls.from_json(gateway) if gateway is not None else None,
            "gpus": tuple(dict(gpu) for gpu in gpus) if gpus is not None else None,
            "labels": tuple(content.get("labels", ())),
        }
        return cls(**values)


@dataclass(frozen=True, slots=True)
class TargetSpec:
    """A group of hosts to run on.

    Args:
        hosts: in the order of the inventory, the head first; of a scheduler, none.
        runtime: `process` or `docker`.
        interface: the network for MPI, gloo and NCCL: a CIDR, the name of an interface, or None for that of the
            internal address.
        lost_after_seconds: a host silent this long is lost.
        scheduler: `""` or `slurm`.
        login: where the scheduler's commands are; None without a scheduler.
        partition: of the scheduler, `""` for its default.
        options: further options of a job, such as `{"account": "ml"}`.
    """

    name: str
    hosts: tuple[HostSpec, ...]
    runtime: str = "process"
    interface: str | None = None
    lost_after_seconds: float = 30.0
    scheduler: str = ""
    login: HostSpec | None = None
    partition: str = ""
    options: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def is_local(self) -> bool:
        return not self.scheduler and all(spec.is_local for spec in self.hosts)

    @property
    def reached(self) -> tuple[HostSpec, ...]:
        """The hosts that `repro` itself speaks with."""
        return (self.login,) if self.login is not None else self.hosts


@dataclass(frozen=True, slots=True)
class Inventory:
    """One inventory file.

    Args:
        path: the file, absolute.
        hosts: by name; those with a table, then those only a target names.
    """

    path: Path
    hosts: Mapping[str, HostSpec]
    targets: Mapping[str, TargetSpec]

    def target(self, name: str) -> TargetSpec:
        """Returns a target by name.

        Raises:
            UsageError: there is none of that name.
        """
        if name in self.targets:
            return self.targets[name]
        raise UsageError(
            f"target {name}: not in {self.path}\n  expected one of {', '.join([*RESERVED, *self.targets])}",
            hint=_nearest(name, [*RESERVED, *self.targets]) or f"add [targets.{name}] to {self.path}",
        )


def find_inventory(project: Project) -> Inventory | None:
    """Returns the inventory of a project, None when there is none.

    It is `$REPRO_INVENTORY`, else `[hosts] inventory` of repro.toml, else `inventory.toml` beside it.

    Raises:
        UsageError: it has problems, or is named and not there.
    """
    override = os.environ.get(INVENTORY_VARIABLE)
    if override:
        path, source = Path(override).expanduser().absolute(), INVENTORY_VARIABLE
    elif project.inventory is not None:
        path, source = project.inventory, "[hosts] inventory"
    else:
        path = project.root / INVENTORY_NAME
        return load_inventory(path) if path.is_file() else None
    if not path.is_file():
        raise UsageError(f"{source}: no such file: {path}", hint="docs/hosts.md shows what to write there")
    return load_inventory(path)


def this_machine(name: str, *, runtime: str, store: Path) -> TargetSpec:
    """Returns this machine as a target; its runs with several ranks keep what they need in `store`."""
    return TargetSpec(name, (HostSpec(name, store=str(store), is_local=True),), runtime)


def load_inventory(path: Path) -> Inventory:
    """Reads an inventory.

    Raises:
        UsageError: with every problem found.
    """
    import tomli

    try:
        text = path.read_text("utf-8")
        document = tomli.loads(text)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    return _Reader(path.absolute(), text, document).inventory()


# ---- keys

Check = Callable[[Any], bool]


class _Key(NamedTuple):
    expected: str
    is_good: Check


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and value.isprintable()


def _is_word(value: Any) -> bool:
    """Whether it is text that no program takes for an option, and that stays one word."""
    return _is_text(value) and not value.startswith("-") and not re.search(r"\s", value)


def _is_address(value: Any) -> bool:
    return _is_word(value) and not re.search(r"[@/]", value)


def _is_integer(low: int, high: int) -> Check:
    return lambda value: type(value) is int and low <= value <= high


def _is_seconds(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < 10**7


def _is_words(value: Any) -> bool:
    return isinstance(value, list) and all(_is_word(item) for item in value)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_ip(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(ipaddress.ip_address(value))
    except ValueError:
        return False


def _is_interface(value: Any) -> bool:
    if isinstance(value, str) and "/" in value:
        try:
            return bool(ipaddress.ip_network(value, strict=False))
        except ValueError:
            return False
    return _is_word(value) and len(value) <= 15  # IFNAMSIZ


def _is_options(value: Any) -> bool:
    return isinstance(value, dict) and all(
        re.fullmatch(r"[a-z][a-z-]*", name) and (type(item) is int or _is_text(item)) for name, item in value.items()
    )


_GPU_KEYS: dict[str, _Key] = {
    "model": _Key("a string, such as `NVIDIA H100`", _is_text),
    "memory": _Key("a size, such as `80g`", lambda value: isinstance(value, str) and _megabytes(value) is not None),
    "uuid": _Key("a UUID of nvidia-smi, such as `GPU-...`", _is_word),
    "index": _Key("an integer from 0 to 1023", _is_integer(0, 1023)),
}

_HOST_KEYS: dict[str, _Key] = {
    "address": _Key("a name or an address, without user and port", _is_address),
    "user": _Key("the name of a user", _is_word),
    "port": _Key("an integer from 1 to 65535", _is_integer(1, 65535)),
    "key": _Key("the path of a private key", _is_text),
    "jump": _Key("the name of a host", _is_word),
    "store": _Key("a directory there: absolute, or below `~/`", lambda v: _is_text(v) and v.startswith(("/", "~/"))),
    "python": _Key("a program, such as `python3.11` or its path", _is_word),
    "slots": _Key("an integer from 1 to 10,000", _is_integer(1, 10_000)),
    "gpus": _Key(
        '"auto", a number, or an array of tables',
        lambda v: (
            v == "auto" or _is_integer(0, 1024)(v) or (isinstance(v, list) and all(isinstance(i, dict) for i in v))
        ),
    ),
    "labels": _Key("an array of words", _is_words),
    "internal_address": _Key("an IP address", _is_ip),
    "connect_seconds": _Key("a number above 0", _is_seconds),
}

_TARGET_KEYS: dict[str, _Key] = {
    "hosts": _Key("an array of host names", _is_words),
    "runtime": _Key('"process" or "docker"', lambda value: value in _RUNTIMES),
    "interface": _Key("a network such as `10.0.0.0/24`, or an interface such as `eth0`", _is_interface),
    "lost_after_seconds": _Key("a number above 0", _is_seconds),
    "scheduler": _Key('"slurm"', lambda value: value in _SCHEDULERS),
    "login": _Key('the name of a host, or "local"', _is_word),
    "partition": _Key("the name of a partition", _is_word),
    "options": _Key('a table such as {account = "ml"}', _is_options),
}

_TOP_KEYS: dict[str, _Key] = {
    "known_hosts": _Key("the path of a file of host keys", _is_text),
    "hosts": _Key("tables: [hosts.NAME]", lambda value: isinstance(value, dict)),
    "targets": _Key("tables: [targets.NAME]", lambda value: isinstance(value, dict)),
}

_OF_SCHEDULER = ("login", "partition", "options")


class _Reader:
    """Checks a document and builds the values; collects problems on the way."""

    def __init__(self, path: Path, text: str, document: dict[str, Any]) -> None:
        self._path, self._text, self._document = path, text, document
        self._problems: list[Problem] = []
        self._hosts: dict[str, HostSpec] = {}

    def inventory(self) -> Inventory:
        top = self._checked(self._document, (), _TOP_KEYS)
        known = self._local_path(top.get("known_hosts"))
        tables = self._tables(top.get("hosts", {}), ("hosts",), _HOST_NAME)
        given = {name: self._checked(table, ("hosts", name), _HOST_KEYS) for name, table in tables.items()}
        for name in given:
            if name == "local":
                self._problem(("hosts", name), "means this machine; expected another name")
            self._host(name, given, known, ())
        tables = self._tables(top.get("targets", {}), ("targets",), _TARGET_NAME)
        targets = {name: self._target(name, table, given, known) for name, table in tables.items()}
        if self._problems:
            self._problems.sort(key=lambda problem: problem.line or 0)
            raise UsageError("\n".join(str(problem) for problem in self._problems))
        return Inventory(self._path, self._hosts, targets)

    # ---- tables

    def _host(self, name: str, given: Mapping[str, Any], known: str | None, above: tuple[str, ...]) -> HostSpec:
        """Returns a host by name; one without a table is left to ~/.ssh/config."""
        if name in self._hosts:
            return self._hosts[name]
        values = dict(given.get(name, {}))
        place = ("hosts", name)
        jump = values.pop("jump", None)
        gateway = None
        if jump == name or jump in above:
            chain = " -> ".join((*above, name, jump))
            self._problem((*place, "jump"), f"goes in a circle: {chain}")
        elif jump is not None:
            gateway = self._host(jump, given, known, (*above, name))
        if "key" in values:
            values["key"] = self._local_path(values["key"])
        if "labels" in values:
            values["labels"] = tuple(values["labels"])
        if "gpus" in values:
            values["gpus"] = self._gpus(values["gpus"], (*place, "gpus"))
        self._hosts[name] = HostSpec(name, gateway=gateway, known_hosts=known, **values)
        return self._hosts[name]

    def _gpus(self, value: Any, place: tuple[str, ...]) -> tuple[Mapping[str, Any], ...] | None:
        if value == "auto":
            return None
        if isinstance(value, int):
            return tuple({"index": index} for index in range(value))
        found: list[dict[str, Any]] = []
        for number, table in enumerate(value):
            gpu = self._checked(table, place, _GPU_KEYS)
            if "index" in gpu and "uuid" in gpu:
                self._problem(place, "got a GPU with both index and uuid, expected one of them")
            if "index" not in gpu and "uuid" not in gpu:
                gpu["index"] = number
            if "memory" in gpu:
                gpu["memory_mb"] = _megabytes(gpu.pop("memory"))
            found.append(gpu)
        names = [gpu.get("uuid", gpu.get("index")) for gpu in found]
        if len(set(names)) < len(names):
            self._problem(place, "names one GPU twice")
        return tuple(found)

    def _target(self, name: str, table: dict[str, Any], given: Mapping[str, Any], known: str | None) -> TargetSpec:
        place = ("targets", name)
        if name in RESERVED:
            self._problem(place, f"is a target that needs no inventory; expected a name other than {_or(RESERVED)}")
        values = self._checked(table, place, _TARGET_KEYS)
        names = values.pop("hosts", [])
        for item in dict.fromkeys(item for item in names if names.count(item) > 1):
            self._problem((*place, "hosts"), f"names {item} twice")
        if "scheduler" in values or "scheduler" in table:
            if "hosts" in table:
                self._problem((*place, "hosts"), "goes without a scheduler, which chooses the hosts")
            if "login" not in table:
                message = "missing, expected the host with sbatch and srun"
                self._problem((*place, "login"), message, 'login = "local" means this machine')
        else:
            for key in _OF_SCHEDULER:
                if key in table:
                    self._problem((*place, key), 'goes with scheduler = "slurm"')
            if "hosts" not in table or table["hosts"] == []:
                self._problem((*place, "hosts"), "missing, expected an array with one host or more")
        hosts = tuple(self._member(item, (*place, "hosts"), given, known) for item in dict.fromkeys(names))
        login = values.pop("login", None)
        if login == "local":
            values["login"] = HostSpec("local", is_local=True)
        elif login is not None:
            values["login"] = self._member(login, (*place, "login"), given, known)
        if "options" in values:
            values["options"] = {key: str(value) for key, value in values["options"].items()}
        return TargetSpec(name, hosts, **values)

    def _member(self, name: str, place: tuple[str, ...], given: Mapping[str, Any], known: str | None) -> HostSpec:
        """Returns a host that a target names; one without a table may be a misspelt one."""
        near = _nearest(name, list(given))
        if name not in given and not re.fullmatch(_HOST_NAME, name):
            self._problem(place, f"got {name!r}, expected the name of a host", near)
        return self._host(name, given, known, ())

    def _tables(self, table: Mapping[str, Any], place: tuple[str, ...], pattern: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for name, value in table.items():
            if not isinstance(value, dict):
                self._problem((*place, name), f"got {_shown(value)}, expected a table: [{place[0]}.{name}]")
            elif not re.fullmatch(pattern, name):
                self._problem((*place, name), "is no name, expected letters, digits, `.`, `_` and `-`")
            else:
                found[name] = value
        return found

    def _checked(self, table: Mapping[str, Any], place: tuple[str, ...], keys: Mapping[str, _Key]) -> dict[str, Any]:
        """Returns what is good in a table."""
        good: dict[str, Any] = {}
        for name, value in table.items():
            key = keys.get(name)
            if key is None:
                hint = _nearest(name, list(keys)) or f"expected one of {', '.join(keys)}"
                self._problem((*place, name), "unknown key", hint)
            elif not key.is_good(value):
                near = _nearest(value, re.findall(r'"(\w+)"', key.expected)) if isinstance(value, str) else None
                self._problem((*place, name), f"got {_shown(value)}, expected {key.expected}", near)
            else:
                good[name] = value
        return good

    def _local_path(self, text: str | None) -> str | None:
        if text is None:
            return None
        return os.path.normpath(self._path.parent / Path(text).expanduser())

    def _problem(self, key: tuple[str, ...], message: str, hint: str | None = None) -> None:
        from repro_est.recipe.locate import line_of, positions

        dotted = ".".join(part if re.fullmatch(r"[A-Za-z0-9_-]+", part) else f'"{part}"' for part in key)
        line = line_of(positions(self._text), key)
        self._problems.append(Problem(str(self._path), line, dotted, message, hint))


def _megabytes(text: str) -> int | None:
    """Returns a size such as `80g` or `40960m` in MiB, as nvidia-smi counts."""
    found = re.fullmatch(r"(\d{1,7})([gm])i?b?", text.strip().lower())
    return int(found[1]) * (1024 if found[2] == "g" else 1) if found else None


def _shown(value: Any) -> str:
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:57]}..."


def _or(names: tuple[str, ...]) -> str:
    return " or ".join(f'"{name}"' for name in names)


def _nearest(name: str, names: list[str]) -> str | None:
    import difflib

    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else None
