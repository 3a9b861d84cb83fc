"""A challenge: what others have made of the same plan, believed only when signed, and compared file by file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.team import Person

pytestmark = pytest.mark.usefixtures("unenclosed")  # scripts here look at what is outside

SCRIPT = """\
import json, pathlib, socket
who = pathlib.Path({who!r}).read_text()
open('outputs/same', 'w').write('same')
open('outputs/w.csv', 'w').write('1.0' if who == 'ada' else '1.0001')
json.dump({{'acc': 0.5}}, open('outputs/metrics.json', 'w'))
"""
TOLERANT = '[reproducible]\nclass = "tolerance"\nfiles = {"outputs/w.csv" = {rtol = 0.01}}\n'


class Pair:
    """Two people who execute the same plan and push what came out."""

    def __init__(self, root: Path, workshop: object, patch: pytest.MonkeyPatch, more: str) -> None:
        self.root, self.remote, self.who = root, root / "remote", root / "who"
        self.remote.mkdir()
        self.ada, self.bob = (Person(name, root, workshop, patch) for name in ("ada", "bob"))  # type: ignore[arg-type]
        for person in (self.ada, self.bob):
            person.at_work().recipe(SCRIPT.format(who=str(self.who)), more)
            person.at_work().write("repro.toml", f'[remotes.team]\nurl = "file://{self.remote}"\n')
            assert person.repro("key", "generate", person.name).code == 0

    def execute(self, person: Person, *words: str) -> str:
        self.who.write_text(person.name)
        run = person.run("--force", *words)[-1]["run_hash"]
        done = person.repro("push", "@")
        assert done.code == 0, done.err
        return str(run)

    def trust_each_other(self) -> None:
        for key in (self.ada, self.bob):
            text = key.repro("key", "show").out.strip()
            for person in (self.ada, self.bob):
                assert person.repro("key", "trust", key.name, text).code == 0


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, workshop: object, monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(tmp_path, workshop, monkeypatch, getattr(request, "param", ""))


def test_a_result_of_somebody_else_that_differs_is_named_with_who_and_where(pair: Pair) -> None:
    pair.trust_each_other()
    run = pair.execute(pair.ada)
    assert pair.execute(pair.bob) == run
    done = pair.bob.repro("challenge", "@")
    assert done.code == 4, done.err
    assert "NOT reproduced, class bitwise" in done.out
    assert "got      remote team, signed by ada" in done.out
    assert "differs  outputs/w.csv" in done.out
    assert "first value that differs: [0][0]: 1.0001 -> 1.0" in done.out
    assert "(remote team, signed by ada)" in pair.bob.repro("show", "@").out


@pytest.mark.parametrize("pair", [TOLERANT], indirect=True)
def test_a_result_within_tolerance_agrees(pair: Pair) -> None:
    pair.trust_each_other()
    pair.execute(pair.ada)
    pair.execute(pair.bob)
    done = pair.bob.repro("challenge", "@", "--json")
    assert done.code == 0, done.err
    (verdict,) = done.json
    assert (verdict["reproduced"], verdict["promise"]["class"]) == (True, "tolerance")
    assert verdict["got"]["source"] == "remote team, signed by ada"
    assert verdict["expected"]["facts"]["machine"] == verdict["got"]["facts"]["machine"]
    assert pair.bob.repro("challenge", "@", "--class", "bitwise").code == 4


def test_the_execution_that_is_here_is_no_second_opinion(pair: Pair) -> None:
    pair.trust_each_other()
    pair.execute(pair.ada)
    own = pair.ada.repro("challenge", "@")
    assert (own.code, "no remote has another execution" in own.err) == (2, True)
    assert pair.bob.run()[-1]["cached"] is True
    fetched = pair.bob.repro("challenge", "@")
    assert (fetched.code, "no remote has another execution" in fetched.err) == (2, True)


def test_a_run_that_was_fetched_is_exported_as_the_bytes_of_whoever_made_it(pair: Pair) -> None:
    pair.trust_each_other()
    run = pair.execute(pair.ada)
    assert pair.bob.repro("pull", run).code == 0
    one, two = (person.repro("capsule", "export", "@", "-o", "run.tar", "--json") for person in (pair.ada, pair.bob))
    assert (one.code, two.code) == (0, 0), one.err + two.err
    assert one.json["sha256"] == two.json["sha256"]


def test_somebody_who_is_not_trusted_is_not_heard(pair: Pair) -> None:
    pair.execute(pair.ada)
    pair.execute(pair.bob)
    done = pair.bob.repro("challenge", "@")
    assert (done.code, "no remote has another execution" in done.err) == (2, True)


def test_without_a_remote_there_is_nobody_to_ask(pair: Pair) -> None:
    pair.execute(pair.ada)
    (pair.ada.root / "repro.toml").write_text("")
    assert pair.ada.repro("challenge", "@").code == 2


def test_a_file_that_was_changed_in_the_remote_is_no_difference_but_an_error(pair: Pair) -> None:
    pair.trust_each_other()
    pair.execute(pair.ada)
    for path in [path for name in ("objects", "packs") for path in (pair.remote / name).rglob("*")]:
        if path.is_file() and path.suffix != ".index":
            path.chmod(0o644)
            path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))
    pair.who.write_text("bob")
    shutil.rmtree(pair.bob.root / "cache", ignore_errors=True)
    pair.bob.run("--force")
    done = pair.bob.repro("challenge", "@")
    assert done.code == 4, done.out
    assert "reproduced" not in done.out
    assert pair.bob.repro("show", "@", "--json").json["verdicts"] == []
