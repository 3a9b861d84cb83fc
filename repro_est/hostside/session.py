"""Requests of a controller to a host, one after the other, over one channel: what is here, take this, make that.

A request is a message with an `op`, its answer one with `ok` or `error` (`frames`). `put` is not answered, so that a
thousand files need no thousand round trips: `sync` tells whether all of them arrived. Before anything else the line
`MARKER` is written, since whatever start-up files of a shell print comes before it.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from repro_est.hostside import frames, runs
from repro_est.hostside.frames import Message
from repro_est.hostside.objects import (
    Damaged,
    Objects,
    copy_file,
    described,
    digest_of_entries,
    make_writable,
    pieces,
    renew,
    walk,
    write_all,
)

MARKER = b"REPRO-SESSION-1\n"
_START_SECONDS = 20.0
_EXECUTE_SECONDS = 60.0
_RELEASE_SECONDS = 8.0
_HANDED_ON = ("DOCKER_HOST", "HOME", "PATH", "SLURM_CONF")


class Failed(Exception):
    """An operation that cannot be done; the text is for people."""

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.facts = facts


class Source:
    """A descriptor that is read by lines and by numbers of bytes, and given up with nothing lost."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._held = b""

    def readline(self) -> bytes:
        """Returns the next line with its end, `b""` when there is none."""
        pieces = [self._held]
        while b"\n" not in pieces[-1]:
            piece = os.read(self.descriptor, 1 << 18)
            if not piece:
                return b""
            pieces.append(piece)
        line, _, self._held = b"".join(pieces).partition(b"\n")
        return line + b"\n"

    def read(self, size: int) -> bytes:
        """Returns at most so many bytes, `b""` at the end."""
        if not self._held:
            self._held = os.read(self.descriptor, 1 << 18)
        data, self._held = self._held[:size], self._held[size:]
        return data

    def rest(self) -> bytes:
        """Returns what was read and not taken."""
        data, self._held = self._held, b""
        return data


class Session:
    """Answers one controller."""

    def __init__(self, root: str, program: str, reader: int = 0, writer: int = 1) -> None:
        self.objects = Objects(root)
        self.root, self.program = root, program
        self._reader = Source(reader)
        self._writer = writer
        self._failure: Failed | None = None  # of the contents since the last `sync`

    def serve(self) -> None:
        """Answers until the controller hangs up."""
        runs.reap(self.root)
        renew(self.program)
        self.objects.tidy()
        self.objects.clean()
        self._write(MARKER)
        while True:
            line = self._reader.readline()
            if not line:
                return None
            message = frames.parse(line)
            op = message.pop("op")
            if op == "bridge":
                return self._bridge(message["token"])
            try:
                answer = self._operation(op)(message)
                if answer is not None:
                    self._answer(dict(answer, ok=True))
            except Failed as error:
                self._answer(dict(error.facts, error=str(error)))
            except Damaged as error:
                self._answer({"error": str(error), "damaged": True})
            except OSError as error:
                full = error.errno in (errno.ENOSPC, errno.EDQUOT)
                self._answer({"error": f"{error.filename or self.root}: {error.strerror}", "full": full})

    def _operation(self, name: str) -> Callable[[Message], Message | None]:
        method = getattr(self, "op_" + name, None)
        if method is None:
            raise Failed(f"unknown operation {name!r}")
        found: Callable[[Message], Message | None] = method
        return found

    def _answer(self, message: Message, payload: bytes = b"") -> None:
        self._write(frames.encode(message, payload))

    def _write(self, data: bytes) -> None:
        write_all(self._writer, data)

    # ---- facts

    def op_hello(self, message: Message) -> Message:
        return {"store": self.root, "pid": os.getpid(), "python": sys.executable, "time": time.time()}

    def op_probe(self, message: Message) -> Message:
        from repro_est.hostside.claims import held
        from repro_est.hostside.probe import probe

        return {"facts": probe(self.root), "held": held()}

    def op_held(self, message: Message) -> Message:
        from repro_est.hostside.claims import held

        return {"held": held()}

    def op_which(self, message: Message) -> Message:
        return {"path": shutil.which(message["name"], path=message["path"])}

    def op_execute(self, message: Message) -> Message:
        """Runs a short program to its end; its environment is the one that was sent, and where Docker is."""
        environment = {
            key: os.environ[key] for key in ("DOCKER_HOST", "HOME", "PATH", "SLURM_CONF") if key in os.environ
        }
        try:
            done = subprocess.run(
                message["words"],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=dict(environment, **message["environment"]),
                timeout=_EXECUTE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return {"code": 127, "out": "", "err": str(error)}
        out, err = (text.decode("utf-8", "replace") for text in (done.stdout, done.stderr))
        return {"code": done.returncode, "out": out, "err": err}

    def op_interpreter(self, message: Message) -> Message:
        """Finds the interpreter an environment was made with, or another one of its version."""
        from repro_est.hostside.interpreters import find

        return find(message["version"], message["path"], message["sha256"])

    # ---- contents

    def op_missing(self, message: Message) -> Message:
        return {"missing": self.objects.missing(message["wanted"])}

    def op_put(self, message: Message) -> None:
        left = message["length"]

        def chunks() -> Iterator[bytes]:
            nonlocal left
            while left:
                chunk = self._reader.read(min(left, 1 << 18))
                if not chunk:
                    raise Failed("the connection ended in the middle of a file")
                left -= len(chunk)
                yield chunk

        stream = chunks()
        try:
            if self._failure is None:
                self.objects.put(message["digest"], message["kind"], stream)
        except Damaged as error:
            self._failure = Failed(str(error), damaged=True, digest=message["digest"])
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self._failure = Failed(f"no space left on the disk of {self.root}" if full else str(error), full=full)
        for _ in stream:  # what nobody takes any more
            pass

    def op_sync(self, message: Message) -> Message:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        return {}

    def op_placed(self, message: Message) -> Message:
        path = message.get("path") or self.objects.place(message["key"])
        return {"path": path, "placed": self.objects.is_placed(message["key"], path)}

    def op_place(self, message: Message) -> Message:
        path = message.get("path") or self.objects.place(message["key"])
        self.objects.make_place(message["key"], path, message["entries"])
        return {"path": path}

    # ---- runs

    def op_start(self, message: Message) -> Message:
        """Starts the daemon of one attempt, which takes the GPUs and slots it will use."""
        renew(self.program)
        directory = runs.create(self.root, message["token"], message["about"])
        try:
            with open(os.path.join(directory, "node.log"), "ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-B", "-c", _NODE, self.program],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    start_new_session=True,
                    cwd=directory,
                )
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                with process.stdin as stdin, process.stdout as stdout:
                    write_all(stdin.fileno(), json.dumps(dict(message, directory=directory)).encode() + b"\n")
                    stdin.close()
                    ready = select.select([stdout], [], [], _START_SECONDS)[0]
                    line = stdout.readline() if ready else b""
                if not line:
                    said = tail(os.path.join(directory, "node.log")) or f"no word within {_START_SECONDS:g} s"
                    raise Failed(f"the supervisor did not start: {said}")
                answer = frames.parse(line)
            except BaseException:
                process.kill()
                process.wait()
                raise
        except BaseException:
            runs.remove(self.root, message["token"])
            raise
        if "failed" in answer:
            process.wait()
            runs.remove(self.root, message["token"])
            raise Failed(answer["failed"])
        if "busy" in answer:
            process.wait()
            runs.remove(self.root, message["token"])
            raise Failed("busy", busy=answer["busy"])
        return dict(answer, directory=directory)

    def op_reserve(self, message: Message) -> Message:
        """Makes the directory of an attempt whose daemons a scheduler starts."""
        return {"directory": runs.create(self.root, message["token"], message["about"]), "program": self.program}

    def op_write(self, message: Message) -> Message:
        """Writes a file of a run that only this user may read."""
        path = os.path.join(runs.directory(self.root, message["token"]), message["name"])
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            write_all(descriptor, message["text"].encode())
        finally:
            os.close(descriptor)
        return {"path": path}

    def op_source(self, message: Message) -> Message:
        """Makes the private copy of the source of a run."""
        directory = os.path.join(runs.directory(self.root, message["token"]), "source")
        digest = self.objects.copy_tree(message["entries"], directory)
        return {"digest": digest}

    def op_folders(self, message: Message) -> Message:
        for name in message["names"]:
            os.mkdir(os.path.join(runs.directory(self.root, message["token"]), name))
        return {}

    def op_input(self, message: Message) -> Message:
        """Gives a run an input: a link to a place of this host, or a private copy."""
        base = os.path.join(runs.directory(self.root, message["token"]), "inputs")
        path = os.path.join(base, message["name"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if not message["copy"]:
            os.symlink(message["path"], path)
        elif os.path.isdir(message["path"]):
            shutil.copytree(message["path"], path, symlinks=True, copy_function=_copy)
            make_writable(path)
        else:
            _copy(message["path"], path)
        return {}

    def op_described(self, message: Message) -> Message:
        """Returns the digest of a directory of a run, as hosts name trees; reads all of it."""
        path = os.path.join(runs.directory(self.root, message["token"]), message["path"])
        return {"digest": digest_of_entries(described(path))}

    def op_status(self, message: Message) -> Message:
        return runs.status(self.root, message["token"])

    def op_runs(self, message: Message) -> Message:
        return {"runs": runs.listed(self.root)}

    def op_listing(self, message: Message) -> Message:
        """Lists what is below a directory of a run: path, kind, size, link target; digests only if asked for."""
        path = os.path.join(runs.directory(self.root, message["token"]), message["path"])
        if not os.path.isdir(path) or os.path.islink(path):
            return {"entries": None}
        if message["digests"]:
            return {"entries": described(path)}
        return {"entries": [_entry(*item) for item in walk(path) if not _is_full_directory(item)]}

    def op_fetch(self, message: Message) -> Message:
        """Sends files of a run, each in pieces, from an offset on."""
        base = os.path.join(runs.directory(self.root, message["token"]), message["path"])
        for number, (name, offset) in enumerate(message["files"]):
            try:
                with open(os.path.join(base, name), "rb", 0) as file:
                    file.seek(offset)
                    for chunk in pieces(file):
                        self._answer({"file": number}, chunk)
            except OSError as error:
                self._answer({"file": number, "unreadable": error.strerror})
        return {}

    def op_release(self, message: Message) -> Message:
        """Removes a run that ended and was collected."""
        until = time.monotonic() + _RELEASE_SECONDS  # a daemon that has said its last word needs a moment to go
        while runs.is_alive(self.root, message["token"]):
            if time.monotonic() > until:
                raise Failed("it still runs")
            time.sleep(0.01)
        runs.remove(self.root, message["token"])
        return {}

    def _bridge(self, token: str) -> None:
        """Passes bytes between the controller and the daemon of a run until one of them ends."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(os.path.join(runs.link(token), "control.sock"))
        except OSError as error:
            self._answer({"event": "no daemon", "error": error.strerror or str(error)})
            return
        connection.setblocking(True)
        connection.sendall(self._reader.rest())
        source = self._reader.descriptor
        while True:
            readable = select.select([source, connection.fileno()], [], [])[0]
            if connection.fileno() in readable:
                data = connection.recv(1 << 18)
                if not data:
                    return
                self._write(data)
            if source in readable:
                data = os.read(source, 1 << 16)
                if not data:
                    return
                connection.sendall(data)


_NODE = "import sys; sys.path.insert(0, sys.argv[1]); from repro_est.hostside.node import main; main()"


def _copy(source: str, target: str) -> None:
    """Copies a read-only file as one that may be written to."""
    copy_file(source, target, 0o755 if os.stat(source).st_mode & 0o111 else 0o644)


def _is_full_directory(item: tuple[str, str, os.stat_result]) -> bool:
    _, path, status = item
    return stat.S_ISDIR(status.st_mode) and bool(os.listdir(path))


def _entry(name: str, path: str, status: os.stat_result) -> list[Any]:
    if stat.S_ISLNK(status.st_mode):
        return [name, "l", os.readlink(path), 0]
    if stat.S_ISDIR(status.st_mode):
        return [name, "d", "", 0]
    if stat.S_ISREG(status.st_mode):
        return [name, "x" if status.st_mode & 0o111 else "f", "", status.st_size]
    return [name, "?", "", 0]


def tail(path: str) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()[-2000:].decode("utf-8", "replace").strip()
    return ""


def main(header: dict[str, Any], program: str) -> None:
    """Serves the controller on stdin and stdout; called by the boot code (`hosts.session`)."""
    os.umask(0o022)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        Session(os.path.expanduser(header["store"]), program).serve()
