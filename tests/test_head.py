"""How a run of several ranks ends, decided from what is heard; the clock stands until the test moves it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from repro_est.hostside import head as module
from repro_est.hostside import mesh
from repro_est.hostside.head import Head
from repro_est.hostside.mesh import Line

KEY = b"k" * 32
GOOD: dict[str, Any] = {"exit_code": 0, "at": 0.0}
BAD: dict[str, Any] = {"exit_code": 3, "at": 0.0}
CONFIG: dict[str, Any] = {
    "world_size": 4,
    "servers": [],
    "nodes": 2,
    "hosts": ["h1", "h2"],
    "lost_after": 10.0,
    "start_seconds": 60.0,
    "timeout": None,
    "expected": {},
    "launcher": {"kind": "direct"},
}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


class Run:
    """A head of two nodes with two ranks each, and node 1 at the other end of a real line."""

    def __init__(self, clock: Clock, stack: contextlib.ExitStack, **config: Any) -> None:
        self.clock, self._stack = clock, stack
        self.said: list[tuple[int | None, dict[str, Any]]] = []
        self.verdicts: list[dict[str, Any]] = []
        self.goes = 0
        self.daemons: list[tuple[str, str]] = []
        self.answers: list[tuple[str, int]] = []
        self.head = Head(
            {**CONFIG, **config},
            self._say,
            self.verdicts.append,
            self._go,
            lambda identity, command: self.daemons.append((identity, command)),
        )
        self.connect()

    def _say(self, node: int | None, message: dict[str, Any]) -> None:
        self.said.append((node, message))
        for number, line in self.head.lines.items():
            if node in (None, number):
                line.say(message)

    def _go(self) -> None:
        self.goes += 1

    def connect(self) -> None:
        """Makes the line of node 1, anew if there is one."""
        near, far = socket.socketpair()
        self.line = Line(far, KEY, "head")
        self.node = Line(near, KEY, "node")
        self.node._number = 1
        self.node._out = b"%s 1 %s\n" % (mesh.MAGIC, self.node._mine)
        for line in (self.line, self.node):
            self._stack.callback(line.close)
        self.head.strangers.append(self.line)
        self.carry()

    def carry(self) -> list[dict[str, Any]]:
        """Passes on what waits on the line, both ways; returns what the node heard."""
        heard: list[dict[str, Any]] = []
        for _ in range(4):
            self.node.write()
            for message in self.line.read():
                self.head.on_message(self.line, message, lambda *answer: self.answers.append(answer))
            self.line.write()
            heard += self.node.read()
        return heard

    def tell(self, **message: Any) -> list[dict[str, Any]]:
        """Node 1 says something."""
        self.node.say(message)
        return self.carry()

    def attest(self, rank: int, **identity: Any) -> None:
        message = {
            "attest": rank,
            "host": CONFIG["hosts"][rank // 2],
            "identity": {"source": "s", **identity},
            "facts": {},
        }
        if rank < 2:
            self.head.hear(0, message)
        else:
            self.tell(**message)

    def start(self) -> None:
        for rank in range(4):
            self.attest(rank)
        self.head.turn()
        assert self.head.going

    def end(self, rank: int, record: dict[str, Any]) -> None:
        if rank < 2:
            self.head.hear(0, {"rank_ended": rank, "record": record})
        else:
            self.tell(rank_ended=rank, record=record)

    def settle(self, seconds: float = 0.6) -> dict[str, Any]:
        """Lets time pass in which node 1 answers; returns the verdict."""
        self.clock.now += seconds
        if any("ping" in message for _, message in self.said):
            self.tell(answered=self.clock.now)
        return self.verdict()

    def verdict(self) -> dict[str, Any]:
        self.head.turn()
        return self.verdicts[0] if self.verdicts else {}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(mesh, "time", clock)
    return clock


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def run(clock: Clock, stack: contextlib.ExitStack) -> Run:
    return Run(clock, stack)


def test_nobody_starts_before_all_are_there(run: Run) -> None:
    for rank in range(3):
        run.attest(rank)
        run.head.turn()
    assert (run.goes, run.verdicts) == (0, [])
    run.attest(3)
    run.head.turn()
    run.head.turn()
    assert run.goes == 1
    assert {"go": True} in run.carry()


def test_ranks_that_would_execute_different_things_do_not_start(clock: Clock, stack: contextlib.ExitStack) -> None:
    run = Run(clock, stack, expected={"source": "s"})
    for rank in range(4):
        run.attest(rank, source="other" if rank == 3 else "s", python="3.11" if rank != 1 else "3.12")
    verdict = run.verdict()
    assert (verdict["outcome"], run.goes) == ("disagreement", 0)
    assert verdict["disagreements"] == [
        {"rank": 1, "host": "h1", "key": "python", "got": "3.12", "expected": "3.11"},
        {"rank": 3, "host": "h2", "key": "source", "got": "other", "expected": "s"},
    ]


def test_ranks_that_do_not_come_are_named(run: Run) -> None:
    for rank in (0, 2):
        run.attest(rank)
    for _ in range(12):
        run.clock.now += 5.01
        run.tell(ping=1)
    verdict = run.verdict()
    assert (verdict["outcome"], verdict["words"]) == ("not_started", "rank 1, 3 did not start within 60 s")


def test_a_run_is_complete_when_every_rank_ended_with_0(run: Run) -> None:
    run.start()
    for rank in range(4):
        assert run.verdict() == {}
        run.end(rank, GOOD)
    assert run.verdict()["outcome"] == "completed"


def test_parameter_servers_need_not_end(clock: Clock, stack: contextlib.ExitStack) -> None:
    run = Run(clock, stack, servers=[0, 2])
    run.start()
    run.end(1, GOOD)
    assert run.verdict() == {}
    run.end(3, GOOD)
    assert run.verdict()["outcome"] == "completed"


def test_the_first_failure_is_the_cause(run: Run) -> None:
    run.start()
    run.end(3, BAD)
    run.end(0, {"exit_code": None, "signal": "SIGABRT", "at": 0.0})
    assert run.verdict() == {}  # others may have failed at the same moment
    verdict = run.settle()
    assert (verdict["outcome"], verdict["rank"], verdict["host"], verdict["record"]) == ("rank_failed", 3, "h2", BAD)


def test_a_script_is_the_cause_before_what_started_it(run: Run) -> None:
    run.start()
    run.head.hear(0, {"task_ended": "rank-0", "code": 1, "words": "said"})
    run.end(2, BAD)
    assert (run.settle()["outcome"], run.settle()["rank"]) == ("rank_failed", 2)


def test_a_host_that_is_gone_is_the_cause_before_the_ranks_it_took_with_it(run: Run) -> None:
    run.start()
    run.clock.now += 1
    run.end(0, BAD)  # its peer is gone
    for _ in range(8):
        run.clock.now += 1
        assert run.verdict() == {}  # node 1 did not answer since
    run.clock.now += 2
    verdict = run.verdict()
    assert (verdict["outcome"], verdict["host"], verdict["words"]) == ("host_lost", "h2", "h2 did not answer for 10 s")
    assert verdict["consequences"] == ["rank 0 on h1: exit code 3"]


def test_a_host_that_is_silent_is_lost_and_one_that_speaks_is_not(run: Run) -> None:
    run.start()
    for _ in range(10):
        run.clock.now += 9
        run.tell(ping=run.clock.now)
        assert run.verdict() == {}
    run.clock.now += 10.1
    assert run.verdict()["outcome"] == "host_lost"


def test_pings_are_answered(run: Run) -> None:
    assert run.tell(ping=7) == [{"answer": 7}]


@pytest.mark.parametrize("by", [0, 1], ids=["here", "from another node"])
def test_who_cancels_is_obeyed_at_once_whatever_failed_before(run: Run, by: int) -> None:
    run.start()
    run.end(0, BAD)
    if by:
        run.tell(stop="cancelled", grace=2.0)
    else:
        run.head.hear(0, {"stop": "cancelled", "grace": 2.0})
    verdict = run.verdict()
    assert (verdict["outcome"], verdict["words"], verdict["grace"]) == ("canceled", "cancelled", 2.0)


def test_a_cancel_without_a_grace_leaves_the_grace_alone(run: Run) -> None:
    run.head.hear(0, {"stop": "cancelled", "grace": None})
    assert "grace" not in run.verdict()


def test_a_run_may_take_only_so_long_from_its_start_on(clock: Clock, stack: contextlib.ExitStack) -> None:
    run = Run(clock, stack, timeout=5.0)
    clock.now += 8
    run.tell(ping=1)
    run.start()
    clock.now += 4.9
    assert run.verdict() == {}
    clock.now += 0.2
    assert run.verdict()["outcome"] == "timed_out"


def test_a_rank_without_a_sign_of_life_ends_the_run(run: Run) -> None:
    run.start()
    run.tell(rank_hung=2, words="wrote nothing for 3 s")
    verdict = run.settle()
    assert (verdict["outcome"], verdict["rank"], verdict["words"]) == ("rank_hung", 2, "rank 2 wrote nothing for 3 s")


def test_a_script_that_could_not_be_started_is_told_as_that(run: Run) -> None:
    run.start()
    run.end(2, {"exit_code": None, "message": "train.py: no such file", "at": 0.0})
    verdict = run.settle()
    assert (verdict["outcome"], verdict["words"]) == ("not_started", "rank 2 on h2: train.py: no such file")


def test_a_rank_in_the_wrong_place_ends_the_run(run: Run) -> None:
    run.tell(astray=0, words="rank 0 was started on h2, where it does not belong")
    assert run.settle()["outcome"] == "launcher_failed"


# ---- mpirun


@pytest.fixture
def mpi(clock: Clock, stack: contextlib.ExitStack) -> Run:
    return Run(clock, stack, launcher={"kind": "mpi"})


def test_mpirun_must_end_too(mpi: Run) -> None:
    mpi.start()
    for rank in range(4):
        mpi.end(rank, dict(GOOD, at=mpi.clock.now))
    assert mpi.verdict() == {}
    mpi.head.hear(0, {"task_ended": "mpirun", "code": 0, "words": ""})
    assert mpi.verdict()["outcome"] == "completed"


def test_mpirun_that_says_0_while_ranks_are_missing_is_not_believed(mpi: Run) -> None:
    mpi.start()
    mpi.end(0, GOOD)
    mpi.end(2, GOOD)
    mpi.head.hear(0, {"task_ended": "mpirun", "code": 0, "words": ""})
    assert mpi.verdict() == {}
    mpi.clock.now += 3.1
    verdict = mpi.verdict()
    assert verdict["outcome"] == "launcher_failed"
    assert verdict["words"] == "mpirun ended with 0, and nothing is known of rank 1, 3"


def test_mpirun_that_fails_says_why(mpi: Run) -> None:
    mpi.head.hear(0, {"task_ended": "mpirun", "code": 213, "words": "no such option"})
    verdict = mpi.settle()
    assert (verdict["outcome"], verdict["words"]) == ("launcher_failed", "mpirun on h1 ended with 213\nno such option")


def test_a_daemon_is_started_where_mpirun_wants_it_and_its_failure_told(mpi: Run) -> None:
    mpi.tell(ping=1)
    mpi.head.ask_for_daemon("1-a", 0, "orted here")
    mpi.head.ask_for_daemon("2-b", 1, "orted there")
    assert mpi.daemons == [("1-a", "orted here")]
    asked = {"node": 1, "daemon": "2-b", "command": "orted there"}
    assert asked in mpi.carry()
    mpi.connect()
    mpi.node.say({"ping": 1})
    assert asked in mpi.carry()  # again on a new line: nobody knows what the old one lost
    mpi.tell(task_ended="daemon-2-b", code=9, words="orted: not found")
    assert mpi.answers == [("2-b", 9)]
    assert mpi.settle()["words"] == "an MPI daemon on h2 ended with 9\norted: not found"


# ---- lines


def test_what_is_said_again_on_a_new_line_changes_nothing(run: Run) -> None:
    run.start()
    run.end(2, GOOD)
    run.tell(task_ended="rank-2", code=0, words="")
    old = run.line
    run.connect()
    for message in (
        {"attest": 2, "host": "h2", "identity": {"source": "another"}, "facts": {}},
        {"rank_ended": 2, "record": BAD},
        {"task_ended": "rank-2", "code": 1, "words": ""},
    ):
        run.node.say(message)
    assert {"go": True} in run.carry()
    assert run.head.lines[1] is run.line
    assert old.connection.fileno() == -1
    assert run.head.records[2] == GOOD
    assert run.verdict() == {}
    run.head.drop(old)  # which is none of the lines any more
    assert run.head.lines[1] is run.line


def test_a_line_of_a_node_there_is_not_is_closed(run: Run) -> None:
    run.line.node = 0
    run.head.lines.clear()
    run.head.strangers[:] = [run.line]
    run.head.on_message(run.line, {"stop": "now"}, lambda *_: None)
    assert (run.head.lines, run.head.strangers, run.verdict()) == ({}, [], {})


def test_a_stranger_that_says_nothing_is_sent_away(run: Run) -> None:
    run.connect()
    run.clock.now += 9
    run.tell(ping=1)
    run.connect()
    stranger = run.line
    run.clock.now += 5
    run.head.turn()
    assert stranger in run.head.strangers
    run.clock.now += 6
    run.head.turn()
    assert run.head.strangers == []
