"""Locks: the file format, what a recipe asks for, what uv answers, and when a lock is stale. No network."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.errors import InfrastructureError, LockError, RecipeError
from repro_est.lock.lockfile import dumps, loads, public_url
from repro_est.lock.requirements import requirements
from repro_est.lock.resolve import resolve
from repro_est.lock.satisfy import unsatisfied
from repro_est.lock.uv import readable
from repro_est.lock.values import Artifact, Lock, LockedInput, Package
from repro_est.lock.wheels import best_wheel, needed
from repro_est.platforms import current_platform
from repro_est.recipe.load import load
from repro_est.recipe.values import Recipe
from tests.conftest import PackageIndex

HERE = platform.python_version()
ARTIFACT = Artifact(
    "a-1-py3-none-any.whl", "a" * 64, 10, "https://index/a-1-py3-none-any.whl", ("linux-64", "osx-arm64")
)
LOCK = Lock(
    "3.11.7",
    ("linux-64", "osx-arm64"),
    ("a>=1", 'b ; sys_platform == "linux"'),
    "2026-06-01",
    (
        Package("a", "1", "", "https://index/simple", (ARTIFACT,)),
        Package(
            "b", "2", "sys_platform == 'linux'", "",
            (Artifact("b-2.tar.gz", "b" * 64, None, "file:///x/b-2.tar.gz", ("linux-64",)),),
            (Package("setuptools", "70", "", "", (dataclasses.replace(ARTIFACT, filename="s-1.whl"),)),),
        ),
    ),
    (LockedInput("d", "https://x/y.gz", "c" * 64, 5, "d" * 32),),
)  # fmt: skip


def recipe(tmp_path: Path, text: str) -> Recipe:
    (tmp_path / "train.py").write_text("")
    (tmp_path / "r.toml").write_text(f'[estimator]\nentry_script = "train.py"\n{text}')
    return load(tmp_path / "r.toml")


def test_a_lock_is_written_as_published() -> None:
    assert dumps(LOCK).decode() == (Path(__file__).parent / "golden" / "example.lock").read_text()


def test_a_lock_reads_back() -> None:
    assert loads(dumps(LOCK), Path("x.lock")) == LOCK


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


@given(texts, texts, st.lists(texts, max_size=3))
def test_any_text_in_a_lock_reads_back(name: str, version: str, asked: list[str]) -> None:
    lock = dataclasses.replace(LOCK, requirements=tuple(asked), packages=(Package(name, version, "", "", ()),))
    assert loads(dumps(lock), Path("x.lock")) == lock


def test_the_order_of_packages_does_not_change_the_bytes() -> None:
    assert dumps(dataclasses.replace(LOCK, packages=LOCK.packages[::-1])) == dumps(LOCK)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "<<<<<<< ours\n" + text, "unsolved merge conflict"),
        (lambda text: text.replace("format = 1", "format = 2"), "format 2"),
        (lambda text: text.replace("python =", "pyhton ="), "not a lock"),
        (lambda text: text + 'evil = "x"\n', "not a lock"),
        (lambda text: text[:100], "not a lock"),
    ],
)
def test_a_damaged_lock_is_refused_with_the_way_out(damage: object, message: str) -> None:
    with pytest.raises(LockError, match=message):
        loads(damage(dumps(LOCK).decode()).encode(), Path("x.lock"))  # type: ignore[operator]


def test_no_credential_reaches_a_lock() -> None:
    url = "https://me:hunter2@index/a.whl?token=hunter2#hunter2"
    artifact = dataclasses.replace(ARTIFACT, url=url)
    secret = dataclasses.replace(
        LOCK,
        packages=(Package("a", "1", "", url, (artifact,)),),
        inputs=(dataclasses.replace(LOCK.inputs[0], url=url),),
    )
    assert b"hunter2" not in dumps(secret)
    assert public_url(url) == "https://index/a.whl"


def test_requirements_come_from_the_recipe_and_nested_files(tmp_path: Path) -> None:
    (tmp_path / "req.txt").write_text("# all\nnumpy>=2  # why\nscipy \\\n  >=1\n-r more/deep.txt\n-c limits.txt\n")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "deep.txt").write_text("joblib ; python_version > '3'\n")
    (tmp_path / "limits.txt").write_text("numpy<3\n")
    asked = requirements(recipe(tmp_path, 'pip_packages = ["b"]\npip_requirements_file = "req.txt"\n'))
    assert asked == ("-c numpy<3", "b", "joblib ; python_version > '3'", "numpy>=2", "scipy >=1")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("-e .", "editable"),
        ("git+https://x/y", "direct address"),
        ("x @ https://x/y.whl", "direct address"),
        ("./local.whl", "local path"),
        ("--index-url https://x", "index option"),
        ("numpy --hash=sha256:00", "holds hashes"),
        ("--pre", "does not know"),
        ("a b", "not a requirement"),
    ],
)
def test_what_cannot_be_locked_is_refused_with_file_line_and_reason(tmp_path: Path, line: str, reason: str) -> None:
    (tmp_path / "req.txt").write_text(f"numpy\n{line}\n")
    with pytest.raises(RecipeError, match=reason) as caught:
        requirements(recipe(tmp_path, 'pip_requirements_file = "req.txt"\n'))
    assert "req.txt:2" in str(caught.value)


@pytest.mark.parametrize(
    ("platform_name", "expected"),
    [
        ("linux-64", "p-1-cp311-cp311-manylinux_2_28_x86_64.whl"),
        ("linux-aarch64", "p-1-py3-none-any.whl"),
        ("osx-arm64", "p-1-cp311-cp311-macosx_11_0_arm64.whl"),
        ("osx-64", "p-1-py3-none-any.whl"),
    ],
)
def test_each_platform_gets_its_best_wheel(platform_name: str, expected: str) -> None:
    files = [
        "p-1-py3-none-any.whl",
        "p-1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "p-1-cp311-cp311-manylinux_2_39_x86_64.whl",
        "p-1-cp311-cp311-manylinux2014_x86_64.whl",
        "p-1-cp312-cp312-manylinux_2_28_x86_64.whl",
        "p-1-cp311-cp311-macosx_11_0_arm64.whl",
        "p-1-cp311-cp311-win_amd64.whl",
    ]
    assert best_wheel(files, platform_name, "3.11.7") == expected


def test_markers_speak_of_the_target_not_of_this_machine() -> None:
    assert needed("sys_platform == 'darwin' and platform_machine == 'arm64'", "osx-arm64", "3.11.7")
    assert not needed("sys_platform == 'darwin'", "linux-64", "3.11.7")
    assert not needed("python_full_version >= '3.12'", "linux-64", "3.11.7")


def locked(tmp_path: Path, index: PackageIndex, packages: str, more: str = "") -> tuple[Recipe, Lock]:
    asked = recipe(tmp_path, f'pip_packages = {packages}\n[environment]\nindex_url = "{index.url}"\n{more}')
    return asked, resolve(asked)


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


def test_a_lock_is_transitive_exact_and_stable(tmp_path: Path, index: PackageIndex) -> None:
    index.wheel("app", "1.0", requires=("lib>=1", "win ; sys_platform == 'win32'"))
    index.wheel("lib", "1.0")
    wheel = index.wheel("lib", "1.5")
    index.wheel("win", "1.0")
    asked, lock = locked(tmp_path, index, '["app"]')
    assert versions(lock) == {"app": "1.0", "lib": "1.5"}
    assert lock.python == HERE
    artifact = lock.packages[1].artifact(current_platform())
    assert artifact is not None
    assert (artifact.filename, artifact.url) == (wheel.name, wheel.as_uri())
    assert dumps(resolve(asked, previous=lock)) == dumps(lock)
    assert unsatisfied(asked, lock) == ()


def test_locking_again_keeps_versions_and_update_frees_one(tmp_path: Path, index: PackageIndex) -> None:
    index.wheel("a", "1.0")
    index.wheel("b", "1.0")
    asked, old = locked(tmp_path, index, '["a", "b"]')
    index.wheel("a", "2.0")
    index.wheel("b", "2.0")
    assert versions(resolve(asked, previous=old)) == {"a": "1.0", "b": "1.0"}
    assert versions(resolve(asked, previous=old, update=("b",))) == {"a": "1.0", "b": "2.0"}
    assert versions(resolve(asked)) == {"a": "2.0", "b": "2.0"}
    with pytest.raises(LockError, match="--update c: not in the lock"):
        resolve(asked, previous=old, update=("c",))


def test_several_platforms_are_locked_at_once(tmp_path: Path, index: PackageIndex) -> None:
    minor = HERE.split(".")[1]
    index.wheel("n", "1.0", tag=f"cp3{minor}-cp3{minor}-manylinux_2_28_x86_64")
    index.wheel("n", "1.0", tag=f"cp3{minor}-cp3{minor}-macosx_11_0_arm64")
    _, lock = locked(tmp_path, index, '["n"]', 'platforms = ["linux-64", "osx-arm64"]\n')
    assert [artifact.platforms for artifact in lock.packages[0].artifacts] == [("osx-arm64",), ("linux-64",)]


def test_no_file_for_a_platform_is_an_error_that_says_so(tmp_path: Path, index: PackageIndex) -> None:
    index.wheel("n", "1.0", tag="cp311-cp311-win_amd64")
    with pytest.raises(LockError, match=r"\bn\b"):
        locked(tmp_path, index, '["n"]')


def test_a_nonexistent_package_is_named(tmp_path: Path, index: PackageIndex) -> None:
    with pytest.raises(LockError, match="no-such-thing") as caught:
        locked(tmp_path, index, '["no-such-thing"]')
    assert "×" not in str(caught.value)


def test_a_conflict_is_explained(tmp_path: Path, index: PackageIndex) -> None:
    index.wheel("a", "1.0", requires=("c<2",))
    index.wheel("b", "1.0", requires=("c>=2",))
    index.wheel("c", "1.0")
    index.wheel("c", "2.0")
    with pytest.raises(LockError, match=r"a.*c<2") as caught:
        locked(tmp_path, index, '["a", "b"]')
    assert "unsatisfiable" in str(caught.value)


def test_an_index_that_is_down_is_no_fault_of_the_recipe(tmp_path: Path) -> None:
    asked = recipe(tmp_path, 'pip_packages = ["a"]\n[environment]\nindex_url = "http://127.0.0.1:9/simple"\n')
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        resolve(asked)


def test_a_python_that_is_not_here_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(LockError, match="no such interpreter"):
        resolve(recipe(tmp_path, '[environment]\npython = "3.99"\n'))


def test_an_sdist_is_locked_with_what_it_is_built_with(tmp_path: Path, index: PackageIndex) -> None:
    add_backend(index)
    index.sdist("src-only", "1.0", SDIST)
    _, lock = locked(tmp_path, index, '["src-only"]')
    (package,) = lock.packages
    assert package.artifacts[0].filename == "src-only-1.0.tar.gz"
    assert [(build.name, build.version) for build in package.build] == [("tinybuild", "1.0")]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ('pip_packages = ["app>=2"]', "app>=2: the lock has 1.0"),
        ('pip_packages = ["app", "new"]', "new: not in the lock"),
        ("pip_packages = []", "app: in the lock, not asked for any more"),
        ('pip_packages = ["app"]\n[environment]\npython = "2.7"', "python: the recipe asks for 2.7"),
        ('pip_packages = ["app"]\n[environment]\nplatforms = ["osx-64"]', "platforms: osx-64 not in the lock"),
        ('pip_packages = ["app"]\n[environment]\nas_of = "2020-01-01"', "as_of: the recipe says 2020-01-01"),
        (
            f'pip_packages = ["app"]\n[inputs.x]\nurl = "https://x/y"\nsha256 = "{"0" * 64}"',
            "inputs.x: not in the lock",
        ),
    ],
)
def test_a_stale_lock_says_why(tmp_path: Path, index: PackageIndex, change: str, reason: str) -> None:
    index.wheel("app", "1.0")
    _, lock = locked(tmp_path, index, '["app"]')
    assert any(reason in item for item in unsatisfied(recipe(tmp_path, change + "\n"), lock))


def test_a_bound_that_still_holds_needs_no_new_lock(tmp_path: Path, index: PackageIndex) -> None:
    index.wheel("app", "1.0")
    _, lock = locked(tmp_path, index, '["app"]')
    assert unsatisfied(recipe(tmp_path, 'pip_packages = ["app>=0.5,<2"]\n'), lock) == ()


def test_uvs_drawing_is_taken_out_of_its_messages() -> None:
    text = "\x1b[31m  × No solution found:\n  ╰─▶ Because a was not found\n      we can conclude.\n\n      hint: uv thing\n"
    assert readable(text) == "No solution found: Because a was not found we can conclude."


@pytest.mark.network
def test_a_real_index_is_locked_as_of_a_date(tmp_path: Path) -> None:
    asked = recipe(tmp_path, 'pip_packages = ["joblib"]\n[environment]\nas_of = "2025-01-01"\n')
    assert versions(resolve(asked)) == {"joblib": "1.4.2"}


SDIST = {
    "pyproject.toml": '[build-system]\nrequires = ["tinybuild"]\nbuild-backend = "tinybuild"\n'
    '[project]\nname = "src-only"\nversion = "1.0"\n',
    "src_only.py": "VERSION = '1.0'\n",
}

BACKEND = """
import base64, hashlib, zipfile

def build_wheel(directory, config_settings=None, metadata_directory=None):
    text = open("src_only.py").read()
    files = {
        "src_only.py": text,
        "src_only-1.0.dist-info/METADATA": "Metadata-Version: 2.1\\nName: src-only\\nVersion: 1.0\\n",
        "src_only-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: t\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    record = ""
    for path, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(content.encode())}\\n"
    files["src_only-1.0.dist-info/RECORD"] = record + "src_only-1.0.dist-info/RECORD,,\\n"
    name = "src_only-1.0-py3-none-any.whl"
    with zipfile.ZipFile(f"{directory}/{name}", "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return name
"""


def add_backend(index: PackageIndex) -> None:
    """A build backend of thirty lines, so that building an sdist needs no network."""
    index.wheel("tinybuild", "1.0", files={"tinybuild.py": BACKEND})
