"""Flags and words of an old command line, as `script_params` and `arguments`.

The script gets the same words in the same order. `script_params` follow Azure ML's rules: `""` and None are a bare
flag, a list is spread, true and false are the words `True` and `False`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro_est.migrate.draft import Draft, Place, Unknown
from repro_est.recipe.forms import looks_secret

_PARAMS = ("estimator", "script_params")
_ARGUMENTS = ("estimator", "arguments")
_FLAG = r"--?[A-Za-z][^=\s]*"
_VARIABLE_NAME = r"[^A-Za-z0-9_]+"
_INIT_METHOD = "$AZ_BATCHAI_PYTORCH_INIT_METHOD"
_NODE_VARIABLE = r"\$(AZ_BATCHAI|AZUREML)_\w+"


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a command line.

    Args:
        value: a string, a number, `{"input": NAME}` or an Unknown.
        alone: one value of its own, such as a parameter of a template: it does not join the one before it.
    """

    value: Any
    place: Place
    alone: bool = False


def put_params(draft: Draft, params: Mapping[str, tuple[Place, Any]]) -> None:
    """Puts Azure ML's `script_params`."""
    for flag, (place, value) in params.items():
        _put_param(draft, str(flag), value, place)


def put_words(draft: Draft, words: Sequence[Word]) -> None:
    """Puts a list of words: flags with what follows them, and, from the first word that is of no flag, plain words."""
    position = 0
    while position < len(words) and _is_flag(words[position], words[:position]):
        end = position + 1
        while end < len(words) and not _looks_like_flag(words[end].value):
            end += 1
        values = words[position + 1 : end]
        if len(values) > 1 and values[1].alone and end == len(words):
            values, end = values[:1], position + 2
        _put_flag(draft, words[position], values)
        position = end
    _put_arguments(draft, words[position:])


def _is_flag(word: Word, before: Iterable[Word]) -> bool:
    return _looks_like_flag(word.value) and "=" not in word.value and word.value not in [item.value for item in before]


def _looks_like_flag(value: Any) -> bool:
    return isinstance(value, str) and re.match(_FLAG, value) is not None


def _put_flag(draft: Draft, flag: Word, values: Sequence[Word]) -> None:
    plain = [word.value for word in values]
    value = plain[0] if len(plain) == 1 and plain != [""] else plain if plain else ""
    _put_param(draft, flag.value, value, flag.place)


def _put_param(draft: Draft, flag: str, value: Any, place: Place) -> None:
    key = (*_PARAMS, flag)
    value, changes = _azure(value)
    if not flag:
        draft.dropped(place, "a flag without a name", f"its value was {_shown(value)}")
    elif unknown := _unknown(value):
        draft.unknown(place, flag, unknown, key)
    elif looks_secret(flag.lstrip("-")) and value not in ("", []):
        _secret(draft, flag, place)
    elif any(re.search(_NODE_VARIABLE, str(item)) for item in _items(value)):
        draft.todo(place, flag, f"{value} was a variable of Azure's nodes", key, f'"{flag}" = ...   was {value}')
    else:
        draft.took(place, flag, key, value)
        for change in changes:
            draft.changed(place, flag, change)


def _secret(draft: Draft, flag: str, place: Place) -> None:
    name = re.sub(_VARIABLE_NAME, "_", flag.strip("-")).upper()
    draft.add(("secrets",), name)
    remark = f'"{flag}" had a secret for a value; the script finds it in the environment variable {name}'
    draft.todo(place, flag, f"looks like a secret, and its value is not taken: read {name} instead", _PARAMS, remark)


def _put_arguments(draft: Draft, words: Sequence[Word]) -> None:
    for word in words:
        value, changes = _azure(word.value)
        if isinstance(value, list):
            value, changes = str(word.value), ["a list is one word"]
        if isinstance(value, Unknown):
            draft.unknown(word.place, "a word of the command line", value, _ARGUMENTS)
            continue
        draft.put(_ARGUMENTS, [*(draft.get(_ARGUMENTS) or []), value])
        for change in changes:
            draft.changed(word.place, "arguments", change)
    known = draft.get(_ARGUMENTS)
    if words and known:
        draft.took(words[0].place, "arguments", _ARGUMENTS, known)


def _azure(value: Any) -> tuple[Any, list[str]]:
    """What Azure ML makes of a value, and what that changes in the way it is written."""
    changes: list[str] = []
    if isinstance(value, list | tuple):
        return [_word(item, changes) for item in value], changes
    return ("" if value is None else _word(value, changes)), changes


def _word(value: Any, changes: list[str]) -> Any:
    if isinstance(value, Unknown | str) or (isinstance(value, dict) and list(value) == ["input"]):
        if value == _INIT_METHOD:
            changes.append(f"{_INIT_METHOD} is `env://`, which finds the address in MASTER_ADDR")
            return "env://"
        return value
    if isinstance(value, bool) or value is None:
        changes.append(f'{value} is the word "{value}", as Azure ML gave it to the script')
        return str(value)
    if isinstance(value, int | float):
        return value
    changes.append("what is no plain value is one word, as Azure ML gave it to the script")
    return str(value)


def _unknown(value: Any) -> Unknown | None:
    return next((item for item in _items(value) if isinstance(item, Unknown)), None)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _shown(value: Any) -> str:
    return value.text if isinstance(value, Unknown) else repr(value)
