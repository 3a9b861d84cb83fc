"""Packages of an old environment: lines of pip, specs of conda, and the files with either.

Azure ML's own packages are left out. Index options become keys of `[environment]`. What no lock could hold (editable
installs, repositories, local files) is left to the user, line by line. An environment that asks nothing of conda but
Python becomes one of pip alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from repro_est.errors import UsageError
from repro_est.lock.requirements import logical_lines, refusal
from repro_est.migrate.draft import Draft, Place, Unknown
from repro_est.migrate.text import read_text
from repro_est.migrate.yamlfile import YamlFile, as_rows, as_table
from repro_est.platforms import PLATFORMS
from repro_est.recipe.forms import NETRC, credential, is_python, looks_secret, without_addresses

PIP = ("estimator", "pip_packages")
CONDA = ("estimator", "conda_packages")
PYTHON = ("environment", "python")
_REQUIREMENTS = ("estimator", "pip_requirements_file")
_CHANNELS = ("environment", "channels")
_OPTIONS = {
    "-i": "index_url",
    "--index-url": "index_url",
    "--extra-index-url": "extra_index_urls",
    "-f": "find_links",
    "--find-links": "find_links",
}
_NEEDLESS = ("--trusted-host", "--no-cache-dir", "--pre", "--prefer-binary", "--no-index")
_OWN = r"azureml([-_.]|$)"
_NO_OWN = "Azure's own client, which finds no service here"


Step = tuple[str | int, ...]
"""Where something stands in a file of tables and lists."""


class Packages:
    """Takes packages one by one; `finish` puts into the draft what depends on all of them.

    Args:
        base: where relative paths in a line start.
    """

    def __init__(self, draft: Draft, base: Path) -> None:
        self._draft, self._base = draft, base
        self._specs: list[tuple[str, Place]] = []
        self._channels: list[tuple[str, Place]] = []
        self._files: list[Path] = []

    # ---- pip

    def pip(self, line: str, place: Place) -> None:
        """Takes one line of pip."""
        line = re.sub(r"\s+", " ", line).strip()
        option, value = _split_option(line)
        if option in ("-r", "--requirement"):
            self.requirements_file(self._base / value, place, line)
        elif option in _OPTIONS:
            self._index(_OPTIONS[option], value, place, option)
        elif option in _NEEDLESS:
            self._draft.dropped(place, line, "pip is told nothing: the lock names every file")
        elif re.match(_OWN, line, re.IGNORECASE):
            self._draft.dropped(place, line, _NO_OWN)
        else:
            self._requirement(line, place)

    def _requirement(self, line: str, place: Place) -> None:
        bare = re.sub(r" ?--hash[= ]\S+", "", line)
        shown = without_addresses(line)
        if reason := refusal(bare):
            self._draft.todo(place, shown, reason, PIP)
            return
        if bare != line:
            self._draft.changed(place, bare, "its hashes are left out: the lock pins every file by its own")
        self._draft.took(place, bare, PIP, [*(item for item in self._draft.get(PIP) or [] if item != bare), bare])

    def _index(self, name: str, value: str, place: Place, option: str) -> None:
        key = ("environment", name)
        if held := credential(value):
            self._draft.todo(place, option, f"{held}, which no file of repro keeps: {NETRC}", key)
            return
        if name == "find_links" and "://" not in value:
            value = self._draft.relative(self._base / value)
        values = [*(self._draft.get(key) or []), value] if name != "index_url" else value
        self._draft.took(place, option, key, values)

    def requirements_file(self, path: Path, place: Place, what: str) -> None:
        """Takes a requirements file: named where the lock can hold all of it, else line by line."""
        shown = self._draft.shown(path)
        if path in self._files:
            return
        self._files.append(path)
        try:
            lines = list(logical_lines(read_text(path, shown)))
        except UsageError as error:
            self._draft.todo(place, what, error.message, PIP)
            return
        if not self._draft.get(_REQUIREMENTS) and all(_may_stay(line) for _, line in lines):
            self._draft.took(place, what, _REQUIREMENTS, self._draft.relative(path))
            return
        self._draft.changed(place, what, "its lines are in the recipe now, as some cannot stay; the file is not read")
        inside = Packages(self._draft, path.parent)
        inside._files = self._files
        for number, line in lines:
            if _split_option(line)[0] in ("-c", "--constraint"):
                reason = "limits of versions go into a requirements file: pip_requirements_file"
                self._draft.todo(Place(shown, number), line, reason, PIP)
            else:
                inside.pip(line, Place(shown, number))

    # ---- conda

    def conda(self, spec: str, place: Place) -> None:
        """Takes one spec of conda, `python` among them."""
        spec = spec.strip()
        name = re.split(r"[\s=<>!~\[]", spec.rpartition("::")[2], maxsplit=1)[0].lower()
        if name == "python":
            self.python(spec.rpartition("::")[2][len("python") :], place, spec)
        elif re.match(_OWN, name):
            self._draft.dropped(place, spec, _NO_OWN)
        elif held := credential(spec):
            self._draft.todo(place, without_addresses(spec), f"{held}, which no file of repro keeps: {NETRC}", CONDA)
        else:
            self._specs.append((spec, place))

    def channel(self, channel: str, place: Place) -> None:
        self._channels.append((channel, place))

    def python(self, version: str, place: Place, what: str) -> None:
        """Takes the version of Python, as conda or pip say it."""
        asked = re.sub(r"\.\*$", "", re.sub(r"^[\s=]+", "", version.strip()))
        exact, _, build = asked.partition("=") if re.match(r"[0-9.]+=", asked) else (asked, "", "")
        if not exact:
            self._draft.dropped(place, what, "any version; [environment] python says which")
        elif not is_python(exact):
            self._draft.todo(place, what, f"{exact!r} is no version or specifier", PYTHON)
        else:
            self._draft.took(place, what, PYTHON, exact)
            if build:
                self._draft.changed(place, what, f"without the build {build}")

    def conda_file(self, file: YamlFile) -> None:
        """Takes everything of a conda environment file."""
        self.conda_content(file.content, lambda path: Place(file.shown, file.line(path)))

    def python_file(self, file: YamlFile) -> None:
        """Takes everything of MLflow's python_env.yaml."""
        for key, value in file.content.items():
            place = Place(file.shown, file.line((key,)))
            if key == "python":
                self.python(file.text(("python",)) or str(value), place, "python")
            elif key == "dependencies":
                for number, line in enumerate(as_rows(value, place, "dependencies")):
                    self.pip(str(line), Place(file.shown, file.line((key, number))))
            elif key != "build_dependencies":
                self._draft.dropped(place, str(key), "unknown key of a python_env file")

    def conda_content(self, content: dict[Any, Any], place: Callable[[Step], Place], at: Step = ()) -> None:
        """Takes the content of an environment file, which may stand inside another file at `at`."""
        for key, value in content.items():
            where = place((*at, key))
            if key == "channels":
                for number, channel in enumerate(as_rows(value, where, "channels")):
                    spot = place((*at, key, number))
                    self.unknown(channel, spot) if isinstance(channel, Unknown) else self.channel(str(channel), spot)
            elif key == "dependencies":
                self._dependencies(as_rows(value, where, "dependencies"), place, (*at, key))
            elif key == "variables":
                put_variables(
                    self._draft, as_table(value, where, "variables"), lambda name: place((*at, "variables", name))
                )
            elif key == "platforms":
                known = [str(name) for name in as_rows(value, where, "platforms") if name in PLATFORMS]
                self._draft.took(where, "platforms", ("environment", "platforms"), known)
            elif key not in ("name", "prefix"):
                self._draft.dropped(where, str(key), "unknown key of a conda environment file")

    def _dependencies(self, items: Iterable[Any], place: Callable[[Step], Place], at: Step) -> None:
        for number, item in enumerate(items):
            where = (*at, number)
            if isinstance(item, Unknown):
                self.unknown(item, place(where))
            elif isinstance(item, str):
                self.conda(item, place(where))
            elif isinstance(item, dict) and list(item) == ["pip"]:
                for index, line in enumerate(as_rows(item["pip"], place(where), "pip")):
                    spot = place((*where, "pip", index))
                    self.unknown(line, spot) if isinstance(line, Unknown) else self.pip(str(line), spot)
            else:
                self._draft.dropped(place(where), str(item), "expected a spec, or `pip:` with a list")

    # ---- both

    def unknown(self, value: Unknown, place: Place) -> None:
        """Takes what may be a package, and is not known."""
        self._draft.unknown(place, "a package", value, PIP)

    def finish(self) -> None:
        """Puts what is asked of conda, where anything is but Python and pip."""
        wanted = [(spec, place) for spec, place in self._specs if not re.fullmatch(r"(.*::)?pip\b.*", spec)]
        if not wanted:
            for spec, place in self._specs:
                self._draft.dropped(place, spec, "repro brings its own installer")
            for channel, place in self._channels:
                self._draft.dropped(place, f"channel {channel}", "nothing but Python is asked of conda")
            return
        for spec, place in self._specs:
            self._draft.took(place, spec, CONDA, [*(self._draft.get(CONDA) or []), spec])
        for channel, place in self._channels:
            if channel == "nodefaults":
                self._draft.dropped(place, f"channel {channel}", "no channel is searched but those named")
            elif held := credential(channel):
                self._draft.todo(place, "channel", f"{held}, which no file of repro keeps: {NETRC}", _CHANNELS)
            else:
                self._draft.took(place, f"channel {channel}", _CHANNELS, [*(self._draft.get(_CHANNELS) or []), channel])


def is_clean(file: YamlFile) -> bool:
    """Whether an environment file can stay as it is: nothing in it that repro leaves out or cannot lock."""
    lines: list[str] = []
    for item in as_rows(file.content.get("dependencies"), file.shown, "dependencies"):
        if isinstance(item, str):
            lines.append(item)
        elif isinstance(item, dict) and isinstance(item.get("pip"), list):
            if not all(_may_stay(str(line)) and not str(line).startswith("-") for line in item["pip"]):
                return False
        else:
            return False
    allowed = ("name", "channels", "dependencies", "platforms", "prefix")
    texts = [*lines, *map(str, as_rows(file.content.get("channels"), file.shown, "channels"))]
    own = any(re.match(_OWN, line.rpartition("::")[2]) for line in lines)
    return not own and set(file.content) <= set(allowed) and not any(map(credential, texts))


def put_variables(draft: Draft, variables: dict[Any, Any], place: Callable[[str], Place]) -> None:
    """Puts environment variables; of one that looks like a secret, the name."""
    key = ("estimator", "environment_variables")
    for name, value in variables.items():
        text = str(name)
        where = place(text)
        if (text, value) == ("EXAMPLE_ENV_VAR", "EXAMPLE_VALUE"):
            continue  # Azure ML's SDK writes it into every environment
        if isinstance(value, Unknown):
            draft.unknown(where, text, value, (*key, text))
        elif not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
            draft.dropped(where, text, "is not a name of an environment variable")
        elif value and looks_secret(text):
            draft.add(("secrets",), text)
            draft.changed(where, text, "looks like a secret: only its name is in the recipe, under `secrets`")
        else:
            draft.took(where, text, (*key, text), "" if value is None else str(value))


def _may_stay(line: str) -> bool:
    """Whether a line can stay in a requirements file that the recipe names."""
    return not re.match(_OWN, line, re.IGNORECASE) and refusal(line) is None


def _split_option(line: str) -> tuple[str, str]:
    match = re.match(r"(-[a-zA-Z]|--[a-z-]+)(?:[ =]\s*|$)(.*)", line) or re.match(r"(-[rcfi])(\S.*)", line)
    return (match[1], match[2].strip().strip("'\"")) if match else ("", "")
