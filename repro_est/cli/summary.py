"""What `repro run` prints of a finished run; shared by the command and by a recalled hit, so imports nothing."""

from __future__ import annotations


def summary(run_hash: str, state: str, metrics: str, models: list[str], outputs: str, *, colour: bool) -> str:
    """Returns the lines of a finished run.

    Args:
        state: `completed` or `cached`.
        metrics: one line, `""` for none.
        models: `name version N` each.
        outputs: path as it is shown.
    """
    bold, green, plain = ("\x1b[1m", "\x1b[32m", "\x1b[0m") if colour else ("", "", "")
    lines = [f"{bold}run{plain}      {run_hash}  {green}{state}{plain}"]
    if metrics:
        lines.append(f"metrics  {metrics}")
    lines += [f"model    {model}" for model in models]
    return "\n".join([*lines, f"outputs  {outputs}"]) + "\n"


def relative(path: str, directory: str) -> str:
    """Returns `path` relative to `directory` when it is below it."""
    return path[len(directory) + 1 :] if path.startswith(directory + "/") else path
