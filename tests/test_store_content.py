"""Many small blobs: a full disk, and packs that lost a part."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repro_est.digest import xxh3_hex
from repro_est.errors import StoreError, VerificationError
from repro_est.store.packs import PACK_FROM
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind


def put(store: Store, count: int, size: int) -> list[Entry]:
    contents = [os.urandom(size) for _ in range(count)]
    with store.batch() as batch:
        for data in contents:
            batch.put(data, xxh3_hex(data))
        batch.publish()
    return [Entry(f"f{number}", Kind.FILE, xxh3_hex(data), size) for number, data in enumerate(contents)]


@pytest.mark.parametrize(("count", "size"), [(300, 20_000), (3_000, 2_048)], ids=["blobs", "pack"])
def test_a_disk_that_fills_up_with_small_files_is_an_error(
    small_disk: Callable[[int], Path], count: int, size: int
) -> None:
    store = Store.open(small_disk(3 << 20) / "store")
    with pytest.raises(StoreError, match="no space left"):
        put(store, count, size)
    assert os.listdir(store.layout.directory("tmp")) == []
    put(store, 1, 10)


def test_a_pack_that_lost_its_contents_holds_nothing(store: Store, tmp_path: Path) -> None:
    entry = put(store, PACK_FROM, 8)[0]
    next(store.layout.directory("packs").glob("*.pack")).unlink()
    again = Store.open(store.layout.root)
    assert not again.has_blob(entry)
    with pytest.raises(VerificationError, match="not in the store"):
        again.fetch_blob(entry, tmp_path / "out", mode=0o644)
