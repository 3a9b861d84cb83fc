"""Environments with conda packages, from a real channel with a real Python in it: lock, prefix, run."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from repro_est.digest import sha256_hex
from repro_est.files import remove_tree
from tests.conftest import PackageIndex, Workshop
from tests.lab.channel import MINOR, VERSION
from tests.lab.conda_package import Channel, Content

SCRIPT = "import alpha, json, sys\njson.dump([alpha.VERSION, sys.prefix], open('outputs/seen.json', 'w'))\n"


def environment(channel: Channel | str, more: str = "") -> str:
    url = channel.url if isinstance(channel, Channel) else channel
    return f'[environment]\nchannels = ["{url}"]\n{more}'


def recipe(
    workshop: Workshop,
    channel: Channel | str,
    *conda: str,
    pip: tuple[str, ...] = (),
    more: str = "",
    name: str = "job",
    script: str = SCRIPT,
) -> str:
    packages = f"conda_packages = {json.dumps(conda)}\npip_packages = {json.dumps(pip)}\n"
    return workshop.recipe(script, environment(channel, more), name=name, estimator=packages)


def locked(workshop: Workshop, *words: str) -> dict[str, str]:
    done = workshop.repro("lock", "job.toml", "--json", *words)
    assert done.code == 0, done.err
    return dict(done.json["conda_packages"])


def refused(workshop: Workshop, *words: str) -> str:
    done = workshop.repro("lock", "job.toml", *words)
    assert done.code != 0
    assert "Traceback" not in done.err
    return done.err


def test_a_run_has_conda_packages_with_their_own_python(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    done = workshop.run(recipe(workshop, channel, "alpha"))
    version, prefix = json.loads((workshop.root / "cache/runs" / done["run_hash"] / "outputs/seen.json").read_text())
    assert version == "1.0"
    assert Path(prefix).parent == workshop.root / "cache/envs"
    assert (Path(prefix) / "etc/prefix.txt").read_text() == f"{prefix}/share\n"
    command = subprocess.run([f"{prefix}/bin/alpha"], capture_output=True, text=True, env={})
    assert command.stdout == "1.0\n"
    assert workshop.run("job.toml")["cached"] is True
    assert workshop.repro("verify").code == 0


def test_the_conda_lock_file_is_conda_locks(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    channel.add_module("alpha")
    index.wheel("gamma", requires=("alpha>=1",))
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"')
    locked(workshop)
    path = workshop.root / "job.conda-lock.yml"
    first, toml = path.read_bytes(), (workshop.root / "job.lock").read_text()
    assert f'sha256 = "{sha256_hex(first)}"' in toml
    from conda_lock.lockfile import parse_conda_lock_file

    parsed = {(item.manager, item.name, item.version) for item in parse_conda_lock_file(path).package}
    assert parsed == {("conda", "alpha", "1.0"), ("conda", "python", VERSION), ("pip", "gamma", "1.0")}
    render = [str(Path(sys.executable).parent / "conda-lock"), "render", "-k", "explicit", "-p", "linux-64", str(path)]
    subprocess.run(render, check=True, cwd=workshop.root, capture_output=True)
    assert "alpha-1.0-py_0.conda" in (workshop.root / "conda-linux-64.lock").read_text()
    for old in (path, workshop.root / "job.lock"):
        old.unlink()
    locked(workshop)
    assert (path.read_bytes(), (workshop.root / "job.lock").read_text()) == (first, toml)


def test_pip_packages_lie_on_top_of_what_conda_gives(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    channel.add_module("alpha")
    index.wheel("alpha", "9.0")
    index.wheel("gamma", requires=("alpha>=1",))
    script = "import alpha, gamma\nopen('outputs/v', 'w').write(alpha.VERSION + gamma.VERSION)\n"
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"', script=script)
    done = workshop.run("job.toml")
    assert (workshop.root / "cache/runs" / done["run_hash"] / "outputs/v").read_text() == "1.01.0"


def test_a_conflict_between_pip_and_conda_is_found_at_lock_time(
    workshop: Workshop, channel: Channel, index: PackageIndex
) -> None:
    channel.add_module("alpha")
    index.wheel("alpha", "3.0")
    index.wheel("gamma", requires=("alpha>=3",))
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"')
    text = refused(workshop)
    assert "alpha" in text
    assert "alpha>=3" in text


@pytest.mark.parametrize(
    ("conda", "message"),
    [
        ("alpha >99", "No candidates were found for alpha >99"),
        ("nothing-of-the-kind", "No candidates were found for nothing-of-the-kind"),
        ("alpha ><1", "`alpha ><1` is not a conda spec"),
        ("python=2.7", "No candidates were found for python"),
    ],
)
def test_specs_that_cannot_be_had_are_explained(workshop: Workshop, channel: Channel, conda: str, message: str) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, conda)
    assert message in refused(workshop)


def test_an_unknown_channel_is_named(workshop: Workshop, tmp_path: Path) -> None:
    recipe(workshop, (tmp_path / "nowhere").as_uri(), "alpha")
    text = refused(workshop)
    assert "a channel cannot be read" in text
    assert "nowhere" in text
    recipe(workshop, "./nowhere", "alpha")
    assert "channel ./nowhere: no such directory" in refused(workshop)


WITH_CREDENTIALS = [
    ("http://me:secret@127.0.0.1:9/c", "holds a user name or password"),
    ("http://127.0.0.1:9/t/secret/c", "holds a token"),
    ("http://127.0.0.1:9/t/secret", "holds a token"),
    ("http://127.0.0.1:9/c?token=secret", "has a query"),
]


@pytest.mark.parametrize(("url", "held"), WITH_CREDENTIALS)
@pytest.mark.parametrize("key", ["channels", "index_url", "extra_index_urls", "find_links", "conda_packages"])
def test_credentials_in_an_address_of_a_recipe_are_refused(workshop: Workshop, url: str, held: str, key: str) -> None:
    if key == "conda_packages":
        recipe(workshop, "conda-forge", f"{url}::alpha")
    else:
        value = f'"{url}"' if key == "index_url" else f'["{url}"]'
        workshop.recipe(SCRIPT, f"[environment]\n{key} = {value}")
    text = refused(workshop)
    assert f"{key}: {held}" in text
    assert ".netrc" in text
    assert "secret" not in text


@pytest.mark.parametrize(("url", "held"), WITH_CREDENTIALS)
@pytest.mark.parametrize(
    ("key", "more"),
    [
        ("channels", "channels: [URL]\ndependencies: [alpha]\n"),
        ("dependencies", "dependencies: ['URL::alpha']\n"),
        ("pip", "dependencies: [alpha, {pip: ['--index-url URL']}]\n"),
    ],
)
def test_credentials_in_an_environment_file_are_refused(
    workshop: Workshop, url: str, held: str, key: str, more: str
) -> None:
    workshop.write("environment.yml", more.replace("URL", url))
    workshop.recipe(SCRIPT, estimator='conda_dependencies_file = "environment.yml"\n')
    text = refused(workshop)
    assert f"environment.yml: {key}: " in text
    assert (held if key != "pip" else "an index option") in text
    assert "secret" not in text


def test_credentials_in_the_place_of_named_channels_are_refused(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONDA_CHANNEL_ALIAS", "http://127.0.0.1:9/t/secret")
    recipe(workshop, "team", "alpha")
    assert "$CONDA_CHANNEL_ALIAS: holds a token" in refused(workshop)


@pytest.mark.parametrize(("url", "held"), WITH_CREDENTIALS)
def test_credentials_in_a_conda_lock_file_are_refused(
    workshop: Workshop, channel: Channel, url: str, held: str
) -> None:
    recipe(workshop, channel, "python")
    locked(workshop)
    good = (workshop.root / "job.conda-lock.yml").read_text()
    workshop.recipe(SCRIPT, '[environment]\nconda_lock_file = "conda-lock.yml"\n', name="other")
    url_with = url.replace("?", "/python.conda?") if "?" in url else f"{url}/python.conda"
    for where, old, new in (
        ("package python", f"url: {channel.url}/linux-64/python", f"url: {url_with}#"),
        ("metadata.channels", f"url: {channel.url}\n", f"url: {url}\n"),
    ):
        assert old in good
        workshop.write("conda-lock.yml", good.replace(old, new))
        text = workshop.repro("lock", "other.toml").err
        assert f"conda-lock.yml: {where}: {held}" in text
        assert "secret" not in text


def test_an_update_touches_one_package(workshop: Workshop, channel: Channel) -> None:
    for name in ("alpha", "beta"):
        channel.add_module(name)
    recipe(workshop, channel, "alpha", "beta")
    locked(workshop)
    for name in ("alpha", "beta"):
        channel.add_module(name, "2.0")
    assert locked(workshop) == {"alpha": "1.0", "beta": "1.0", "python": VERSION}
    assert locked(workshop, "--update", "alpha") == {"alpha": "2.0", "beta": "1.0", "python": VERSION}
    assert locked(workshop, "--upgrade") == {"alpha": "2.0", "beta": "2.0", "python": VERSION}
    assert "--update delta: not in the lock" in refused(workshop, "--update", "delta")


def test_nothing_newer_than_a_date_is_taken(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha", "1.0")
    channel.add_module("alpha", "2.0", timestamp=1767225600)  # 2026-01-01
    recipe(workshop, channel, "alpha")
    assert locked(workshop, "--as-of", "2025-06-01")["alpha"] == "1.0"


def test_what_the_target_has_comes_from_the_recipe(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha", depends=["__cuda >=12"])
    recipe(workshop, channel, "alpha")
    assert "__cuda" in refused(workshop)
    recipe(workshop, channel, "alpha", more='virtual_packages = { __cuda = "12.4" }')
    assert locked(workshop)["alpha"] == "1.0"
    assert workshop.repro("lock", "job.toml", "--check").code == 0
    recipe(workshop, channel, "alpha", more='virtual_packages = { cuda = "12.4" }')
    assert "is no virtual package" in refused(workshop)


def test_several_platforms_are_locked_at_once(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    channel.add_module("alpha")
    channel.add("python", VERSION, {}, subdir="linux-aarch64", noarch=None)
    index.wheel("gamma")
    more = f'platforms = ["linux-64", "linux-aarch64"]\nindex_url = "{index.url}"'
    recipe(workshop, channel, "alpha", pip=("gamma",), more=more)
    locked(workshop)
    rows = yaml.safe_load((workshop.root / "job.conda-lock.yml").read_bytes())["package"]
    assert {(row["name"], row["platform"]) for row in rows} == {
        (name, platform) for name in ("alpha", "gamma", "python") for platform in ("linux-64", "linux-aarch64")
    }


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("alpha", "beta"), "conda beta: not in the lock"),
        ((), "conda packages: in the lock, not in the recipe any more"),
        (("alpha >=2",), "conda alpha >=2: the lock has 1.0 for linux-64"),
    ],
)
def test_a_stale_lock_is_found_offline(
    workshop: Workshop, channel: Channel, change: tuple[str, ...], reason: str
) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    locked(workshop)
    shutil.rmtree(channel.root)
    assert workshop.repro("lock", "job.toml", "--check").code == 0
    recipe(workshop, channel, "alpha >=1.0,<2")  # looser or tighter: what is locked still fits
    assert workshop.repro("lock", "job.toml", "--check").code == 0
    recipe(workshop, channel, *change)
    assert reason in refused(workshop, "--check")


def test_a_conda_lock_file_that_was_edited_or_lost_is_refused(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    locked(workshop)
    path = workshop.root / "job.conda-lock.yml"
    path.write_text(path.read_text().replace("alpha", "omega"))
    assert "was changed since job.lock was made" in refused(workshop, "--check")
    path.unlink()
    assert "job.conda-lock.yml: cannot be read" in refused(workshop, "--check")


def test_a_package_that_was_tampered_with_is_not_linked(workshop: Workshop, channel: Channel) -> None:
    package = channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    locked(workshop)
    data = bytearray(package.read_bytes())
    data[-100] ^= 1
    package.write_bytes(data)
    done = workshop.repro("run", "job.toml")
    assert done.code != 0
    assert "alpha-1.0-py_0.conda is not what was locked" in done.err
    assert list((workshop.root / "cache/envs").glob("*")) == []


def test_two_packages_that_own_one_path_are_named(workshop: Workshop, channel: Channel) -> None:
    for name in ("alpha", "beta"):
        channel.add(name, "1.0", {"share/both.txt": Content(name.encode())})
    recipe(workshop, channel, "alpha", "beta", script="")
    done = workshop.repro("run", "job.toml")
    assert done.code != 0
    assert "two conda packages own one path" in done.err
    assert "share/both.txt" in done.err


def test_packages_with_the_same_file_make_the_same_prefix_and_layers_every_time(
    workshop: Workshop, channel: Channel, base_tar: Path
) -> None:
    for name in ("alpha", "beta", "gamma"):
        files = {f"share/{number}.txt": Content(b"same", 0o755 if number % 2 else 0o644) for number in range(40)}
        own = os.urandom(1 << 20) if name == "beta" else b""  # then it has a layer of its own
        channel.add(name, "1.0", {**files, "share/link": Content(link="0.txt"), f"share/{name}": Content(own)})
    recipe(workshop, channel, "alpha", "beta", "gamma")
    (workshop.root / "repro.toml").write_text(f'[images]\nbase = "{base_tar}"\n')
    store, seen = workshop.root / "cache", set()
    for _ in range(4):
        if store.exists():
            remove_tree(store)
        assert workshop.repro("env", "build", "job.toml").code == 0
        image = workshop.repro("image", "build", "job.toml", "--json", "--no-load").json["image_id"]
        (prefix,) = (store / "envs").iterdir()
        seen.add((json.loads((prefix / "env.json").read_text())["tree"], image))
        assert not (prefix / "__clobbers__").exists()
    assert len(seen) == 1
    owners = [file for file in (prefix / "conda-meta").glob("*.json") if '"share/7.txt"' in file.read_text()]
    assert len(owners) == 3


def test_packages_that_differ_in_the_exec_bit_or_a_link_are_refused(workshop: Workshop, channel: Channel) -> None:
    for name, mode in (("alpha", 0o755), ("beta", 0o644)):
        channel.add(name, "1.0", {"share/tool": Content(b"x", mode), "share/link": Content(link=f"to-{name}")})
    recipe(workshop, channel, "alpha", "beta")
    done = workshop.repro("env", "build", "job.toml")
    assert done.code == 5
    assert "share/tool: alpha and beta" in done.err
    assert "share/link: alpha and beta" in done.err


@pytest.mark.parametrize(
    ("files", "path"),
    [
        (({"share/clash": Content(b"x")}, {f"share/clash/{n}/inner": Content() for n in range(50)}), "share/clash"),
        (({"libz": Content(link="lib"), "lib/a": Content()}, {"libz/b": Content()}), "libz"),
        (({f"lib/python{MINOR}/site-packages/x": Content()}, {"site-packages/x/y.py": Content()}), "site-packages/x"),
    ],
)
def test_a_file_of_one_package_that_is_a_directory_of_another_is_refused_every_time(
    workshop: Workshop, channel: Channel, base_tar: Path, files: tuple[dict[str, Content], ...], path: str
) -> None:
    for name, content in zip(("alpha", "beta"), files, strict=True):
        noarch = "python" if "site-packages/x/y.py" in content else "generic"
        channel.add(name, "1.0", content, noarch=noarch, depends=["python"])
    recipe(workshop, channel, "alpha", "beta")
    (workshop.root / "repro.toml").write_text(f'[images]\nbase = "{base_tar}"\n')
    for verb in ("env", "env", "image"):
        done = workshop.repro(verb, "build", "job.toml", *(["--no-load"] if verb == "image" else []))
        assert done.code == 5
        assert "two conda packages own one path" in done.err
        assert f"{path}: alpha and beta" in done.err


def test_a_wheel_that_overwrites_a_conda_package_is_named(
    workshop: Workshop, channel: Channel, index: PackageIndex
) -> None:
    channel.add_module("alpha")
    index.wheel("gamma", files={"alpha.py": ""})
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"')
    done = workshop.repro("run", "job.toml")
    assert done.code != 0
    assert "two packages own" in done.err
    assert "alpha.py" in done.err


def test_an_environment_file_gives_channels_packages_and_pip(
    workshop: Workshop, channel: Channel, index: PackageIndex
) -> None:
    channel.add_module("alpha")
    index.wheel("gamma")
    workshop.write(
        "environment.yml", f"name: x\nchannels: [{channel.url}]\ndependencies:\n- alpha\n- pip:\n  - gamma\n"
    )
    estimator = 'conda_dependencies_file = "environment.yml"\n'
    workshop.recipe(SCRIPT, f'[environment]\nindex_url = "{index.url}"', estimator=estimator)
    assert locked(workshop) == {"alpha": "1.0", "python": VERSION}
    assert workshop.repro("lock", "job.toml", "--check").code == 0
    workshop.write("environment.yml", "name: x\nvariables: {A: 1}\n")
    assert "environment.yml: got variables, expected only" in refused(workshop)
    workshop.write("environment.yml", "- [\n")
    assert "environment.yml: cannot be read" in refused(workshop)


def test_a_conda_lock_file_is_taken_as_it_is(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    channel.add_module("alpha")
    index.wheel("gamma")
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"')
    locked(workshop)
    shutil.copy(workshop.root / "job.conda-lock.yml", workshop.root / "conda-lock.yml")
    taken = '[environment]\nconda_lock_file = "conda-lock.yml"\n'
    workshop.recipe(SCRIPT, taken, name="other")
    first, second = (workshop.repro("env", "show", name, "--json").json for name in ("job.toml", "other.toml"))
    assert first["environment"] == second["environment"]
    workshop.recipe(SCRIPT, taken, name="both", estimator='conda_packages = ["alpha"]\n')
    assert "is taken as it is" in workshop.repro("lock", "both.toml").err
    workshop.write("conda-lock.yml", "version: 7\n")
    assert "is no conda-lock file of version 1" in workshop.repro("lock", "other.toml").err


@pytest.fixture
def given(workshop: Workshop, channel: Channel) -> str:
    """A conda-lock file that `other.toml` takes, and its text."""
    recipe(workshop, channel, "python")
    locked(workshop)
    text = (workshop.root / "job.conda-lock.yml").read_text()
    workshop.write("conda-lock.yml", text)
    workshop.recipe("", '[environment]\nconda_lock_file = "conda-lock.yml"\n', name="other")
    return text


@pytest.mark.parametrize(("digest", "length"), [("sha256", 64), ("md5", 32)])
@pytest.mark.parametrize("how", [lambda good: "zz" + good[2:], lambda good: good[:-1]])
def test_a_digest_that_is_none_is_refused_when_it_is_read(
    workshop: Workshop, given: str, digest: str, length: int, how: Callable[[str], str]
) -> None:
    good = re.findall(rf"{digest}: ([0-9a-f]+)", given)[0]
    workshop.write("conda-lock.yml", given.replace(good, how(good)))
    done = workshop.repro("lock", "other.toml")
    assert done.code == 3
    assert f"conda-lock.yml: python: {digest}: got '{how(good)}', expected {length} hex digits" in done.err


def test_a_wrong_md5_is_found_and_none_is_fine(workshop: Workshop, given: str) -> None:
    good = re.findall(r"md5: ([0-9a-f]+)", given)[0]
    workshop.write("conda-lock.yml", given.replace(good, "ab" * 16))
    for _ in range(2):  # fetched, and from the store
        done = workshop.repro("env", "build", "other.toml")
        assert done.code == 4
        assert f"expected md5 {'ab' * 16}\n  got      md5 {good}" in done.err
    workshop.write("conda-lock.yml", given.replace(f"md5: {good}", ""))
    assert workshop.repro("lock", "other.toml").code == 0
    assert workshop.repro("env", "build", "other.toml").code == 0


def test_a_conda_lock_file_without_the_platform_is_refused_when_it_is_locked(workshop: Workshop, given: str) -> None:
    workshop.write("conda-lock.yml", given.replace("linux-64", "osx-arm64"))
    done = workshop.repro("lock", "other.toml")
    assert done.code == 3
    assert "conda-lock.yml: got packages for osx-arm64, expected linux-64" in done.err


def test_a_conda_program_may_solve(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    locked(workshop)
    path = workshop.root / "job.conda-lock.yml"
    by_rattler = path.read_bytes()
    program = workshop.write("conda", f"#!{sys.executable}\n" + (Path(__file__).parent / "lab/conda").read_text())
    program.chmod(0o755)
    path.unlink()
    locked(workshop, "--conda", str(program))
    assert path.read_bytes() == by_rattler
    path.unlink()
    locked(workshop, "--conda", "./conda")
    assert path.read_bytes() == by_rattler
    recipe(workshop, channel, "alpha >9")
    assert "conda, linux-64:" in refused(workshop, "--conda", str(program))
    assert "cannot be run" in refused(workshop, "--conda", "./no-such-conda")
    assert "did not answer as conda does" in refused(workshop, "--conda", "/bin/true")


@pytest.fixture
def served(channel: Channel) -> Iterator[tuple[str, http.server.ThreadingHTTPServer]]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(channel.root))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_channel_that_is_down_is_remembered(
    workshop: Workshop,
    channel: Channel,
    served: tuple[str, http.server.ThreadingHTTPServer],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    url, server = served
    channel.add_module("alpha")
    recipe(workshop, url, "alpha")
    locked(workshop)
    server.shutdown()
    server.server_close()
    done = workshop.repro("lock", "job.toml", "--upgrade")
    assert done.code == 0, done.err
    assert "a channel cannot be reached, locked from what was read of it before" in done.err
    command = [str(Path(sys.executable).parent / "repro"), "lock", "job.toml", "--upgrade"]
    nothing = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "empty")}
    again = subprocess.run(command, capture_output=True, text=True, env=nothing)
    assert again.returncode != 0
    assert "a channel cannot be read" in again.stderr


def test_a_prefix_is_read_only_checked_and_made_anew_where_it_moved(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    first = workshop.run(recipe(workshop, channel, "alpha"))["run_hash"]
    prefix = next((workshop.root / "cache/envs").iterdir())
    assert not [path for path in prefix.rglob("*") if path.stat().st_mode & 0o222 and not path.is_symlink()]
    (workshop.root / "cache").rename(workshop.root / "moved")
    (workshop.root / "repro.toml").write_text('[store]\npath = "moved"\n')
    done = workshop.repro("run", "job.toml", "--force")
    assert done.code == 0, done.err
    assert "made anew" in done.err
    moved = workshop.root / "moved/envs" / prefix.name
    assert str(moved) in (workshop.root / "moved/runs" / first / "outputs/seen.json").read_text()
    module = next(moved.rglob("alpha.py"))
    module.chmod(0o644)
    module.write_text("VERSION = 'bad'\n")
    assert "site-packages/alpha.py" in workshop.repro("verify").out


def test_check_knows_conda_packages(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    locked(workshop)
    assert "alpha" not in workshop.repro("check", "job.toml").out
    recipe(workshop, channel, "alpha", script="import omega\n")
    assert "the lock has no package `omega`" in workshop.repro("check", "job.toml").out
