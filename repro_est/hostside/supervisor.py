"""The process between `repro` and a training script: starts it, keeps its logs, and leaves nothing running.

A program of its own, standard library only: `python -I -S supervisor.py`. It reads one JSON line, the
specification, from stdin, and then words: `cancel`, `kill`. It reports one JSON line for each event on stdout.
When stdin ends, whoever started it is gone, kill -9 included, and the script is ended too.

Of a run with several ranks it is what is started as a rank, by mpirun, srun, or the daemon of the host (`node`):

    supervisor.py --rank DIRECTORY [RANK]        stdin and stdout are the socket ranks.sock in there
    supervisor.py --ranks DIRECTORY RANK...      several of them, in one container
    supervisor.py --rsh DIRECTORY HOST WORD...   in place of ssh, for mpirun: asks the daemon to run it on that host

What it guarantees. Every byte the script writes is in `rank-0/stdout.log` or `stderr.log`, secrets replaced by
`***`, in bounded memory, whoever reads along or not; what a full disk has no room for is reported as an event, so
that a person at the terminal still sees why the script failed. The script gets TERM, after the grace KILL, and so does
everything it started: on Linux the supervisor is a subreaper, so that a daemonised grandchild is still its
descendant. The script dies with the supervisor (PDEATHSIG).
"""

import base64
import contextlib
import ctypes
import errno
import json
import os
import select
import signal
import sys
import time

_CHUNK = 1 << 16
_LEFTOVER_GRACE = 1.0
_PIECE = 2048  # in base64, with all around it, less than the 4096 bytes that a pipe takes in one piece
_PATIENCE = 1.0
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_CLONE_NEWNS = 0x00020000  # linux/sched.h
_MS_RDONLY, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18  # linux/mount.h
_LINUX = sys.platform == "linux"


class Masker:
    """Replaces secret values in a stream, also where one is split between two chunks."""

    def __init__(self, secrets):
        self._secrets = sorted((secret for secret in secrets if secret), key=len, reverse=True)
        self._held = b""

    def feed(self, data):
        """Returns what can be written now; the start of a possible secret is held back."""
        if not self._secrets:
            return data
        data = self._held + data
        for secret in self._secrets:
            data = data.replace(secret, b"***")
        keep = self._possible_start(data)
        self._held = data[len(data) - keep :]
        return data[: len(data) - keep]

    def finish(self):
        held, self._held = self._held, b""
        return held

    def _possible_start(self, data):
        longest = len(self._secrets[0]) - 1
        for length in range(min(longest, len(data)), 0, -1):
            tail = data[len(data) - length :]
            if any(secret.startswith(tail) for secret in self._secrets):
                return length
        return 0


class Supervisor:
    """Runs one script to its end."""

    def __init__(self, spec):
        self.spec = spec
        self.child = None
        self.status = None
        self.usage = None
        self.why = None  # "timed_out" or "canceled", once the script was told to end
        self.kill_at = None
        self.leftovers = 0
        self.unlogged = 0
        self.control = b""
        self.streams = {}
        self.wake, self.waker = os.pipe()

    def run(self):
        read_only = self._protect(self.spec["read_only"])
        oom = oom_kills()
        self._start()
        emit("started", pid=self.child)
        timeout = self.spec["timeout"]
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.status is None:
            now = time.monotonic()
            if deadline is not None and now >= deadline and self.why is None:
                self._end("timed_out", self.spec["grace"])
            if self.kill_at is not None and now >= self.kill_at:
                self._signal(signal.SIGKILL)
                self.kill_at = now + 0.2
            self._wait(min(at for at in (deadline, self.kill_at, now + 60) if at is not None and at > now) - now)
        self._clear_leftovers()
        self._drain()
        usage = self.usage
        scale = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
        emit(
            "ended",
            exit_code=os.WEXITSTATUS(self.status) if os.WIFEXITED(self.status) else None,
            signal=signal.Signals(os.WTERMSIG(self.status)).name if os.WIFSIGNALED(self.status) else None,
            timed_out=self.why == "timed_out",
            canceled=self.why == "canceled",
            max_rss=usage.ru_maxrss * scale,
            user_seconds=round(usage.ru_utime, 3),
            system_seconds=round(usage.ru_stime, 3),
            leftovers=self.leftovers,
            unlogged=self.unlogged,
            oom_kills=max(0, oom_kills() - oom),
            read_only=read_only,
        )

    # ---- start

    def _start(self):
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._end("canceled", self.spec["grace"]))
        signal.signal(signal.SIGCHLD, lambda *_: None)
        os.set_blocking(self.waker, False)
        signal.set_wakeup_fd(self.waker, warn_on_full_buffer=False)
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        pipes = {name: os.pipe() for name in ("stdout", "stderr", "failure")}
        self.child = os.fork()
        if self.child == 0:
            self._become_script(pipes)
        for name, (reader, writer) in pipes.items():
            os.close(writer)
            if name != "failure":
                path = os.path.join(self.spec["log_directory"], name + ".log")
                log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
                self.streams[reader] = (name, log, Masker([os.fsencode(secret) for secret in self.spec["secrets"]]))
        message = b""
        while chunk := os.read(pipes["failure"][0], _CHUNK):
            message += chunk
        os.close(pipes["failure"][0])
        if message:
            os.waitpid(self.child, 0)
            emit("failed", message=message.decode())
            sys.exit(1)

    def _become_script(self, pipes):
        """In the child: never returns."""
        try:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.dup2(pipes["stdout"][1], 1)
            os.dup2(pipes["stderr"][1], 2)
            os.umask(0o022)
            os.chdir(self.spec["cwd"])
            os.execve(self.spec["command"][0], self.spec["command"], self.spec["environment"])
        except BaseException as error:  # whatever it is, it must not go on as a second supervisor
            os.write(pipes["failure"][1], f"{self.spec['command'][0]}: {error}".encode())
        finally:
            os._exit(127)

    def _protect(self, paths):
        """Makes paths read-only for the script in a mount namespace of its own, where this process may do that."""
        if not paths:
            return "no inputs"
        if not _LINUX or os.geteuid() != 0:
            return "checked afterwards"
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(_CLONE_NEWNS) != 0:
            return "checked afterwards"
        if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
            return "checked afterwards"
        for path in paths:
            raw = os.fsencode(path)
            if libc.mount(raw, raw, None, _MS_BIND | _MS_REC, None) != 0:
                return "checked afterwards"
            if libc.mount(b"none", raw, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY, None) != 0:
                return "checked afterwards"
        return "enforced"

    # ---- loop

    def _wait(self, seconds):
        readers = [self.wake, 0, *self.streams] if self.control is not None else [self.wake, *self.streams]
        for descriptor in select.select(readers, [], [], max(0.0, seconds))[0]:
            if descriptor == self.wake:
                os.read(self.wake, 512)
            elif descriptor == 0:
                self._listen()
            else:
                self._pump(descriptor)
        self._reap()

    def _pump(self, descriptor):
        name, log, masker = self.streams[descriptor]
        data = os.read(descriptor, _CHUNK)
        rest = write_some(log, masker.feed(data) if data else masker.finish())
        self.unlogged += len(rest)
        for start in range(0, len(rest), _PIECE):
            self._tell(name, rest[start : start + _PIECE])
        if not data:
            os.close(descriptor)
            os.close(log)
            del self.streams[descriptor]

    def _tell(self, name, piece):
        """Hands output that is in no log to the client, unless that does not listen: nobody waits for it."""
        with contextlib.suppress(OSError):
            if select.select([], [1], [], _PATIENCE)[1]:  # then there is room for one line of up to PIPE_BUF bytes
                emit("output", stream=name, data=base64.b64encode(piece).decode())

    def _listen(self):
        try:
            data = os.read(0, _CHUNK)
        except OSError:  # a socket whose other end died with unread bytes
            data = b""
        if not data:
            self.control = None  # the client is gone
            self._end("canceled", min(self.spec["grace"], 2.0))
            return
        self.control += data
        *words, self.control = self.control.split(b"\n")
        for word in words:
            if word == b"cancel":
                self._end("canceled", self.spec["grace"])
            elif word == b"kill":
                self._end("canceled", 0.0)

    def _end(self, why, grace):
        if self.why is None:
            self.why = why
            self._signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)  # what is stopped hears no TERM
        at = time.monotonic() + grace
        self.kill_at = at if self.kill_at is None else min(self.kill_at, at)

    def _signal(self, number):
        """Signals the script's process group and every descendant outside of it: each process once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.child, number)
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getpgid(pid) != self.child:
                    os.kill(pid, number)

    def _reap(self):
        """Collects the script and whatever was handed to this subreaper."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.child:
                self.status, self.usage = status, usage

    def _clear_leftovers(self):
        """Ends what the script left running when it ended itself."""
        self.leftovers = len(descendants(os.getpid()))
        if not self.leftovers:
            return
        self._signal(signal.SIGTERM)
        kill_from = time.monotonic() + (0.0 if self.why else _LEFTOVER_GRACE)
        give_up = kill_from + 10
        while descendants(os.getpid()) and time.monotonic() < give_up:
            if time.monotonic() >= kill_from:
                self._signal(signal.SIGKILL)
            self._wait(0.02)

    def _drain(self):
        """Reads the pipes to their end; everybody who could write is dead, so there is one."""
        give_up = time.monotonic() + 10
        while self.streams and time.monotonic() < give_up:
            self._wait(0.05)


def descendants(root):
    """Returns the living processes below `root`, zombies not counted."""
    children = {}
    for pid, parent in processes():
        children.setdefault(parent, []).append(pid)
    found, pending = [], [root]
    while pending:
        below = children.get(pending.pop(), [])
        found += below
        pending += below
    return found


def processes():
    """Yields (pid, parent) of every process that is no zombie."""
    if not _LINUX:
        import subprocess

        listing = subprocess.run(["ps", "-axo", "pid=,ppid=,stat="], capture_output=True, text=True).stdout
        for line in listing.splitlines():
            pid, parent, state = line.split()[:3]
            if not state.startswith("Z"):
                yield int(pid), int(parent)
        return
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()  # the name before it may hold anything
        except OSError:
            continue
        if fields[0] not in (b"Z", b"X"):
            yield int(name), int(fields[1])


def oom_kills():
    """Returns how often the kernel killed for memory in this cgroup, 0 where it does not say."""
    if not _LINUX:
        return 0
    with contextlib.suppress(OSError, ValueError), open("/proc/self/cgroup") as file:
        for line in file.read().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "memory":
                name = f"/sys/fs/cgroup/memory{path}/memory.oom_control"
            elif not controllers:
                name = f"/sys/fs/cgroup{path}/memory.events"
            else:
                continue
            with contextlib.suppress(OSError), open(name) as counters:
                for counter in counters:
                    if counter.startswith("oom_kill "):
                        return int(counter.split()[1])
    return 0


def prctl(option, value):
    if _LINUX:
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def write_some(descriptor, data):
    """Writes to a log; returns what does not fit when the disk is full, and the script goes on."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                break
            raise
    return bytes(view)


def emit(event, **facts):
    """Reports to the client, if there still is one."""
    with contextlib.suppress(OSError):
        os.write(1, json.dumps({"event": event, **facts}).encode() + b"\n")


def read_specification():
    data = b""
    while not data.endswith(b"\n"):
        chunk = os.read(0, 1)
        if not chunk:
            sys.exit(0)
        data += chunk
    return json.loads(data)


def dial(directory):
    """Connects this process's stdin and stdout with the daemon of the host."""
    import socket

    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.path.join(directory, "ranks.sock"))
    os.dup2(connection.fileno(), 0)
    os.dup2(connection.fileno(), 1)
    connection.close()


def be_rank(directory, words):
    """Runs one rank; returns its exit code."""
    rank = int(words[0]) if words else given(_RANKS)
    if rank is None:
        sys.exit(f"repro: nobody says which rank this is: none of {', '.join(_RANKS)} is set")
    world_size = None if words else given(_SIZES)
    launcher = {name: value for name, value in os.environ.items() if name.startswith(_LAUNCHERS)}
    dial(directory)
    emit("hello", rank=rank, world_size=world_size, pid=os.getpid(), launcher=library(launcher))
    spec = read_specification()
    spec["environment"] = {**launcher, **spec["environment"]}
    supervisor = Supervisor(spec)
    supervisor.run()
    if os.WIFEXITED(supervisor.status):
        return os.WEXITSTATUS(supervisor.status)
    return 128 + os.WTERMSIG(supervisor.status)


def given(names):
    """Returns the number in the first of these variables that is set."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), None)


def library(launcher):
    """Returns the version of the MPI that started this rank, as far as its variables tell."""
    for name in ("OMPI_VERSION", "PMIX_VERSION", "PRTE_VERSION", "HYDRA_VERSION"):
        if launcher.get(name):
            return f"{name.partition('_')[0]} {launcher[name]}"
    return None


def be_ranks(directory, ranks):
    """Starts ranks and waits for all of them; TERM reaches each."""
    import subprocess

    command = [sys.executable, "-I", "-S", "-B", __file__, "--rank", directory]
    children = [subprocess.Popen([*command, rank]) for rank in ranks]
    signal.signal(signal.SIGTERM, lambda *_: [child.terminate() for child in children])
    return max(abs(child.wait()) for child in children)


def be_rsh(directory, words):
    """Asks the daemon to run a command on another host, as ssh would; returns its exit code."""
    while words and words[0].startswith("-"):  # flags for ssh
        words = words[1:]
    dial(directory)
    emit("rsh", host=words[0], command=" ".join(words[1:]))
    answer = read_specification()
    return answer["code"]


_RANKS = ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID")
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS")
_LAUNCHERS = ("OMPI_", "PMIX_", "PMI_", "PRTE_", "OPAL_", "HYDRA_", "HYDI_", "MPI_", "MPIR_", "I_MPI_", "SLURM_")


if __name__ == "__main__":
    mode, arguments = (sys.argv[1], sys.argv[2:]) if sys.argv[1:] else ("", [])
    if not mode:
        Supervisor(read_specification()).run()
    else:
        act = {"--rank": be_rank, "--ranks": be_ranks, "--rsh": be_rsh}[mode]
        sys.exit(act(arguments[0], arguments[1:]))
