"""The daemon of one attempt on one host: starts the ranks, keeps what they say, and leaves nothing running.

It belongs to the run, not to the client: once the ranks have started, controllers come and go (`clients`). The daemons
of all hosts form a star (`mesh`); the one of node 0, the head, gathers who the ranks are, lets them start, and decides
how the run ended (`head`). A daemon that hears nothing from the head for too long ends its own part.

    guardian   takes the GPUs and slots, is a subreaper, waits for the worker, and kills what is left if that dies
    worker     everything else; dies with the guardian

What ends the ranks when both are killed at once: each rank's supervisor ends its script when its socket closes; and
whatever escaped that is killed by `runs.reap` at the next contact.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from repro_est.hostside import claims, containers, mesh, runs
from repro_est.hostside.clients import STREAMS, Clients
from repro_est.hostside.head import Head
from repro_est.hostside.objects import write_all
from repro_est.hostside.supervisor import descendants, prctl

_PDEATHSIG, _SUBREAPER = 1, 36  # linux/prctl.h
_TICK = 0.03
_PING_SECONDS = 1.0
_DIAL_SECONDS = 0.3
_LINK_SECONDS = 60.0
_PREPARED_SECONDS = 20.0
"""How long a daemon waits, before anything was started, for a word of a controller, which has one every second."""

_RESERVE, _RESERVE_BYTES = "reserve", 256 << 10
"""Space that is set free when the ranks have ended, so that a disk they filled has room for the verdict."""


class Rank:
    """One rank of this host, as its supervisor reports it."""

    def __init__(self, number: int, spec: dict[str, Any]) -> None:
        self.number, self.spec = number, spec
        self.connection: socket.socket | None = None
        self.buffer = b""
        self.hello: dict[str, Any] | None = None
        self.started = False
        self.record: dict[str, Any] | None = None
        self.sign = time.monotonic()  # of life
        self.pid = 0

    def say(self, data: bytes) -> None:
        if self.connection is not None:
            with contextlib.suppress(OSError):
                self.connection.setblocking(True)
                self.connection.settimeout(5)
                self.connection.sendall(data)
                self.connection.setblocking(False)


class Node:
    """The worker.

    Args:
        start: what the session said: token, directory, address, whether it is the head.
    """

    def __init__(self, start: dict[str, Any]) -> None:
        self.token, self.directory = start["token"], start["directory"]
        self.link = runs.link(self.token)
        self.host = start["name"]
        self.selector = selectors.DefaultSelector()
        self.config: dict[str, Any] | None = None
        self.ranks: dict[int, Rank] = {}
        self.tasks: dict[str, subprocess.Popen[bytes]] = {}
        self.going = False
        self.verdict: dict[str, Any] | None = None
        self.head: Head | None = None
        self.line: mesh.Line | None = None  # to the head
        self.mesh_listener: socket.socket | None = None
        self._said: dict[str, dict[str, Any]] = {}  # to the head; said again on a new line
        self._rsh: dict[str, socket.socket] = {}
        self._heard_head = self._pinged = self._dialed = time.monotonic()
        self._touched = time.monotonic()
        self._kill_at, self._linked = 0.0, 0.0
        self._told_to_end = self._met_head = False
        self.clients = Clients(self.directory, self._on_client)
        self._wake, waker = os.pipe()
        for descriptor in (self._wake, waker):
            os.set_blocking(descriptor, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._on_term)
        self._watch(self._wake, lambda: os.read(self._wake, 4096))
        self._listen("control.sock", lambda c: self.clients.add(c))
        self._listen("ranks.sock", self._on_rank_connection)

    # ---- the loop

    def run(self) -> None:
        while self.verdict is None:
            self._turn()
            self._check_limits()
            if self._told_to_end:
                self._told_to_end = False
                self._give_up()
        self._finish()

    def _on_term(self, *_: Any) -> None:
        self._told_to_end = True

    def _turn(self) -> None:
        with self.clients.selected(self.selector), self._mesh_selected():
            events = self.selector.select(_TICK)
        for key, mask in events:
            key.data(mask)
        self._reap()
        self.clients.pump(self._on_growth)
        if self.config is not None:
            self._mesh_turn()
            if self.head is not None and self.verdict is None:
                self.head.turn()

    def _watch(self, what: Any, call: Callable[[], Any]) -> None:
        self.selector.register(what, selectors.EVENT_READ, lambda _: call())

    def _listen(self, name: str, accepted: Callable[[socket.socket], None]) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(os.path.join(self.link, name))
        os.chmod(os.path.join(self.link, name), 0o600)
        listener.listen(256)
        listener.setblocking(False)

        def accept() -> None:
            with contextlib.suppress(OSError):
                accepted(listener.accept()[0])

        self._watch(listener, accept)

    def _check_limits(self) -> None:
        now = time.monotonic()
        if self.config is None:
            if now - self._touched > _PREPARED_SECONDS:
                self._decide({"outcome": "canceled", "words": "no word from a controller before anything was started"})
            return
        if now - self._linked > _LINK_SECONDS:
            self._keep_link()
        heartbeat = self.config["heartbeat"]
        for rank in self.ranks.values():
            going_on = heartbeat and rank.started and rank.record is None
            if going_on and now - max(rank.sign, self._touched_file(rank)) > heartbeat:
                self.tell({"rank_hung": rank.number, "words": self._why_silent(rank, heartbeat)})
                rank.sign = now
        if self.head is None and now - self._heard_head > self.config["lost_after"]:
            head = self.config["hosts"][0]
            self._decide({"outcome": "host_lost", "node": 0, "host": head, "words": self._why_no_head(head)})

    def _keep_link(self) -> None:
        """Keeps the link in /tmp from looking old to those who tidy up there, in runs of many days."""
        self._linked = time.monotonic()
        with contextlib.suppress(OSError):
            if os.path.lexists(self.link):
                os.utime(self.link, follow_symlinks=False)
            else:
                os.symlink(self.directory, self.link)

    def _why_no_head(self, head: str) -> str:
        assert self.config is not None
        if self._met_head:
            return "{} heard nothing from {}, where rank 0 runs, for {:g} s".format(
                self.host, head, self.config["lost_after"]
            )
        address, port = self.config["head"]
        return (
            f"{self.host} cannot reach {head} at {address}, port {port} of TCP, though hosts of a run must reach each "
            "other on any port; is there a firewall, or another `interface` for the target?"
        )

    def _touched_file(self, rank: Rank) -> float:
        """Returns when a rank touched its file of life, on the monotonic clock."""
        with contextlib.suppress(OSError):
            age = time.time() - os.stat(os.path.join(self.directory, "ranks", str(rank.number), "heartbeat")).st_mtime
            return time.monotonic() - max(0.0, age)
        return 0.0

    def _why_silent(self, rank: Rank, seconds: float) -> str:
        state = ""
        with contextlib.suppress(OSError, KeyError, IndexError), open(f"/proc/{rank.pid}/stat") as file:
            if file.read().rpartition(")")[2].split()[0] == "T":
                state = "; its process is stopped by a signal"
        return f"wrote nothing and gave no sign of life for {seconds:g} s{state}"

    # ---- controllers

    def _on_client(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Does what a controller says; returns what to answer."""
        self._touched = time.monotonic()
        op = message.get("op")
        if op == "begin" and self.config is None:
            self.begin(message["config"])
        elif op == "stop":
            self.stop(message.get("reason") or "cancelled", grace=message.get("grace"))
        return {
            "event": "state",
            "state": self.state,
            "ranks": {str(rank.number): rank.record for rank in self.ranks.values()},
            "verdict": self.verdict,
        }

    @property
    def state(self) -> str:
        if self.verdict is not None:
            return "stopping"
        if self.config is None:
            return "prepared"
        return "running" if self.going else "attesting"

    def stop(self, reason: str, *, grace: float | None = None) -> None:
        """Asks the head to end the run; with nobody to ask, ends this part of it."""
        if grace is not None and self.config is not None:
            self.config["grace"] = grace
            if self._kill_at:
                self._kill_at = min(self._kill_at, time.monotonic() + grace)
                if grace == 0:
                    for rank in self.ranks.values():
                        rank.say(b"kill\n")
        message: dict[str, Any] = {"stop": reason, "grace": grace}
        if self.head is not None:
            self.head.hear(0, message)
        elif self.line is not None and self.line.is_ready:
            self.line.say(message)
        elif self.verdict is None:
            self._decide({"outcome": "canceled", "words": reason})

    def _give_up(self) -> None:
        """Ends the run because this daemon must: its guardian was killed, or the host shuts down."""
        words = f"the daemon of {self.host} was told to end: its guardian was killed, or the host shuts down"
        if self.head is not None:
            self.head.hear(0, {"lost": words})
        elif self.line is not None and self.line.is_ready:
            self.line.say({"lost": words})
        elif self.verdict is None:
            self._decide({"outcome": "host_lost", "words": words, **self._this_node()})

    def _this_node(self) -> dict[str, Any]:
        return {"node": self.config["node"], "rank": min(self.ranks)} if self.config else {}

    # ---- start

    def begin(self, config: dict[str, Any]) -> None:
        self.config = config
        self._heard_head = time.monotonic()
        self.ranks = {int(number): Rank(int(number), spec) for number, spec in config["ranks"].items()}
        for number in self.ranks:
            os.makedirs(os.path.join(self.directory, "ranks", str(number)), exist_ok=True)
            self.clients.follow(str(number))
        os.makedirs(os.path.join(self.directory, "ranks", "launcher"), exist_ok=True)
        self.clients.follow("launcher")
        write_programs(self.directory, self.link, config["python"])
        with open(os.path.join(self.directory, _RESERVE), "wb") as reserve:
            reserve.write(os.urandom(_RESERVE_BYTES))
        for name, text in config.get("files", {}).items():
            path = os.path.join(self.directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        if config["node"] == 0:
            self.head = Head(config, self._say_to_nodes, self._decide, self._go, self._start_daemon)
        for name, words in self._first_tasks():
            self._start_task(name, words)

    def _first_tasks(self) -> list[tuple[str, list[str]]]:
        assert self.config is not None
        launcher = self.config["launcher"]
        if launcher["kind"] == "mpi":
            return [("mpirun", launcher["words"])] if self.config["node"] == 0 else []
        if launcher["kind"] == "outside":
            return []  # somebody else starts the ranks: srun
        program = [self.config["python"], "-I", "-S", "-B", self.link + "/supervisor.py"]
        numbers = [str(number) for number in sorted(self.ranks)]
        if self.config["container"]:
            return [("ranks", [*program, "--ranks", self.link, *numbers])]
        return [("rank-" + number, [*program, "--rank", self.link, number]) for number in numbers]

    def _start_task(self, name: str, words: list[str]) -> None:
        assert self.config is not None
        environment = dict(self.config["environment"], REPRO_TOKEN=self.token)
        if self.config["container"]:
            words, environment = containers.run_command(
                self.config["container"], name, words, environment, self.token, self.directory, self.link
            )
        logs = os.path.join(self.directory, "ranks", "launcher")
        try:
            with contextlib.ExitStack() as stack:
                out, err = (stack.enter_context(open(os.path.join(logs, stream + ".log"), "ab")) for stream in STREAMS)
                self.tasks[name] = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    env=environment,
                    cwd=self.directory if self.config["container"] else os.path.join(self.directory, "source"),
                    start_new_session=True,
                    preexec_fn=_reset_signals,
                )
        except OSError as error:
            self.tell({"task_ended": name, "code": 127, "words": f"{words[0]}: {error.strerror}"})

    def _start_daemon(self, identity: str, command: str) -> None:
        """Starts an MPI daemon here, for mpirun on the head."""
        self._start_task("daemon-" + identity, ["/bin/sh", "-c", command])

    def _reap(self) -> None:
        for name, task in list(self.tasks.items()):
            code = task.poll()
            if code is not None:
                del self.tasks[name]
                self._heard_all_ranks()
                code = code if code >= 0 else 128 - code
                self.tell({"task_ended": name, "code": code, "words": self._last_words() if code else ""})
        while True:  # what was handed to this subreaper
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None or any(found.si_pid == task.pid for task in self.tasks.values()):
                return
            with contextlib.suppress(ChildProcessError):
                os.waitpid(found.si_pid, os.WNOHANG)

    def _last_words(self) -> str:
        path = os.path.join(self.directory, "ranks/launcher/stderr.log")
        with contextlib.suppress(OSError), open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - 4000))
            return file.read().decode("utf-8", "replace").strip()[-2000:]
        return ""

    # ---- ranks

    def _on_rank_connection(self, connection: socket.socket) -> None:
        """Somebody of this host speaks: a rank, or mpirun's rsh."""
        connection.settimeout(5)
        line = b""
        try:
            while not line.endswith(b"\n"):
                piece = connection.recv(1) if len(line) < 1 << 20 else b""
                if not piece:
                    raise OSError("no hello")
                line += piece
            hello = json.loads(line.decode())
        except (OSError, ValueError):
            connection.close()
            return
        connection.setblocking(False)
        if hello.get("event") == "rsh":
            self._on_rsh(hello, connection)
            return
        rank = self.ranks.get(hello.get("rank"))
        if rank is None or rank.connection is not None or rank.record is not None:
            where = "twice" if rank is not None else f"on {self.host}, where it does not belong"
            self.tell({"astray": hello.get("rank"), "words": "rank {} was started {}".format(hello.get("rank"), where)})
            connection.close()
            return
        rank.connection, rank.hello = connection, hello
        self._watch(connection, lambda: self._on_rank(rank))
        assert self.config is not None
        identity = dict(self.config["identity"], world_size=hello["world_size"] or self.config["world_size"])
        if hello.get("launcher"):
            identity["mpi"] = hello["launcher"]
        facts = dict(self.config["facts"], pid=hello["pid"])
        self.tell({"attest": rank.number, "host": self.host, "identity": identity, "facts": facts})

    def _on_rank(self, rank: Rank) -> None:
        assert rank.connection is not None
        try:
            data = rank.connection.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        rank.buffer += data
        *lines, rank.buffer = rank.buffer.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                self._on_rank_event(rank, json.loads(line.decode()))
        if not data:
            self.selector.unregister(rank.connection)
            rank.connection.close()
            rank.connection = None
            if rank.record is None:
                self._ended(rank, {"exit_code": None, "vanished": True})

    def _on_rank_event(self, rank: Rank, event: dict[str, Any]) -> None:
        kind = event.pop("event", "")
        if kind == "started":
            rank.sign = time.monotonic()
            rank.pid = event["pid"]
            self.clients.tell({"event": "rank_started", "rank": rank.number, "pid": event["pid"]})
        elif kind == "ended":
            self._ended(rank, event)
        elif kind == "failed":
            self._ended(rank, {"exit_code": None, "message": event.get("message", "could not be started")})
        elif kind == "output":
            self.clients.tell(dict(event, event="unlogged", rank=rank.number))

    def _ended(self, rank: Rank, record: dict[str, Any]) -> None:
        rank.record = dict(record, at=time.time())
        self.clients.tell({"event": "rank_ended", "rank": rank.number, "record": rank.record})
        self.tell({"rank_ended": rank.number, "record": rank.record})

    def _heard_all_ranks(self) -> None:
        """Reads what ranks said before the end of a task is told: a rank's own failure comes first."""
        for rank in list(self.ranks.values()):
            for _ in range(20):
                if rank.connection is None or not select.select([rank.connection], [], [], 0)[0]:
                    break
                self._on_rank(rank)

    def _on_growth(self, name: str) -> None:
        if name.isdigit() and int(name) in self.ranks:
            self.ranks[int(name)].sign = time.monotonic()

    def _go(self) -> None:
        """Lets the ranks of this host start their scripts."""
        if self.going:
            return
        self.going = True
        self.clients.tell({"event": "going"})
        for rank in self.ranks.values():
            rank.started, rank.sign = True, time.monotonic()
            rank.say(json.dumps(rank.spec).encode() + b"\n")

    # ---- mpirun's rsh

    def _on_rsh(self, request: dict[str, Any], connection: socket.socket) -> None:
        if self.head is None or self.config is None:
            connection.close()
            return
        identity = f"{len(self._rsh)}-{os.urandom(4).hex()}"
        self._rsh[identity] = connection
        node = self.config["addresses"].get(request["host"])
        if node is None:
            self._decide(
                {"outcome": "launcher_failed", "words": "mpirun asked for {}, which is no host".format(request["host"])}
            )
            return
        self.head.ask_for_daemon(identity, int(node), request["command"])

    def answer_rsh(self, identity: str, code: int) -> None:
        connection = self._rsh.pop(identity, None)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.setblocking(True)
                connection.sendall(json.dumps({"code": code}).encode() + b"\n")
                connection.close()

    # ---- the mesh

    def tell(self, message: dict[str, Any]) -> None:
        """Tells the head, which may be this daemon; again on every new line: nobody knows what the old one lost."""
        if self.head is not None:
            self.head.hear(0, message)
            if "task_ended" in message and message["task_ended"].startswith("daemon-"):
                self.answer_rsh(message["task_ended"][len("daemon-") :], message["code"])
            return
        if self.config is None:
            return
        self._said[json.dumps(sorted(message.items(), key=str))] = message
        if self.line is not None:
            self.line.say(message)

    def _say_to_nodes(self, node: int | None, message: dict[str, Any]) -> None:
        assert self.head is not None
        for number, line in self.head.lines.items():
            if node in (None, number):
                line.say(message)

    @contextlib.contextmanager
    def _mesh_selected(self) -> Iterator[None]:
        lines = list(self.head.all_lines) if self.head is not None else [self.line] if self.line is not None else []
        registered = []
        for line in lines:
            mask = selectors.EVENT_READ | (selectors.EVENT_WRITE if line.has_output else 0)
            self.selector.register(line.connection, mask, lambda mask, line=line: self._on_line(line, mask))
            registered.append(line.connection)
        if self.head is not None and self.mesh_listener is not None:
            self.selector.register(self.mesh_listener, selectors.EVENT_READ, lambda _: self._accept_line())
            registered.append(self.mesh_listener)
        try:
            yield
        finally:
            for connection in registered:
                self.selector.unregister(connection)

    def _accept_line(self) -> None:
        assert self.mesh_listener is not None
        assert self.head is not None
        assert self.config is not None
        with contextlib.suppress(OSError):
            connection = self.mesh_listener.accept()[0]
            if len(self.head.strangers) > 1000:  # somebody who is none of us
                connection.close()
                return
            self.head.strangers.append(mesh.Line(connection, bytes.fromhex(self.config["key"]), "head"))

    def _on_line(self, line: mesh.Line, mask: int) -> None:
        try:
            if mask & selectors.EVENT_WRITE:
                line.write()
            if mask & selectors.EVENT_READ:
                for message in line.read():
                    if self.head is not None:
                        self.head.on_message(line, message, self.answer_rsh)
                    else:
                        self._on_head(message)
        except (OSError, ValueError, mesh.Forged):
            line.close()
            if self.head is not None:
                self.head.drop(line)
            elif line is self.line:
                self.line = None

    def _mesh_turn(self) -> None:
        assert self.config is not None
        now = time.monotonic()
        if self.head is not None:
            if now - self._pinged > _PING_SECONDS:
                self._pinged = now
                self._say_to_nodes(None, {"ping": now})
            return
        if self.line is None and now - self._dialed > _DIAL_SECONDS:
            self._dialed = now
            address, port = self.config["head"]
            with contextlib.suppress(OSError):
                self.line = mesh.Line.dial((address, port), bytes.fromhex(self.config["key"]), self.config["node"])
                for message in list(self._said.values()):
                    self.line.say(message)
                self.line.say({"ping": now})
        elif self.line is not None:
            if not self.line.is_ready and now - self.line.opened > 3:
                self.line.close()  # a connection that never came about
                self.line = None
            elif now - self._pinged > _PING_SECONDS:
                self._pinged = now
                self.line.say({"ping": now})

    def _on_head(self, message: dict[str, Any]) -> None:
        self._met_head = True
        self._heard_head = time.monotonic()
        if "go" in message:
            self._go()
        elif "daemon" in message:
            if message["daemon"] not in self._rsh:
                self._rsh[message["daemon"]] = socket.socket()  # seen: what is said twice is done once
                self._start_daemon(message["daemon"], message["command"])
        elif "verdict" in message:
            if message.get("grace") is not None and self.config is not None:
                self.config["grace"] = message["grace"]
            self._decide(message["verdict"])
        elif "answer" in message and self.line is not None:
            self.line.say({"answered": message["answer"]})

    # ---- the end

    def _decide(self, verdict: dict[str, Any]) -> None:
        if self.verdict is None:
            self.verdict = dict(verdict, at=time.time())
            self.clients.tell({"event": "verdict", "verdict": self.verdict})

    def _finish(self) -> None:
        assert self.verdict is not None
        good = self.verdict["outcome"] == "completed"
        grace = 0.0 if good else (self.config or {}).get("grace", 5.0)
        self._kill_at = time.monotonic() + grace
        told = self.head is None
        for rank in self.ranks.values():
            if rank.connection is None:
                continue
            if rank.started:
                rank.say(b"cancel\n")
            else:
                with contextlib.suppress(OSError):
                    rank.connection.shutdown(socket.SHUT_RDWR)
        killed = False
        while True:
            if not told and self.head is not None:
                self._say_to_nodes(None, {"verdict": self.verdict, "grace": grace})
                told = True
            self._turn()
            now = time.monotonic()
            living = any(rank.connection is not None for rank in self.ranks.values())
            if not living and (now > self._kill_at or not self.tasks):
                break
            if not living and not killed:
                for task in self.tasks.values():
                    with contextlib.suppress(OSError):
                        os.killpg(task.pid, signal.SIGTERM)
                killed, self._kill_at = True, min(self._kill_at, now + 1.0)
            if now > self._kill_at + 1.5:  # supervisors had their time to kill
                break
        self._kill_rest()
        for rank in self.ranks.values():
            self._last_word_of(rank)
        self._tell_everybody()

    def _last_word_of(self, rank: Rank) -> None:
        if rank.connection is not None:
            self._on_rank(rank)
        if rank.record is None and rank.started:
            self._ended(rank, {"exit_code": None, "signal": "SIGKILL", "canceled": True})

    def _kill_rest(self) -> None:
        container = bool(self.config and self.config["container"])
        if container:
            runs.remove_containers(self.token)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            below = descendants(os.getpid())
            for pid in below:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            self._reap()
            if not below:
                break
            time.sleep(0.01)
        runs.sweep(self.token, docker=container)

    def _tell_everybody(self) -> None:
        """Writes down how it ended, says so, and waits a moment for those who listen."""
        ended = {str(rank.number): rank.record for rank in self.ranks.values()}
        until = time.monotonic() + 10
        while self.clients.behind(self._on_growth) and time.monotonic() < until:
            with self.clients.selected(self.selector):
                events = self.selector.select(_TICK)
            for key, mask in events:
                key.data(mask)
            self.clients.pump(self._on_growth)
        self.clients.close_timeline()
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.directory, _RESERVE))
        runs.clear(os.path.dirname(os.path.dirname(self.directory)), self.token)
        verdict = dict(self.verdict or {}, records=ended, host=(self.verdict or {}).get("host", self.host))
        if self.head is not None:
            verdict["all_records"] = {str(number): record for number, record in self.head.records.items()}
            verdict["attests"] = {str(number): item for number, item in self.head.attests.items()}
        runs.write_json(os.path.join(self.directory, "verdict.json"), verdict)
        self.clients.tell({"event": "ended", "verdict": verdict})
        until = time.monotonic() + 5
        lost = (self.verdict or {}).get("lost", ())
        waiting_for = set(self.head.lines) - set(lost) if self.head is not None else set()
        while (self.clients.has_output or waiting_for) and time.monotonic() < until:
            with self.clients.selected(self.selector), self._mesh_selected():
                events = self.selector.select(_TICK)
            for key, mask in events:
                key.data(mask)
            if self.head is not None:
                waiting_for = {n for n, line in self.head.lines.items() if line.has_output and n not in lost}


def write_programs(directory: str, link: str, python: str) -> None:
    """Writes what ranks and mpirun are told to start; in a container the paths are the same."""
    import pkgutil

    source = pkgutil.get_data("repro_est.hostside", "supervisor.py")
    assert source is not None
    with open(os.path.join(directory, "supervisor.py"), "wb") as file:
        file.write(source)
    for name in ("rank", "rsh"):
        path = os.path.join(directory, name)
        with open(path, "w", encoding="utf-8") as script:
            script.write(f'#!/bin/sh\nexec {python} -I -S -B {link}/supervisor.py --{name} {link} "$@"\n')
        os.chmod(path, 0o755)


def _reset_signals() -> None:
    prctl(_PDEATHSIG, signal.SIGKILL)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)


def main() -> None:
    """Becomes guardian and worker; says on stdout whether it has what it was asked to take."""
    start = json.loads(sys.stdin.buffer.readline().decode())
    out = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    try:
        held = claims.claim(start["gpus"], start["slots"], start["total_slots"], start["owner"])
        held.append(claims.kept_directory())
    except claims.Busy as error:
        write_all(out, json.dumps({"busy": error.holders}).encode() + b"\n")
        return
    except OSError as error:
        words = f"{error.filename}: {error.strerror}; leases of GPUs and slots cannot be taken"
        write_all(out, json.dumps({"failed": words}).encode() + b"\n")
        return
    alive = os.open(os.path.join(start["directory"], "alive"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(alive, fcntl.LOCK_EX)
    prctl(_SUBREAPER, 1)
    guardian = os.getpid()
    worker = os.fork()
    if worker == 0:
        prctl(_PDEATHSIG, signal.SIGTERM)
        prctl(_SUBREAPER, 1)
        if os.getppid() != guardian:
            os._exit(1)
        try:
            node = Node(start)
            answer: dict[str, Any] = {"pid": os.getpid()}
            if start["head"]:
                node.mesh_listener = mesh.listen(start["address"])
                answer["port"] = node.mesh_listener.getsockname()[1]
            answer["ports"] = [mesh.free_port(start["address"]) for _ in range(start["ports"])]
            write_all(out, json.dumps(answer).encode() + b"\n")
            os.close(out)
            node.run()
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)
    os.close(out)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGTERM))
    status = 0
    while True:
        try:
            pid, status = os.wait()
        except InterruptedError:
            continue
        if pid == worker:
            break
    left = descendants(guardian)
    while left:
        for pid in left:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = descendants(guardian)
        time.sleep(0.01)
    if status:
        runs.sweep(start["token"], docker=bool(start["about"].get("docker")))
    root = os.path.dirname(os.path.dirname(start["directory"]))
    if not runs.was_begun(root, start["token"]):
        runs.remove(root, start["token"])
    del held
