"""Following a run that its hosts own: a thread for each host, which keeps the connection up, and one loop that listens.

The run needs none of this. A connection that breaks is made again, the host goes on where the log files here end, and
what was said twice counts once. Hosts that say nothing are asked, so that a quiet run is not taken for a dead network.
Only when no host at all can be reached for `patience` seconds does the client give up, and even then the run goes on:
it can be attached to later.
"""

from __future__ import annotations

import base64
import contextlib
import queue
import random
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from repro_est.errors import Detached, InfrastructureError, LostContact
from repro_est.hosts.host import Host
from repro_est.hosts.session import Bridge, Session
from repro_est.launch.interrupts import interrupts_go_to
from repro_est.launch.streams import Logs
from repro_est.observer import Observer

_QUEUED = 32  # messages of up to 256 KiB; a host whose messages nobody takes waits, and so does its queue
_SLOWEST_SECONDS = 5.0
_QUIET_SECONDS = 1.0
_STOPPED_SECONDS = 30.0
"""After a verdict, how much longer than its grace a host may take to end what runs on it."""
_SILENT_SECONDS = 2.0
"""After a failure, how much longer than the hosts wait for each other a silent one is waited for."""

Verdict = Mapping[str, Any]


class Link:
    """The connection to the daemon of one host, kept up by a thread of its own."""

    def __init__(self, number: int, host: Host, token: str, logs: Logs, events: queue.Queue[Any]) -> None:
        self.number, self.host, self.token = number, host, token
        self.config: Mapping[str, Any] | None = None
        self.up = threading.Event()
        self.contact = time.monotonic()
        self._logs, self._events = logs, events
        self._bridge: Bridge | None = None
        self._stop: dict[str, Any] | None = None
        self._closed = False
        self._asked = 0.0
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name=f"link-{host.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def begin(self, config: Mapping[str, Any]) -> None:
        """Tells the daemon what to execute; said again on a new connection, and done once."""
        self.config = config
        self._say(op="begin", config=config)

    def stop(self, reason: str, grace: float | None) -> None:
        """Asks for the end of the run; said again on a new connection."""
        self._stop = {"reason": reason, "grace": grace}
        self._say(op="stop", **self._stop)

    def ask(self) -> None:
        """Has a host that said nothing for a while say how it is: its answer counts as contact."""
        now = time.monotonic()
        if now - max(self.contact, self._asked) > _QUIET_SECONDS:
            self._asked = now
            self._say(op="ask")

    def close(self) -> None:
        self._closed = True
        bridge = self._bridge
        if bridge is not None:
            bridge.close()

    def _say(self, **message: Any) -> None:
        with self._lock, contextlib.suppress(InfrastructureError):
            if self._bridge is not None and self.up.is_set():
                self._bridge.say(**message)

    def _put(self, *event: Any) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._events.put((self.number, *event), timeout=0.5)
                return

    def _keep(self) -> None:
        pause = 0.1
        while not self._closed:
            bridge = Bridge(self.host, self.token)
            try:
                bridge.open()
                with self._lock:
                    self._bridge = bridge
                    bridge.say(op="attach", offsets=self._logs.offsets())
                    if self.config is not None:
                        bridge.say(op="begin", config=self.config)
                    if self._stop is not None:
                        bridge.say(op="stop", **self._stop)
                    self.up.set()
                for message, payload in bridge.messages():
                    self.contact = time.monotonic()
                    pause = 0.1
                    if message.get("event") == "no daemon":
                        break
                    self._put(message, payload)
                    if message.get("event") == "ended":
                        return
                if self._ask_status():
                    return
                self._put({"event": "dropped", "why": "the connection ended"}, b"")
            except InfrastructureError as error:
                self._put({"event": "dropped", "why": error.message.removeprefix(f"{self.host.name}: ")}, b"")
                self.host.close()
            finally:
                self.up.clear()
                bridge.close()
            if self._closed:
                return
            time.sleep(pause * random.uniform(0.7, 1.3))  # noqa: S311 -- no secret
            pause = min(_SLOWEST_SECONDS, pause * 2)

    def _ask_status(self) -> bool:
        """Asks the host, where no daemon answers any more, how the run ended; returns whether it did."""
        session = Session(self.host)
        try:
            status = session.call("status", token=self.token)
        finally:
            session.close()
        self.contact = time.monotonic()
        if status["alive"]:
            return False
        verdict = status["verdict"] or {"outcome": "host_lost", "words": "does not know the run any more"}
        if "at" not in verdict:  # no daemon decided that
            name = self.host.name
            verdict = {**verdict, "host": name, "node": self.number, "words": f"{name}: {verdict['words']}"}
        self._put({"event": "ended", "verdict": verdict}, b"")
        return True


class Follower:
    """Listens to all hosts of a run.

    Args:
        lost_after: seconds after which hosts give each other up; nobody is waited for much longer than that.
        patience: seconds without any host before the client leaves.
        begun: the hosts were told what to execute; where one was not, its client died, and the run has no future.
    """

    def __init__(
        self,
        hosts: Sequence[Host],
        token: str,
        logs: Logs,
        observer: Observer,
        *,
        lost_after: float,
        grace: float,
        patience: float = 300.0,
        begun: bool = False,
    ) -> None:
        self._events: queue.Queue[Any] = queue.Queue(_QUEUED)
        self._logs, self._observer = logs, observer
        self._lost_after, self._grace, self._patience = lost_after, grace, patience
        self._begun = begun
        self._canceling = False
        self.links = [Link(number, host, token, logs, self._events) for number, host in enumerate(hosts)]
        self.ended: dict[int, Verdict] = {}
        self.verdict: Verdict | None = None
        self.going = False
        self._judged = 0.0  # when the first verdict was heard of
        self._dropped: set[int] = set()
        self._closed = threading.Event()
        self._interrupts = 0

    def start(self) -> None:
        for link in self.links:
            link.start()
        threading.Thread(target=self._ask, name="asking", daemon=True).start()

    def close(self) -> None:
        self._closed.set()
        for link in self.links:
            link.close()
        self._logs.close()

    def _ask(self) -> None:
        while not self._closed.wait(_QUIET_SECONDS / 2):
            for link in self.links:
                link.ask()

    def stop(self, reason: str, grace: float | None = None) -> None:
        self._canceling = True
        for link in self.links:
            link.stop(reason, grace)

    def follow(self, *, until_going: bool = False) -> Verdict | None:
        """Listens until the run has ended everywhere.

        Args:
            until_going: returns None as soon as all ranks have started.

        Returns:
            The verdict, of the head where there is one.

        Raises:
            Detached: the user said for the third time to leave.
            LostContact: no host can be reached, or not one that has a part of a result.
        """
        with self._interruptible():
            while self._waits():
                if until_going and self.going:
                    return None
                try:
                    number, message, payload = self._events.get(timeout=0.05)
                except queue.Empty:
                    self._logs.show_parts()
                else:
                    self._hear(number, message, payload)
        if self.ended.get(0) is not None:  # the head decides
            self.verdict = self.ended[0]
        return self._explained(self.verdict) if self.verdict is not None else None

    def _explained(self, verdict: Verdict) -> Verdict:
        """Adds what a host that the others had lost says itself, if it is there again."""
        own = self.ended.get(verdict.get("node", -1))
        if verdict["outcome"] != "host_lost" or verdict.get("explained"):
            return verdict
        if own is None or own["words"] in verdict["words"]:
            return verdict
        return {**verdict, "words": f"{verdict['words']}: {own['words'].removeprefix(own.get('host', '') + ': ')}"}

    def _hear(self, number: int, message: Mapping[str, Any], payload: bytes) -> None:
        event, name = message.get("event"), self.links[number].host.name
        if event == "log":
            self._logs.add(message["name"], message["stream"], message["offset"], payload)
        elif event == "unlogged":
            self._logs.show(str(message["rank"]), message["stream"], base64.b64decode(message["data"]))
        elif event in ("going", "rank_started"):
            self.going = True
        elif event == "state":
            self.going = self.going or message["state"] == "running"
            if number in self._dropped:
                self._dropped.discard(number)
                self._observer.event("reconnected", host=name)
            if self._begun and message["state"] == "prepared":
                self._begun = False
                self.stop("its client died before the ranks were started", 0.0)
        elif event == "dropped" and number not in self._dropped and number not in self.ended:
            self._dropped.add(number)
            self._observer.event("unreachable", host=name, reason=message["why"])
        elif event == "rank_ended":
            self._observer.event("rank_ended", rank=message["rank"], record=message["record"])
        elif event in ("verdict", "ended"):
            if event == "ended":
                self.ended[number] = message["verdict"]
            self._take(message["verdict"])
        if event != "dropped":  # a terminal that is stopped for a while makes no host silent
            self.links[number].contact = time.monotonic()

    def _waits(self) -> bool:
        """Whether a host is still to be heard of."""
        left = [link for number, link in enumerate(self.links) if number not in self.ended]
        if not left:
            return False
        now = time.monotonic()
        if self.verdict is not None and self.verdict["outcome"] != "completed":
            since = now - self._judged
            if since > self._lost_after + self._grace + _STOPPED_SECONDS:
                return False
            lost = self.verdict.get("lost") or [self.verdict.get("node")]  # they were silent before
            silent = self._lost_after + _SILENT_SECONDS
            return any(
                now - (link.contact if link.number in lost else max(link.contact, self._judged)) <= silent
                for link in left
            )
        contact = max(link.contact for link in (left if self.verdict is not None else self.links))
        if now - contact > self._patience:
            if self.verdict is not None and self._canceling:
                return False
            names = ", ".join(link.host.name for link in left)
            goes_on = "it goes on there" if self.verdict is None else "it completed, and what they have of it is there"
            raise LostContact(
                f"no host of the run could be reached for {self._patience:g} s ({names}); {goes_on}",
                hint="repro attach @   when the network is back; repro cancel @ ends it;\n"
                "      repro cancel @ --forget   if those hosts are gone for good",
            )
        return True

    def _take(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self._judged = time.monotonic()
        if self.verdict is None or (self.verdict["outcome"] == "canceled" != verdict["outcome"]):
            self.verdict = verdict

    def _interruptible(self) -> contextlib.AbstractContextManager[None]:
        """Ctrl-C ends the run politely, a second one at once, a third one leaves."""

        def interrupt(number: int) -> None:
            if number == signal.SIGTERM:  # a shutdown of this machine, or of its session: no wish to end the run
                raise Detached("told to leave (SIGTERM); the run goes on at its hosts", hint="repro attach @")
            self._interrupts += 1
            if self._interrupts == 1:
                threading.Thread(target=self.stop, args=("cancelled by the user",), daemon=True).start()
            elif self._interrupts == 2:
                threading.Thread(target=self.stop, args=("cancelled by the user", 0.0), daemon=True).start()
            else:
                raise Detached("left; hosts that could be told end the run", hint="repro attach @, or repro cancel @")

        return interrupts_go_to(interrupt)
