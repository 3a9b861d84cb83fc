"""The remotes of a project together: asked in order for a run that is not here, and told of one that was made.

A remote that cannot be reached costs a warning, never a run. What it says and is not believed costs a warning too, and
the next one is asked.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError, InputError, RemoteError, ReproError, UsageError, VerificationError
from repro_est.observer import Observer
from repro_est.plan import Plan
from repro_est.project import Project
from repro_est.share.fetch import Found, fetch_files, fetch_plan, fetch_tree, find, install, refuse
from repro_est.share.keys import KeyRing
from repro_est.share.lease import RemoteLease
from repro_est.share.push import Pushed, push
from repro_est.share.remote import Remote, statement_name
from repro_est.share.settings import RemoteSpec, When, remotes_of
from repro_est.share.trust import Trust
from repro_est.store.records import Result
from repro_est.store.store import Store
from repro_est.store.trees import Tree


def open_remote(spec: RemoteSpec, project: Project) -> Remote:
    """Returns a remote by its URL; nothing is asked of it yet."""
    if spec.scheme == "file":
        from repro_est.share.directory import DirectoryRemote

        return DirectoryRemote(spec.name, Path(spec.path))
    if spec.scheme == "ssh":
        from repro_est.share.ssh import SshRemote

        return SshRemote.at(spec, project)
    from repro_est.share.bucket import BucketRemote

    return BucketRemote.at(spec)


class Remotes:
    """See above.

    Args:
        opened: what is asked; by default the remotes that `repro.toml` names.
    """

    def __init__(
        self,
        project: Project,
        store: Store,
        observer: Observer,
        opened: list[tuple[RemoteSpec, Remote]] | None = None,
    ) -> None:
        self._project, self._store, self._observer = project, store, _Once(observer)
        self._trust = Trust(project.root)
        self._down: set[str] = set()
        self._opened = (
            opened if opened is not None else [(spec, open_remote(spec, project)) for spec in remotes_of(project)]
        )

    def close(self) -> None:
        for _, remote in self._opened:
            remote.close()

    def all(self) -> list[tuple[RemoteSpec, Remote]]:
        return list(self._opened)

    def named(self, name: str) -> tuple[RemoteSpec, Remote]:
        """Returns a remote by name.

        Raises:
            UsageError: there is none.
        """
        for spec, remote in self._opened:
            if spec.name == name:
                return spec, remote
        known = ", ".join(spec.name for spec, _ in self._opened) or "none"
        raise UsageError(f"remote {name}: is not in repro.toml, which has: {known}", hint="[remotes.NAME] url = ...")

    def find(self, run: RunHash, name: str | None = None) -> Iterator[Found]:
        """Yields what can be believed of a run, remote by remote.

        Args:
            name: only this remote; None is all.
        """
        asked = [item for item in self._opened if item[0].name not in self._down]
        chosen = asked if name is None else [self.named(name)]
        for spec, remote in chosen:
            try:
                yield from find(run, remote, spec, self._trust.believed(spec.trust), self._store, self._observer)
            except InfrastructureError as error:
                self._down.add(spec.name)
                self._observer.event("warning", message=f"{error.message}; it is not asked")

    def look(self, plan: Plan) -> Found | None:
        """Returns the run that `fetch` would take, its documents checked and no file read."""
        for found in self.find(plan.hash):
            try:
                fetch_plan(found, self._store)
                for which in ("source", "outputs", "logs"):
                    fetch_tree(found, which, self._store)
                return found
            except VerificationError as error:
                self._refuse(found, error)
            except InfrastructureError as error:
                self._observer.event("warning", message=error.message)
        return None

    def fetch(self, run: RunHash, plan: Plan | None = None, name: str | None = None) -> tuple[Result, str] | None:
        """Takes a run into the store from the first remote that has it whole; the caller holds its lease.

        Returns:
            Its result and the name of the remote, None when there is none that can be believed.
        """
        for found in self.find(run, name):
            try:
                return install(found, self._store, self._observer, plan=plan), found.spec.name
            except VerificationError as error:
                self._refuse(found, error)
            except RemoteError as error:
                self._observer.event("warning", message=error.message)
        return None

    def part(self, run: RunHash, path: str) -> Tree | None:
        """Returns a file or directory of a run, its files in the store, and fetches no other; None when none has it.

        Args:
            path: `outputs`, `logs`, or a path below one of them.

        Raises:
            InputError: the run has nothing there.
        """
        top, _, rest = path.strip("/").partition("/")
        if top not in ("outputs", "logs"):
            raise InputError(f"run {run}: {path}: got `{top}`, expected a path below `outputs` or `logs`")
        for found in self.find(run):
            try:
                fetch_plan(found, self._store)
                whole = fetch_tree(found, top, self._store)
                part = whole.below(rest)
                if part is None:
                    there = ", ".join(entry.path for entry in whole.entries[:8]) or "nothing"
                    raise InputError(f"run {run}: {path}: no such file, {top}/ holds: {there}")
                fetch_files(found, whole, part, self._store, self._observer)
                return part
            except VerificationError as error:
                self._refuse(found, error)
            except RemoteError as error:
                self._observer.event("warning", message=error.message)
        return None

    @contextlib.contextmanager
    def single_flight(self, run: RunHash) -> Iterator[bool]:
        """Holds the lease of a run in the first remote that is told of it unasked; gives whether there is one."""
        shared = [
            remote
            for spec, remote in self._opened
            if spec.is_writable and spec.push is When.AFTER_SUCCESS and spec.name not in self._down
        ]
        with contextlib.ExitStack() as stack:
            held = False
            try:
                if shared:
                    stack.enter_context(RemoteLease(shared[0], run, self._observer).hold())
                    held = True
            except InfrastructureError as error:
                self._observer.event("warning", message=f"{error.message}; somebody else may execute the same run")
            yield held

    def push(self, run: RunHash, name: str | None = None) -> list[Pushed]:
        """Pushes a run to one remote, or to each that takes something.

        Raises:
            UsageError: there is none; no key.
            RemoteError: one cannot be reached, or is full.
        """
        chosen = [self.named(name)] if name else [item for item in self._opened if item[0].is_writable]
        if not chosen:
            raise UsageError("no remote to push to", hint='[remotes.team] url = "file:///mnt/team" in repro.toml')
        key = KeyRing().signer()
        return [push(run, self._store, remote, spec, key, self._observer) for spec, remote in chosen]

    def push_after_success(self, run: RunHash) -> None:
        """Pushes a run where that is wanted unasked; whatever goes wrong is a warning, for the run is done."""
        for spec, remote in self._opened:
            if spec.push is not When.AFTER_SUCCESS or not spec.is_writable:
                continue
            try:
                push(run, self._store, remote, spec, KeyRing().signer(), self._observer)
            except ReproError as error:
                hint = f"; hint: {error.hint}" if error.hint else ""
                self._observer.event("warning", message=f"not pushed to {spec.name}: {error.message}{hint}")

    def _refuse(self, found: Found, error: VerificationError) -> None:
        name = statement_name(found.statement.run_hash, found.statement.builder)
        who = found.statement.signer.name if found.statement.signer else found.statement.builder
        told = VerificationError(f"of `{who}`: {error.message}")
        refuse(self._store, self._observer, found.spec.name, found.statement.run_hash, name, found.data, told)


class _Once:
    """Tells an observer only once of each entry that is not used: a run is asked for again when a lease was free."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._told: set[str] = set()

    def event(self, kind: str, **facts: Any) -> None:
        if kind == "refused":
            if facts["reason"] in self._told:
                return
            self._told.add(facts["reason"])
        self._observer.event(kind, **facts)

    def output(self, stream: str, data: bytes) -> None:
        self._observer.output(stream, data)
