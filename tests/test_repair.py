"""A repair that can ask somebody for what is missing makes runs whole again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from repro_est.digest import BlobHash, sha256_hex, xxh3_hex
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from repro_est.store.trees import Entry
from repro_est.store.verify import verify
from tests.test_gc import finished


def fetcher(store: Store, *texts: str) -> tuple[list[str], object]:
    """A team that has some contents; what it was asked for is noted."""
    asked: list[str] = []

    def refetch(wanted: Sequence[Entry]) -> list[BlobHash]:
        asked.extend(str(entry.sha256) for entry in wanted)
        there = {sha256_hex(text.encode()): text.encode() for text in texts}
        with store.batch() as batch:
            brought = [entry for entry in wanted if entry.sha256 in there]
            for entry in brought:
                batch.put(there[entry.sha256], entry.xxh3)  # type: ignore[index]
            batch.publish()
        return [entry.xxh3 for entry in brought]

    return asked, refetch


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_what_others_have_is_fetched_and_the_run_is_a_hit_again(store: Store, damage: str) -> None:
    run = finished(store, 1)
    path = store.layout.blob(xxh3_hex(b"weights 1"))
    path.chmod(0o644)
    path.write_bytes(b"weights 2") if damage == "changed" else path.unlink()
    asked, refetch = fetcher(store, "weights 1", "something else")
    report = verify(store, repair=True, refetch=refetch)  # type: ignore[arg-type]
    assert asked == [sha256_hex(b"weights 1")]
    assert report.findings == []
    assert report.repaired
    assert Runs(store.layout).hit(run) is not None


def test_what_nobody_has_is_set_aside_as_before(store: Store) -> None:
    run = finished(store, 1)
    path = store.layout.blob(xxh3_hex(b"weights 1"))
    path.unlink()
    _, refetch = fetcher(store)
    report = verify(store, repair=True, refetch=refetch)  # type: ignore[arg-type]
    assert report.findings
    assert Runs(store.layout).hit(run) is None
    assert verify(store).findings == []
