"""Running a script: closed in, followed, limited, and nothing of it left. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.errors import InfrastructureError, UsageError
from repro_est.hostside.supervisor import Masker, descendants
from repro_est.launch.diagnosis import diagnose, report
from repro_est.launch.process import Launch, Outcome, closed_environment, run_process, secret_values
from repro_est.targets.facts import machine_facts
from tests.conftest import as_root, missing

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


class Ran:
    def __init__(self, outcome: Outcome, logs: Path, heard: dict[str, bytes]) -> None:
        self.outcome, self.heard = outcome, heard
        self.stdout = (logs / "stdout.log").read_bytes()
        self.stderr = (logs / "stderr.log").read_bytes()


def launch(tmp_path: Path, script: str, **options: object) -> Launch:
    (tmp_path / "script.py").write_text(script)
    values: dict[str, object] = {
        "command": (sys.executable, str(tmp_path / "script.py")),
        "cwd": tmp_path,
        "environment": {"PATH": os.defpath, "PYTHONUNBUFFERED": "1"},
        "log_directory": tmp_path / "logs",
        "grace_seconds": 0.5,
        **options,
    }
    return Launch(**values)  # type: ignore[arg-type]


def run(tmp_path: Path, script: str, **options: object) -> Ran:
    heard = {"stdout": b"", "stderr": b""}

    def hear(stream: str, data: bytes) -> None:
        heard[stream] += data

    outcome = run_process(launch(tmp_path, script, **options), on_output=hear)
    return Ran(outcome, tmp_path / "logs", heard)


def gone(pid: int, seconds: float = 5) -> bool:
    """Whether a process ends in time; a zombie that nobody collected yet has ended."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            os.kill(pid, 0)
            if sys.platform == "linux" and "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError, PermissionError):  # the last: its number is another's by now
            return True
        time.sleep(0.02)
    return False


def test_output_reaches_the_logs_and_whoever_listens(tmp_path: Path) -> None:
    ran = run(tmp_path, "import sys; print('out'); print('err', file=sys.stderr)")
    assert ran.outcome.succeeded
    assert (ran.stdout, ran.stderr) == (b"out\n", b"err\n")
    assert ran.heard == {"stdout": b"out\n", "stderr": b"err\n"}


def test_an_exit_code_and_a_signal_are_told_apart(tmp_path: Path) -> None:
    failed = run(tmp_path, "raise SystemExit(7)").outcome
    assert (failed.exit_code, failed.signal, failed.words) == (7, None, "exit code 7")
    crashed = run(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)").outcome
    assert (crashed.exit_code, crashed.signal, crashed.words) == (None, "SIGSEGV", "was killed by SIGSEGV")


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="could not be started"):
        run_process(launch(tmp_path, "", command=("/no/such/python",)), on_output=lambda *_: None)


def test_a_script_that_ignores_term_is_killed_after_the_grace(tmp_path: Path) -> None:
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    started = time.monotonic()
    outcome = run(tmp_path, script, timeout_seconds=0.5).outcome
    assert (outcome.timed_out, outcome.signal) == (True, "SIGKILL")
    assert time.monotonic() - started < 20


def test_a_script_may_use_the_grace_to_clean_up(tmp_path: Path) -> None:
    script = (
        "import signal, sys, time\n"
        "def end(*_): print('saved'); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end); time.sleep(60)"
    )
    ran = run(tmp_path, script, timeout_seconds=0.5, grace_seconds=10)
    assert (ran.outcome.timed_out, ran.outcome.exit_code, ran.stdout) == (True, 3, b"saved\n")


FAMILY = """
import os, subprocess, sys, time
def daemon():
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(writer, str(os.getpid()).encode())
            time.sleep(600)
        os._exit(0)
    os.wait()
    return int(os.read(reader, 99))
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(daemon(), child.pid, flush=True)
"""


@linux
def test_grandchildren_and_daemons_do_not_outlive_the_script(tmp_path: Path) -> None:
    ran = run(tmp_path, FAMILY)
    pids = [int(line) for line in ran.stdout.split()]
    assert len(pids) == 2
    assert all(gone(pid) for pid in pids)
    assert ran.outcome.leftovers == 2
    assert ran.outcome.succeeded


@linux
def test_a_timeout_ends_the_whole_family(tmp_path: Path) -> None:
    ran = run(tmp_path, FAMILY + "time.sleep(600)\n", timeout_seconds=1)
    assert all(gone(int(line)) for line in ran.stdout.split())
    assert ran.outcome.timed_out


CLIENT = """
import sys
from pathlib import Path
from repro_est.launch.process import Launch, run_process
root = Path(sys.argv[1])
outcome = run_process(
    Launch((sys.executable, str(root / "script.py")), root, {"PATH": "/bin"}, root / "logs", grace_seconds=0.5),
    on_output=lambda stream, data: (sys.stdout.buffer.write(data), sys.stdout.flush()),
)
print(outcome.words)
"""


def client(tmp_path: Path, script: str) -> tuple[subprocess.Popen[str], int]:
    (tmp_path / "script.py").write_text(script)
    process = subprocess.Popen([sys.executable, "-c", CLIENT, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


SLEEPER = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"


@linux
def test_when_the_client_is_killed_nothing_is_left_running(tmp_path: Path) -> None:
    process, pid = client(tmp_path, SLEEPER)
    process.kill()
    process.wait()
    assert gone(pid)


def test_ctrl_c_ends_the_script_politely(tmp_path: Path) -> None:
    process, pid = client(tmp_path, SLEEPER)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "cancelled\n"
    assert gone(pid)


def test_a_second_ctrl_c_does_not_wait_for_the_grace(tmp_path: Path) -> None:
    ignoring = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SLEEPER
    process, pid = client(tmp_path, ignoring)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "cancelled\n"
    assert gone(pid)


def test_100_megabytes_without_a_newline_pass_in_bounded_memory(tmp_path: Path) -> None:
    script = "import os\nfor _ in range(1600): os.write(1, b'x' * 65536)\n"
    total = 0

    def count(stream: str, data: bytes) -> None:
        nonlocal total
        total += len(data)
        assert len(data) <= 1 << 18

    outcome = run_process(launch(tmp_path, script), on_output=count)
    assert outcome.succeeded
    assert total == (tmp_path / "logs" / "stdout.log").stat().st_size == 1600 * 65536


def test_any_bytes_are_kept_as_they_are(tmp_path: Path) -> None:
    ran = run(tmp_path, "import os; os.write(1, bytes(range(256))); os.write(2, b'\\xff\\xfe')")
    assert (ran.stdout, ran.stderr) == (bytes(range(256)), b"\xff\xfe")


def test_the_environment_is_what_was_given_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "leak")
    environment = closed_environment(
        prefix=tmp_path, home=tmp_path, temporary=tmp_path, modules=tmp_path, use_gpu=False,
        declared={"DECLARED": "1"}, secrets={"TOKEN": "s"}, facts={"REPRO_RUN": "r"},
    )  # fmt: skip
    ran = run(tmp_path, "import os; print(sorted(os.environ))", environment=environment)
    assert b"CANARY" not in ran.stdout
    assert {
        "TZ": "UTC",
        "LANG": "C.UTF-8",
        "PYTHONHASHSEED": "0",
        "CUDA_VISIBLE_DEVICES": "",
    }.items() <= environment.items()
    assert eval(ran.stdout) == sorted(environment)


def test_stdin_is_empty_and_umask_is_fixed(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        ran = run(tmp_path, "import os, sys; print(repr(sys.stdin.read()), oct(os.umask(0)))")
    finally:
        os.umask(before)
    assert ran.stdout == b"'' 0o22\n"


def test_a_secret_never_reaches_a_log(tmp_path: Path) -> None:
    script = (
        "import os, time\nfor c in b'key=hunter2!': os.write(1, bytes([c])); time.sleep(0.01)\nos.write(2, b'hunter2')"
    )
    ran = run(tmp_path, script, secrets=("hunter2",))
    assert (ran.stdout, ran.stderr) == (b"key=***!", b"***")
    assert b"hunter2" not in b"".join(ran.heard.values())


@given(st.lists(st.binary(max_size=8), max_size=12), st.binary(min_size=1, max_size=4), st.data())
def test_masking_does_not_depend_on_how_the_stream_is_cut(
    parts: list[bytes], secret: bytes, data: st.DataObject
) -> None:
    stream = secret.join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    masker = Masker([secret])
    pieces = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    masked = b"".join([masker.feed(piece) for piece in pieces]) + masker.finish()
    assert secret not in masked.replace(b"***", b"") or secret in b"***" or b"***" in masked
    if secret not in stream:
        assert masked == stream


def test_a_declared_secret_that_is_not_set_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HAVE", "x")
    assert secret_values(("HAVE",)) == {"HAVE": "x"}
    with pytest.raises(UsageError, match="MISSING not set"):
        secret_values(("HAVE", "MISSING"))


@linux
def test_a_read_only_path_cannot_be_written_even_by_root(tmp_path: Path) -> None:
    if not as_root():
        missing("a private mount namespace needs root")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a").write_text("1")
    ran = run(tmp_path, "open('data/a', 'w')", read_only=(tmp_path / "data",))
    if ran.outcome.read_only != "enforced":
        missing("this machine gives no mount namespaces")
    assert b"Read-only file system" in ran.stderr
    assert (tmp_path / "data" / "a").read_text() == "1"


def test_a_run_from_a_thread_works(tmp_path: Path) -> None:
    results: list[Ran] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path, "print(1)")))
    thread.start()
    thread.join()
    assert results[0].stdout == b"1\n"


def outcome(**changes: object) -> Outcome:
    values = {
        "exit_code": 1, "signal": None, "timed_out": False, "canceled": False, "max_rss": 0, "user_seconds": 0.0,
        "system_seconds": 0.0, "leftovers": 0, "oom_kills": 0, "read_only": "no inputs",
    }  # fmt: skip
    return Outcome(**{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ended", "stderr", "cause", "hint"),
    [
        (outcome(), "ModuleNotFoundError: No module named 'sklearn.svm'", "not in the environment", '"scikit-learn"'),
        (outcome(exit_code=None, signal="SIGKILL"), "", "want of memory", "larger machine"),
        (outcome(), "OSError: [Errno 28] No space left on device", "disk of the store", "REPRO_STORE"),
        (outcome(unlogged=1), "", "disk of the store", "REPRO_STORE"),
        (outcome(), "MemoryError", "no more memory", "less memory"),
        (outcome(), "torch.OutOfMemoryError: CUDA out of memory", "GPU's memory", "smaller batch"),
        (outcome(), "OSError: [Errno 30] Read-only file system: '/in/a'", "inputs are read-only", "./outputs"),
        (
            outcome(),
            "FileNotFoundError: [Errno 2] No such file or directory: 'x.csv'",
            "x.csv is not there",
            "[inputs]",
        ),
        (outcome(exit_code=None, signal="SIGSEGV"), "", "compiled code crashed", "PYTHONFAULTHANDLER"),
        (outcome(timed_out=True), "", "the time limit", "max_run_duration_seconds"),
    ],
)
def test_likely_causes_are_named_with_what_to_do(ended: Outcome, stderr: str, cause: str, hint: str) -> None:
    found = diagnose(ended, stderr.splitlines())
    assert found is not None
    assert cause in found.cause
    assert hint in str(found.hint)


def test_a_report_is_one_screen(tmp_path: Path) -> None:
    (tmp_path / "rank-0").mkdir()
    (tmp_path / "rank-0" / "stderr.log").write_text("".join(f"line {n}\n" for n in range(1000)) + "x" * 5000)
    text, _ = report(outcome(), tmp_path, timeout_seconds=None)
    assert len(text.splitlines()) < 45
    assert "line 999" in text


def test_machine_facts_are_json_without_hurry() -> None:
    facts = machine_facts()
    assert facts["cpu_count"]
    assert descendants(os.getpid()) is not None
