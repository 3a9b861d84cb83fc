"""The facts of a run as one value: all that its page shows, collected from the store.

Collecting is reading: it changes nothing, takes no lock and works while the run goes on; then the numbers are those
of this moment. Of large things only what a page has room for is read: the ends of logs, small images.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from repro_est.digest import RunHash, TreeHash
from repro_est.errors import ReproError
from repro_est.lineage import Lineage, lineage
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, load_plan
from repro_est.portal.logged import Cell, Logged, Picture, read_logged
from repro_est.portal.tail import Tail, tail
from repro_est.store.layout import LIVE
from repro_est.store.models import Model
from repro_est.store.notes import read_notes
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

MAX_IMAGES = 20
MAX_IMAGE_BYTES = 2 << 20
_MAX_SCRIPT_BYTES = 200_000
_MAX_LOG_BYTES = 4 << 20
"""Of all ranks together; of the rest the page says where it is."""
_IMAGES = {
    ".png": ("image/png", b"\x89PNG\r\n\x1a\n"),
    ".jpg": ("image/jpeg", b"\xff\xd8\xff"),
    ".jpeg": ("image/jpeg", b"\xff\xd8\xff"),
    ".gif": ("image/gif", b"GIF8"),
    ".svg": ("image/svg+xml", b""),
}


@dataclass(frozen=True, slots=True)
class FileFact:
    """A file of the run.

    Args:
        path: `outputs/model.joblib`.
        place: where it is, relative to the directory of the run (`RunFacts.seen_from`).
        sha256, xxh3: `""` where they are not known.
    """

    path: str
    place: str
    size: int
    sha256: str = ""
    xxh3: str = ""


@dataclass(frozen=True, slots=True)
class Embedded:
    """An image with its bytes; without them (`data` empty) it is only linked."""

    picture: Picture
    place: str
    mime: str = ""
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run.

    Args:
        status: of the run: completed when a result was accepted, else that of the last attempt, or `planned`.
        shown: the attempt whose files these are: the accepted one, else the last.
        metrics: last value of each, those of the result and those that were logged.
        logged: the records of the ranks and of their children, that of rank 0 first.
        source: files of the snapshot; empty when the store has it no more.
        script: text of the entry script, `""` when it cannot be shown.
        experiments: in which it was asked for.
        title: what people call it.
        lineage: what leads to it, and what it led to.
        pages: of the runs in its lineage those that have a page to link to.
        secrets: values that a page must not show: those of a run that goes on, whose files were not looked through yet.
        home: the directory of the run as the page sees it, `""` or a relative path that ends with a slash.
    """

    plan: Plan
    status: str
    result: Result | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    shown: AttemptRecord | None = None
    metrics: Mapping[str, Cell] = field(default_factory=dict)
    logged: tuple[Logged, ...] = ()
    outputs: tuple[FileFact, ...] = ()
    log_files: tuple[FileFact, ...] = ()
    logs: tuple[Tail, ...] = ()
    images: tuple[Embedded, ...] = ()
    models: tuple[Model, ...] = ()
    source: tuple[Entry, ...] = ()
    script: str = ""
    tags: Mapping[str, Cell] = field(default_factory=dict)
    properties: Mapping[str, Cell] = field(default_factory=dict)
    experiments: tuple[str, ...] = ()
    title: str = ""
    lineage: Lineage | None = None
    pages: frozenset[RunHash] = frozenset()
    secrets: tuple[str, ...] = field(default=(), repr=False)
    home: str = ""

    def seen_from(self, home: str) -> RunFacts:
        """Returns the facts for a page that is elsewhere than beside the run.

        Args:
            home: the directory of the run from there, with a slash at its end.
        """

        def moved(files: tuple[FileFact, ...]) -> tuple[FileFact, ...]:
            return tuple(replace(file, place=home + file.place) for file in files)

        images = tuple(replace(image, place=home + image.place) for image in self.images)
        return replace(self, outputs=moved(self.outputs), log_files=moved(self.log_files), images=images, home=home)

    @property
    def run_hash(self) -> RunHash:
        return self.plan.hash

    @property
    def own(self) -> Logged:
        """What the run itself logged, of the first rank that logged anything."""
        return next((item for item in self.logged if not item.child), Logged())

    @property
    def children(self) -> tuple[Logged, ...]:
        return tuple(item for item in self.logged if item.child)

    @property
    def linked(self) -> list[RunHash]:
        """The runs it has to do with, nearest first."""
        if self.lineage is None:
            return []
        found = [*self.lineage.makers, *(use.user.run_hash for use in self.lineage.uses)]
        return list(dict.fromkeys(run for run in found if run != self.run_hash))

    @property
    def seconds(self) -> float | None:
        """How long the shown attempt took, None when it has not ended."""
        if self.shown is None or not self.shown.finished:
            return None
        try:
            begun, ended = (datetime.fromisoformat(text) for text in (self.shown.started, self.shown.finished))
        except ValueError:
            return None
        return max(0.0, (ended - begun).total_seconds())


def collect_facts(run: RunHash, store: Store) -> RunFacts:
    """Returns the facts of a run.

    Raises:
        VerificationError: its plan or its result is not what it should be.
    """
    runs = Runs(store.layout)
    plan, result, attempts = load_plan(runs.plan(run), run), runs.result(run), runs.attempts(run)
    shown = next((item for item in attempts if result is not None and item.number == result.attempt), None)
    shown = shown or (attempts[-1] if attempts else None)
    secrets = [os.environ.get(name, "") for name in plan.secrets]
    base = _Directory(store, run, shown, with_live=all(secrets))
    logged = base.logged()
    outputs, log_files = base.files(OUTPUTS), base.files(LOGS)
    own = next((item for item in logged if not item.child), Logged())
    notes, recorded, found = read_notes(store.layout, run), plan.recorded, lineage(run, store)
    facts = RunFacts(
        plan=plan,
        status=_status(result, attempts),
        result=result,
        attempts=tuple(attempts),
        shown=shown,
        metrics={**(result.metrics if result else {}), **own.last},
        logged=logged,
        outputs=outputs,
        log_files=log_files,
        logs=base.logs(log_files),
        images=base.images(_pictures(logged, outputs), outputs),
        models=found.models.get(run, ()),
        source=_source(plan, store),
        script=_script(plan, store),
        tags={**notes.over(recorded.tags), **(own.tags if base.is_live else {})},
        properties={**(own.properties if base.is_live else {}), **notes.properties},
        experiments=tuple(dict.fromkeys([*filter(None, [recorded.experiment_name]), *notes.experiments])),
        title=notes.name or recorded.name,
        lineage=found,
        secrets=tuple(secrets) if base.is_live else (),
    )
    return replace(facts, pages=frozenset(other for other in facts.linked if store.layout.page(other).is_file()))


def _status(result: Result | None, attempts: list[AttemptRecord]) -> str:
    if result is not None:
        return Status.COMPLETED.value
    return attempts[-1].status.value if attempts else "planned"


class _Directory:
    """The files of the attempt that is shown: kept ones by their trees, those of a running one as they are.

    Args:
        with_live: of one that goes on, what its script writes may be shown: whatever is secret in it is known.
    """

    def __init__(self, store: Store, run: RunHash, shown: AttemptRecord | None, *, with_live: bool) -> None:
        self._store, self._run, self._shown = store, run, shown
        self._root = store.layout.run(run)
        self._attempt = store.layout.attempt(run, shown.number if shown else 1)
        live = self._attempt / LIVE
        is_live = shown is not None and not shown.status.is_terminal and live.is_dir()
        self._live = live if is_live and with_live else None

    @property
    def is_live(self) -> bool:
        """Whether the script works now, on this machine."""
        return self._live is not None

    def logged(self) -> tuple[Logged, ...]:
        return read_logged((self._live or self._attempt) / LOGS)

    def files(self, name: str) -> tuple[FileFact, ...]:
        """The files below `outputs` or `logs`."""
        tree = self._tree(name)
        if tree is not None:
            return tuple(
                FileFact(f"{name}/{item.path}", self._place(name, item.path), item.size, item.sha256 or "", item.xxh3)
                for item in tree.files()
            )
        found: dict[str, FileFact] = {}
        for root in (self._attempt, *([self._live] if self._live else [])):
            for path, size in _walk(root / name):
                place = f"{root.relative_to(self._root)}/{name}/{path}"
                found.setdefault(path, FileFact(f"{name}/{path}", place, size))
        return tuple(found[path] for path in sorted(found))

    def logs(self, files: Iterable[FileFact]) -> tuple[Tail, ...]:
        """The ends of what each rank printed."""
        left = _MAX_LOG_BYTES
        tails: list[Tail] = []
        for rank, stream, file in sorted(_streams(files)):
            if not file.size:
                continue
            found = tail(self._root / file.place, rank, stream) if left > 0 else Tail(rank, stream, (), file.size)
            left -= sum(map(len, found.lines))
            tails.append(found)
        return tuple(tails)

    def images(self, pictures: Iterable[Picture], files: Iterable[FileFact]) -> tuple[Embedded, ...]:
        """The images with their bytes, as many and as large as a page takes."""
        known = {file.path: file for file in files}
        found: list[Embedded] = []
        embedded = 0
        for picture in pictures:
            file = known.get(picture.path)
            if file is None:
                continue
            mime, data = self._image(file) if embedded < MAX_IMAGES else ("", b"")
            embedded += bool(data)
            found.append(Embedded(picture, file.place, mime, data))
        return tuple(found)

    def _image(self, file: FileFact) -> tuple[str, bytes]:
        mime, start = _IMAGES[Path(file.path).suffix.lower()]
        if not 0 < file.size <= MAX_IMAGE_BYTES:
            return "", b""
        path = self._root / file.place
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
                data = opened.read(MAX_IMAGE_BYTES + 1)
        except OSError:
            return "", b""
        return (mime, data) if len(data) <= MAX_IMAGE_BYTES and data.startswith(start) else ("", b"")

    def _tree(self, name: str) -> Tree | None:
        """The tree of a kept directory, None when nothing was kept or the store has it no more."""
        kept = getattr(self._shown, name, "")
        try:
            return self._store.read_tree(TreeHash(kept)) if kept else None
        except ReproError:
            return None

    def _place(self, name: str, path: str) -> str:
        return f"{self._attempt.relative_to(self._root)}/{name}/{path}"


def _walk(root: Path) -> Iterator[tuple[str, int]]:
    for directory, names, files in os.walk(root):
        names.sort()
        for name in sorted(files):
            path = os.path.join(directory, name)
            try:
                status = os.lstat(path)
            except OSError:
                continue
            if stat.S_ISREG(status.st_mode):
                yield os.path.relpath(path, root), status.st_size


def _streams(files: Iterable[FileFact]) -> Iterator[tuple[int, str, FileFact]]:
    """What ranks printed among the log files; stdout sorts after stderr, which nobody minds less."""
    for file in files:
        match file.path.split("/"):
            case ["logs", rank, ("stdout.log" | "stderr.log") as name] if rank.removeprefix("rank-").isdecimal():
                yield int(rank.removeprefix("rank-")), name.removesuffix(".log"), file


def _pictures(logged: Iterable[Logged], outputs: Iterable[FileFact]) -> list[Picture]:
    """Logged images first, then the other image files of the outputs."""
    found = [picture for item in logged for picture in item.pictures if Path(picture.path).suffix.lower() in _IMAGES]
    paths = {picture.path for picture in found}
    files = [file.path for file in outputs if Path(file.path).suffix.lower() in _IMAGES and file.path not in paths]
    return found + [Picture(path.removeprefix(f"{OUTPUTS}/"), path) for path in files]


def _source(plan: Plan, store: Store) -> tuple[Entry, ...]:
    try:
        return store.read_tree(plan.source).entries
    except ReproError:
        return ()


def _script(plan: Plan, store: Store) -> str:
    entry = next((item for item in _source(plan, store) if item.path == plan.entry_script), None)
    if entry is None or entry.kind not in (Kind.FILE, Kind.EXECUTABLE) or entry.size > _MAX_SCRIPT_BYTES:
        return ""
    try:
        return store.read_blob(entry).decode("utf-8")
    except (ReproError, OSError, UnicodeDecodeError):
        return ""
