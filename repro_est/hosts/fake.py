"""A host in memory: for tests of what speaks with hosts, and for working out what a thousand of them would take.

Its programs are Python functions that get a `Process` with two queues. A thread lives as long as a program does, so a
host where nothing runs costs nothing. Latency is kept by a clock, which may be one that never waits.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from repro_est.hosts.host import Channel, Completed, HostError, HostLost
from repro_est.hosts.inventory import HostSpec


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float: ...

    def wait_until(self, moment: float) -> None: ...


class RealClock:
    """The time of this machine."""

    def now(self) -> float:
        return time.monotonic()

    def wait_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - time.monotonic()))


class ManualClock:
    """A time that jumps to whatever is waited for; may be shared by many hosts and threads."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()

    def now(self) -> float:
        with self._lock:
            return self._now

    def wait_until(self, moment: float) -> None:
        with self._lock:
            self._now = max(self._now, moment)


class _Pipe:
    """Bytes one way, each piece with the moment from which it can be read."""

    def __init__(self, clock: Clock, latency: float) -> None:
        self._clock, self._latency = clock, latency
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._state = threading.Condition()
        self._is_closed = False
        self._is_broken = False

    def write(self, data: bytes) -> None:
        with self._state:
            if self._is_broken or self._is_closed:
                raise BrokenPipeError
            if data:
                self._pieces.append((self._clock.now() + self._latency, data))
                self._state.notify_all()

    def read(self, size: int) -> bytes:
        """Returns what comes next, `b""` at the end; raises BrokenPipeError when the connection breaks."""
        with self._state:
            self._state.wait_for(lambda: self._pieces or self._is_closed or self._is_broken)
            if self._is_broken:
                raise BrokenPipeError
            if not self._pieces:
                return b""
            moment, data = self._pieces.popleft()
            if len(data) > size:
                self._pieces.appendleft((moment, data[size:]))
        self._clock.wait_until(moment)
        return data[:size]

    def close(self) -> None:
        with self._state:
            self._is_closed = True
            self._state.notify_all()

    def break_off(self) -> None:
        with self._state:
            self._is_broken = True
            self._state.notify_all()


class Process:
    """What a program of a fake host sees of the world.

    Args:
        host: the name of the host.
        words: the command, as it was given.
    """

    def __init__(self, host: str, words: Sequence[str], clock: Clock, latency: float) -> None:
        self.host, self.words, self.clock = host, tuple(words), clock
        self.input, self.output = _Pipe(clock, latency), _Pipe(clock, latency)
        self.said = b""
        self.code: int | None = None
        self.is_lost = False
        self.ended = threading.Event()

    def read(self, size: int = 65536) -> bytes:
        """Returns what it is sent next, `b""` at the end."""
        return self.input.read(size)

    def read_line(self) -> bytes:
        """Returns one line, or what is left without one."""
        line = b""
        while not line.endswith(b"\n") and (piece := self.input.read(1)):
            line += piece
        return line

    def write(self, data: bytes) -> None:
        self.output.write(data)

    def complain(self, text: str) -> None:
        """Writes to stderr."""
        self.said = (self.said + text.encode())[-(64 << 10) :]

    def run(self, program: Program) -> None:
        try:
            self.code = program(self)
        except BrokenPipeError:
            self.code = 141  # SIGPIPE
        except Exception:
            self.complain(traceback.format_exc())
            self.code = 1
        self.output.close()
        self.ended.set()


Program = Callable[[Process], int]
"""Runs to its end and returns its exit status."""


class FakeHost:
    """See above.

    Args:
        spec: a specification, or just a name.
        programs: by the first word of a command; `""` takes any other.
        latency: seconds that bytes need one way; a connection takes three of them each way.
        clock: the time of this machine by default.
        failures: connecting fails with these first, one at a time.
    """

    def __init__(
        self,
        spec: HostSpec | str,
        programs: Mapping[str, Program] | None = None,
        *,
        latency: float = 0.0,
        clock: Clock | None = None,
        failures: Sequence[HostError] = (),
    ) -> None:
        self._spec = HostSpec(spec) if isinstance(spec, str) else spec
        self._programs = dict(programs or {})
        self._latency = latency
        self._clock = clock or RealClock()
        self._failures = deque(failures)
        self._lock = threading.Lock()
        self._running: list[Process] = []
        self.is_connected = False
        self.is_off = False
        self.started: list[tuple[str, ...]] = []
        """Every command that was started here."""

    @property
    def name(self) -> str:
        return self._spec.name

    @property
    def spec(self) -> HostSpec:
        return self._spec

    def connect(self) -> None:
        if self.is_connected:
            return
        self._clock.wait_until(self._clock.now() + 6 * self._latency)
        if self.is_off:
            raise HostError(self.name, "did not answer")
        if self._failures:
            raise self._failures.popleft()
        self.is_connected = True

    def spawn(self, words: Sequence[str]) -> Channel:
        self.connect()
        program = self._programs.get(words[0], self._programs.get("", _not_found))
        process = Process(self.name, words, self._clock, self._latency)
        with self._lock:
            self._running = [item for item in self._running if not item.ended.is_set()]
            self._running.append(process)
            self.started.append(process.words)
        threading.Thread(target=process.run, args=(program,), name=f"{self.name}: {words[0]}", daemon=True).start()
        return FakeChannel(self.name, process)

    def run(self, words: Sequence[str], *, data: bytes = b"", timeout: float = 60.0) -> Completed:
        channel = self.spawn(words)
        channel.send(data)
        channel.close_input()
        try:
            code = channel.wait(timeout)
        except TimeoutError:
            raise HostLost(self.name, f"`{words[0]}` did not end within {timeout:g} s") from None
        out = b""
        while piece := channel.receive():
            out += piece
        return Completed(code, out, channel.errors())

    def close(self) -> None:
        self.is_connected = False

    def cut(self) -> None:
        """Breaks the connection; programs go on until they next read or write. It may be made again."""
        with self._lock:
            self.is_connected = False
            for process in self._running:
                process.is_lost = True
                process.input.break_off()
                process.output.break_off()
                process.ended.set()

    def switch_off(self) -> None:
        """Breaks the connection, and lets none be made."""
        self.is_off = True
        self.cut()

    def switch_on(self) -> None:
        self.is_off = False


class FakeChannel:
    """A program on a fake host."""

    def __init__(self, host: str, process: Process) -> None:
        self._host, self._process = host, process

    def send(self, data: bytes) -> None:
        try:
            self._process.input.write(data)
        except BrokenPipeError:
            raise HostLost(self._host, "the connection broke") from None

    def receive(self, size: int = 65536) -> bytes:
        try:
            return self._process.output.read(size)
        except BrokenPipeError:
            raise HostLost(self._host, "the connection broke") from None

    def close_input(self) -> None:
        self._process.input.close()

    def errors(self) -> str:
        return self._process.said.decode("utf-8", "replace")

    def wait(self, timeout: float | None = None) -> int:
        if not self._process.ended.wait(timeout):
            raise TimeoutError(f"{self._host}: the program has not ended")
        if self._process.is_lost or self._process.code is None:
            raise HostLost(self._host, "the connection broke")
        return self._process.code

    def close(self) -> None:
        self._process.input.close()
        self._process.output.break_off()


def _not_found(process: Process) -> int:
    process.complain(f"sh: 1: exec: {process.words[0]}: not found\n")
    return 127
