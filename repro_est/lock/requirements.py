"""What a recipe asks of pip: `pip_packages` and the lines of its files, as PEP 508 strings.

A requirements file may nest (`-r`) and constrain (`-c`). What would make a lock depend on something that has no
version on an index (editable installs, repositories, local paths, direct URLs) is refused with the reason, and so
are index options, which belong into `[environment]`. Nothing is normalised here: the strings are compared as they
stand, so that a lock is found satisfied without parsing a single one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from repro_est.errors import Problem, RecipeError
from repro_est.lock.condarequest import pip_of_environment_file
from repro_est.recipe.forms import requirement_problem, without_addresses
from repro_est.recipe.values import Recipe

CONSTRAINT = "-c "
"""A requirement that starts so only limits versions."""

_INDEX_OPTIONS = ("-i", "--index-url", "--extra-index-url", "-f", "--find-links", "--no-index", "--trusted-host")


def requirements(recipe: Recipe) -> tuple[str, ...]:
    """Returns the requirements of a recipe, sorted; constraints start with `-c `.

    Raises:
        RecipeError: lines that cannot be locked, all at once.
    """
    problems: list[Problem] = []
    asked: list[str] = [text.strip() for text in recipe.estimator.pip_packages]  # checked when it was read
    for text in pip_of_environment_file(recipe):
        problem = refusal(text.strip())
        if problem:
            shown = f"{without_addresses(text)!r}: {problem}"
            problems.append(Problem(str(recipe.estimator.conda_dependencies_file), None, "pip", shown))
        else:
            asked.append(text.strip())
    file = recipe.estimator.pip_requirements_file
    if file is not None:
        asked += _file_lines(file, problems, constraint=False, seen=())
    if problems:
        raise RecipeError(tuple(problems))
    return tuple(sorted(set(asked)))


def requirement_files(recipe: Recipe) -> tuple[Path, ...]:
    """Returns the recipe's requirements file and every file that one names, sorted; none when it has none."""
    file = recipe.estimator.pip_requirements_file
    pending, found = [file] if file is not None else [], set[Path]()
    while pending:
        path = pending.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        lines = logical_lines(path.read_text("utf-8-sig", "replace"))
        pending += [path.parent / nested for _, line in lines if (nested := _nested(line)[1])]
    return tuple(sorted(found))


def _file_lines(path: Path, problems: list[Problem], *, constraint: bool, seen: tuple[Path, ...]) -> Iterator[str]:
    if path in seen:
        return
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(Problem(str(path), None, "", f"cannot be read: {error}"))
        return
    for number, line in logical_lines(text):
        option, nested = _nested(line)
        if nested:
            limits = constraint or option in ("-c", "--constraint")
            yield from _file_lines(path.parent / nested, problems, constraint=limits, seen=(*seen, path))
            continue
        problem = refusal(line)
        if problem:
            problems.append(Problem(str(path), number, "", f"`{without_addresses(line)}`: {problem}"))
        else:
            yield f"{CONSTRAINT}{line}" if constraint else line


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """Lines without comments, those that end in a backslash joined; with the number of their first line."""
    pending, first = "", 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        first = first or number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole = re.sub(r"\s+", " ", pending + line).strip()
        if whole:
            yield first, whole
        pending, first = "", 0


def _nested(line: str) -> tuple[str, str]:
    """Returns the option and the file of a line that names another file, `("", "")` for any other line."""
    match = re.match(r"(-r|--requirement|-c|--constraint)[ =]?\s*(\S.*)", line)
    return (match[1], match[2]) if match else ("", "")


def refusal(line: str) -> str | None:
    """Returns why a requirement cannot be locked, or None."""
    word = re.split(r"[ =]", line, maxsplit=1)[0]
    if word in ("-e", "--editable"):
        return "an editable install has no version; put the code into the source directory"
    if word in _INDEX_OPTIONS:
        return "an index option; write it into [environment] as index_url, extra_index_urls or find_links"
    if "--hash" in line:
        return "holds hashes; leave them out, the lock pins the hash of every file"
    if line.startswith("-"):
        return "an option repro does not know"
    if re.match(r"(git|hg|svn|bzr)\+", line) or "://" in line or " @ " in line:
        return "a direct address; expected a name and version of an index"
    if line.startswith((".", "/")) or line.endswith((".whl", ".tar.gz", ".zip")):
        return "a local path; put the file into a directory named by [environment] find_links"
    return requirement_problem(line)
