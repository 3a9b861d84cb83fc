"""Environments: verified, isolated, made once, and the same whoever makes them. Real uv, tiny packages, no network."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import EnvironmentKey
from repro_est.environment.key import environment_document, environment_key
from repro_est.environment.prefix import defects, present, realise
from repro_est.errors import EnvironmentBuildError, VerificationError
from repro_est.lock.lockfile import dumps
from repro_est.lock.resolve import resolve
from repro_est.lock.values import Lock
from repro_est.platforms import current_platform
from repro_est.recipe.load import load
from repro_est.store import sealed
from repro_est.store.blobs import digest_file
from repro_est.store.store import Store
from repro_est.store.verify import verify
from tests.conftest import PackageIndex, Workshop, as_root, missing
from tests.test_lock import SDIST, add_backend


class Silent:
    def __init__(self) -> None:
        self.kinds: list[str] = []

    def event(self, kind: str, **facts: Any) -> None:
        self.kinds.append(kind)

    def output(self, stream: str, data: bytes) -> None:
        """Building an environment has no output of a script."""


def lock_of(tmp_path: Path, index: PackageIndex, *packages: str) -> Lock:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "r.toml").write_text(
        f'[estimator]\nentry_script = "train.py"\npip_packages = {json.dumps(packages)}\n[environment]\nindex_url = "{index.url}"\n'
    )
    return resolve(load(tmp_path / "r.toml"))


@pytest.fixture
def lock(tmp_path: Path, index: PackageIndex) -> Lock:
    index.wheel("app", "1.0", requires=("lib",), files={"app/__init__.py": "import lib\n", "app/data.txt": "x"})
    index.wheel("lib", "1.0")
    return lock_of(tmp_path, index, "app")


def ask(prefix: Path, code: str) -> str:
    done = subprocess.run([prefix / "bin/python", "-c", code], capture_output=True, text=True, check=True, env={})
    return done.stdout.strip()


def test_a_prefix_has_the_locked_packages_and_nothing_else(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    assert ask(prefix.path, "import app, lib; print(lib.VERSION)") == "1.0"
    names = "import importlib.metadata as m; print(sorted(d.name for d in m.distributions()))"
    assert ask(prefix.path, names) == "['app', 'lib']"
    assert not list(prefix.path.rglob("direct_url.json"))


def test_a_second_use_costs_no_work_and_no_network(lock: Lock, store: Store, index: PackageIndex) -> None:
    first = realise(lock, store, Silent())
    shutil.rmtree(index.root)
    listener = Silent()
    assert realise(lock, store, listener) == first
    assert listener.kinds == []


def test_a_prefix_is_read_only_and_shares_no_file_with_anything(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    files = [path for path in prefix.path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert all(path.stat().st_nlink == 1 for path in files)
    assert all(not path.stat().st_mode & 0o222 for path in files)
    assert not os.listdir(store.layout.directory("tmp"))


def test_byte_code_is_there_once_and_not_written_again(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    assert list(prefix.path.rglob("app/__pycache__/*.pyc"))


def test_two_stores_get_the_same_payload(lock: Lock, store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "another" / "store")
    one, two = realise(lock, store, Silent()), realise(lock, other, Silent())
    assert one.key == two.key
    trees = [json.loads((prefix.path / "env.json").read_text())["tree"] for prefix in (one, two)]
    assert trees[0] == trees[1]
    unpacked = [sorted(os.listdir(each.layout.directory("unpacked"))) for each in (store, other)]
    assert unpacked[0] == unpacked[1]
    for name in unpacked[0]:
        contents = [(each.layout.directory("unpacked") / name / "tree").read_text() for each in (store, other)]
        assert contents[0] == contents[1]  # byte code too


def test_a_prefix_can_be_moved(lock: Lock, store: Store, tmp_path: Path) -> None:
    prefix = realise(lock, store, Silent())
    shutil.copytree(prefix.path, tmp_path / "moved", symlinks=True)
    assert ask(tmp_path / "moved", "import app, sys; print(sys.prefix)") == str(tmp_path / "moved")


def test_a_script_of_a_moved_prefix_finds_the_python_beside_it(workshop: Workshop, index: PackageIndex) -> None:
    info = "tool-1.0.dist-info/entry_points.txt"
    files = {
        "tool.py": "import sys\ndef main():\n    print(sys.prefix)\n",
        info: "[console_scripts]\ntool = tool:main\n",
    }
    files["tool-1.0.data/scripts/own"] = "#!python\nimport sys\nprint(sys.prefix)\n"
    index.wheel("tool", files=files)
    name = workshop.recipe("", f'[environment]\nindex_url = "{index.url}"', estimator='pip_packages = ["tool"]')
    assert workshop.repro("env", "build", name).code == 0
    (prefix,) = (workshop.root / "cache/envs").iterdir()
    moved = workshop.root / "a place with spaces"
    shutil.copytree(prefix, moved, symlinks=True)
    for script in ("tool", "own"):
        done = subprocess.run([moved / "bin" / script], capture_output=True, text=True, env={"PATH": os.defpath})
        assert done.stdout == f"{moved}\n", done.stderr
    assert os.access(prefix / "bin" / "own", os.X_OK)


def test_one_changed_package_unpacks_one(workshop: Workshop, index: PackageIndex) -> None:
    for name in ("alpha", "beta"):
        index.wheel(name)
    recipe = workshop.recipe(
        "", f'[environment]\nindex_url = "{index.url}"', estimator='pip_packages = ["alpha", "beta"]'
    )
    assert workshop.repro("env", "build", recipe).code == 0
    before = {path.name: path.stat().st_ctime_ns for path in (workshop.root / "cache/unpacked").iterdir()}
    index.wheel("beta", "2.0")
    assert workshop.repro("lock", recipe, "--update", "beta").code == 0
    assert workshop.repro("env", "build", recipe).code == 0
    after = {path.name: path.stat().st_ctime_ns for path in (workshop.root / "cache/unpacked").iterdir()}
    assert len(after) == 3
    assert before.items() <= after.items()


def test_an_unpacked_wheel_that_was_changed_is_set_aside_and_unpacked_again(
    workshop: Workshop, index: PackageIndex
) -> None:
    index.wheel("alpha")
    script = "import alpha\nopen('outputs/v', 'w').write(alpha.VERSION)\n"
    recipe = workshop.recipe(script, f'[environment]\nindex_url = "{index.url}"', estimator='pip_packages = ["alpha"]')
    workshop.run(recipe)
    for path in (workshop.root / "cache/unpacked").rglob("alpha*"):
        if path.is_file():
            path.chmod(0o644)
            path.write_bytes(b"VERSION = 'evil'\n")
    (prefix,) = (workshop.root / "cache/envs").iterdir()
    prefix.rename(workshop.root / "gone")
    done = workshop.run(recipe, "--force")
    assert Path(done["outputs"], "v").read_text() == "1.0"
    assert [path.name for path in (workshop.root / "cache/quarantine").iterdir() if path.name.startswith("unpacked-")]


def test_two_wheels_may_share_a_file_only_if_it_is_the_same(workshop: Workshop, index: PackageIndex) -> None:
    for name, text in (("alpha", "same"), ("beta", "same"), ("gamma", "other")):
        index.wheel(name, files={f"{name}.py": "", "shared/__init__.py": f"TEXT = '{text}'\n"})
    more = f'[environment]\nindex_url = "{index.url}"'
    good = workshop.recipe("", more, estimator='pip_packages = ["alpha", "beta"]')
    assert workshop.repro("env", "build", good).code == 0
    bad = workshop.recipe("", more, name="bad", estimator='pip_packages = ["alpha", "gamma"]')
    done = workshop.repro("env", "build", bad)
    assert done.code == 5
    assert "two packages own lib/python" in done.err
    assert "alpha-1.0" in done.err
    assert "gamma-1.0" in done.err


def test_the_key_knows_files_and_not_where_they_came_from(lock: Lock) -> None:
    document = environment_document(lock, current_platform())
    assert "http" not in json.dumps(document)
    assert "file:" not in json.dumps(document)
    elsewhere = dumps(lock).replace(b"file://", b"https://mirror")
    from repro_est.lock.lockfile import loads

    again = environment_document(loads(elsewhere, Path("x")), current_platform())
    assert environment_key(again) == environment_key(document)


def test_a_wheel_that_is_not_what_was_locked_stops_the_build(lock: Lock, store: Store, index: PackageIndex) -> None:
    index.wheel("lib", "1.0", files={"lib.py": "VERSION = 'evil'\n"})
    with pytest.raises(VerificationError, match=r"lib 1.0") as caught:
        realise(lock, store, Silent())
    assert "expected sha256" in str(caught.value)
    assert os.listdir(store.layout.directory("envs")) == []
    assert not list(store.layout.directory("packages").rglob("lib-*.whl"))


def test_a_wheel_that_is_tampered_with_in_the_store_is_set_aside_and_fetched_again(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    store.discard(prefix.path)
    wheel = next(store.layout.directory("packages").rglob("lib-*.whl"))
    good = wheel.read_bytes()
    overwrite(wheel, good + b"x")
    listener = Silent()
    assert realise(lock, store, listener).key == prefix.key
    assert {"quarantined", "fetching", "built"} <= set(listener.kinds)
    assert wheel.read_bytes() == good
    (aside,) = store.layout.directory("quarantine").glob("package-*")
    assert (aside / wheel.name).read_bytes() == good + b"x"
    assert "lib 1.0" in json.loads((aside / "reason.json").read_text())["reason"]


def test_a_tampered_wheel_that_cannot_be_had_rightly_stops_the_build(
    lock: Lock, store: Store, index: PackageIndex
) -> None:
    store.discard(realise(lock, store, Silent()).path)
    overwrite(next(store.layout.directory("packages").rglob("lib-*.whl")), b"x")
    index.wheel("lib", "1.0", files={"lib.py": "VERSION = 'evil'\n"})
    with pytest.raises(VerificationError, match=r"lib-1.0-py3-none-any.whl is not what was locked"):
        realise(lock, store, Silent())
    assert not list(store.layout.directory("packages").rglob("lib-*.whl"))


def overwrite(path: Path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def repoint(link: Path, target: str) -> None:
    link.unlink()
    link.symlink_to(target)


TAMPERING: dict[str, Callable[[Path], object]] = {
    "changed module": lambda site: overwrite(site / "lib.py", b"VERSION = 'evi'\n"),
    "missing module": lambda site: (site / "lib.py").unlink(),
    "added start-up file": lambda site: (site / "evil.pth").write_text("import sys\n"),
    "changed byte code": lambda site: overwrite(next(site.glob("app/__pycache__/*.pyc")), b"evil"),
    "added byte code": lambda site: (site / "evil.pyc").write_bytes(b"evil"),
    "another interpreter": lambda site: repoint(site.parents[2] / "bin/python", "/bin/false"),
    "added directory": lambda site: (site / "evil").mkdir(),
    "named pipe": lambda site: os.mkfifo(site / "pipe"),
    "odd name": lambda site: open(os.fsencode(site) + b"/evil-\xff", "w").close(),
    "executable": lambda site: (site / "lib.py").chmod(0o555),
}


@pytest.mark.parametrize("how", TAMPERING)
def test_a_prefix_that_was_tampered_with_is_found_and_never_used(lock: Lock, store: Store, how: str) -> None:
    prefix = realise(lock, store, Silent())
    (site,) = prefix.path.glob("lib/python*/site-packages")
    assert verify(store).findings == []
    TAMPERING[how](site)
    (finding,) = verify(store).findings
    assert (finding.kind, finding.name) == ("environment", prefix.key)
    listener = Silent()
    again = realise(lock, store, listener)
    assert {"quarantined", "built"} <= set(listener.kinds)
    assert again == prefix
    assert ask(again.path, "import app, lib; print(lib.VERSION)") == "1.0"
    assert verify(store).findings == []
    (place,) = store.layout.directory("quarantine").iterdir()
    assert json.loads((place / "reason.json").read_text())["reason"].endswith(finding.message)


def test_repair_sets_a_prefix_aside_that_was_tampered_with(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    TAMPERING["added start-up file"](next(prefix.path.glob("lib/python*/site-packages")))
    verify(store, repair=True)
    assert not prefix.path.exists()
    assert realise(lock, store, Silent()) == prefix


def test_a_prefix_is_read_once_and_then_only_when_something_in_it_moved(
    lock: Lock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix = realise(lock, store, Silent())
    time.sleep(2.1)
    read: list[Path] = []
    monkeypatch.setattr(sealed, "digest_file", lambda path, **more: read.append(path) or digest_file(path, **more))
    realise(lock, store, Silent())
    assert read
    read.clear()
    realise(lock, store, Silent())
    assert not read
    next(prefix.path.rglob("app/data.txt")).touch()
    realise(lock, store, Silent())
    assert read


def test_a_prefix_of_an_earlier_version_is_built_anew(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    record = json.loads((prefix.path / "env.json").read_text())
    del record["whole"]
    overwrite(prefix.path / "env.json", json.dumps({**record, "format": 1}).encode())
    assert "is built anew when it is used" in str(verify(store).findings[0])
    listener = Silent()
    assert realise(lock, store, listener) == prefix
    assert "built" in listener.kinds


def test_packages_that_do_not_fit_together_are_refused(
    tmp_path: Path, index: PackageIndex, store: Store, lock: Lock
) -> None:
    import dataclasses

    without = dataclasses.replace(lock, packages=tuple(p for p in lock.packages if p.name != "lib"))
    with pytest.raises(EnvironmentBuildError, match="lib"):
        realise(without, store, Silent())
    assert os.listdir(store.layout.directory("envs")) == []


def test_an_sdist_is_built_with_the_pinned_packages(tmp_path: Path, index: PackageIndex, store: Store) -> None:
    add_backend(index)
    index.sdist("src-only", "1.0", SDIST)
    prefix = realise(lock_of(tmp_path, index, "src-only"), store, Silent())
    assert ask(prefix.path, "import src_only; print(src_only.VERSION)") == "1.0"
    assert "tinybuild" not in [path.stem for path in prefix.path.rglob("*.py")]


def test_an_interpreter_that_moved_makes_the_prefix_anew(lock: Lock, store: Store) -> None:
    prefix = realise(lock, store, Silent())
    record = prefix.path / "env.json"
    record.chmod(0o644)
    record.write_text(record.read_text().replace('"stat": [', '"stat": [1'))
    assert present(store.layout, prefix.key) is None
    listener = Silent()
    assert realise(lock, store, listener).key == prefix.key
    assert "message" in listener.kinds


BUILDER = """
import sys
from pathlib import Path
from repro_est.environment.prefix import realise
from repro_est.lock.lockfile import loads
from repro_est.store.store import Store

class Listener:
    def event(self, kind, **facts):
        print(kind, flush=True)

prefix = realise(loads(Path(sys.argv[1]).read_bytes(), Path(sys.argv[1])), Store.open(Path(sys.argv[2])), Listener())
print(prefix.path)
"""


def builder(lock: Lock, store: Store, tmp_path: Path) -> subprocess.Popen[str]:
    (tmp_path / "x.lock").write_bytes(dumps(lock))
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "x.lock"), str(store.layout.root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_of_two_builders_one_builds_and_both_use_it(lock: Lock, store: Store, tmp_path: Path) -> None:
    outputs = [process.communicate()[0].split() for process in [builder(lock, store, tmp_path) for _ in range(2)]]
    assert outputs[0][-1] == outputs[1][-1]
    assert sorted(words.count("built") for words in outputs) == [0, 1]


def test_a_killed_builder_leaves_nothing_that_counts(lock: Lock, store: Store, tmp_path: Path) -> None:
    for delay in (0.0, 0.1, 0.3):
        process = builder(lock, store, tmp_path)
        assert process.stdout is not None
        while process.stdout.readline().strip() not in ("building", "built", ""):
            pass
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in store.layout.directory("envs").iterdir():
            prefix = present(store.layout, EnvironmentKey(path.name))
            assert prefix is not None
            assert defects(prefix, store) == []
    prefix = realise(lock, store, Silent())
    assert ask(prefix.path, "import app; print('ok')") == "ok"


def test_an_environment_is_used_without_any_network(lock: Lock, store: Store, tmp_path: Path) -> None:
    if not as_root() or sys.platform != "linux":
        missing("cutting the network needs root on Linux")
    realise(lock, store, Silent())
    (tmp_path / "x.lock").write_bytes(dumps(lock))
    command = ["unshare", "-n", sys.executable, "-c", BUILDER, str(tmp_path / "x.lock"), str(store.layout.root)]
    assert "building" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout
