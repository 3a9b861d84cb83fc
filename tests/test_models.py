"""The model registry: versions that never change, aliases whose history cannot be bent unseen, models as inputs."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from repro_est.cli.recall import recall
from repro_est.digest import canonical, sha256_hex, xxh3_hex
from repro_est.errors import StoreError, UsageError, VerificationError
from repro_est.registration import Labels, register_file
from repro_est.store.aliases import Aliases, parse_moment
from repro_est.store.models import Model, Models, parse_reference
from repro_est.store.records import encode
from repro_est.store.store import Store
from repro_est.store.sweep import sweep
from repro_est.store.verify import verify
from tests.conftest import Workshop
from tests.faults import crash_everywhere

TRAINS = (
    "import os, sys\n"
    "os.makedirs('outputs/deep/net')\n"
    "open('outputs/model.bin', 'w').write(' '.join(sys.argv[1:]))\n"
    "open('outputs/deep/net/weights.bin', 'w').write('w')\n"
)

READS = "import sys; open('outputs/seen', 'w').write(open(sys.argv[1]).read())\n"
GIVEN = 'arguments = [{input = "m"}]'


def registered(store: Store, tmp_path: Path, *contents: str, name: str = "net") -> list[Model]:
    """Registers one version for each content, as files of no run."""
    models = []
    for content in contents:
        file = tmp_path / "file.bin"
        file.write_text(content)
        models.append(register_file(store, file, name))
    return models


@pytest.fixture
def trained(workshop: Workshop) -> Workshop:
    """A project with a run that registered nothing."""
    workshop.run(workshop.recipe(TRAINS, estimator='arguments = ["a"]'))
    return workshop


# ---- records


def test_a_record_keeps_all_that_was_said_of_a_version(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    labels = Labels("about", {"stage": "dev"}, {"loss": "0.5"}, "ScikitLearn", "1.7")
    made = register_file(store, tmp_path / "m", "net", labels)
    (read,) = Models(store.layout).versions("net")
    assert read == made
    assert (read.id, read.run, read.path, read.framework) == ("net:1", "", "m", "ScikitLearn")
    assert (read.description, read.tags, read.properties) == ("about", {"stage": "dev"}, {"loss": "0.5"})


def test_a_record_of_format_1_can_be_read(store: Store) -> None:
    content = {
        "format": 1, "name": "net", "version": 1, "run": "0" * 32, "path": "outputs/m", "tree": "1" * 32,
        "created": "2026-01-01T00:00:00Z", "description": "old", "tags": {"a": "b"},
    }  # fmt: skip
    path = store.layout.model("net", 1)
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(content))
    (model,) = Models(store.layout).versions("net")
    assert (model.description, model.tags, model.properties, model.attempt) == ("old", {"a": "b"}, {}, 0)


def test_a_record_of_a_later_format_is_refused_in_words(store: Store, tmp_path: Path) -> None:
    registered(store, tmp_path, "x")
    path = store.layout.model("net", 1)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(VerificationError, match="has format 3, this version of repro reads up to 2"):
        Models(store.layout).versions("net")


def test_a_record_that_was_changed_is_not_believed(store: Store, tmp_path: Path) -> None:
    (model,) = registered(store, tmp_path, "x")
    path = store.layout.model("net", 1)
    path.chmod(0o644)
    path.write_text(path.read_text().replace(model.created, "2020-01-01T00:00:00Z"))
    with pytest.raises(VerificationError, match=r"1\.json: was changed"):
        Models(store.layout).versions("net")
    assert ["was changed" in finding.message for finding in verify(store).findings] == [True]


def test_the_same_bytes_make_a_new_version_only_when_asked(store: Store, tmp_path: Path) -> None:
    assert [model.version for model in registered(store, tmp_path, "x", "x", "y", "x")] == [1, 1, 2, 1]
    assert register_file(store, tmp_path / "file.bin", "net", always_new=True).version == 3


@pytest.mark.parametrize("name", ["", ".net", "-net", "a/b", "../x", "net:1", "net@a", "n" * 256, "é", "a b", "net\n"])
def test_a_name_that_no_model_may_have_is_refused(store: Store, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="is no name for a model"):
        registered(store, tmp_path, "x", name=name)
    assert Models(store.layout).names() == []
    assert Models(store.layout).versions(name) == []


def test_a_name_may_be_as_long_as_azure_allows(store: Store, tmp_path: Path) -> None:
    registered(store, tmp_path, "x", name="n" * 255)
    assert Models(store.layout).promote("n" * 255, 1, "a" * 255) is not None


def test_a_version_of_a_framework_needs_the_framework(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    with pytest.raises(UsageError, match=r"got framework version '1\.7' without a framework"):
        register_file(store, tmp_path / "m", "net", Labels(framework_version="1.7"))


def test_tags_can_be_changed_afterwards_and_nothing_else(store: Store, tmp_path: Path) -> None:
    (tmp_path / "m").write_text("x")
    register_file(store, tmp_path / "m", "net", Labels(tags={"a": "1", "b": "2"}, properties={"p": "q"}))
    registry, path = Models(store.layout), store.layout.model("net", 1)
    record = path.read_bytes()
    assert registry.tag("net", 1, {"a": "3", "c": "4"}, remove=["b"]).tags == {"a": "3", "c": "4"}
    assert registry.get("net", 1).properties == {"p": "q"}
    assert path.read_bytes() == record
    with pytest.raises(UsageError, match="has no tag `b`, it has: a, c"):
        registry.tag("net", 1, {}, remove=["b"])


def test_a_tag_that_was_changed_behind_the_registry_is_found(store: Store, tmp_path: Path) -> None:
    registered(store, tmp_path, "x")
    Models(store.layout).tag("net", 1, {"a": "1"})
    path = store.layout.model_tags("net", 1)
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"a":"1"', '"a":"2"'))
    with pytest.raises(VerificationError, match=r"1\.tags\.jsonl: line 1: was changed"):
        Models(store.layout).get("net", 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("net", ("net", None, "")),
        ("net:3", ("net", 3, "")),
        ("model:net:3", ("net", 3, "")),
        ("net@production", ("net", None, "production")),
        ("a.b-c_d@x.y", ("a.b-c_d", None, "x.y")),
        ("net:0", None),
        ("net:03", None),
        ("net:x", None),
        ("net@", None),
        ("net:1@a", None),
        ("net:\u0663", None),
        (".net", None),
        ("", None),
    ],
)
def test_a_reference_is_a_name_with_a_version_or_an_alias(text: str, expected: object) -> None:
    assert parse_reference(text) == expected


# ---- aliases and their history


def rewrite(path: Path, lines: list[bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


@pytest.fixture
def promoted(store: Store, tmp_path: Path) -> Store:
    """A store with a model of three versions, whose aliases moved four times."""
    registered(store, tmp_path, "x", "y", "z")
    registry = Models(store.layout)
    registry.promote("net", 1, "production", why="first")
    registry.promote("net", 2, "production", why="better")
    registry.promote("net", 3, "canary")
    registry.promote("net", 1, "production", why="2 was worse")
    return store


def test_an_alias_points_at_what_it_was_promoted_to_last(promoted: Store) -> None:
    assert Models(promoted.layout).aliases("net") == {"production": 1, "canary": 3}
    history = Aliases(promoted.layout, "net").history()
    assert [(item.alias, item.version, item.why) for item in history] == [
        ("production", 1, "first"), ("production", 2, "better"), ("canary", 3, ""), ("production", 1, "2 was worse"),
    ]  # fmt: skip
    assert all(item.who and item.when.endswith("Z") for item in history)


def test_a_promotion_to_where_the_alias_is_adds_no_line(promoted: Store) -> None:
    head = Aliases(promoted.layout, "net").head()
    assert Models(promoted.layout).promote("net", 3, "canary", why="again") is None
    assert Aliases(promoted.layout, "net").head() == head


def test_an_alias_that_was_taken_away_points_at_nothing(promoted: Store) -> None:
    registry = Models(promoted.layout)
    registry.demote("net", "canary", why="over")
    assert registry.aliases("net") == {"production": 1}
    with pytest.raises(UsageError, match="net@canary: no such alias, `net` has: production"):
        registry.demote("net", "canary")


@pytest.mark.parametrize("alias", ["", "latest", "7", "a b", "a/b", "-x"])
def test_what_cannot_be_told_from_a_version_is_no_alias(promoted: Store, alias: str) -> None:
    with pytest.raises(UsageError, match="as an alias, expected letters"):
        Models(promoted.layout).promote("net", 1, alias)


def test_only_a_version_that_there_is_can_be_promoted(promoted: Store) -> None:
    with pytest.raises(UsageError, match="`net` has: 1, 2, 3"):
        Models(promoted.layout).promote("net", 4, "production")
    with pytest.raises(UsageError, match="registered ones: net"):
        Models(promoted.layout).promote("nut", 1, "production")


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_a_line_that_was_changed_is_named(promoted: Store, number: int) -> None:
    path = promoted.layout.aliases("net")
    lines = path.read_bytes().splitlines()
    lines[number] = lines[number].replace(b'"version":', b'"version":1')
    rewrite(path, lines)
    with pytest.raises(VerificationError, match=f"aliases.jsonl: line {number + 1}: was changed"):
        Models(promoted.layout).aliases("net")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_that_was_changed_and_sealed_anew_is_named_by_the_next(promoted: Store, number: int) -> None:
    path = promoted.layout.aliases("net")
    lines = path.read_bytes().splitlines()
    content = json.loads(lines[number])
    del content["sha256"]
    content["version"] = 3 - content["version"]
    lines[number] = canonical({**content, "sha256": sha256_hex(canonical(content))})
    rewrite(path, lines)
    with pytest.raises(VerificationError, match=f"line {number + 2}: does not follow line {number + 1}"):
        Models(promoted.layout).aliases("net")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_line_that_was_removed_is_named(promoted: Store, number: int) -> None:
    path = promoted.layout.aliases("net")
    lines = path.read_bytes().splitlines()
    del lines[number]
    rewrite(path, lines)
    with pytest.raises(VerificationError, match=f"line {number + 1}: does not follow"):
        Models(promoted.layout).aliases("net")


@pytest.mark.parametrize(("source", "at"), [(0, 1), (1, 0), (3, 2), (0, 4)])
def test_a_line_that_was_inserted_is_named(promoted: Store, source: int, at: int) -> None:
    path = promoted.layout.aliases("net")
    lines = path.read_bytes().splitlines()
    lines.insert(at, lines[source])
    rewrite(path, lines)
    with pytest.raises(VerificationError, match=f"line {at + 1}: does not follow"):
        Models(promoted.layout).aliases("net")


def test_a_history_of_another_model_is_refused(promoted: Store, tmp_path: Path) -> None:
    registered(promoted, tmp_path, "x", name="other")
    promoted.layout.aliases("other").write_bytes(promoted.layout.aliases("net").read_bytes())
    with pytest.raises(VerificationError, match="line 1: does not follow the first line of this chain"):
        Models(promoted.layout).aliases("other")


@pytest.mark.parametrize("text", [b"{}", b"[]", b"nonsense", b"", b"\xff"])
def test_what_is_no_line_of_a_history_is_named(promoted: Store, text: bytes) -> None:
    path = promoted.layout.aliases("net")
    rewrite(path, [*path.read_bytes().splitlines(), text])
    with pytest.raises(VerificationError, match="line 5: is no line of a chain"):
        Models(promoted.layout).aliases("net")


def test_a_line_that_is_written_another_way_is_a_changed_line(promoted: Store) -> None:
    path = promoted.layout.aliases("net")
    lines = path.read_bytes().splitlines()
    rewrite(path, [*lines[:3], lines[3].replace(b'"alias":', b'"alias": ')])
    with pytest.raises(VerificationError, match="line 4: was changed, it is not written as canonical JSON"):
        Models(promoted.layout).aliases("net")


def test_lines_cut_off_at_the_end_are_told_by_a_head_that_somebody_kept(promoted: Store) -> None:
    aliases, path = Aliases(promoted.layout, "net"), promoted.layout.aliases("net")
    kept = aliases.head()
    rewrite(path, path.read_bytes().splitlines()[:3])
    assert aliases.current()["production"].version == 2  # nobody can see it in the file alone
    assert not aliases.holds(kept)
    assert aliases.holds(aliases.head())


def test_an_earlier_head_is_still_part_of_the_history(promoted: Store) -> None:
    aliases = Aliases(promoted.layout, "net")
    heads = [aliases.head(), *(item.sha256 for item in aliases.history())]
    Models(promoted.layout).promote("net", 2, "canary")
    assert all(aliases.holds(head) for head in heads)
    assert not aliases.holds("0" * 64)


def test_nothing_is_added_to_a_history_that_was_tampered_with(promoted: Store) -> None:
    path = promoted.layout.aliases("net")
    rewrite(path, path.read_bytes().splitlines()[1:])
    before = path.read_bytes()
    with pytest.raises(VerificationError, match="line 1"):
        Models(promoted.layout).promote("net", 2, "production")
    assert path.read_bytes() == before


def test_verify_checks_every_history(promoted: Store) -> None:
    assert verify(promoted).findings == []
    path = promoted.layout.aliases("net")
    rewrite(path, path.read_bytes().splitlines()[1:])
    (finding,) = verify(promoted, repair=True).findings
    assert (finding.kind, finding.name) == ("aliases", "net")
    assert "line 1: does not follow" in finding.message
    assert path.exists()  # it is evidence, and cannot be made again


def test_verify_finds_a_version_that_was_swapped_under_its_alias(promoted: Store) -> None:
    one, two = promoted.layout.model("net", 1), promoted.layout.model("net", 2)
    content = json.loads(two.read_bytes())
    del content["xxh3"]
    content["version"] = 1
    one.chmod(0o644)
    one.write_bytes(encode({**content, "xxh3": xxh3_hex(encode(content))}))
    messages = [finding.message for finding in verify(promoted).findings]
    assert any("version 1 is not what `production` was pointed at" in message for message in messages)


def test_verify_finds_a_model_whose_bytes_are_gone(promoted: Store) -> None:
    model = Models(promoted.layout).get("net", 2)
    (entry,) = promoted.read_tree(model.tree).entries
    promoted.layout.blob(entry.xxh3).unlink()
    assert [str(finding) for finding in verify(promoted).findings] == [
        "model net:2: 1 file missing or of another size: file.bin"
    ]


def test_what_an_alias_pointed_at_then_can_be_asked(promoted: Store) -> None:
    path = promoted.layout.aliases("net")
    days = iter(
        ("2026-01-01T10:00:00.000Z", "2026-01-02T10:00:00.000Z", "2026-01-02T11:00:00.000Z", "2026-01-04T00:00:00.000Z")
    )
    resealed(promoted, path, days)
    aliases = Aliases(promoted.layout, "net")

    def then(text: str) -> Mapping[str, int | None]:
        return {alias: change.version for alias, change in aliases.current(parse_moment(text)).items()}

    assert then("2025-12-31") == {}
    assert then("2026-01-01") == {"production": 1}
    assert then("2026-01-02T10:30:00Z") == {"production": 2}
    assert then("2026-01-02T11:30:00+01:00") == {"production": 2}
    assert then("2026-01-03") == {"production": 2, "canary": 3}
    assert then("2026-01-04") == {"production": 1, "canary": 3}


def resealed(store: Store, path: Path, times: Any) -> None:
    """Writes a history as it would be, had its lines been written at other times."""
    head, lines = sha256_hex(str(path.relative_to(store.layout.root)).encode()), []
    for line in path.read_bytes().splitlines():
        content = {**json.loads(line), "when": next(times), "previous": head}
        del content["sha256"]
        head = sha256_hex(canonical(content))
        lines.append(canonical({**content, "sha256": head}))
    rewrite(path, lines)


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2026-01-01T10:00:00", ""])
def test_what_is_no_moment_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a date such as 2026-11-25"):
        parse_moment(text)


PROMOTES = """
import sys
from pathlib import Path
from repro_est.store.models import Models
from repro_est.store.records import encode
from repro_est.store.store import Store
registry = Models(Store.open(Path(sys.argv[1])).layout)
for number in range(10):
    registry.promote("net", 1 + number % 3, sys.argv[2], why=str(number))
"""


def test_processes_that_promote_at_once_leave_one_whole_history(store: Store, tmp_path: Path) -> None:
    registered(store, tmp_path, "x", "y", "z")
    words = [sys.executable, "-c", PROMOTES, str(store.layout.root)]
    processes = [subprocess.Popen([*words, alias]) for alias in ("a", "b", "c", "d")]
    assert [process.wait() for process in processes] == [0, 0, 0, 0]
    history = Aliases(store.layout, "net").history()
    assert len(history) == 40
    for alias in "abcd":
        assert [item.why for item in history if item.alias == alias] == [str(number) for number in range(10)]


def test_a_promotion_that_is_killed_leaves_the_old_history_or_the_new_one(promoted: Store) -> None:
    path = promoted.layout.aliases("net")
    before = path.read_bytes()
    for _ in crash_everywhere(lambda: Models(promoted.layout).promote("net", 2, "canary") and None):  # type: ignore[func-returns-value]
        assert Models(promoted.layout).aliases("net")["canary"] in (2, 3)
        path.chmod(0o644)
        path.write_bytes(before)
        path.chmod(0o444)
    assert Models(promoted.layout).aliases("net")["canary"] == 2


def test_a_full_disk_leaves_the_old_history(small_disk: Callable[[int], Path], tmp_path: Path) -> None:
    disk = small_disk(1 << 20)
    store = Store.open(disk / "store")
    registered(store, tmp_path, "x", "y")
    registry = Models(store.layout)
    registry.promote("net", 1, "production")
    with contextlib.suppress(OSError), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    with pytest.raises(StoreError, match="no space left"):
        registry.promote("net", 2, "production")
    assert registry.aliases("net") == {"production": 1}
    (disk / "filler").unlink()
    registry.promote("net", 2, "production")
    assert registry.aliases("net") == {"production": 2}


# ---- what is kept


def test_gc_leaves_every_version_whole(promoted: Store) -> None:
    sweep(promoted.layout)
    registry = Models(promoted.layout)
    assert registry.aliases("net") == {"production": 1, "canary": 3}
    for model in registry.all():
        assert all(promoted.is_good(entry) for entry in promoted.read_tree(model.tree).files())


def test_a_model_outlives_its_run(trained: Workshop) -> None:
    assert trained.repro("model", "register", "net", "@", "outputs/model.bin").code == 0
    store = trained.store
    (model,) = Models(store.layout).versions("net")
    store.discard(store.layout.run(model.run))
    assert trained.repro("model", "download", "net:1", "copy.bin").code == 0
    assert (trained.root / "copy.bin").read_text() == "a"
    recipe = trained.recipe(READS, '[inputs.m]\npath = "model:net:1"\n', name="uses", estimator=GIVEN)
    assert (Path(trained.run(recipe)["outputs"]) / "seen").read_text() == "a"


# ---- models of runs


def test_a_path_of_a_run_is_registered_with_what_is_known_of_it(trained: Workshop) -> None:
    done = trained.repro(
        "model", "register", "net", "@", "outputs/deep/net", "--tag", "stage=dev", "--property", "loss=0.5=x",
        "--framework", "PyTorch", "--framework-version", "2.9", "--description", "a net", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    run = trained.repro("show", "@", "--json").json["run_hash"]
    content = done.json
    assert (content["name"], content["version"], content["run"], content["attempt"]) == ("net", 1, run, 1)
    assert (content["path"], content["tags"], content["properties"]) == (
        "outputs/deep/net",
        {"stage": "dev"},
        {"loss": "0.5=x"},
    )
    assert (content["framework"], content["framework_version"], content["new"]) == ("PyTorch", "2.9", True)
    again = trained.repro("model", "register", "net", "@", "outputs/deep/net")
    assert (again.out, "were version 1 already" in again.err) == ("net version 1\n", True)
    assert trained.repro("model", "register", "net", "@", "outputs/deep/net", "--new-version").out == "net version 2\n"


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("outputs/modell.bin", "did you mean `outputs/model.bin`?"),
        ("model.bin", "did you mean `outputs/model.bin`?"),
        ("net/weights.bin", "did you mean `outputs/deep/net/weights.bin`?"),
        ("outputs", "expected a path below `outputs/`"),
        ("logs/rank-0/stdout.log", "expected a path below `outputs/`"),
        ("outputs/../../secret", "no such file"),
    ],
)
def test_a_wrong_path_names_the_files_there_are(trained: Workshop, path: str, hint: str) -> None:
    done = trained.repro("model", "register", "net", "@", path)
    assert (done.code, hint in done.err) == (2, True), done.err
    assert "there are:\n  outputs/deep/net/weights.bin\n  outputs/model.bin\n" in done.err
    assert trained.repro("models", "--json").json == []


def test_what_a_failed_run_left_is_not_registered(workshop: Workshop) -> None:
    recipe = workshop.recipe("open('outputs/model.bin', 'w').write('half'); raise SystemExit(3)\n")
    assert workshop.repro("run", recipe).code == 1
    done = workshop.repro("model", "register", "net", "@", "outputs/model.bin")
    assert (done.code, "its last attempt is `failed`, and only what a completed run" in done.err) == (2, True), done.err
    assert workshop.repro("models", "--json").json == []


def test_a_recipe_registers_with_the_attempt(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(TRAINS, '[models.net]\npath = "outputs/model.bin"\n'))
    assert workshop.repro("model", "show", "net", "--json").json["attempt"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["register", "net", "@", "outputs/model.bin", "--property", "a=1", "--property", "a=2"], "`a` is given twice, first as '1'"),
        (["register", "net", "@", "outputs/model.bin", "--tag", "novalue"], "--tag novalue: expected KEY=VALUE"),
        (["register", "n t", "@", "outputs/model.bin"], "is no name for a model"),
        (["register", "net", "@", "outputs/model.bin", "--framework-version", "2"], "without a framework"),
        (["register", "net", "@", "outputs/model.bin", "--description", "a\udcff"], "bytes that are not UTF-8"),
        (["show", "nut"], "no such model, registered ones: net"),
        (["show", "net:9"], "`net` has: 1"),
        (["show", "net@production"], "no such alias, `net` has: latest"),
        (["show", "net:x"], "expected NAME, NAME:VERSION or NAME@ALIAS"),
        (["tag", "net"], "expected KEY=VALUE, or --remove KEY"),
        (["promote", "net", "x", "--as", "production"], "got `x`, expected a number"),
        (["promote", "net", "1"], "--as"),
        (["demote", "net", "--as", "production"], "no such alias, `net` has: none"),
        (["history", "nut"], "no such model"),
        (["history", "net", "--at", "then"], "expected a date such as 2026-11-25"),
        (["trace", "nut"], "no such model"),
        (["list", "nut"], "is not a registered model, registered ones: net"),
        (["list", "--run", "abcdef"], "no run starts with it"),
    ],
)  # fmt: skip
def test_mistakes_are_said_in_words(trained: Workshop, words: list[str], message: str) -> None:
    assert trained.repro("model", "register", "net", "@", "outputs/deep").code == 0
    done = trained.repro("model", *words)
    assert (done.code, message in done.err) == (2, True), done.err
    assert "Traceback" not in done.err


# ---- the command line


def test_models_are_listed_by_tag_run_and_alias(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin", "--tag", "stage=dev")
    trained.run(trained.recipe(TRAINS, estimator='arguments = ["b"]'))
    trained.repro("model", "register", "net", "@", "outputs/model.bin", "--tag", "stage=live")
    trained.repro("model", "register", "other", "@", "outputs/deep")
    trained.repro("model", "promote", "net", "1", "--as", "production")

    def listed(*words: str) -> list[tuple[str, int]]:
        return [(item["name"], item["version"]) for item in trained.repro("model", "list", *words, "--json").json]

    assert listed() == [("net", 1), ("net", 2), ("other", 1)]
    assert listed("net") == [("net", 1), ("net", 2)]
    assert listed("--tag", "stage") == [("net", 1), ("net", 2)]
    assert listed("--tag", "stage=live") == [("net", 2)]
    assert listed("--run", "@2") == [("net", 1)]
    assert listed("--latest") == [("net", 2), ("other", 1)]
    assert listed("--tag", "stage=odd") == []
    assert trained.repro("model", "list", "--tag", "stage=odd").err == "no version with --tag stage=odd\n"
    assert trained.repro("models").out == trained.repro("model", "list").out
    assert trained.repro("models").out.splitlines()[1].split()[:3] == ["net", "1", "production"]


def test_promote_prints_the_head_that_history_takes(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    done = trained.repro("model", "promote", "net", "1", "--as", "production", "--why", "it is good")
    said, head = done.out.splitlines()
    assert said == "net@production  version 1"
    kept = head.removeprefix("head  ")
    assert trained.repro("model", "demote", "net", "--as", "production", "--why", "it was not").code == 0
    assert trained.repro("model", "history", "net", "--head", kept).code == 0
    assert trained.repro("model", "history", "net", "--head", "0" * 64).code == 4
    history = trained.repro("model", "history", "net", "--json").json["history"]
    assert [(item["version"], item["why"]) for item in history] == [(1, "it is good"), (None, "it was not")]
    assert "taken away" in trained.repro("model", "history", "net").out
    assert trained.repro("model", "history", "net", "--at", "2020-01-01").err == "net: no aliases at 2020-01-01\n"
    assert trained.repro("model", "history", "net", "--at", "9000-01-01", "--json").json["history"] == []
    assert trained.repro("model", "history", "net", "--as", "canary").err == "net had no such alias\n"


def test_show_and_tag_say_what_a_version_is_now(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin", "--tag", "a=1", "--description", "about")
    assert trained.repro("model", "tag", "net", "b=2", "--remove", "a").out == "net:1  b=2\n"
    trained.repro("model", "promote", "net", "1", "--as", "production")
    shown = trained.repro("model", "show", "net@production")
    for expected in ("aliases     production", "about       about", "tags        b=2", "file        model.bin  1 B"):
        assert expected in shown.out, shown.out
    content = trained.repro("model", "show", "net", "--json").json
    assert (content["tags"], content["aliases"], content["size"]) == ({"b": "2"}, ["production"], 1)


def test_a_download_is_checked_and_replaces_nothing_unasked(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/deep")
    trained.repro("model", "register", "file", "@", "outputs/model.bin")
    assert trained.repro("model", "download", "net").code == 0
    assert (trained.root / "deep/net/weights.bin").read_text() == "w"
    refused = trained.repro("model", "download", "net:1")
    assert (refused.code, "is a directory that exists already" in refused.err) == (2, True)
    assert trained.repro("model", "download", "net:1", "-f").code == 0
    assert trained.repro("model", "download", "file@latest", "deep").out == "deep/model.bin\n"
    blob = trained.store.layout.run(Models(trained.store.layout).get("file", 1).run) / "outputs/model.bin"
    blob.chmod(0o644)
    blob.write_text("b")
    done = trained.repro("model", "download", "file", "bad.bin")
    assert (done.code, "was changed" in done.err) == (4, True), done.err
    assert not (trained.root / "bad.bin").exists()


@pytest.mark.parametrize(
    "words", [["show", "net"], ["promote", "net", "1", "--as", "a"], ["history", "net"], ["trace", "net"]]
)
def test_without_a_store_there_is_no_model_and_none_is_made(workshop: Workshop, words: list[str]) -> None:
    done = workshop.repro("model", *words)
    assert (done.code, "no store yet" in done.err) == (2, True), done.err
    assert workshop.repro("model", "list").err.startswith("no store yet")
    assert not (workshop.root / "cache").exists()


# ---- as inputs


def seen(workshop: Workshop, recipe: str) -> str:
    return (Path(workshop.run(recipe)["outputs"]) / "seen").read_text()


def test_an_alias_as_an_input_is_what_it_points_at_when_the_plan_is_made(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    trained.repro("model", "promote", "net", "1", "--as", "production")
    recipe = trained.recipe(READS, '[inputs.m]\npath = "model:net@production"\n', name="uses", estimator=GIVEN)
    assert seen(trained, recipe) == "a"
    (origin,) = [item["origin"] for item in trained.repro("show", "@", "--json").json["recorded"]["inputs"]]
    head = Aliases(trained.store.layout, "net").head()
    assert (origin["model"], origin["version"], origin["alias"], origin["head"]) == ("net", 1, "production", head)
    trained.run(trained.recipe(TRAINS, estimator='arguments = ["b"]'))
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    assert seen(trained, recipe) == "a"
    trained.repro("model", "promote", "net", "2", "--as", "production")
    assert seen(trained, recipe) == "b"
    assert (
        trained.repro("plan", recipe, "--set", "inputs.m.path=model:net:2", "--json").code == 0
    )  # the same bytes: a hit


def test_the_latest_version_can_be_an_input(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    recipe = trained.recipe(READS, '[inputs.m]\npath = "model:net@latest"\n', name="uses", estimator=GIVEN)
    assert seen(trained, recipe) == "a"
    trained.run(trained.recipe(TRAINS, estimator='arguments = ["b"]'))
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    assert seen(trained, recipe) == "b"


@pytest.mark.parametrize(("path", "recalled"), [("net@production", False), ("net@latest", False), ("net:1", True)])
def test_a_hit_whose_model_may_move_is_never_recalled(trained: Workshop, path: str, recalled: bool) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    trained.repro("model", "promote", "net", "1", "--as", "production")
    recipe = trained.recipe(READS, f'[inputs.m]\npath = "model:{path}"\n', name="uses", estimator=GIVEN)
    trained.run(recipe)
    time.sleep(2.1)
    assert trained.repro("run", recipe).code == 0
    assert (recall([recipe]) is not None) is recalled


@pytest.mark.parametrize("path", ["model:net", "model:net:", "model:net:x", "model:net@", "model:@a", "model:net:1@a"])
def test_a_recipe_that_names_no_version_is_refused(workshop: Workshop, path: str) -> None:
    done = workshop.repro("plan", workshop.recipe(READS, f'[inputs.m]\npath = "{path}"\n', estimator=GIVEN))
    expected = f"inputs.m.path: got '{path}', expected `model:NAME:VERSION` with a number, or `model:NAME@ALIAS`"
    assert (done.code, expected in done.err) == (2, True), done.err


def test_an_alias_whose_history_was_bent_is_no_input(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    trained.repro("model", "promote", "net", "1", "--as", "production")
    path = trained.store.layout.aliases("net")
    rewrite(path, [path.read_bytes().splitlines()[0].replace(b'"why":""', b'"why":"x"')])
    recipe = trained.recipe(READS, '[inputs.m]\npath = "model:net@production"\n', name="uses", estimator=GIVEN)
    done = trained.repro("run", recipe)
    assert (done.code, "line 1: was changed" in done.err) == (4, True), done.err


def test_models_are_listed_though_a_history_was_bent(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    trained.repro("model", "promote", "net", "1", "--as", "production")
    trained.store.layout.aliases("net").unlink()
    trained.store.layout.aliases("net").write_text("{}\n")
    done = trained.repro("models")
    assert (done.code, "line 1: is no line of a chain" in done.err) == (0, True)
    assert done.out.splitlines()[1].startswith("net    1 ")


def test_verify_notices_a_cut_history_by_what_a_run_has_seen_of_it(trained: Workshop) -> None:
    trained.repro("model", "register", "net", "@", "outputs/model.bin")
    for alias in ("production", "canary"):
        trained.repro("model", "promote", "net", "1", "--as", alias)
    trained.run(trained.recipe(READS, '[inputs.m]\npath = "model:net@canary"\n', name="uses", estimator=GIVEN))
    assert trained.repro("verify").code == 0
    path = trained.store.layout.aliases("net")
    rewrite(path, path.read_bytes().splitlines()[:1])
    done = trained.repro("verify")
    assert (done.code, "aliases net: its history was cut off: run " in done.out) == (4, True), done.out


def test_an_executable_file_can_be_an_input(workshop: Workshop) -> None:
    writes = "import os; open('outputs/tool', 'w').write('t'); os.chmod('outputs/tool', 0o755)\n"
    first = workshop.run(workshop.recipe(writes, '[models.tool]\npath = "outputs/tool"\n'))
    for path in ("model:tool:1", f"run:{first['run_hash']}/outputs/tool"):
        assert (
            seen(workshop, workshop.recipe(READS, f'[inputs.m]\npath = "{path}"\n', name="uses", estimator=GIVEN))
            == "t"
        )


def test_a_model_of_no_run_can_be_an_input(workshop: Workshop) -> None:
    register_file(workshop.store, workshop.write("mine/net.bin", "mine"), "net")
    recipe = workshop.recipe(READS, '[inputs.m]\npath = "model:net:1"\n', estimator=GIVEN)
    assert seen(workshop, recipe) == "mine"
