"""`repro doctor` tries out what the store needs, and names what to do."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from repro_est.store import trials
from repro_est.store.trials import try_out
from tests.conftest import Workshop


def by_name(root: Path) -> dict[str, trials.Trial]:
    return {trial.name: trial for trial in try_out(root)}


def test_a_local_disk_passes_every_trial_and_is_left_as_it_was(tmp_path: Path) -> None:
    found = by_name(tmp_path)
    assert all(trial.ok for trial in found.values()), found
    assert {"rename", "hard links", "locks", "exec bit", "case", "clock"} <= found.keys()
    assert os.listdir(tmp_path) == []


def test_a_directory_that_is_not_there_is_said_to_be(tmp_path: Path) -> None:
    (trial,) = try_out(tmp_path / "none")
    assert not trial.ok
    assert "none" in trial.found


def test_a_lock_that_keeps_nobody_out_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials.fcntl, "flock", lambda *arguments: None)
    assert not by_name(tmp_path)["locks"].ok


def test_a_disk_whose_clock_is_an_hour_off_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(trials.time, "time", lambda: now() - 3600)
    clock = by_name(tmp_path)["clock"]
    assert not clock.ok
    assert clock.found == "that of the disk is 3,600 s ahead"


def test_a_volume_without_case_or_hard_links_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*arguments: Any) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(trials.os, "link", no_links)
    trial = by_name(tmp_path)["hard links"]
    assert (trial.ok, trial.found) == (False, "does not work: Operation not permitted")
    assert trial.remedy


def test_a_key_that_others_may_read_and_a_full_quota_are_named(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workshop.root / "config"))
    assert workshop.repro("doctor").code == 0
    key = workshop.write("config/repro/keys/me.key", "x")
    key.chmod(0o644)
    workshop.write("repro.toml", '[gc]\nquota = "1 MB"\n')
    workshop.write("cache/blobs/ab/cd", b"x" * 2_000_000)
    for note in workshop.store.layout.directory("stat").glob("size.json"):
        note.unlink()
    done = workshop.repro("doctor")
    assert done.code == 5
    assert f"chmod 600 {key}" in done.out
    assert "2.0 MB of 1.0 MB" in done.out


def test_hosts_of_the_inventory_are_asked(workshop: Workshop) -> None:
    workshop.write("inventory.toml", '[hosts.h]\naddress = "127.0.0.1"\nport = 1\n[targets.t]\nhosts = ["h"]\n')
    workshop.write("repro.toml", '[hosts]\ninventory = "inventory.toml"\n')
    checks = {item["name"]: item for item in workshop.repro("doctor", "--json").json}
    assert checks["host h"]["ok"] is False
    assert checks["interpreters"]["ok"] is True
