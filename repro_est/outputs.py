"""What a recipe expects of a run's outputs: the files that must be there, and the metrics file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from repro_est.store.trees import Tree

OUTPUTS = "outputs"
LOGS = "logs"

_MAX_METRICS_BYTES = 16 << 20


def missing_outputs(required: Iterable[str], outputs: Tree) -> list[str]:
    """Returns the declared outputs that no path of the tree satisfies; a directory satisfies its own name."""
    import fnmatch

    paths = [f"{OUTPUTS}/{entry.path}" for entry in outputs.entries]
    directories = {str(parent) for path in paths for parent in Path(path).parents}
    candidates = [*paths, *directories]
    return [pattern for pattern in required if not fnmatch.filter(candidates, pattern.rstrip("/"))]


def read_metrics(path: Path, shown: str) -> tuple[dict[str, float], list[str]]:
    """Reads a metrics file: a JSON object whose numbers are metrics, nested ones joined by `/`.

    Returns:
        The metrics, and a sentence for each thing that is not one. No file is no metrics.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_METRICS_BYTES + 1)
    except OSError:
        return {}, []
    if len(data) > _MAX_METRICS_BYTES:
        return {}, [f"{shown}: larger than {_MAX_METRICS_BYTES >> 20} MiB, no metrics read"]
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        return {}, [f"{shown}: not JSON, no metrics read: {error}"]
    if not isinstance(content, dict):
        return {}, [f"{shown}: got a {type(content).__name__}, expected an object of numbers; no metrics read"]
    metrics: dict[str, float] = {}
    left_out = [name for name, value in _flatten(content) if not _add_metric(metrics, name, value)]
    shown_names = ", ".join(left_out[:5])
    ordered = dict(sorted(metrics.items()))  # as records are written, so that a hit shows them as the run did
    return ordered, [f"{shown}: not a number, left out: {shown_names}"] if left_out else []


def _flatten(content: Mapping[str, object], prefix: str = "") -> Iterable[tuple[str, object]]:
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}/")
        else:
            yield f"{prefix}{key}", value


def _add_metric(metrics: dict[str, float], name: str, value: object) -> bool:
    if not isinstance(value, int | float):
        return False
    try:
        metrics[name] = float(value)
    except OverflowError:  # an integer that no double can hold
        metrics[name] = math.inf if value > 0 else -math.inf
    return True
