"""`script_params` and `arguments`: from TOML values to the words of a command line.

Azure ML's rules, made exact. A value of `""` or true is a bare flag; false leaves the flag out; an array is spread
after it; `{input = "NAME"}` becomes the path of that input. A number is written in one canonical way, so that 0.1
and 1e-1 are the same run, while 1 and 1.0, which a script can tell apart, are two. `arguments` are plain words:
there an empty string is a real, empty word.
"""

from __future__ import annotations

import math
from typing import Any

from repro_est.recipe.values import InputReference, Parameter, Word


def parameter(name: str, value: Any) -> Parameter | None:
    """Returns one flag with its words, or None when `false` leaves it out.

    Raises:
        ValueError: a value that has no words; the message says what was got and expected.
    """
    if value is False:
        return None
    if value is True or value == "":
        return Parameter(name, ())
    if isinstance(value, list):
        return Parameter(name, tuple(word(item) for item in value))
    return Parameter(name, (word(value),))


def word(value: Any) -> Word:
    """Returns one word.

    Raises:
        ValueError: not a string, a number or `{input = "NAME"}`.
    """
    match value:
        case bool():
            raise ValueError(
                f'got {str(value).lower()} inside an array, expected a string such as "{str(value).lower()}"'
            )
        case str():
            if "\0" in value:
                raise ValueError("got a NUL character, which no command line can hold")
            return value
        case int():
            return str(value)
        case float():
            return _number(value)
        case {"input": str(name)} if len(value) == 1:
            return InputReference(name)
        case dict():
            raise ValueError(f'got {_toml(value)}, expected {{input = "NAME"}}')
        case list():
            raise ValueError("got an array in an array, expected words")
        case _:
            raise ValueError(f"got {value} (a {type(value).__name__}), expected a string, a number or an input")


def _number(value: float) -> str:
    """The shortest text that reads back as the same double; TOML's names for the others."""
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return repr(value)


def _toml(value: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key} = {item!r}" for key, item in value.items()) + "}"
