"""A command line of a shell that runs a Python script: the script, its words, and variables set before it.

Whatever else a shell can do is refused with the reason, since a recipe runs one Python file and no shell. `{NAME}`
stands for a parameter, as in MLflow's templates.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from repro_est.errors import UsageError
from repro_est.migrate.draft import Place, Unknown
from repro_est.migrate.words import Word

_PYTHON = r"(\S*/)?python[0-9.]*"
_OPERATOR = r"[();<>|&]+"
_HINT = "write a Python script that does it, and import that"


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What a command runs.

    Args:
        script: the Python file, None when the old file names none.
        changes: what is not the same when repro starts it.
    """

    script: str | None
    words: tuple[Word, ...]
    variables: dict[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()


def split_command(text: str, place: Place, values: Mapping[str, Any]) -> CommandLine:
    """Takes a command line apart.

    Args:
        values: of the parameters in it.

    Raises:
        UsageError: it is no command that runs a Python script, or names a parameter that is not there.
    """
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    try:
        parts = list(lexer)
    except ValueError as error:
        raise UsageError(f"{place}: command: got {text!r}, {str(error).lower()}") from None
    if "\n" in text.strip().replace("\\\n", " "):
        raise UsageError(f"{place}: command: got several lines, expected one that runs a Python script", hint=_HINT)
    if operator := next((part for part in parts if re.fullmatch(_OPERATOR, part)), None):
        raise UsageError(f"{place}: command: got `{operator}`, which needs a shell; got {text!r}", hint=_HINT)
    if re.search(r"\$[A-Za-z_({]|`", re.sub(r"'[^']*'", "", text)):
        raise UsageError(f"{place}: command: got a variable of the shell in {text!r}", hint=_HINT)
    variables: dict[str, str] = {}
    while parts and (match := re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]*)=(.*)", parts[0], re.DOTALL)):
        variables[match[1]] = match[2]
        parts.pop(0)
    script, changes = _script(parts, text, place)
    words = tuple(_word(part, values, place) for part in parts)
    return CommandLine(script, words, variables, changes)


def _script(parts: list[str], text: str, place: Place) -> tuple[str, tuple[str, ...]]:
    """Takes the interpreter, its options and the script from the front of the words."""
    program = parts.pop(0) if parts else ""
    if program.endswith(".py"):
        return program, ()
    if not re.fullmatch(_PYTHON, program):
        raise UsageError(f"{place}: command: got {text!r}, which is no Python script: `{program}`", hint=_HINT)
    changes: list[str] = []
    while parts and parts[0].startswith("-"):
        option = parts.pop(0)
        if option in ("-m", "-c"):
            what = "a module" if option == "-m" else "a program text"
            raise UsageError(f"{place}: command: got `python {option}`, {what}, expected a Python file", hint=_HINT)
        if option in ("-W", "-X") and parts:
            option = f"{option} {parts.pop(0)}"
        changes.append(f"without the option {option} of Python")
    if not parts or not parts[0].endswith(".py"):
        got = f"`{parts[0]}`" if parts else "nothing"
        raise UsageError(f"{place}: command: got {got} after `{program}`, expected a Python file", hint=_HINT)
    return parts.pop(0), tuple(changes)


def _word(part: str, values: Mapping[str, Any], place: Place) -> Word:
    """A word with its parameters filled in; one that is nothing but a parameter keeps the parameter's type."""
    whole = re.fullmatch(r"\{(\w+)\}", part)
    if whole:
        return Word(_value(whole[1], values, place), place, alone=True)
    unknown = [
        name for name in re.findall(r"\{(\w+)\}", part) if isinstance(_value(name, values, place), Unknown | dict)
    ]
    if unknown:
        return Word(Unknown(part), place)
    return Word(re.sub(r"\{(\w+)\}", lambda match: str(_value(match[1], values, place)), part), place)


def _value(name: str, values: Mapping[str, Any], place: Place) -> Any:
    if name not in values:
        known = ", ".join(values) or "none"
        raise UsageError(f"{place}: command: got a parameter {name!r} that is not declared, expected one of: {known}")
    return values[name]
