"""The stat cache saves reading; what it answers is what a walk without it would find."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro_est.errors import VerificationError
from repro_est.snapshot import Snapshot, digest_input, snapshot
from repro_est.store.statcache import StatCache
from repro_est.store.store import Store


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Sources that nothing was written to for two seconds: a ctime cannot be set back, so they all wait at once."""
    made = []
    for _ in range(12):
        root = tmp_path_factory.mktemp("aged") / "source"
        for name in ("pkg", "build", "outputs", ".venv", "__pycache__", "../old"):
            (root / name).mkdir(parents=True)
        for name in ("train.py", "pkg/a.py", "pkg/b.py", "../old/c.py"):
            (root / name).write_text(name)
        (root / ".gitignore").write_text("build/\n")
        made.append(root)
    time.sleep(2.1)
    return iter(made)


@pytest.fixture
def source(sources: Iterator[Path]) -> Path:
    return next(sources)


def take(source: Path, store: Store) -> Snapshot:
    return snapshot(source, store, exclude=(), max_bytes=1 << 30, max_files=10**6)


def without_cache(source: Path, store: Store) -> str:
    shutil.rmtree(store.layout.directory("stat"))
    return take(source, store).hash


@pytest.mark.parametrize("name", ["build", "outputs", ".venv"])
def test_a_file_in_place_of_an_ignored_directory_is_seen(source: Path, store: Store, name: str) -> None:
    before = take(source, store).hash
    (source / name).rmdir()
    (source / name).write_text("part of the source")
    after = take(source, store).hash
    assert after != before
    assert after == without_cache(source, store)


def test_what_goes_on_in_an_ignored_directory_costs_nothing(source: Path, store: Store) -> None:
    take(source, store)
    (source / "__pycache__" / "train.pyc").write_text("")
    assert take(source, store).cached


def _delete(source: Path) -> None:
    (source / "pkg" / "b.py").unlink()


def _remove_directory(source: Path) -> None:
    shutil.rmtree(source / "pkg")


def _add_directory(source: Path) -> None:
    (source / "new").mkdir()
    (source / "new" / "c.py").write_text("")


def _move_in_old_directory(source: Path) -> None:
    (source.parent / "old").rename(source / "old")


def during_the_walk(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Lets a change happen after everything was read and before the cache notes down what is there."""
    remember = StatCache.remember

    def late(self: StatCache, *args: object, **more: object) -> None:
        monkeypatch.undo()
        change()
        remember(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(StatCache, "remember", late)


@pytest.mark.parametrize("change", [_delete, _remove_directory, _add_directory, _move_in_old_directory])
def test_a_change_during_a_snapshot_is_in_the_next_one(
    source: Path, store: Store, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None]
) -> None:
    during_the_walk(monkeypatch, lambda: change(source))
    before = take(source, store).hash
    after = take(source, store).hash
    assert after != before
    assert after == without_cache(source, store)


def test_a_file_deleted_while_an_input_is_hashed_is_missed_next_time(
    source: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_the_walk(monkeypatch, lambda: _delete(source))
    digest_input(source, store)
    assert "pkg/b.py" not in digest_input(source, store).tree.by_path()


def test_a_lost_blob_is_made_again_by_the_second_try(source: Path, store: Store, tmp_path: Path) -> None:
    tree = store.read_tree(take(source, store).hash)
    store.layout.blob(tree.by_path()["train.py"].xxh3).unlink()
    with pytest.raises(VerificationError, match="not in the store"):
        store.materialise(store.read_tree(take(source, store).hash), tmp_path / "first")
    store.materialise(store.read_tree(take(source, store).hash), tmp_path / "second")
    assert (tmp_path / "second" / "train.py").read_text() == "train.py"
