"""The index: a SQLite list of runs, so that listings and short names cost the same in a store of any size.

It knows nothing the run directories do not say. A missing, foreign or broken index is made anew; runs that came in
by another way (another machine on a shared disk, an older version) are noticed by the time stamp of `runs/` and
added; runs in which an attempt was not settled when they were indexed are read again when they are shown. A store
that cannot be written is listed from an index in memory.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from repro_est.digest import RunHash
from repro_est.errors import ReproError
from repro_est.store.layout import Layout
from repro_est.store.notes import read_notes
from repro_est.store.records import Records, Result, Status

if TYPE_CHECKING:
    import sqlite3

_VERSION = 3
_OPEN = 7
"""The column that says whether a run is to be read again."""
_BUSY_SECONDS = 10.0
_RUN = re.compile("[0-9a-f]{32}")
_SCHEMA = """
CREATE TABLE runs (
    hash TEXT PRIMARY KEY, name TEXT, status TEXT, started TEXT, finished TEXT, tags TEXT, metrics TEXT, open INTEGER
) WITHOUT ROWID;
CREATE INDEX runs_by_time ON runs (started DESC, hash);
CREATE INDEX runs_by_name ON runs (name, started DESC);
CREATE INDEX runs_by_status ON runs (status, started DESC);
CREATE TABLE metrics (name TEXT, value REAL, hash TEXT, PRIMARY KEY (name, value, hash)) WITHOUT ROWID;
CREATE INDEX metrics_by_run ON metrics (hash);
CREATE INDEX runs_open ON runs (open) WHERE open;
CREATE TABLE tags (key TEXT, value TEXT, hash TEXT, PRIMARY KEY (key, value, hash)) WITHOUT ROWID;
CREATE INDEX tags_by_run ON tags (hash);
CREATE TABLE uses (source TEXT, hash TEXT, input TEXT, origin TEXT, PRIMARY KEY (source, hash, input)) WITHOUT ROWID;
CREATE INDEX uses_by_run ON uses (hash);
CREATE TABLE facts (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, slots=True)
class RunRow:
    """One line of a listing.

    Args:
        started: when the accepted attempt began, or the last one while there is none.
        is_open: some attempt is not settled: it runs, has no record yet, or was completed and not committed.
        uses: `(run, input, origin)` of each input that came from a run; only when it was read from its directory.
    """

    run_hash: RunHash
    name: str
    status: Status
    started: str
    finished: str
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    is_open: bool = False
    uses: tuple[tuple[str, str, str], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "run_hash": self.run_hash,
            "name": self.name,
            "status": self.status.value,
            "started": self.started,
            "finished": self.finished,
            "tags": dict(self.tags),
            "metrics": Result.metrics_to_json(self.metrics),
        }


class Use(NamedTuple):
    """One input that came from a run.

    Args:
        source: the run that made it.
        input: its name in the run that uses it.
        origin: as the plan has it, see `plan.PlannedInput`.
    """

    source: RunHash
    input: str
    origin: Mapping[str, Any]
    user: RunRow


class Index:
    """The index of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def update(self, run: RunHash) -> None:
        """Reads a run from its directory into the index. A failure is no error: the next reader mends it."""
        import sqlite3

        with contextlib.suppress(sqlite3.Error, OSError), self._opened(writable=True) as (connection, _):
            self._put(connection, [run])

    def rows(
        self,
        *,
        name: str | None = None,
        status: Status | None = None,
        tag: str | None = None,
        sort: str | None = None,
        reverse: bool = False,
        limit: int | None = None,
    ) -> list[RunRow]:
        """Lists runs.

        Args:
            tag: `KEY=VALUE`, or `KEY` for any value.
            sort: a metric, smallest first; runs without it are left out. None is by time, newest first.
            reverse: the other way round.
            limit: at most so many.
        """
        where: list[str] = []
        values: list[Any] = []
        if name is not None:
            where.append("runs.name = ?")
            values.append(name)
        if status is not None:
            self._select("SELECT * FROM runs WHERE open AND ?", [1])  # read again: they may be in another state now
            where.append("runs.status = ?")
            values.append(status.value)
        if tag is not None:
            key, equals, wanted = tag.partition("=")
            matching = "runs.hash IN (SELECT hash FROM tags WHERE key = ?"
            where.append(f"{matching} AND value = ?)" if equals else f"{matching})")
            values += [key, wanted] if equals else [key]
        source, order = "runs", "runs.started ASC" if reverse else "runs.started DESC"
        if sort is not None:
            source = "metrics JOIN runs ON runs.hash = metrics.hash"
            where.append("metrics.name = ?")
            values.append(sort)
            order = "metrics.value DESC" if reverse else "metrics.value ASC"
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        # Only constants are put together here; every value is bound.
        query = f"SELECT runs.* FROM {source} {condition} ORDER BY {order}, runs.hash LIMIT ?"  # noqa: S608
        return self._select(query, [*values, -1 if limit is None else limit])

    def starting_with(self, prefix: str, *, limit: int) -> list[RunRow]:
        """Returns the runs whose hash starts with `prefix`."""
        query = "SELECT * FROM runs WHERE hash >= ? AND hash < ? ORDER BY hash LIMIT ?"
        return self._select(query, [prefix, prefix + "g", limit])  # `g` follows every hex digit

    def unsettled(self) -> list[RunRow]:
        """Returns the runs with an attempt that is not settled."""
        return self._select("SELECT * FROM runs WHERE open AND ? ORDER BY hash", [1])

    def users(self, run: RunHash) -> list[Use]:
        """Returns every use by a run of what `run` made, of what that run made, and so on."""
        query = """
            WITH RECURSIVE below (hash) AS (
                VALUES (?) UNION SELECT uses.hash FROM below JOIN uses ON uses.source = below.hash
            )
            SELECT runs.*, uses.source, uses.input, uses.origin
            FROM below JOIN uses ON uses.source = below.hash JOIN runs ON runs.hash = uses.hash
            ORDER BY runs.started, runs.hash, uses.input
        """
        return [Use(RunHash(u[-3]), u[-2], json.loads(u[-1]), _row(u[:-3])) for u in self._fetch(query, [run])]

    def rebuild(self) -> None:
        """Makes the index anew from the run directories."""
        for suffix in ("", "-journal", "-wal", "-shm"):
            self._layout.index.with_name(self._layout.index.name + suffix).unlink(missing_ok=True)
        self._select("SELECT * FROM runs LIMIT ?", [0])

    # ---- parts

    def _select(self, query: str, values: list[Any]) -> list[RunRow]:
        return [_row(item) for item in self._fetch(query, values)]

    def _fetch(self, query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        """Returns what a query finds whose columns begin with those of a run; runs that move are read again."""
        import sqlite3

        for writable in (True, False):
            try:
                with self._opened(writable=writable) as (connection, fresh):
                    self._catch_up(connection, fresh=fresh)
                    found = connection.execute(query, values).fetchall()
                    moving = [RunHash(item[0]) for item in found if item[_OPEN]]
                    if moving:
                        self._put(connection, moving)
                        found = connection.execute(query, values).fetchall()
                    return found
            except (sqlite3.DatabaseError, OSError):
                if writable and os.access(self._layout.root, os.W_OK):
                    self._discard()
        return []

    def _discard(self) -> None:
        """Removes an index that cannot be read; what is in it can be found out again."""
        with contextlib.suppress(OSError):
            self._layout.index.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _opened(self, *, writable: bool) -> Iterator[tuple[sqlite3.Connection, bool]]:
        """A connection in one transaction, and whether it is empty."""
        import sqlite3  # 5 ms, and a hit needs no list

        path = str(self._layout.index) if writable and os.access(self._layout.root, os.W_OK) else ":memory:"
        connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)
        try:
            connection.execute("PRAGMA synchronous = OFF")  # it can be made anew
            fresh = connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION
            if fresh:
                connection.execute("BEGIN IMMEDIATE")
                if connection.execute("PRAGMA user_version").fetchone()[0] != _VERSION:
                    self._create(connection)
                connection.execute("COMMIT")
            yield connection, fresh
        finally:
            connection.close()

    def _create(self, connection: sqlite3.Connection) -> None:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            connection.execute(f'DROP TABLE "{table}"')
        for statement in _SCHEMA.split(";"):
            if statement.strip():
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _catch_up(self, connection: sqlite3.Connection, *, fresh: bool) -> None:
        """Adds runs that are on disk and not in the index, and drops those that are gone."""
        directory = self._layout.directory("runs")
        try:
            stamp = str(os.stat(directory).st_mtime_ns)
        except FileNotFoundError:
            stamp = "none"
        known = connection.execute("SELECT value FROM facts WHERE key = 'runs_mtime_ns'").fetchone()
        if not fresh and known is not None and known[0] == stamp:
            return
        names = {name for name in os.listdir(directory) if _RUN.fullmatch(name)} if stamp != "none" else set()
        indexed = {name for (name,) in connection.execute("SELECT hash FROM runs")}
        new = sorted(RunHash(name) for name in names - indexed)
        if self._put(connection, new) < len(new):
            stamp = "a directory without its plan, which another machine may be writing"
        connection.execute("BEGIN IMMEDIATE")
        gone = [(name,) for name in indexed - names]
        connection.executemany("DELETE FROM runs WHERE hash = ?", gone)
        connection.executemany("DELETE FROM metrics WHERE hash = ?", gone)
        connection.executemany("DELETE FROM tags WHERE hash = ?", gone)
        connection.executemany("DELETE FROM uses WHERE hash = ?", gone)
        connection.execute("INSERT OR REPLACE INTO facts VALUES ('runs_mtime_ns', ?)", (stamp,))
        connection.execute("COMMIT")

    def _put(self, connection: sqlite3.Connection, runs: Iterable[RunHash]) -> int:
        """Reads runs from their directories into the index; returns how many are runs."""
        rows = [row for run in runs if (row := self._read(run)) is not None]
        connection.execute("BEGIN IMMEDIATE")
        for row in rows:
            metrics = json.dumps(Result.metrics_to_json(row.metrics))
            values = (
                row.run_hash,
                row.name,
                row.status.value,
                row.started,
                row.finished,
                json.dumps(dict(row.tags)),
                metrics,
                row.is_open,
            )
            connection.execute("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)
            for table in ("metrics", "tags", "uses"):
                connection.execute(f"DELETE FROM {table} WHERE hash = ?", (row.run_hash,))  # noqa: S608 -- constants
            connection.executemany(
                "INSERT INTO tags VALUES (?, ?, ?)", [(key, value, row.run_hash) for key, value in row.tags.items()]
            )
            connection.executemany(
                "INSERT OR REPLACE INTO metrics VALUES (?, ?, ?)",
                [(name, value, row.run_hash) for name, value in row.metrics.items() if value == value],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?)",
                [(source, row.run_hash, name, origin) for source, name, origin in row.uses],
            )
        connection.execute("COMMIT")
        return len(rows)

    def _read(self, run: RunHash) -> RunRow | None:
        """Returns what the directory of a run says, None when it is not one."""
        runs = Records(self._layout)
        try:
            recorded = runs.plan(run).get("recorded", {})
            records, claimed = runs.recorded(run), runs.numbers(run)
            unsettled = len(records) < max(len(claimed), 1) or any(not item.status.is_terminal for item in records)
            attempts = runs.attempts(run) if unsettled else records
            unrecorded = Status.RUNNING if not attempts and runs.is_executed(run) else Status.LOST
        except (ReproError, OSError):
            return None
        try:
            result = runs.result(run)
        except ReproError:
            result = None  # set aside by whoever wants to use it; here the run is one without a result
        if not isinstance(recorded, dict):
            return None
        last = next((item for item in attempts if result and item.number == result.attempt), None) or (
            attempts[-1] if attempts else None
        )
        # One that goes on is what a person means by the newest, whatever was accepted before.
        newest = attempts[-1] if attempts and not attempts[-1].status.is_terminal else last
        status = Status.COMPLETED if result else (last.status if last else unrecorded)
        uncommitted = result is None and last is not None and last.status is Status.COMPLETED
        tags = recorded["tags"] if isinstance(recorded.get("tags"), dict) else {}
        return RunRow(
            run_hash=run,
            name=_text(recorded.get("name", "")),
            status=status,
            started=_text(newest.started if newest else ""),
            finished=_text(result.finished if result else (last.finished if last else "")),
            tags={_text(key): _text(value) for key, value in read_notes(self._layout, run).over(tags).items()},
            metrics={_text(name): value for name, value in result.metrics.items()} if result else {},
            is_open=uncommitted or unsettled,
            uses=tuple(_uses(recorded.get("inputs"))),
        )


def _text(value: object) -> str:
    """Text that SQLite takes: JSON can hold half of a surrogate pair."""
    return str(value).encode("utf-8", "backslashreplace").decode()


def _uses(inputs: object) -> Iterator[tuple[str, str, str]]:
    """The inputs of a plan that came from runs: the run, the input's name, its origin as JSON."""
    for item in inputs if isinstance(inputs, list) else ():
        origin = item.get("origin") if isinstance(item, dict) else None
        if isinstance(origin, dict) and isinstance(origin.get("run"), str) and origin["run"]:
            yield _text(origin["run"]), _text(item.get("name", "")), json.dumps(origin)


def _row(item: tuple[Any, ...]) -> RunRow:
    run, name, status, started, finished, tags, metrics, is_open = item
    values = {key: float(value) for key, value in json.loads(metrics).items()}
    return RunRow(RunHash(run), name, Status(status), started, finished, json.loads(tags), values, bool(is_open))
