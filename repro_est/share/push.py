"""Pushing a run: what the remote lacks of it travels, and the signed statement last.

Files, then packs, then manifests and the plan, then the statement. A push that ends anywhere before leaves objects that
nobody names yet, and the next one goes on from there. What leaves is read from the store and held against its SHA-256
while it streams, so that a bad disk here cannot make a bad result there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro_est.digest import RunHash, Sha256, canonical, sha256, sha256_hex
from repro_est.errors import UsageError, VerificationError
from repro_est.observer import Observer
from repro_est.plan import load_plan
from repro_est.share.keys import Key
from repro_est.share.manifests import Bound, bound, complete
from repro_est.share.memory import Memory
from repro_est.share.packs import PACK_FROM, Catalog, Planned, index_name, pack_name, plan_packs
from repro_est.share.remote import (
    CHUNK,
    SMALL,
    Remote,
    Upload,
    check_format,
    hint_name,
    object_name,
    plan_name,
    read_small,
    statement_name,
    tree_name,
)
from repro_est.share.settings import RemoteSpec
from repro_est.share.statement import STATEMENT_LIMIT, Statement, read_statement
from repro_est.store.records import Result, encode
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Tree

STATEMENT_FILE = "statement.json"
"""In the directory of an attempt that came from a remote: what was believed of it, as it was signed."""

_GROUP_FILES = 1000
_GROUP_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Pushed:
    """What went to a remote: objects and bytes that it did not have; `is_new` when the statement is."""

    remote: str
    objects: int
    size: int
    is_new: bool


def push(run: RunHash, store: Store, remote: Remote, spec: RemoteSpec, key: Key | None, observer: Observer) -> Pushed:
    """Pushes the accepted result of a run.

    Args:
        key: whose statement it becomes; a run that came from another remote keeps the one it came with.

    Raises:
        UsageError: the run has no result, the remote is read-only, or there is no key.
        VerificationError: the store does not hold what it should.
        RemoteError: the remote cannot be reached, is full, or takes nothing.
    """
    if not spec.is_writable:
        raise UsageError(f"remote {spec.name}: is read-only here", hint="change `read_only` or `push` in repro.toml")
    result = Runs(store.layout).result(run)  # what is sent of it is read and checked below
    if result is None:
        raise UsageError(
            f"run {run[:12]}: has no accepted result, so nothing can be pushed", hint=f"repro show {run[:12]}"
        )
    return _Push(run, result, store, remote, spec, observer).perform(key)


class _Push:
    def __init__(
        self, run: RunHash, result: Result, store: Store, remote: Remote, spec: RemoteSpec, observer: Observer
    ) -> None:
        self._run, self._result, self._store = run, result, store
        self._remote, self._observer = remote, observer
        self._memory = Memory(store.layout, spec)
        self._objects, self._size = 0, 0
        self._lock = threading.Lock()

    def perform(self, key: Key | None) -> Pushed:
        started = time.monotonic()
        check_format(self._remote, make=True)
        content = Runs(self._store.layout).plan(self._run)
        plan, record = load_plan(content, self._run), encode(content)
        names = {"source": plan.source, "outputs": self._result.outputs, "logs": self._result.logs}
        trees = {name: complete(self._store.read_tree(tree), self._store) for name, tree in names.items()}
        statement = self._statement(key, {name: bound(tree) for name, tree in trees.items()}, record, plan.document)
        self._files(trees.values())
        self._write([Upload.of(plan_name(sha256_hex(record)), record)])
        is_new = self._say(statement, key)
        pushed = Pushed(self._remote.name, self._objects, self._size, is_new)
        seconds = time.monotonic() - started
        told = {"remote": pushed.remote, "run_hash": self._run, "count": pushed.objects, "bytes": pushed.size}
        self._observer.event("pushed", **told, seconds=seconds, new=is_new)
        return pushed

    # ---- what is said of it

    def _statement(self, key: Key | None, trees: dict[str, Bound], record: bytes, document: Any) -> Statement | bytes:
        """Returns what to sign, or the signed statement that the run came with."""
        layout, number = self._store.layout, self._result.attempt
        with contextlib.suppress(FileNotFoundError):
            return (layout.attempt(self._run, number) / STATEMENT_FILE).read_bytes()
        if key is None:
            raise UsageError(f"run {self._run[:12]}: nothing is pushed unsigned", hint="repro key generate")
        attempt = next((item for item in Runs(layout).recorded(self._run) if item.number == number), None)
        if attempt is None:
            raise VerificationError(f"run {self._run[:12]}: attempt {number} has no record", hint="repro verify")
        plan_sha256 = sha256_hex(canonical(document))
        if plan_sha256 != self._result.plan_sha256:
            raise VerificationError(
                f"run {self._run[:12]}: its result is of another plan", hint="repro verify --repair"
            )
        content = self._result.to_json()
        return Statement(
            run_hash=self._run,
            plan_sha256=plan_sha256,
            record=sha256_hex(record),
            source=trees["source"],
            outputs=trees["outputs"],
            logs=trees["logs"],
            attempt=attempt.to_json(),
            metrics=content["metrics"],
            environment=self._result.environment,
            image=_image_of(attempt.facts),
            platform=self._result.platform,
            finished=self._result.finished,
            builder=key.id,
        )

    def _say(self, statement: Statement | bytes, key: Key | None) -> bool:
        """Writes the statement where it is new, or another one than its builder has made before."""
        if isinstance(statement, bytes):
            return self._pass_on(statement)
        assert key is not None
        name = statement_name(self._run, key.id)
        before = self._before(name, key)
        if before is not None:
            same = dataclasses.replace(statement, revision=before.revision)
            if canonical(same.to_json()) == before.payload:
                if before.revision >= self._memory.next_revision(self._run, key.id):
                    self._memory.keep(before)
                return False
            statement = dataclasses.replace(statement, revision=before.revision + 1)
        revision = max(statement.revision, self._memory.next_revision(self._run, key.id))
        data = dataclasses.replace(statement, revision=revision).signed(key)
        if before is None and self._remote.create(name, data):
            pass
        else:
            self._remote.replace(name, data)
        self._memory.keep(read_statement(data, [key.public], self._run))
        return True

    def _before(self, name: str, key: Key) -> Statement | None:
        try:
            data = read_small(self._remote, name, limit=STATEMENT_LIMIT)
            return read_statement(data, [key.public], self._run)
        except (FileNotFoundError, VerificationError):
            return None

    def _pass_on(self, data: bytes) -> bool:
        signer = json.loads(data)["signatures"][0]["keyid"]
        return self._remote.create(statement_name(self._run, signer), data)

    # ---- what it consists of

    def _files(self, trees: Iterable[Tree]) -> None:
        trees = list(trees)
        entries = {entry.sha256: entry for tree in trees for entry in tree.files() if entry.sha256}
        there = self._remote.exists([object_name(item) for item in entries])
        missing = {
            item: entry for item, entry in entries.items() if there.get(object_name(item)) != entry.size
        }  # another size: it was cut off by a crash of the remote's disk, and is written again
        damaged = [object_name(item) for item in missing if object_name(item) in there]
        for name in damaged:
            self._remote.delete(name)
        catalog = Catalog(self._remote, self._memory.packs)
        small = {item for item, entry in missing.items() if entry.size < SMALL}
        packed = catalog.find(small, catalog.all()) if small else {}
        small -= packed.keys()
        packs = list(plan_packs((item, entries[item].size) for item in small)) if len(small) >= PACK_FROM else []
        alone = [entry for item, entry in missing.items() if item not in packed and not (packs and item in small)]
        total = sum(entry.size for entry in alone) + sum(pack.size for pack in packs)
        if alone or packs:
            told = {"remote": self._remote.name, "count": len(alone) + len(packs), "bytes": total}
            self._observer.event("pushing", **told)
        self._write([self._alone(entry) for entry in alone])
        self._write([self._pack(pack, entries) for pack in packs])
        self._write([Upload.of(index_name(pack.name), pack.content) for pack in packs])
        places = {item: place.pack for item, place in packed.items()}
        places |= {item: pack.name for pack in packs for item in pack.files}
        self._manifests(trees, places)

    def _manifests(self, trees: Sequence[Tree], places: dict[Sha256, str]) -> None:
        uploads: dict[str, Upload] = {}
        for tree in trees:
            data, sha256_ = tree.manifest(), bound(tree).sha256
            hints = sorted({places[e.sha256] for e in tree.files() if e.sha256 and e.sha256 in places})
            if hints:
                uploads[hint_name(sha256_)] = Upload.of(hint_name(sha256_), "".join(f"{h}\n" for h in hints).encode())
            uploads[tree_name(sha256_)] = Upload.of(tree_name(sha256_), data)
        self._write(list(uploads.values()))

    def _write(self, uploads: Sequence[Upload]) -> None:
        there = self._remote.exists([item.name for item in uploads])
        for group in _groups([item for item in uploads if there.get(item.name) != item.size]):
            self._remote.write(group, self._told)
            self._objects += len(group)

    def _told(self, count: int) -> None:
        with self._lock:
            self._size += count
            self._observer.event("progress", bytes=count)

    def _content(self, entry: Entry) -> Iterator[bytes]:
        """Yields the content of a file, and fails at its end when it is not what the manifest says."""
        hasher = sha256()
        for chunk in self._chunks(entry):
            hasher.update(chunk)
            yield chunk
        if hasher.hexdigest() != entry.sha256:
            raise VerificationError(
                f"blob {entry.xxh3} ({entry.path}): was changed, so it is not pushed", hint="repro verify --repair"
            )

    def _chunks(self, entry: Entry) -> Iterator[bytes]:
        if entry.size < SMALL:
            yield self._store.read_blob(entry)
            return
        path = self._store.layout.blob(entry.xxh3)
        if not path.exists():
            yield self._store.read_blob(entry)
            return
        yield from _read(path)

    def _alone(self, entry: Entry) -> Upload:
        return Upload(object_name(entry.sha256 or ""), entry.size, lambda: self._content(entry))

    def _pack(self, pack: Planned, entries: dict[Sha256, Entry]) -> Upload:
        def chunks() -> Iterator[bytes]:
            for item in pack.files:
                yield from self._content(entries[item])

        return Upload(pack_name(pack.name), pack.size, chunks)


def _read(path: Path) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            yield chunk


def _groups(uploads: Sequence[Upload]) -> Iterator[list[Upload]]:
    """Splits what is to be written, so that a push that is cut off has something to show."""
    group: list[Upload] = []
    size = 0
    for upload in uploads:
        if group and (len(group) >= _GROUP_FILES or size + upload.size > _GROUP_BYTES):
            yield group
            group, size = [], 0
        group.append(upload)
        size += upload.size
    if group:
        yield group


def _image_of(facts: Any) -> str:
    """Returns the SHA-256 of the image a run was executed in, `""` when it was in none."""
    image = facts.get("image") if isinstance(facts, dict) else None
    identity = str(image.get("id", "")) if isinstance(image, dict) else ""
    return identity.removeprefix("sha256:")
