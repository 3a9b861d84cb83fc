"""Verbs that only look: they make nothing, and say why there is nothing to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Workshop

SCRIPT = "import json; json.dump({'accuracy': 0.5}, open('outputs/metrics.json', 'w'))\n"


@pytest.mark.parametrize(
    "words", [["show"], ["logs"], ["why"], ["diff", "@1", "@2"], ["get", "@", "outputs"], ["verify"], ["models", "m"]]
)
def test_what_means_nothing_without_a_store_says_so_and_makes_none(workshop: Workshop, words: list[str]) -> None:
    done = workshop.repro(*words)
    expected = "registered ones: none" if "models" in words else "cache: no store yet\n\nhint: repro run RECIPE"
    assert (done.code, expected in done.err) == (2, True), done.err
    assert not (workshop.root / "cache").exists()


@pytest.mark.parametrize("verb", ["ls", "models"])
def test_a_listing_without_a_store_is_empty_and_makes_none(workshop: Workshop, verb: str) -> None:
    done = workshop.repro(verb)
    assert (done.code, done.out, done.err.startswith("no store yet")) == (0, "", True)
    assert workshop.repro(verb, "--json").json == []
    assert not (workshop.root / "cache").exists()


def test_a_store_without_runs_says_so(workshop: Workshop) -> None:
    assert workshop.store
    assert workshop.repro("ls").err == "no runs yet: repro run RECIPE\n"
    assert "only 0 runs" in workshop.repro("show", "@").err
    assert "no run starts with it" in workshop.repro("show", "abcdef").err
    assert workshop.repro("models").err.startswith("no models yet")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--name", "jbo"], "no run with --name jbo, of 2\n\nhint: did you mean `job`"),
        (["--status", "failed"], "no run with --status failed, of 2\n\nhint: there are `completed`"),
        (["--tag", "team=y"], "no run with --tag team=y, of 2\n\nhint: did you mean `team=x`"),
        (["--sort", "acuracy"], "no run with --sort acuracy, of 2\n\nhint: did you mean `accuracy`"),
        (["--sort", "zzz"], "no run with --sort zzz, of 2\n\nhint: there are `accuracy`"),
        (["--name", "other", "--sort", "accuracy"], "no run with --name other --sort accuracy together, of 2"),
    ],
)
def test_a_filter_that_matches_nothing_is_named(workshop: Workshop, words: list[str], message: str) -> None:
    workshop.run(workshop.recipe(SCRIPT, '[tags]\nteam = "x"\n'))
    workshop.run(workshop.recipe("print(1)\n", name="other"))
    done = workshop.repro("ls", *words)
    assert (done.code, done.out) == (0, "")
    assert message in done.err
    assert workshop.repro("ls", *words, "--json").json == []


@pytest.mark.parametrize("count", ["-1", "x", "1.5"])
def test_a_count_below_nothing_is_refused(workshop: Workshop, count: str) -> None:
    done = workshop.repro("ls", "-n", count)
    assert (done.code, f"got `{count}`, expected 0 or more" in done.err) == (2, True), done.err


@pytest.mark.parametrize("below", ["", "/deeper/still"])
def test_a_store_in_a_file_is_refused_by_name(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, below: str) -> None:
    file = workshop.write("file", "x")
    monkeypatch.setenv("REPRO_STORE", f"{file}{below}")
    for words in (["ls"], ["run", workshop.recipe("print(1)\n")]):
        done = workshop.repro(*words)
        assert (done.code, f"{file} is a file, expected a directory for the store" in done.err) == (2, True), done.err
    assert "is a file" in workshop.repro("doctor").out
    monkeypatch.delenv("REPRO_STORE")
    workshop.write("repro.toml", '[store]\npath = "file"\n')
    assert "[store] path: got 'file'" in workshop.repro("ls").err
    assert Path(file).read_text() == "x"
