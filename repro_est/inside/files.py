"""The files of a run as its script sees them: names that stay inside, copies, pictures, what can be a model."""

from __future__ import annotations

import os
import re
import shutil

TYPE_CHECKING = False  # mypy takes it for typing's, which takes 5 ms to import
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

_MODEL_NAME = r"[a-zA-Z0-9][-._a-zA-Z0-9]{0,254}"  # Azure ML's rule
_MOST_SHOWN = 20


def place_for(name: str, outputs: str, logs: str) -> str:
    """Returns where a file of that name is kept: `outputs/...`, `logs/...`, else below outputs.

    Raises:
        ValueError: the name leaves the run's directories.
    """
    plain = str(name).replace("\\", "/")
    parts = [part for part in plain.split("/") if part not in ("", ".")]
    if not parts or plain.startswith("/") or ".." in parts or "\0" in plain or parts in (["outputs"], ["logs"]):
        raise ValueError(f"got the name {name!r}, expected a path inside of the run, such as outputs/model.pkl")
    if parts[0] == "logs" and len(parts) > 1 and re.match(r"rank-[0-9]+$", parts[1]):
        raise ValueError(f"got the name {name!r}, and what is below logs/{parts[1]} is written by repro")
    root = {"outputs": outputs, "logs": logs}.get(parts[0])
    target = os.path.join(root or outputs, *parts[1 if root else 0 :])
    real = os.path.realpath(os.path.dirname(target))
    if not any((real + os.sep).startswith(os.path.realpath(top) + os.sep) for top in (outputs, logs)):
        raise ValueError(f"got the name {name!r}, which a symlink leads out of the run's directory")
    return target


def keep(source: Any, target: str) -> str:
    """Copies a file, a path or an open binary stream; returns where it is.

    Raises:
        OSError: it is not there, or cannot be written.
    """
    os.makedirs(os.path.dirname(os.path.abspath(target)), exist_ok=True)
    if hasattr(source, "read"):
        with open(target, "wb") as out:
            while data := source.read(1 << 20):
                out.write(data if isinstance(data, bytes) else data.encode())
    elif not (os.path.exists(target) and os.path.samefile(source, target)):  # already where it is kept
        shutil.copyfile(source, target)
    return target


def keep_image(outputs: str, name: str, number: int, path: str | None, plot: Any) -> str:
    """Keeps a picture as `images/<name>-<number>.<ending>`; returns where."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip(".") or "image"
    ending = os.path.splitext(path)[1] if path is not None else ".png"
    target = os.path.join(outputs, "images", f"{stem}-{number}{ending}")
    if path is not None:
        return keep(path, target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if not hasattr(plot, "savefig"):
        raise TypeError(f"log_image({name!r}): got {type(plot).__name__}, expected a matplotlib figure or pyplot")
    plot.savefig(target)
    return target


def below(root: str, *, missing_ok: bool = False) -> Iterator[tuple[str, str]]:
    """Yields the files below a directory, sorted: POSIX path relative to it, and path."""
    if not missing_ok and not os.path.isdir(root):
        raise NotADirectoryError(f"{root}: no such directory")
    for directory, names, files in os.walk(root):
        names.sort()
        for file in sorted(files):
            path = os.path.join(directory, file)
            yield os.path.relpath(path, root).replace(os.sep, "/"), path


def find(name: str, outputs: str, logs: str) -> str:
    """Returns the path of a file of the run.

    Raises:
        FileNotFoundError: there is none; those there are named.
    """
    path = place_for(name, outputs, logs)
    if os.path.isfile(path):
        return path
    raise FileNotFoundError(f"{name}: no such file in the run, it has: {_listed(outputs)}")


def find_model(path: str, roots: Sequence[str]) -> str:
    """Returns the path of a file or directory below the first of these directories that has it.

    Raises:
        FileNotFoundError: none has; the candidates are named.
    """
    for root in roots:
        target = place_for(path, root, root)
        if os.path.exists(target):
            return target
    raise FileNotFoundError(f"model path {path!r}: not among the run's outputs; candidates: {_listed(roots[-1])}")


def check_model_name(name: str) -> None:
    """Raises ValueError for a name that no model may have."""
    if not re.fullmatch(_MODEL_NAME, name):
        raise ValueError(f"got the model name {name!r}, expected letters, digits, `-`, `_` and `.`, at most 255")


def _listed(outputs: str) -> str:
    names = [f"outputs/{name}" for name, _ in below(outputs, missing_ok=True)]
    more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
    return (", ".join(names[:_MOST_SHOWN]) or "none") + more
