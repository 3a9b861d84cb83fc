"""One rank on this machine: a closed environment, a supervisor, and what came of it.

The supervisor (`supervisor.py`) owns the script; this side tells it what to do, follows the log files it writes, and
passes them on. Ctrl-C ends the script politely (TERM, grace, KILL), a second one at once.
"""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import os
import select
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.errors import InfrastructureError, UsageError
from repro_est.hostside import supervisor
from repro_est.launch.interrupts import interrupts_go_to
from repro_est.launch.sandbox import Enclosure, NoSandbox, reason

OnOutput = Callable[[str, bytes], None]

_POLL_SECONDS = 0.03
_CHUNK = 1 << 18
_FLAGS = ("-I", "-S", "-B")
_CLEAN = {"LC_ALL": "C.UTF-8"}
"""The environment of a supervisor that the script can look at."""
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
_SOURCE_DATE_EPOCH = "315532800"  # 1980-01-01


@dataclass(frozen=True, slots=True)
class Launch:
    """One process to run.

    Args:
        command: absolute program and its words.
        environment: all of it; nothing of this process is added.
        log_directory: existing directory for stdout.log and stderr.log.
        timeout_seconds: None is no limit.
        grace_seconds: between TERM and KILL.
        read_only: paths the script must not write to.
        secrets: values to mask in the logs.
        enclosure: the sandbox it runs in; then `command`, `cwd` and `environment` are as seen in there.
    """

    command: tuple[str, ...]
    cwd: Path
    environment: Mapping[str, str]
    log_directory: Path
    timeout_seconds: float | None = None
    grace_seconds: float = 10.0
    read_only: tuple[Path, ...] = ()
    secrets: tuple[str, ...] = ()
    enclosure: Enclosure | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended.

    Args:
        exit_code: None when a signal ended it.
        signal: name of that signal.
        max_rss: bytes.
        leftovers: processes it had left running; they were ended.
        unlogged: bytes it wrote that its logs had no room for, on a full disk.
        oom_kills: how often the kernel killed for memory meanwhile.
        read_only: `enforced`, `checked afterwards` or `no inputs`.
        rank, host: of several ranks, the one that decided, and where it ran.
        cause: what else ended the run than its script (`hostside.verdicts`), `""` for nothing else.
        detail: more of that, in words.
        ranks, attests: how each rank ended, and what it said it would execute.
    """

    exit_code: int | None
    signal: str | None
    timed_out: bool
    canceled: bool
    max_rss: int
    user_seconds: float
    system_seconds: float
    leftovers: int
    oom_kills: int
    read_only: str
    unlogged: int = 0
    rank: int = 0
    host: str = ""
    cause: str = ""
    detail: str = ""
    ranks: Mapping[str, Any] = field(default_factory=dict)
    attests: Mapping[str, Any] = field(default_factory=dict)

    @property
    def succeeded(self) -> bool:
        return self.exit_code == 0 and not self.timed_out and not self.canceled and not self.cause

    @property
    def words(self) -> str:
        """How it ended, in words."""
        if self.timed_out:
            return "took longer than it may"
        if self.canceled:
            return "cancelled"
        if self.detail:
            return self.detail
        return f"was killed by {self.signal}" if self.signal else f"exit code {self.exit_code}"

    def facts(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {
            "max_rss": self.max_rss,
            "user_seconds": self.user_seconds,
            "system_seconds": self.system_seconds,
            "leftovers": self.leftovers,
            "oom_kills": self.oom_kills,
            "read_only_inputs": self.read_only,
            **({"unlogged": self.unlogged} if self.unlogged else {}),
            **({"outcome": self.cause} if self.cause else {}),
            **({"ranks": dict(self.ranks)} if self.ranks else {}),
            **({"attests": dict(self.attests)} if self.attests else {}),
        }


def secret_values(names: tuple[str, ...]) -> dict[str, str]:
    """Returns the values of declared secrets from this process's environment.

    Raises:
        UsageError: some are not set.
    """
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise UsageError(f"secrets: {', '.join(missing)} not set in the environment", hint=f"export {missing[0]}=...")
    return {name: os.environ[name] for name in names}


def closed_environment(
    *,
    prefix: Path,
    home: Path,
    temporary: Path,
    modules: Path,
    use_gpu: bool,
    declared: Mapping[str, str],
    secrets: Mapping[str, str],
    facts: Mapping[str, str],
) -> dict[str, str]:
    """Returns the whole environment of a run: fixed values, then what the recipe declares.

    Args:
        modules: directory that comes last on the Python path.
        facts: `REPRO_*` variables that tell the script about its run.
    """
    fixed = {
        "PATH": f"{prefix / 'bin'}:{_SYSTEM_PATH}",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "SOURCE_DATE_EPOCH": _SOURCE_DATE_EPOCH,
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # asked for by cuBLAS for deterministic results
    }
    path = {"PYTHONPATH": os.pathsep.join(filter(None, (declared.get("PYTHONPATH"), str(modules))))}
    hidden = {} if use_gpu else {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}
    return {**fixed, **hidden, **facts, **declared, **path, **secrets}


def run_process(launch: Launch, *, on_output: OnOutput) -> Outcome:
    """Runs a process to its end.

    Args:
        on_output: gets `stdout` or `stderr` and the bytes, as they come, secrets masked.

    Raises:
        InfrastructureError: it could not be started, or the supervisor died.
        NoSandbox: the sandbox could not be set up; nothing ran.
    """
    launch.log_directory.mkdir(parents=True, exist_ok=True)
    if launch.enclosure is None:
        return _outcome(_supervised(launch, [sys.executable, *_FLAGS, supervisor.__file__], on_output))
    inside = launch.enclosure
    with tempfile.TemporaryFile() as said:
        event = _supervised(
            launch, [*inside.words, inside.python, *_FLAGS, inside.program], on_output, stderr=said, env=_CLEAN
        )
        said.seek(0)
        text = said.read().decode("utf-8", "backslashreplace")
    if not event.get("event") and text.startswith("bwrap: "):
        raise NoSandbox(reason(text))
    if text:
        sys.stderr.write(text)
    return _outcome(event)


def _supervised(launch: Launch, command: list[str], on_output: OnOutput, **options: Any) -> dict[str, Any]:
    """Starts a supervisor and follows it; returns its last event."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, bufsize=0, **options
    ) as process:
        assert process.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it is gone already: then it says nothing either
                process.stdin.write(_specification(launch))
            with _cancelling(process):
                event = _follow(process, launch.log_directory, on_output)
        finally:
            with contextlib.suppress(OSError):
                process.stdin.close()
    return event or {"status": process.returncode}


def _outcome(event: Mapping[str, Any]) -> Outcome:
    if event.get("event") == "failed":
        raise InfrastructureError(f"the script could not be started: {event['message']}", hint="repro doctor")
    if event.get("event") != "ended":
        raise InfrastructureError(f"the supervisor of the run died (status {event.get('status')})", hint="repro doctor")
    return Outcome(**{name: value for name, value in event.items() if name != "event"})


def _specification(launch: Launch) -> bytes:
    spec = {
        "command": list(launch.command),
        "cwd": str(launch.cwd),
        "environment": dict(launch.environment),
        "log_directory": launch.enclosure.logs if launch.enclosure else str(launch.log_directory),
        "timeout": launch.timeout_seconds,
        "grace": launch.grace_seconds,
        "read_only": [str(path) for path in launch.read_only],
        "secrets": list(launch.secrets),
    }
    return json.dumps(spec).encode() + b"\n"


def _follow(process: subprocess.Popen[bytes], directory: Path, on_output: OnOutput) -> dict[str, Any]:
    """Passes the logs on until the supervisor says how it ended; returns its last event."""
    assert process.stdout is not None
    events, last = b"", dict[str, Any]()
    tails = {name: _Tail(directory / f"{name}.log") for name in ("stdout", "stderr")}
    try:
        while True:
            ready = select.select([process.stdout], [], [], _POLL_SECONDS)[0]
            if ready:
                data = os.read(process.stdout.fileno(), 1 << 16)
                events += data
                *lines, events = events.split(b"\n")
            else:
                lines = []
            for name, tail in tails.items():
                for chunk in tail.read():
                    on_output(name, chunk)
            for line in lines:
                last = json.loads(line)
                if last["event"] == "output":  # which the log had no room for, so it comes after what is in there
                    on_output(last["stream"], base64.b64decode(last["data"]))
            if ready and not data:
                return last
    finally:
        for tail in tails.values():
            tail.close()


class _Tail:
    """Reads what was appended to a file since last time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def read(self) -> Iterator[bytes]:
        if self._descriptor is None:
            try:
                self._descriptor = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return
        while chunk := os.read(self._descriptor, _CHUNK):
            yield chunk

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)


def _cancelling(process: subprocess.Popen[bytes]) -> contextlib.AbstractContextManager[None]:
    """While the block runs, an interrupt goes to the supervisor as a word: `cancel`, the second time `kill`."""
    assert process.stdin is not None
    control, words = process.stdin.fileno(), itertools.chain([b"cancel\n"], itertools.repeat(b"kill\n"))

    def interrupt(number: int) -> None:
        with contextlib.suppress(OSError):
            os.write(control, next(words))

    return interrupts_go_to(interrupt)
