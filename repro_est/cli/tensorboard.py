"""Start TensorBoard on runs, also while they go on; Ctrl-C ends it.

repro tensorboard @                    the newest run
repro tensorboard @ @2 3f9c            several, side by side
repro tensorboard @ --logdir-only      only keep a directory for a TensorBoard of yours, and print where it is

Shows the event files that a script writes below ./logs, and what it logs with `run.log`. A run that ends, or is
executed again, is followed; one that is not made yet may be named by its whole hash. Needs TensorBoard beside `repro`.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from repro_est.cli.common import open_store
from repro_est.console import Console, counted
from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError, UsageError
from repro_est.files import remove_tree
from repro_est.store.runs import Runs

_POLL_SECONDS = 2.0
_WAIT_SECONDS = 0.1
_GRACE_SECONDS = 5.0
_URL = re.compile(r"at (https?://\S+)")
_LAST_LINES = 10
_WHOLE = re.compile("[0-9a-f]{32}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="*", default=["@"], metavar="run", help="run hashes or unique starts, or `@` (default)"
    )
    parser.add_argument("--port", type=int, help="default: TensorBoard's; 0 is any that is free")
    parser.add_argument("--host", help="address to listen on (default: this machine only)")
    parser.add_argument("--logdir-only", action="store_true", help="start none; keep the directory until Ctrl-C")


def execute(arguments: argparse.Namespace) -> int:
    if find_spec("tensorboard") is None:
        raise UsageError("tensorboard: is not installed beside `repro`", hint='pip install "repro-est[tensorboard]"')
    from repro_est.portal.logdir import LogDirectory

    console = Console()
    _, store = open_store()
    runs = [_run(text, Runs(store.layout)) for text in arguments.runs]
    root = Path(tempfile.mkdtemp(prefix="repro-tensorboard-"))
    signal.signal(signal.SIGTERM, _interrupted)
    directory = LogDirectory(root, list(dict.fromkeys(runs)), store)
    try:
        names = directory.refresh()
        console.info(f"{counted(len(names), 'run')}: {', '.join(names)}" if names else "no run has begun yet")
        if arguments.logdir_only:
            console.out(str(root))
            _keep(directory.refresh, lambda: True)
        else:
            _serve(arguments, root, directory.refresh, console)
    except KeyboardInterrupt:
        pass
    finally:
        directory.close()
        remove_tree(root)
    return 0


def _run(text: str, runs: Runs) -> RunHash:
    return RunHash(text) if _WHOLE.fullmatch(text) else runs.resolve(text)


def _interrupted(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _keep(refresh: Callable[[], object], going_on: Callable[[], bool]) -> None:
    """Refreshes the directory while something goes on."""
    due = time.monotonic() + _POLL_SECONDS
    while going_on():
        time.sleep(_WAIT_SECONDS)
        if time.monotonic() >= due:
            refresh()
            due = time.monotonic() + _POLL_SECONDS


def _serve(arguments: argparse.Namespace, root: Path, refresh: Callable[[], object], console: Console) -> None:
    """Runs TensorBoard until it or this command is ended.

    Raises:
        InfrastructureError: it ended by itself; its last lines say why.
    """
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(root), "--reload_interval", "2"]
    command += ["--port", str(arguments.port)] if arguments.port is not None else []
    command += ["--host", arguments.host] if arguments.host else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    listener = threading.Thread(target=_listen, args=(process, said, console), daemon=True)
    listener.start()
    try:
        _keep(refresh, lambda: process.poll() is None)
    finally:
        _end(process)
    listener.join(_GRACE_SECONDS)
    raise InfrastructureError("\n".join(["TensorBoard ended by itself:", *said[-_LAST_LINES:]]))


def _listen(process: subprocess.Popen[str], said: list[str], console: Console) -> None:
    """Prints the address once it is known, and keeps what else TensorBoard says."""
    assert process.stderr is not None
    for line in process.stderr:
        found = _URL.search(line)
        if found and not any(_URL.search(before) for before in said):
            console.out(found[1])
        said.append(line.rstrip())
        del said[:-100]


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
