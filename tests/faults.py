"""Killing a process at every file-system call of an operation, one after the other.

`crash_everywhere` forks a child for each call in turn; the child counts the calls that change the file system and
sends itself SIGKILL just before the n-th. What is on disk after each death is for the test to judge.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

CALLS = (
    "open",
    "write",
    "pwrite",
    "rename",
    "replace",
    "link",
    "symlink",
    "mkdir",
    "unlink",
    "rmdir",
    "fsync",
    "chmod",
    "ftruncate",
)


def crash_everywhere(operation: Callable[[], None], *, limit: int = 400) -> Iterator[int]:
    """Runs `operation` in children that die at call 1, 2, 3, ...; yields after each death, ends when one lives."""
    for at in range(1, limit):
        child = os.fork()
        if child == 0:
            code = 3
            try:
                _arm(at)
                operation()
                code = 0
            finally:
                os._exit(code)
        status = os.waitpid(child, 0)[1]
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0, "the operation failed without being killed"
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
        yield at
    raise AssertionError(f"still dying after {limit} calls")


def _arm(at: int) -> None:
    count = 0

    def wrap(function: Callable[..., Any], name: str) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            if name == "open" and not (len(args) > 1 and args[1] & (os.O_CREAT | os.O_WRONLY | os.O_RDWR)):
                return function(*args, **kwargs)
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return counted

    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name), name))
