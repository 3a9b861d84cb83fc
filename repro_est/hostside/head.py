"""What the daemon of node 0 knows of the whole run: who the ranks are, how each ended, and so how the run ended.

It does nothing itself: what it decides goes through the callables it is given. Every message may arrive twice, after a
connection between two hosts was made again; what is known already changes nothing.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Dict

from repro_est.hostside.mesh import Line
from repro_est.hostside.verdicts import disagreements, in_words, is_success

_SETTLE_SECONDS = 0.5
"""What failed at the same moment elsewhere has this long to be heard of, before the cause is named."""
_RECORDS_SECONDS = 3.0
_MPIRUN_SECONDS = 60.0
"""How long mpirun may go on when every rank has ended."""
_KILLED = 128 + 9

Message = Dict[str, Any]


class Head:
    """The decisions of one run.

    Args:
        say: sends a message to a node, None for all but this one.
        decide: takes the verdict.
        go: lets the ranks of this host start.
        start_daemon: starts an MPI daemon on this host.
    """

    def __init__(
        self,
        config: Message,
        say: Callable[[int | None, Message], None],
        decide: Callable[[Message], None],
        go: Callable[[], None],
        start_daemon: Callable[[str, str], None],
    ) -> None:
        self.config = config
        self.lines: dict[int, Line] = {}
        self.strangers: list[Line] = []
        self.attests: dict[int, Message] = {}
        self.records: dict[int, Message] = {}
        self.going = False
        self._say, self._decide, self._go, self._start_daemon = say, decide, go, start_daemon
        self._hosts = config["hosts"]
        # Parameter servers never end by themselves: the run has, when everybody else has.
        self._wanted = set(range(config["world_size"])) - set(config["servers"])
        self._heard = {node: time.monotonic() for node in range(1, config["nodes"])}
        self._began = self._gone = self._recorded = time.monotonic()
        self._failures: list[Message] = []
        self._failed_at: float | None = None
        self._probed: dict[int, bool] = {}  # nodes that answered since something failed
        self._daemons: dict[str, Message] = {}  # MPI daemons asked for: node, command
        self._launcher_ended: float | None = None
        self._seen: set[str] = set()

    @property
    def all_lines(self) -> list[Line]:
        return [*self.lines.values(), *self.strangers]

    # ---- what is heard

    def on_message(self, line: Line, message: Message, answer_rsh: Callable[[str, int], None]) -> None:
        """Takes what a node says; its first message makes its line the line of that node."""
        if line in self.strangers:
            self.strangers.remove(line)
            if not 0 < line.node < self.config["nodes"]:
                line.close()
                return
            old = self.lines.get(line.node)
            if old is not None:
                old.close()
            self.lines[line.node] = line
            self._catch_up(line)
        self._heard[line.node] = time.monotonic()
        if "ping" in message:
            line.say({"answer": message["ping"]})
        if "answered" in message and self._failed_at is not None and message["answered"] > self._failed_at:
            self._probed[line.node] = True
        if "task_ended" in message and message["task_ended"].startswith("daemon-"):
            answer_rsh(message["task_ended"][len("daemon-") :], message["code"])
        self.hear(line.node, message)

    def drop(self, line: Line) -> None:
        """Forgets a broken connection."""
        if line in self.strangers:
            self.strangers.remove(line)
        elif self.lines.get(line.node) is line:
            del self.lines[line.node]

    def hear(self, node: int, message: Message) -> None:
        """Takes what is said of a node's ranks and tasks."""
        if "attest" in message:
            self.attests.setdefault(message["attest"], dict(message, node=node))
        elif "rank_ended" in message:
            self._on_record(node, message["rank_ended"], message["record"])
        elif "rank_hung" in message:
            rank = message["rank_hung"]
            self._fail("rank_hung", node, rank=rank, words=f"rank {rank} {message['words']}")
        elif "astray" in message:
            self._fail("launcher_failed", node, words=message["words"])
        elif "task_ended" in message:
            self._on_task(node, message["task_ended"], message["code"], message["words"])
        elif "lost" in message:
            self._fail("host_lost", node, words=message["lost"], rank=self._first_rank(node), explained=True)
        elif "stop" in message:
            self._fail("canceled", node, words=message["stop"], grace=message.get("grace"))

    def ask_for_daemon(self, identity: str, node: int, command: str) -> None:
        """Has an MPI daemon started on a node, as mpirun asks for."""
        self._daemons[identity] = {"node": node, "daemon": identity, "command": command}
        if node == 0:
            self._start_daemon(identity, command)
        else:
            self._say(node, self._daemons[identity])

    def _catch_up(self, line: Line) -> None:
        """Says again what a node must know, on its new line."""
        if self.going:
            line.say({"go": True})
        for asked in self._daemons.values():
            if asked["node"] == line.node:
                line.say(asked)

    def _on_record(self, node: int, rank: int, record: Message) -> None:
        if rank in self.records:
            return
        self.records[rank] = record
        self._recorded = time.monotonic()
        if not is_success(record):
            outcome = "not_started" if record.get("message") else "rank_failed"
            words = f"rank {rank} on {self._hosts[node]}: {in_words(record)}"
            self._fail(outcome, node, rank=rank, record=record, words=words)

    def _on_task(self, node: int, name: str, code: int, words: str) -> None:
        seen = f"{node} {name}"
        if seen in self._seen:
            return
        self._seen.add(seen)
        if name == "mpirun":
            self._launcher_ended = time.monotonic()
        if code:
            what = "an MPI daemon" if name.startswith("daemon-") else name
            said = f"\n{words}" if words else ""
            self._fail(
                "launcher_failed", node, words=f"{what} on {self._hosts[node]} ended with {code}{said}", code=code
            )

    def _fail(self, outcome: str, node: int, **facts: Any) -> None:
        self._failures.append(dict(facts, outcome=outcome, node=node, host=self._hosts[node]))
        if self._failed_at is None:
            self._failed_at = time.monotonic()
            # To be answered before a rank is called the cause: when a host dies, its peers fail first.
            self._say(None, {"ping": self._failed_at})

    # ---- what follows from it

    def turn(self) -> None:
        """Decides, if there is something to decide."""
        now = time.monotonic()
        for line in list(self.strangers):
            if now - line.opened > 10:
                line.close()
                self.strangers.remove(line)
        config = self.config
        lost = [node for node, heard in self._heard.items() if now - heard > config["lost_after"]]
        if lost:
            names = ", ".join(self._hosts[node] for node in lost)
            consequences = [item["words"] for item in self._failures if item["outcome"] == "rank_failed"]
            self._end(
                {
                    "outcome": "host_lost",
                    "node": lost[0],
                    "host": self._hosts[lost[0]],
                    "lost": lost,
                    "rank": self._first_rank(lost[0]),
                    "words": "{} did not answer for {:g} s".format(names, config["lost_after"]),
                    "consequences": consequences[:8],
                }
            )
        elif self._failed_at is not None:
            self._judge(now)
        elif not self.going:
            self._agree(now)
        elif config["timeout"] is not None and now - self._gone > config["timeout"]:
            self._end({"outcome": "timed_out", "words": "took longer than {:g} s".format(config["timeout"])})
        elif self._wanted <= set(self.records):
            self._succeed(now)
        elif self._launcher_ended is not None and now - self._launcher_ended > _RECORDS_SECONDS:
            missing = sorted(self._wanted - set(self.records))
            words = "mpirun ended with 0, and nothing is known of rank {}".format(", ".join(map(str, missing)))
            self._end({"outcome": "launcher_failed", "words": words})

    def _judge(self, now: float) -> None:
        assert self._failed_at is not None
        for outcome in ("canceled", "host_lost"):
            for item in self._failures:
                if item["outcome"] == outcome:
                    self._end(item)
                    return
        if now - self._failed_at < _SETTLE_SECONDS:
            return
        silent = [node for node in self._heard if not self._probed.get(node)]
        if silent and now - self._failed_at < self.config["lost_after"] + 1:
            for node in silent:
                if node in self.lines and now - self.lines[node].heard > 0.2:
                    self.lines[node].say({"ping": now})
            return
        scripts = [item for item in self._failures if item["outcome"] in ("rank_failed", "rank_hung", "not_started")]
        if all(
            item.get("record", {}).get("signal") == "SIGTERM" for item in scripts
        ):  # by mpirun, which lost a daemon?
            killed = [item for item in self._failures if item.get("code") == _KILLED]
            scripts = killed or scripts
        self._end((scripts or self._failures)[0])

    def _first_rank(self, node: int) -> int:
        return min((rank for rank, item in self.attests.items() if item["node"] == node), default=0)

    def _agree(self, now: float) -> None:
        config = self.config
        if len(self.attests) < config["world_size"]:
            if now - self._began > config["start_seconds"]:
                missing = sorted(set(range(config["world_size"])) - set(self.attests))
                words = "rank {} did not start within {:g} s".format(
                    ", ".join(map(str, missing)), config["start_seconds"]
                )
                self._end({"outcome": "not_started", "words": words, "rank": missing[0]})
            return
        different = disagreements(self.attests, config["expected"])
        if different:
            self._end(
                {
                    "outcome": "disagreement",
                    "words": "the ranks do not all execute the same thing",
                    "disagreements": different,
                }
            )
            return
        self.going, self._gone = True, time.monotonic()
        self._say(None, {"go": True})
        self._go()

    def _succeed(self, now: float) -> None:
        kind = self.config["launcher"]["kind"]
        if kind != "mpi" or self._launcher_ended is not None:
            self._end({"outcome": "completed", "words": "every rank ended with 0"})
        elif now - self._recorded > _MPIRUN_SECONDS:
            self._end({"outcome": "launcher_failed", "words": "every rank ended, and mpirun does not"})

    def _end(self, verdict: Message) -> None:
        with contextlib.suppress(KeyError):
            if verdict["grace"] is None:
                del verdict["grace"]
        self._decide(verdict)
