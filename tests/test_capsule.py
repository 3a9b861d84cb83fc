"""Capsules: the same bytes each time, everything checked on the way in, and a run that needs nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from repro_est.share.keys import Key, KeyRing
from repro_est.share.trust import Trust
from tests.conftest import PackageIndex, Workshop, as_root
from tests.lab.conda_package import Channel

SCRIPT = """\
import os, sys, tiny, pathlib
print(tiny.VERSION, flush=True)
text = pathlib.Path(sys.argv[1], 'digits.csv').read_text() + pathlib.Path(sys.argv[2]).read_text()
open('outputs/model.bin', 'w').write(text)
os.makedirs('outputs/deep/empty')
os.symlink('../model.bin', 'outputs/deep/link')
open('outputs/tool', 'w').write('#!/bin/sh\\n'); os.chmod('outputs/tool', 0o755)
open('outputs/metrics.json', 'w').write('{"acc": 0.5}')
"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words: Any) -> None:
        return


@pytest.fixture
def server(index: PackageIndex) -> Iterator[ThreadingHTTPServer]:
    """The index of the test, served until `shutdown`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(index.root))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()


@pytest.fixture
def run(workshop: Workshop, index: PackageIndex, server: ThreadingHTTPServer) -> str:
    """A run in an environment of packages from a server, with a directory and a file as inputs."""
    index.wheel("tiny", "1.2")
    index.sdist("unused", "1", {})
    workshop.write("data/digits.csv", "1,2\n")
    workshop.write("notes.txt", "n\n")
    recipe = workshop.recipe(
        SCRIPT,
        f'[environment]\nindex_url = "http://127.0.0.1:{server.server_port}"\n'
        '[inputs.digits]\npath = "data"\n[inputs.notes]\npath = "notes.txt"\n',
        estimator='pip_packages = ["tiny"]\narguments = [{input = "digits"}, {input = "notes"}]',
    )
    run: str = workshop.run(recipe)["run_hash"]
    return run


@pytest.fixture(scope="module")
def master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The capsule of a run with a package and an input, which the attacks change copies of."""
    root = tmp_path_factory.mktemp("master")
    index = PackageIndex(root / "index")
    index.wheel("tiny", "1.2")
    (root / "job" / "data").mkdir(parents=True)
    (root / "repro.toml").write_text("")
    (root / "job" / "train.py").write_text(SCRIPT)
    (root / "data").mkdir()
    (root / "data" / "digits.csv").write_text("1,2\n")
    (root / "notes.txt").write_text("n\n")
    (root / "job.toml").write_text(
        '[estimator]\nsource_directory = "job"\nentry_script = "train.py"\npip_packages = ["tiny"]\n'
        'arguments = [{input = "digits"}, {input = "notes"}]\n'
        f'[environment]\nindex_url = "{index.url}"\n[inputs.digits]\npath = "data"\n[inputs.notes]\npath = "notes.txt"\n'
    )
    for words in (["run", "job.toml"], ["capsule", "export", "@", "-o", "run.tar"]):
        subprocess.run([sys.executable, "-m", "repro_est", *words], cwd=root, check=True, capture_output=True)
    return root / "run.tar"


@pytest.fixture
def copied(workshop: Workshop, master: Path) -> Path:
    return Path(shutil.copy(master, workshop.root / "run.tar"))


def export(workshop: Workshop, name: str = "run.tar", *words: str) -> Path:
    done = workshop.repro("capsule", "export", "@", "-o", name, *words)
    assert done.code == 0, done.err
    return workshop.root / name


def elsewhere(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, name: str = "elsewhere") -> Workshop:
    """Goes to another project with an empty store; what the run was made of is not at its place any more."""
    root = workshop.root.parent / name
    root.mkdir()
    (root / "repro.toml").write_text("")
    monkeypatch.chdir(root)
    for path in ("data", "notes.txt"):
        if (workshop.root / path).exists():
            os.rename(workshop.root / path, workshop.root / f"gone-{path}")
    return Workshop(root, workshop._capfd)


def members(path: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(path) as archive:
        return [(item, archive.extractfile(item).read() if item.isreg() else b"") for item in archive]  # type: ignore[union-attr]


def rewrite(path: Path, content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for item, data in content:
            if item.isreg():
                item.size = len(data)
            archive.addfile(item, io.BytesIO(data))


def forge(path: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Changes files of a capsule and makes its index true again, as an attacker would."""
    content = members(path)
    files = {item.name: data for item, data in content if item.isreg()}
    index = json.loads(files.pop("capsule.json"))
    before = dict(files)
    change(files)
    index["files"] = {name: [hashlib.sha256(data).hexdigest(), len(data)] for name, data in files.items()}
    others = [pair for pair in content if not pair[0].isreg()]
    new = [(tarfile.TarInfo(name), data) for name, data in files.items()]
    assert before != files
    rewrite(path, [(tarfile.TarInfo("capsule.json"), rfc8785.dumps(index)), *new, *others])


# ---- out and in


def test_exporting_twice_gives_identical_bytes(workshop: Workshop, run: str) -> None:
    one = export(workshop, "one.tar").read_bytes()
    os.utime(workshop.root / "data" / "digits.csv")
    assert export(workshop, "two.tar").read_bytes() == one
    done = workshop.repro("capsule", "export", run[:8], "-o", "three.tar", "--json").json
    assert done["sha256"] == hashlib.sha256(one).hexdigest()
    assert done["left_out"] == [f"Python {'.'.join(map(str, sys.version_info[:3]))} itself"]


def test_a_capsule_is_a_plain_tar_that_people_can_read(workshop: Workshop, run: str) -> None:
    found = {item.name: item for item, _ in members(export(workshop))}
    assert next(iter(found)) == "capsule.json"
    assert {"source/train.py", "outputs/model.bin", "inputs/digits/digits.csv", "inputs/notes/notes.txt"} <= set(found)
    assert "README.txt" in found
    assert found["outputs/deep/link"].linkname == "../model.bin"
    assert found["outputs/deep/empty"].isdir()
    assert (found["outputs/tool"].mode, found["outputs/model.bin"].mode) == (0o755, 0o644)
    assert {(item.uid, item.gid, item.uname, item.gname, item.mtime) for item in found.values()} == {(0, 0, "", "", 0)}
    assert any(name.startswith("packages/") and name.endswith("tiny-1.2-py3-none-any.whl") for name in found)


def test_an_imported_run_is_a_hit_with_the_same_outputs(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workshop)
    there = elsewhere(workshop, monkeypatch)
    done = there.repro("capsule", "import", str(path))
    assert (done.code, "signed by nobody" in done.out) == (0, True), done.err
    assert there.run(run)["cached"] is True
    outputs = there.root / "cache" / "runs" / run / "outputs"
    assert (outputs / "deep" / "link").read_text() == "1,2\nn\n"
    assert os.access(outputs / "tool", os.X_OK)
    assert there.repro("verify").code == 0
    shown = there.repro("show", run, "--json").json
    assert shown["metrics"] == {"acc": 0.5}
    assert shown["attempts"][0]["facts"]["imported"] == {"signed_by": ""}


def test_an_imported_run_is_exported_as_the_same_bytes(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workshop)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(path)).code == 0
    assert export(there, "again.tar").read_bytes() == path.read_bytes()


def test_an_imported_run_executes_without_network(
    workshop: Workshop, run: str, server: ThreadingHTTPServer, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workshop)
    server.shutdown()
    shutil.rmtree(index.root)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(path)).code == 0
    alone = ["unshare", "-n"] if as_root() and shutil.which("unshare") else []
    done = subprocess.run(
        [*alone, sys.executable, "-m", "repro_est", "run", run, "--force", "--json"],
        cwd=there.root, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["cached"] is False
    attempts = there.repro("show", run, "--json").json["attempts"]
    assert [item["accepted"] for item in attempts] == [False, True]
    assert attempts[0]["outputs"] == attempts[1]["outputs"]
    assert there.repro("check", run).code == 0


def test_a_conda_environment_brings_its_own_python(
    workshop: Workshop, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = workshop.recipe(
        "import sys; open('outputs/x', 'w').write(sys.version)\n",
        f'[environment]\nchannels = ["{channel.url}"]\n',
        estimator='conda_packages = ["python"]',
    )
    run = workshop.run(recipe)["run_hash"]
    assert workshop.repro("capsule", "export", "@", "-o", "run.tar", "--json").json["left_out"] == []
    shutil.rmtree(channel.root)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(workshop.root / "run.tar")).code == 0
    assert there.repro("check", run).code == 0


def test_an_input_that_is_another_one_here_is_taken_from_the_store(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workshop)
    there = elsewhere(workshop, monkeypatch)
    workshop.write("data/digits.csv", "9,9\n")
    assert there.repro("capsule", "import", str(path)).code == 0
    assert there.repro("check", run).code == 0
    assert (workshop.root / "data" / "digits.csv").read_text() == "9,9\n"


def test_without_inputs_only_their_digests_travel(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = export(workshop, "run.tar", "--without-inputs")
    names = [item.name for item, _ in members(path)]
    assert not any(name.startswith("inputs/") for name in names)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(path)).code == 0
    assert there.run(run)["cached"] is True
    done = there.repro("run", run, "--force")
    assert (done.code, "data: No such file or directory" in done.err) == (2, True), done.err


def test_an_input_whose_bytes_are_gone_cannot_be_exported(workshop: Workshop, run: str) -> None:
    workshop.write("data/digits.csv", "changed\n")
    done = workshop.repro("capsule", "export", "@", "-o", "run.tar")
    assert (done.code, "inputs.digits" in done.err, "--without-inputs" in done.err) == (2, True, True)
    assert not (workshop.root / "run.tar").exists()
    export(workshop, "run.tar", "--without-inputs")


def test_importing_twice_changes_nothing(workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = export(workshop)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(path), "--json").json["known"] is False
    assert there.repro("capsule", "import", str(path), "--json").json["known"] is True
    assert len(there.repro("show", run, "--json").json["attempts"]) == 1


def test_two_results_of_one_run_do_not_replace_each_other(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    run = workshop.run(workshop.recipe("import uuid; open('outputs/x', 'w').write(str(uuid.uuid4()))\n"))["run_hash"]
    path = export(workshop)
    there = elsewhere(workshop, monkeypatch)
    assert there.repro("capsule", "import", str(path)).code == 0
    there.run(run, "--force")
    mine = (there.root / "cache" / "runs" / run / "outputs" / "x").read_text()
    done = there.repro("capsule", "import", str(path))
    assert (done.code, "another result" in done.err) == (4, True)
    assert (there.root / "cache" / "runs" / run / "outputs" / "x").read_text() == mine


# ---- who says so


def test_a_signature_of_somebody_who_is_trusted_is_said(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workshop.root / "config"))
    key = Key.generate("ada")
    KeyRing().add(key)
    path = export(workshop, "run.tar", "--key", "ada")
    assert export(workshop, "two.tar", "--key", "ada").read_bytes() == path.read_bytes()
    there = elsewhere(workshop, monkeypatch)
    refused = there.repro("capsule", "import", str(path), "--signed")
    assert (refused.code, "not signed" in refused.err) == (4, True)
    Trust(there.root).add(key.public)
    done = there.repro("capsule", "import", str(path), "--signed", "--json")
    assert (done.code, done.json["signer"]) == (0, "ada")


def test_a_signed_capsule_that_was_changed_is_refused(
    workshop: Workshop, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workshop.root / "config"))
    key = Key.generate("ada")
    KeyRing().add(key)
    path = export(workshop, "run.tar", "--key", "ada")
    other = workshop.recipe("open('outputs/x', 'w').write('')\n", name="other")
    workshop.run(other)
    changed = export(workshop, "other.tar")
    envelope = next(pair for pair in members(path) if pair[0].name == "capsule.dsse.json")
    first, *rest = members(changed)
    rewrite(changed, [first, envelope, *rest])
    there = elsewhere(workshop, monkeypatch)
    Trust(there.root).add(key.public)
    done = there.repro("capsule", "import", str(changed))
    assert (done.code, "has signed another capsule" in done.err) == (4, True)


# ---- attacks


Content = list[tuple[tarfile.TarInfo, bytes]]


def _flip(content: Content) -> None:
    at = next(number for number, (item, _) in enumerate(content) if item.name == "outputs/model.bin")
    content[at] = (content[at][0], b"9" + content[at][1][1:])


def _longer(content: Content) -> None:
    at = next(number for number, (item, _) in enumerate(content) if item.name == "outputs/model.bin")
    content[at] = (content[at][0], content[at][1] + b"x")


def _link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, target
        content.append((member, b""))

    return change


def _device(content: Content) -> None:
    member = tarfile.TarInfo("source/null")
    member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 3
    content.append((member, b""))


def _named(name: str) -> Callable[[Content], None]:
    return lambda content: content.append((tarfile.TarInfo(name), b"x"))


def _without(name: str) -> Callable[[Content], None]:
    def change(content: Content) -> None:
        content[:] = [pair for pair in content if pair[0].name != name]

    return change


def _twice(content: Content) -> None:
    content.append(next(pair for pair in content if pair[0].name == "plan.json"))


ATTACKS: dict[str, tuple[Callable[[Content], None], str]] = {
    "a byte": (_flip, "outputs/model.bin: got sha256"),
    "a longer file": (_longer, "outputs/model.bin: got 7 bytes, expected 6"),
    "a file more": (_named("source/extra.py"), "source/extra.py: is not listed"),
    "an absolute path": (_named("/etc/passwd"), "got the path '/etc/passwd'"),
    "a path upwards": (_named("source/../../x"), "expected one below the capsule"),
    "a link out": (_link("source/link", "/etc/passwd"), "source/link: is not the symlink that its tree has"),
    "a link in place of a directory": (_link("outputs/deep", ".."), "is not the symlink that its tree has"),
    "a hard link": (_link("source/hard", "plan.json", tarfile.LNKTYPE), "is neither a file"),
    "a device": (_device, "is neither a file"),
    "a file twice": (_twice, "plan.json: is in it twice"),
    "no plan": (_without("plan.json"), "ends early: plan.json"),
    "no index": (_without("capsule.json"), "is no capsule"),
    "no link": (_without("outputs/deep/link"), "outputs/deep/link: is not the symlink"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_tar_that_is_not_as_its_index_says_is_refused_and_leaves_nothing(
    workshop: Workshop, copied: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, expected = ATTACKS[name]
    path = copied
    content = members(path)
    change(content)
    rewrite(path, content)
    _refused(workshop, monkeypatch, path, expected)


def _edit(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        assert old in files[name], files[name]
        files[name] = files[name].replace(old, new)

    return change


def _swap_package(files: dict[str, bytes]) -> None:
    name = next(name for name in files if name.endswith(".whl"))
    files[name] += b"x"


def _other_package(files: dict[str, bytes]) -> None:
    files[f"packages/{hashlib.sha256(b'x').hexdigest()}/evil-1.0-py3-none-any.whl"] = b"x"


def _swap_output(files: dict[str, bytes]) -> None:
    files["outputs/model.bin"] = b"other\n"


def _upward_entry(files: dict[str, bytes]) -> None:
    """A manifest that names a path upwards, renamed so that it is what it is named for, and a result that names it."""
    from repro_est.store.records import Result, encode
    from repro_est.store.trees import Entry, Kind, Tree

    result = json.loads(files["result.json"])
    data = files.pop("outputs/model.bin")
    import xxhash

    entry = Entry(
        "../../escape",
        Kind.FILE,
        xxhash.xxh3_128_hexdigest(data),
        len(data),
        hashlib.sha256(data).hexdigest(),  # type: ignore[arg-type]
    )
    tree = Tree.of([entry])
    files.pop(f"trees/{result['outputs']}")
    files[f"trees/{tree.hash}"] = tree.manifest()
    attempt = json.loads(files["attempt.json"])
    del result["xxh3"], result["format"]
    files["result.json"] = encode(Result(**{**result, "outputs": tree.hash}).to_json())
    files["attempt.json"] = encode({**attempt, "outputs": tree.hash})


FORGERIES: dict[str, tuple[Callable[[dict[str, bytes]], None], str]] = {
    "another plan": (_edit("plan.json", b'"train.py"', b'"evil.py"'), "plan.json was changed"),
    "another metric": (_edit("result.json", b"0.5", b"0.9"), "it was changed, its digest is another one"),
    "another lock": (_edit("plan.json", b"tiny", b"evil"), "plan"),
    "another lock beside the plan": (
        _edit("recipe.lock", b"tiny", b"evil"),
        "recipe.lock: is not the lock of the plan",
    ),
    "a failed attempt": (_edit("attempt.json", b'"completed"', b'"failed"'), "is not the attempt that made the result"),
    "a package that is another one": (_swap_package, "is no file of the lock"),
    "a package that is not in the lock": (_other_package, "is no file of the lock"),
    "an output that is another one": (_swap_output, "is not the file that tree"),
    "a manifest that leaves": (_upward_entry, "expected one below the capsule"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_capsule_whose_parts_do_not_belong_together_is_refused(
    workshop: Workshop, copied: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    change, expected = FORGERIES[name]
    path = copied
    forge(path, change)
    _refused(workshop, monkeypatch, path, expected)


def test_two_capsules_with_their_results_swapped_are_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    results: list[bytes] = []
    paths: list[Path] = []
    for name in ("one", "two"):
        workshop.run(workshop.recipe(f"open('outputs/x', 'w').write('{name}')\n", name=name))
        paths.append(export(workshop, f"{name}.tar"))
        results.append(next(data for item, data in members(paths[-1]) if item.name == "result.json"))
    forge(paths[0], lambda files: files.update({"result.json": results[1]}))
    _refused(workshop, monkeypatch, paths[0], "result.json: is the result of run")


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5])
def test_a_capsule_that_was_cut_off_is_refused(
    workshop: Workshop, copied: Path, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    path = copied
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    _refused(workshop, monkeypatch, path, "")


@pytest.mark.parametrize("data", [b"", b"no tar at all", b"\0" * 2000, b"\x1f\x8b\x08" + b"\0" * 600])
def test_what_is_no_capsule_is_refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    path = workshop.write("x.tar", data)
    _refused(workshop, monkeypatch, path, "is no capsule")


def test_the_verb_that_makes_recipes_says_where_capsules_go(workshop: Workshop, copied: Path) -> None:
    done = workshop.repro("import", copied.name)
    assert (done.code, "repro capsule import run.tar" in done.err) == (2, True)


def test_a_file_that_is_not_there_is_a_usage_error(workshop: Workshop) -> None:
    assert workshop.repro("capsule", "import", "nowhere.tar").code == 2


def test_a_capsule_larger_than_the_disk_is_refused_before_anything_is_written(
    workshop: Workshop, copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied
    content = members(path)
    index = json.loads(content[0][1])
    index["files"]["outputs/model.bin"][1] = 1 << 50
    rewrite(path, [(content[0][0], rfc8785.dumps(index)), *content[1:]])
    there = elsewhere(workshop, monkeypatch)
    done = there.repro("capsule", "import", str(path))
    assert (done.code, "left" in done.err) == (5, True)


def _refused(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, path: Path, expected: str) -> None:
    there = elsewhere(workshop, monkeypatch)
    done = there.repro("capsule", "import", str(path))
    assert (done.code, expected in done.err) == (4, True), done.err
    assert "Traceback" not in done.err
    layout = there.store.layout
    for name in ("runs", "blobs", "trees", "packages", "tmp"):
        assert list(layout.directory(name).iterdir()) == [], name
    assert not (workshop.root.parent / "escape").exists()
