"""A recalled hit is the hit the usual way would give; anything that moved makes it take the usual way."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from repro_est.cli.recall import recall
from tests.conftest import Workshop

SCRIPT = (
    "import json; open('outputs/x', 'w').write('1' * 70000); json.dump({'a': 1}, open('outputs/metrics.json', 'w'))\n"
)


@pytest.fixture
def settled(workshop: Workshop) -> Workshop:
    """A project with a run that is recalled."""
    workshop.write("data/a.csv", "1\n")
    workshop.write("data/deep/b.csv", "1\n")
    workshop.write("base.toml", 'tags = {a = "b"}\n')
    workshop.write("job/pkg/m.py", "")
    recipe = workshop.recipe(SCRIPT, '[inputs.d]\npath = "data"\n[models.m]\npath = "outputs/x"\n')
    workshop.write(recipe, 'extends = "base.toml"\n' + (workshop.root / recipe).read_text())
    assert workshop.repro("run", recipe).code == 0
    time.sleep(2.1)
    assert recall([recipe]) is None  # nobody found it the usual way yet
    assert workshop.repro("run", recipe).code == 0
    assert recall([recipe]) is not None
    return workshop


def test_a_recalled_hit_prints_what_the_usual_way_prints(settled: Workshop) -> None:
    recalled = settled.repro("run", "job.toml")
    quiet = settled.repro("run", "job.toml", "-q")
    for note in settled.store.layout.directory("stat").glob("*.hit"):
        note.unlink()
    assert settled.repro("run", "job.toml").out == recalled.out
    assert settled.repro("run", "job.toml", "-q").out == quiet.out


@pytest.mark.parametrize(
    "change",
    [
        "script", "script mode", "module", "new file", "input", "new input", "recipe", "base", "lock", "settings",
        "result", "blob gone", "blob short", "blob changed", "large blob changed", "ignore file",
    ],
)  # fmt: skip
def test_anything_that_moves_is_noticed(settled: Workshop, change: str) -> None:
    root, store = settled.root, settled.store
    run = settled.repro("show", "@", "--json").json
    blob = store.layout.blob(run["outputs"][0]["xxh3"])
    match change:
        case "script":
            settled.write("job/train.py", SCRIPT.replace("1", "2"))
        case "script mode":
            (root / "job/train.py").chmod(0o755)
        case "module":
            settled.write("job/pkg/m.py", "x = 1\n")
        case "new file":
            settled.write("job/pkg/n.py", "")
        case "input":
            settled.write("data/deep/b.csv", "2\n")
        case "new input":
            settled.write("data/c.csv", "")
        case "recipe":
            settled.write("job.toml", (root / "job.toml").read_text() + "\n")
        case "base":
            settled.write("base.toml", "")
        case "lock":
            settled.write("job.lock", (root / "job.lock").read_bytes())
        case "settings":
            settled.write("repro.toml", "[snapshot]\nmax_files = 1\n")
        case "result":
            store.layout.result(run["run_hash"]).unlink()
        case "blob gone":
            blob.unlink()
        case "blob short":
            blob.chmod(0o644)
            blob.write_bytes(b"")
        case "blob changed" | "large blob changed":
            blob = store.layout.blob(run["outputs"]["large" in change]["xxh3"])
            blob.chmod(0o644)
            blob.write_bytes(b"3" * blob.stat().st_size)
        case "ignore file":
            settled.write("job/.gitignore", "x\n")
    assert recall(["job.toml"]) is None


def repoint(link: Path, target: str) -> None:
    """Moves a symlink as `ln -sfn` does: in one step."""
    link.with_name("new-link").symlink_to(target)
    link.with_name("new-link").rename(link)


LINKS = {
    "input directory": ("dcur", "{}/data", "job.toml"),
    "input file": ("dcur", "{}/data/a.csv", "job.toml"),
    "base": ("base.toml", "{}/base.toml", "job.toml"),
    "recipe": ("cur.toml", "{}/job.toml", "cur.toml"),
    "directory of the recipe": ("cur", "{}", "cur/job.toml"),
}


@pytest.mark.parametrize("what", LINKS)
def test_a_symlink_that_was_repointed_gives_the_run_it_points_to(workshop: Workshop, what: str) -> None:
    """The files on both sides have been there for long: only the link between them moves."""
    link, target, recipe = LINKS[what]
    for side in ("one", "two"):
        workshop.write(f"{side}/data/a.csv", f"{side}\n")
        workshop.write(f"{side}/base.toml", f'salt = "{side}"\n')
        workshop.write(
            f"{side}/job.toml",
            f'salt = "{side}"\n[estimator]\nsource_directory = "../job"\nentry_script = "train.py"\n',
        )
    workshop.recipe(SCRIPT, '[inputs.d]\npath = "dcur"\n' if link == "dcur" else "")
    if what == "base":
        workshop.write(recipe, 'extends = "base.toml"\n' + (workshop.root / recipe).read_text())
    found = {}
    for side in ("two", "one"):
        repoint(workshop.root / link, target.format(side))
        found[side] = workshop.run(recipe)["run_hash"]
    time.sleep(2.1)
    assert found["one"] in workshop.repro("run", recipe).out
    assert found["one"] in str(recall([recipe]))
    repoint(workshop.root / link, target.format("two"))
    assert recall([recipe]) is None
    assert found["two"] in workshop.repro("run", recipe).out


def test_a_name_that_leads_up_from_a_symlink_is_not_taken_for_the_short_one(workshop: Workshop) -> None:
    workshop.write("elsewhere/deep/x", "")
    (workshop.root / "cur").symlink_to("elsewhere/deep")
    workshop.recipe(SCRIPT)
    workshop.write("elsewhere/job.toml", (workshop.root / "job.toml").read_text().replace('"job"', '"../job"'))
    workshop.repro("run", "cur/../job.toml")
    time.sleep(2.1)
    workshop.repro("run", "cur/../job.toml")
    assert recall(["cur/../job.toml"]) is not None
    assert recall(["job.toml"]) is None


def test_another_link_to_a_log_that_runs_have_in_common_changes_nothing(settled: Workshop) -> None:
    run = settled.repro("show", "@", "--json").json
    small, large = (settled.store.layout.blob(run["outputs"][number]["xxh3"]) for number in (0, 1))
    (settled.root / "small").hardlink_to(small)
    assert recall(["job.toml"]) is not None
    (settled.root / "large").hardlink_to(large)
    assert recall(["job.toml"]) is None
    assert "cached" in settled.repro("run", "job.toml").out


@pytest.mark.parametrize(
    "words",
    [
        ["job.toml", "--force"],
        ["job.toml", "--json"],
        ["job.toml", "--set", "salt=x"],
        ["./other.toml"],
        [],
        ["job.toml", "x"],
    ],
)
def test_other_words_are_answered_the_usual_way(settled: Workshop, words: list[str]) -> None:
    assert recall(words) is None


def test_a_broken_note_is_ignored(settled: Workshop) -> None:
    (note,) = settled.store.layout.directory("stat").glob("*.hit")
    whole = note.read_bytes()
    for content in (b"", b"{", whole[:-1], whole[:40], whole.replace(b"files", b"fines"), whole + b"x"):
        note.write_bytes(content)
        assert recall(["job.toml"]) is None
        assert settled.repro("plan", "job.toml").code == 0


def test_an_input_that_names_the_newest_run_is_never_recalled(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(SCRIPT, name="first"))
    second = workshop.recipe(SCRIPT, '[inputs.r]\npath = "run:@/outputs"\n', name="second")
    workshop.run(second)
    time.sleep(2.1)
    workshop.repro("run", second)
    assert recall([second]) is None


def test_a_file_that_changed_while_the_command_ran_is_not_noted(tmp_path: Path) -> None:
    from repro_est.cli.recall import write_note

    file, note = tmp_path / "f", tmp_path / "n"
    file.write_text("")
    write_note(str(note), [str(file)], {}, started_ns=time.time_ns())
    assert not note.exists()
    write_note(str(note), [str(file)], {}, started_ns=time.time_ns() + 10**10)
    assert note.exists()


def test_a_recalled_run_is_one_that_is_used(settled: Workshop) -> None:
    run = settled.store.layout.run(settled.repro("show", "@", "--json").json["run_hash"])
    long_ago = time.time() - 40 * 24 * 3600
    os.utime(run, (long_ago, long_ago))
    assert recall(["job.toml"]) is not None
    assert time.time() - run.stat().st_mtime < 60
