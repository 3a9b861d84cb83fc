"""The event stream of `repro run --json`: one JSON object a line, on stdout; docs/events.md lists the kinds."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

from repro_est.errors import InfrastructureError, Interrupted, ReproError


def emit(kind: str, **facts: Any) -> None:
    """Prints one event; NaN and infinity as strings, since JSON has no word for them."""
    line = json.dumps({"event": kind, **{key: _plain(value) for key, value in facts.items()}}, ensure_ascii=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


class JsonObserver:
    """Prints every event, the script's output included, and as the last one always how it ended."""

    def __init__(self) -> None:
        self._run_hash = ""

    @contextlib.contextmanager
    def to_the_end(self) -> Iterator[None]:
        """Prints how the block ended when that is by an error: of the run when there is a plan, else of the command."""
        try:
            yield
        except BrokenPipeError:
            raise
        except ReproError as error:
            self._failed(error.status, error.message, error.hint, error.exit_code)
            raise
        except KeyboardInterrupt:
            self._failed(Interrupted.status, "cancelled", None, Interrupted.exit_code)
            raise
        except OSError as error:
            self._failed("failed", str(error), None, InfrastructureError.exit_code)
            raise

    def _failed(self, status: str, message: str, hint: str | None, exit_code: int) -> None:
        told = {"error": message, "hint": hint, "exit_code": exit_code}
        if self._run_hash:
            emit("finished", run_hash=self._run_hash, status=status, cached=False, **told)
        else:
            emit("error", **told)

    def event(self, kind: str, **facts: Any) -> None:
        if kind in ("planned", "ready", "finished"):  # between the first and the others an error is one of the run
            self._run_hash = facts["run_hash"] if kind == "planned" else ""
        if kind != "progress":  # one for each quarter of a megabyte: for a bar, not for a record
            emit(kind, **facts)

    def output(self, stream: str, data: bytes) -> None:
        emit("output", stream=stream, text=data.decode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and value - value != 0:  # NaN or infinite
        return repr(value).replace("inf", "Infinity").replace("nan", "NaN")
    return value
