"""This machine as a host: programs are started directly, without a shell and without SSH."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Sequence

from repro_est.hosts.host import Channel, Completed, HostError, HostLost
from repro_est.hosts.inventory import HostSpec

_ERRORS = 64 << 10


class LocalHost:
    """See above."""

    def __init__(self, spec: HostSpec) -> None:
        self._spec = spec

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def spec(self) -> HostSpec:
        return self._spec

    def connect(self) -> None:
        return

    def spawn(self, words: Sequence[str]) -> Channel:
        return LocalChannel(self.name, _local(words))

    def run(self, words: Sequence[str], *, data: bytes = b"", timeout: float = 60.0) -> Completed:
        try:
            done = subprocess.run(
                _local(words), input=data, capture_output=True, timeout=timeout, start_new_session=True
            )
        except OSError as error:
            raise HostError(self.name, f"{words[0]}: {error.strerror}") from None
        except subprocess.TimeoutExpired:
            raise HostLost(self.name, f"`{shlex.join(words)[:80]}` did not end within {timeout:g} s") from None
        return Completed(_status(done.returncode), done.stdout, done.stderr.decode("utf-8", "replace"))

    def close(self) -> None:
        return


class LocalChannel:
    """A process of this machine."""

    def __init__(self, host: str, words: Sequence[str]) -> None:
        self._host = host
        try:
            self._process = subprocess.Popen(
                list(words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise HostError(host, f"{words[0]}: {error.strerror}") from None
        self._errors = b""
        self._drain = threading.Thread(target=self._read_errors, daemon=True)
        self._drain.start()

    def send(self, data: bytes) -> None:
        assert self._process.stdin is not None
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._process.stdin.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise HostLost(self._host, f"the program there ended: {error}") from None

    def receive(self, size: int = 65536) -> bytes:
        assert self._process.stdout is not None
        try:
            return os.read(self._process.stdout.fileno(), size)
        except (OSError, ValueError) as error:  # closed by another thread
            raise HostLost(self._host, str(error)) from None

    def close_input(self) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def errors(self) -> str:
        if self._process.poll() is not None:
            self._drain.join(1.0)
        return self._errors.decode("utf-8", "replace")

    def wait(self, timeout: float | None = None) -> int:
        try:
            return _status(self._process.wait(timeout))
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self._host}: the program has not ended") from None

    def close(self) -> None:
        """Ends the process if it does not end by itself when its input ends."""
        self.close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._drain.join(1.0)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(OSError, ValueError):
            while data := self._process.stderr.read(8192):
                self._errors = (self._errors + data)[-_ERRORS:]


def _local(words: Sequence[str]) -> list[str]:
    """Returns a command with this Python in place of any `python3`."""
    return [sys.executable if words[0] == "python3" else words[0], *words[1:]]


def _status(code: int) -> int:
    return code if code >= 0 else 128 - code
