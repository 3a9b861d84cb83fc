"""One execution of a plan, whatever it is made of: one process here, many ranks on hosts, a job of a scheduler.

An attempt takes it through its phases and knows nothing else of it:

    prepare   the environment is ready, and room is taken
    stage     source and inputs are where they are used
    run       to its end, or until it goes on without us
    gather    what was written is here
    release   nothing is needed where it ran any more
    close     whatever happened; nothing stays open, and nothing stays behind that does not go on
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from repro_est.launch.process import Outcome
from repro_est.launch.runtime import open_runtime
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.project import Project
from repro_est.store.guard import writing
from repro_est.store.layout import LIVE
from repro_est.store.store import Store
from repro_est.targets.stage import Workplace, stage


class Job(Protocol):
    """See above.

    Args:
        survives: what it wrote stays where it ran until `release`, so that gathering may be tried again.
    """

    survives: bool

    def facts(self) -> Mapping[str, Any]:
        """What is recorded of it with the attempt."""

    def prepare(self) -> None: ...

    def stage(self) -> None: ...

    def run(self) -> Outcome: ...

    def gather(self) -> tuple[Workplace, list[str]]:
        """Returns where what was written is, and what could not be kept of it, in words."""

    def release(self) -> None: ...

    def close(self, *, abandon: bool) -> None:
        """Args: abandon: it has not started, or is not to go on."""


class Here:
    """One rank on this machine, as a process or in a container; it ends with this process."""

    survives = False

    def __init__(
        self,
        plan: Plan,
        lock: Lock,
        store: Store,
        observer: Observer,
        project: Project,
        secrets: Mapping[str, str],
        *,
        attempt: Path,
        work: Path,
    ) -> None:
        self._plan, self._lock, self._store, self._observer = plan, lock, store, observer
        self._project, self._secrets, self._attempt, self._work = project, secrets, attempt, work

    def facts(self) -> Mapping[str, Any]:
        return self._runtime.facts()

    def prepare(self) -> None:
        self._runtime = open_runtime(self._plan, self._lock, self._store, self._observer, self._project)

    def stage(self) -> None:
        self._place = stage(self._plan, self._store, self._work)

    def run(self) -> Outcome:
        self._observer.event("running", entry_script=self._plan.entry_script, work=str(self._place.source))
        live = self._attempt / LIVE
        with writing(live):
            live.symlink_to(self._place.source)
        try:
            return self._runtime.run(
                self._place, self._attempt / "logs" / "rank-0", self._secrets, self._observer.output
            )
        finally:
            live.unlink()

    def gather(self) -> tuple[Workplace, list[str]]:
        return self._place, []

    def release(self) -> None:
        return

    def close(self, *, abandon: bool) -> None:
        return
