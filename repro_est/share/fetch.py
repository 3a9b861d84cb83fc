"""Fetching a run: first the signed statement, then what it binds; nothing is in the store before it was checked.

    find     the statements about a run in a remote; each is believed, or refused by name with the reason
    install  plan and manifests against the SHA-256 that is signed, files against both digests while they stream,
             then an attempt of this store, and its result last

What is refused is kept in `quarantine/` as it came, with the reason, once; the remote is left as it is, since it is not
ours. A missing or bad file refuses the whole run: there are no half results.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from repro_est.digest import BlobHash, RunHash, Sha256, canonical, sha256_hex, xxh3_hex
from repro_est.environment.key import environment_key
from repro_est.errors import RemoteError, ReproError, UntrustedError, VerificationError
from repro_est.files import remove_tree, write_atomic
from repro_est.inside.history import read_run
from repro_est.observer import Observer
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, load_plan
from repro_est.share.keys import PublicKey
from repro_est.share.manifests import LIMIT, Bound, bound, incoming_tree
from repro_est.share.memory import Memory
from repro_est.share.packs import Catalog, Place, pack_name
from repro_est.share.push import STATEMENT_FILE
from repro_est.share.remote import (
    SMALL,
    Remote,
    hint_name,
    is_sha256,
    object_name,
    plan_name,
    read_small,
    statements_of,
    tree_name,
)
from repro_est.share.settings import RemoteSpec
from repro_est.share.statement import STATEMENT_LIMIT, Statement, read_statement
from repro_est.store.blobs import Batch, Content, digest_file, mismatch
from repro_est.store.freshness import renew_if_ours
from repro_est.store.notes import PROPERTY, TAG, write_notes
from repro_est.store.quarantine import set_aside
from repro_est.store.records import AttemptRecord, Result
from repro_est.store.runs import Runs
from repro_est.store.scratch import claimed_directory
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Tree

_THREADS = 4
_NAME = re.compile(r"[0-9a-f]{16}\.json")
_MOST = 64
"""Statements about one run that are looked at, those of trusted keys first."""
_PLAN_LIMIT = 256 << 20
_RANGE = 8 << 20
"""Bytes of a pack that are read at once."""
_GAP = 1 << 16
"""Bytes that are rather read than skipped."""


@dataclass(frozen=True, slots=True)
class Found:
    """A run in a remote, its statement believed.

    Args:
        data: the file of the statement.
    """

    remote: Remote
    spec: RemoteSpec
    statement: Statement
    data: bytes


def find(
    run: RunHash, remote: Remote, spec: RemoteSpec, trusted: list[PublicKey], store: Store, observer: Observer
) -> list[Found]:
    """Returns what a remote says of a run that can be believed, the earliest first.

    Raises:
        RemoteError: it cannot be reached.
    """
    memory, found = Memory(store.layout, spec), list[Found]()
    known = {f"{key.id}.json" for key in trusted}
    there = [item for item in remote.below(statements_of(run)) if _NAME.fullmatch(_last(item.name))]
    for item in sorted(there, key=lambda item: (_last(item.name) not in known, item.name))[:_MOST]:
        try:
            data = read_small(remote, item.name, limit=STATEMENT_LIMIT)
        except FileNotFoundError:
            continue
        try:
            statement = read_statement(data, trusted, run)
            if _last(item.name) != f"{statement.builder}.json":
                raise VerificationError(f"is the statement of {statement.builder}, under the name of another key")
            memory.check(statement)
        except VerificationError as error:
            refuse(store, observer, spec.name, run, item.name, data, error)
            continue
        found.append(Found(remote, spec, statement, data))
    return sorted(found, key=lambda item: (item.statement.finished, item.statement.builder))


def refuse(
    store: Store, observer: Observer, remote: str, run: RunHash, name: str, data: bytes, error: ReproError
) -> None:
    """Says that an entry of a remote is not used, and keeps it with the reason, once."""
    reason = f"remote {remote}: {name} {error.message}"
    observer.event("refused", remote=remote, run_hash=run, name=name, reason=reason, untrusted=is_stranger(error))
    label = f"{remote}-{run}-{sha256_hex(name.encode() + data + error.message.encode())[:12]}"
    quarantine = store.layout.directory("quarantine")
    if next(quarantine.glob(f"remote-{label}-*"), None) is not None:
        return
    with claimed_directory(store.layout, "tmp") as scratch:
        path = scratch / _last(name)
        path.write_bytes(data)
        set_aside(store.layout, path, kind="remote", name=label, reason=reason)


def _last(name: str) -> str:
    return name.rpartition("/")[2]


def is_stranger(error: ReproError) -> bool:
    """Whether it is only that nobody here knows the signer."""
    return isinstance(error, UntrustedError) and "not trusted here" in error.message


def install(found: Found, store: Store, observer: Observer, *, plan: Plan | None = None) -> Result:
    """Takes a run into the store; the caller holds its lease.

    Args:
        plan: what this project makes of the run; None takes what the remote has.

    Raises:
        VerificationError: something is missing, or not what was signed; nothing of the run is in the store then.
        RemoteError: the remote cannot be reached.
    """
    return _Install(found, store, observer).perform(plan)


def fetch_tree(found: Found, which: str, store: Store) -> Tree:
    """Returns the manifest of `source`, `outputs` or `logs`, checked; nothing is written."""
    return _Install(found, store, _Silent())._tree(getattr(found.statement, which))


def fetch_files(found: Found, tree: Tree, part: Tree, store: Store, observer: Observer) -> None:
    """Takes the files of a part of a tree into the store.

    Args:
        tree: the whole, whose manifest is signed.
    """
    _Install(found, store, observer).files([tree], list(part.files()))


def fetch_plan(found: Found, store: Store) -> Plan:
    """Returns the plan of a run, checked against its hash and the statement; nothing is written."""
    return _Install(found, store, _Silent())._plan()


class _Install:
    def __init__(self, found: Found, store: Store, observer: Observer) -> None:
        self._found, self._store, self._observer = found, store, observer
        self._remote, self._statement = found.remote, found.statement
        self._memory = Memory(store.layout, found.spec)
        self._lock = threading.Lock()

    def perform(self, plan: Plan | None) -> Result:
        started = time.monotonic()
        statement, store = self._statement, self._store
        recorded = self._plan()
        self._check_plan(plan or recorded)
        trees = {name: self._tree(getattr(statement, name)) for name in (OUTPUTS, LOGS, "source")}
        count, size = self.files(list(trees.values()), [entry for tree in trees.values() for entry in tree.files()])
        for tree in trees.values():
            store.write_tree(tree)
        runs = Runs(store.layout)
        runs.write_plan(statement.run_hash, (plan or recorded).to_json())
        result = self._record(runs, trees)
        told = {"remote": self._remote.name, "run_hash": statement.run_hash, "signer": self._signer}
        self._observer.event("pulled", **told, count=count, bytes=size, seconds=time.monotonic() - started)
        return result

    @property
    def _signer(self) -> str:
        return self._statement.signer.name if self._statement.signer else ""

    # ---- documents

    def _plan(self) -> Plan:
        statement = self._statement
        data = self._document(plan_name(statement.record), "its plan", _PLAN_LIMIT)
        if sha256_hex(data) != statement.record:
            raise VerificationError(
                f"plan.json was changed, expected sha256 {statement.record}, got {sha256_hex(data)}"
            )
        try:
            content = json.loads(data)
        except (ValueError, RecursionError):
            raise VerificationError("plan.json is not JSON") from None
        if not isinstance(content, dict):
            raise VerificationError("plan.json is not a plan")
        plan = load_plan(content, statement.run_hash)
        self._check_plan(plan)
        return plan

    def _check_plan(self, plan: Plan) -> None:
        statement = self._statement
        if sha256_hex(canonical(plan.document)) != statement.plan_sha256:
            raise VerificationError("is of another plan, whose SHA-256 is not that of this one")
        if plan.source != statement.source.tree:
            raise VerificationError(f"is of the source {statement.source.tree}, the plan has {plan.source}")
        if environment_key(plan.environment) != statement.environment:
            raise VerificationError(f"is of environment {statement.environment}, the plan has another one")

    def _tree(self, wanted: Bound) -> Tree:
        if self._store.has_tree(wanted.tree):  # ours, if it says the same of every file
            here = self._store.read_tree(wanted.tree)
            if bound(here) == wanted:
                return here
        return incoming_tree(self._document(tree_name(wanted.sha256), f"tree {wanted.tree}", LIMIT), wanted)

    def _document(self, name: str, what: str, limit: int) -> bytes:
        try:
            return read_small(self._remote, name, limit=limit)
        except FileNotFoundError:
            raise VerificationError(f"{what} is not in the remote ({name})") from None

    # ---- files

    def files(self, trees: Sequence[Tree], entries: Iterable[Entry]) -> tuple[int, int]:
        """Takes files into the store; returns how many came, and their bytes."""
        wanted = {entry.sha256: entry for entry in entries if entry.sha256 and not self._is_here(entry)}
        if not wanted:
            return 0, 0
        size = sum(entry.size for entry in wanted.values())
        self._observer.event("pulling", remote=self._remote.name, count=len(wanted), bytes=size)
        small = [item for item, entry in wanted.items() if entry.size < SMALL]
        places = self._places(small, trees)
        alone = [entry for item, entry in wanted.items() if item not in places]
        with self._store.batch() as batch, ThreadPoolExecutor(_THREADS) as pool:
            try:
                list(pool.map(lambda entry: self._take(batch, entry), alone))
                for parts in pool.map(self._range, _ranges(places)):
                    for item, data in parts:
                        batch.put(data, wanted[item].xxh3)
                        self._told(len(data))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            batch.publish()
        return len(wanted), size

    def _is_here(self, entry: Entry) -> bool:
        """Whether the store holds a file by both digests; its name alone finds change, not malice."""
        layout = self._store.layout
        found = self._store.locate(entry)
        if found is None or not renew_if_ours(layout, layout.root / found[0]):  # a cleaning leaves it alone now
            return False
        path = layout.blob(entry.xxh3)
        if path.exists():
            return digest_file(path) == Content(entry.xxh3, entry.sha256, entry.size)
        return sha256_hex(self._store.read_blob(entry)) == entry.sha256

    def _take(self, batch: Batch, entry: Entry) -> None:
        assert entry.sha256 is not None
        expected = Content(entry.xxh3, entry.sha256, entry.size)

        def chunks() -> Iterator[bytes]:
            for chunk in self._remote.read(object_name(expected.sha256 or "")):
                self._told(len(chunk))
                yield chunk

        try:
            if entry.size >= SMALL:
                batch.receive(chunks(), expected)
                return
            data = read_small(self._remote, object_name(entry.sha256), limit=SMALL)
            _check(data, expected)
        except FileNotFoundError:
            raise VerificationError(f"{entry.path} is not in the remote ({object_name(entry.sha256)})") from None
        except VerificationError as error:
            raise VerificationError(f"{entry.path} was changed: {error.message}") from None
        self._told(len(data))
        with self._lock:
            batch.put(data, entry.xxh3)

    def _places(self, small: Sequence[Sha256], trees: Sequence[Tree]) -> dict[Sha256, Place]:
        """Returns where small files lie in packs: those of the hints first, else all that there are."""
        there = self._remote.exists([object_name(item) for item in small])
        wanted = [item for item in small if object_name(item) not in there]
        if not wanted:
            return {}
        catalog = Catalog(self._remote, self._memory.packs)
        places = catalog.find(wanted, self._hints(trees))
        if len(places) < len(wanted):
            places |= catalog.find([item for item in wanted if item not in places], catalog.all())
        return places

    def _hints(self, trees: Sequence[Tree]) -> list[str]:
        names: set[str] = set()
        for tree in trees:
            try:
                data = read_small(self._remote, hint_name(bound(tree).sha256), limit=1 << 20)
            except (FileNotFoundError, RemoteError):
                continue
            names |= set(filter(is_sha256, data.decode("ascii", "replace").split()))
        return sorted(names)

    def _range(self, places: list[tuple[Sha256, Place]]) -> list[tuple[Sha256, bytes]]:
        """Reads neighbours of one pack at once, and cuts them apart; each is checked when it is put."""
        start = places[0][1].offset
        end = max(place.offset + place.size for _, place in places)
        try:
            data = b"".join(self._remote.read(pack_name(places[0][1].pack), start, end - start))
        except FileNotFoundError:
            raise VerificationError(f"pack {places[0][1].pack} is not in the remote") from None
        parts = []
        for item, place in places:
            part = data[place.offset - start : place.offset - start + place.size]
            if sha256_hex(part) != item:
                raise VerificationError(f"pack {place.pack} was changed: it does not hold {item} where it says so")
            parts.append((item, part))
        return parts

    def _told(self, count: int) -> None:
        with self._lock:
            self._observer.event("progress", bytes=count)

    # ---- the attempt

    def _record(self, runs: Runs, trees: dict[str, Tree]) -> Result:
        statement, store = self._statement, self._store
        number, directory = runs.begin(statement.run_hash)
        for name in (OUTPUTS, LOGS):
            remove_tree(directory / name)
            store.view(trees[name], directory / name)
        write_atomic(directory / STATEMENT_FILE, self._found.data)
        made = {"number": number, "outputs": statement.outputs.tree, "logs": statement.logs.tree}
        record = AttemptRecord.from_json({**dict(statement.attempt), **made})
        origin = {"remote": self._remote.name, "key": statement.builder, "signer": self._signer}
        runs.write_attempt(statement.run_hash, replace(record, facts={**record.facts, "fetched": origin}))
        history = read_run(str(directory / LOGS))
        notes = [(TAG, key, value) for key, value in history.tags.items()]
        notes += [(PROPERTY, key, value) for key, value in history.properties.items()]
        try:
            write_notes(store.layout, statement.run_hash, notes)
        except ReproError as error:
            self._observer.event("warning", message=error.message)
        result = statement.result(number)
        runs.commit(statement.run_hash, result)
        self._memory.keep(statement)
        return result


class _Silent:
    """Whoever only looks."""

    def event(self, kind: str, **facts: Any) -> None:
        pass

    def output(self, stream: str, data: bytes) -> None:
        pass


def _check(data: bytes, expected: Content) -> None:
    got = Content(BlobHash(xxh3_hex(data)), sha256_hex(data), len(data))
    if got != expected:
        raise VerificationError(mismatch(got, expected))


def _ranges(places: dict[Sha256, Place]) -> Iterator[list[tuple[Sha256, Place]]]:
    """Puts neighbours together: one read for files that lie close to each other."""
    grouped: dict[str, list[tuple[Sha256, Place]]] = defaultdict(list)
    for item, place in places.items():
        grouped[place.pack].append((item, place))
    for inside in grouped.values():
        group: list[tuple[Sha256, Place]] = []
        for item, place in sorted(inside, key=lambda pair: pair[1].offset):
            if group and (
                place.offset - (group[-1][1].offset + group[-1][1].size) > _GAP
                or place.offset + place.size - group[0][1].offset > _RANGE
            ):
                yield group
                group = []
            group.append((item, place))
        yield group
