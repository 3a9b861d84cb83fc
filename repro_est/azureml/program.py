"""`python -m repro_est.azureml SCRIPT-OR-NOTEBOOK [args...]`: old submitting code, executed as it is.

The script gets its arguments, its directory on the path, and `azureml` by `azureml.surface`; a notebook runs in its
directory, as in Jupyter. An error that `repro` raises on purpose is shown with the line of the script it came from.
"""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, TracebackType

from repro_est.azureml.notebook import read_cells
from repro_est.azureml.surface import install
from repro_est.console import Console
from repro_est.errors import LockError, ReproError, UsageError

_USAGE = """\
usage: python -m repro_est.azureml [--relock] SCRIPT-OR-NOTEBOOK [args...]

Runs a script or notebook that was written for Azure ML's SDK v1, unchanged: what it submits is run by repro,
with the machines and the store of the project around the current directory.

  python -m repro_est.azureml submit.py --epochs 3
  python -m repro_est.azureml train-on-local.ipynb

--relock makes a lock anew where the script asks for other packages than it did.
docs/migrate-from-azureml.md lists what works, what is better, and what is refused.
"""


def main(words: Sequence[str]) -> int:
    """Runs one script.

    Args:
        words: the script and its arguments.

    Returns:
        The exit code: that of the script, or of the error of `repro` it ended with.
    """
    if not words or words[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if words else sys.stderr)
        return 0 if words else UsageError.exit_code
    if words[0] == "--relock":
        from repro_est.azureml.experiment import relock

        relock()
        words = words[1:] or [""]
    script = Path(words[0])
    try:
        execute = _executor(script)
        install()
        sys.argv[:] = list(words)
        execute()
    except ReproError as error:
        place = _place(error.__traceback__)
        hint = f"python -m repro_est.azureml --relock {script}" if isinstance(error, LockError) else error.hint
        Console().error(f"{place}: {error.message}" if place else error.message, hint=hint)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        _show(error)
        return 1
    return 0


def _executor(script: Path) -> Callable[[], object]:
    if not script.is_file():
        raise UsageError(f"{script}: no such file", hint="python -m repro_est.azureml SCRIPT-OR-NOTEBOOK [args...]")
    if script.suffix == ".ipynb":
        cells = read_cells(script)

        def execute() -> None:
            main_module = ModuleType("__main__")
            sys.modules["__main__"] = main_module
            os.chdir(script.parent)
            sys.path[0] = os.getcwd()
            for cell in cells:
                cell.execute(main_module.__dict__)

        return execute
    if script.suffix != ".py":
        raise UsageError(f"{script}: got a `{script.suffix}` file, expected a Python script or a notebook (.ipynb)")

    def run() -> None:
        sys.path[0] = str(script.parent.absolute())
        runpy.run_path(str(script), run_name="__main__")

    return run


def _place(trace: TracebackType | None) -> str:
    """Returns the line of the user's own code nearest to an error, `""` when there is none."""
    found = [frame for frame in traceback.extract_tb(trace) if _is_users(frame.filename)]
    return f"{found[-1].filename}:{found[-1].lineno}" if found else ""


def _is_users(filename: str) -> bool:
    ours = str(Path(__file__).parents[1]) + os.sep
    return (
        not filename.startswith((ours, "<"))
        and f"{os.sep}site-packages{os.sep}" not in filename
        and not (filename.startswith(str(Path(os.__file__).parent) + os.sep))
    )


def _show(error: Exception) -> None:
    """Prints a traceback that begins at the user's code."""
    shown = traceback.TracebackException.from_exception(error)
    first = next((number for number, frame in enumerate(shown.stack) if _is_users(frame.filename)), 0)
    shown.stack = traceback.StackSummary.from_list(list(shown.stack)[first:])
    print("".join(shown.format()), end="", file=sys.stderr)
