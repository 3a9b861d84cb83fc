"""Two people with their own homes, stores, keys and checkouts, and one remote between them."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import RunHash
from repro_est.store.runs import Runs
from repro_est.store.store import Store
from tests.conftest import Done, Workshop

SCRIPT = """
import json, os, sys
os.makedirs("outputs/parts", exist_ok=True)
open("outputs/model.bin", "wb").write(bytes(range(256)) * 1000)
for n in range(40):
    open(f"outputs/parts/{n}", "w").write(str(n))
json.dump({"loss": 0.25}, open("outputs/metrics.json", "w"))
print("lr", sys.argv)
"""
RECIPE = 'script_params = { "--lr" = 0.1 }'


class Person:
    """One of the team: a home with a key, a checkout and a store of their own."""

    def __init__(self, name: str, root: Path, workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
        self.name, self.home, self.root = name, root / f"home-{name}", root / f"work-{name}" / "project"
        self._workshop, self._patch = workshop, patch
        self.home.mkdir()
        self.root.mkdir(parents=True)

    def at_work(self) -> Workshop:
        """Everything from now on is done by this person."""
        self._patch.setenv("XDG_CONFIG_HOME", str(self.home / ".config"))
        self._patch.delenv("REPRO_KEY", raising=False)
        self._patch.chdir(self.root)
        self._workshop.root = self.root
        return self._workshop

    def repro(self, *words: str) -> Done:
        return self.at_work().repro(*words)

    def run(self, *words: str) -> list[dict[str, Any]]:
        done = self.repro("run", "job.toml", "--json", *words)
        assert done.code == 0, done.out + done.err
        return [json.loads(line) for line in done.out.splitlines()]

    @property
    def store(self) -> Store:
        return Store.open(self.root / "cache")

    def check_out(self, remote: Path, more: str = "") -> None:
        self.at_work().recipe(SCRIPT, estimator=RECIPE)
        self.at_work().write("repro.toml", f'[remotes.team]\nurl = "file://{remote}"\n{more}')

    def has_executed(self, run: str) -> bool:
        """Whether an attempt was made here, not fetched."""
        records = Runs(self.store.layout).recorded(RunHash(run))
        return any("fetched" not in record.facts for record in records)


class Team:
    def __init__(self, root: Path, workshop: Workshop, patch: pytest.MonkeyPatch) -> None:
        self.remote = root / "remote"
        self.remote.mkdir()
        self.ada, self.bob = (Person(name, root, workshop, patch) for name in ("ada", "bob"))
        for person in (self.ada, self.bob):
            person.check_out(self.remote)
            assert person.repro("key", "generate", person.name).code == 0
        text = self.ada.repro("key", "show").out.strip()
        for person in (self.ada, self.bob):
            assert person.repro("key", "trust", "ada", text).code == 0

    def made(self) -> str:
        """Ada runs the recipe and pushes it; returns its hash."""
        run = str(self.ada.run()[-1]["run_hash"])
        done = self.ada.repro("push", "@")
        assert done.code == 0, done.err
        return run

    def statement(self, run: str) -> Path:
        return next((self.remote / "runs" / run).iterdir())

    def payload(self, run: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(base64.b64decode(json.loads(self.statement(run).read_bytes())["payload"]))
        return content

    def forget_at_ada(self) -> None:
        shutil.rmtree(self.ada.root / "cache")


def write(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)
