"""Images without a daemon: the same bytes wherever they are made, layer by layer, and what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from repro_est.digest import xxh3_hex
from repro_est.images import builder as image_module
from tests.conftest import PackageIndex, Workshop
from tests.lab import docker_image
from tests.lab.channel import MINOR
from tests.lab.conda_package import Channel, Content
from tests.test_conda import recipe


@pytest.fixture(autouse=True)
def based(workshop: Workshop, base_tar: Path) -> None:
    (workshop.root / "repro.toml").write_text(f'[images]\nbase = "{base_tar}"\n')


def build(workshop: Workshop, *words: str) -> dict[str, Any]:
    done = workshop.repro("image", "build", "job.toml", "--json", "--no-load", *words)
    assert done.code == 0, done.err
    return dict(done.json)


def noise(size: int, seed: str) -> bytes:
    """Bytes that do not shrink, always the same."""
    blocks = (hashlib.sha256(f"{seed}{number}".encode()).digest() for number in range(size // 32))
    return b"".join(blocks)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Another machine, as far as one can have it here: store, time zone, umask, locale."""
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "another" / "place" / "store"))
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    before = os.umask(0o077)
    yield
    os.umask(before)
    monkeypatch.undo()
    time.tzset()


def test_an_image_is_the_same_bytes_on_every_machine(
    workshop: Workshop, channel: Channel, index: PackageIndex, request: pytest.FixtureRequest
) -> None:
    channel.add_module("alpha")
    index.wheel("gamma", requires=("alpha>=1",))
    recipe(workshop, channel, "alpha", pip=("gamma",), more=f'index_url = "{index.url}"')
    here = build(workshop, "--tarball", "here.tar")
    request.getfixturevalue("elsewhere")
    there = build(workshop, "--tarball", "there.tar")
    assert there["built_layers"] == here["built_layers"] > 0
    assert there["image_id"] == here["image_id"]
    digests = {hashlib.sha256((workshop.root / name).read_bytes()).hexdigest() for name in ("here.tar", "there.tar")}
    assert len(digests) == 1


def test_a_tarball_is_an_oci_layout(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha")
    made = build(workshop, "--tarball", "image.tar")
    with tarfile.open(workshop.root / "image.tar") as archive:
        blobs = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    for name, data in blobs.items():
        if name.startswith("blobs/sha256/"):
            assert hashlib.sha256(data).hexdigest() == name.removeprefix("blobs/sha256/")
    assert json.loads(blobs["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}

    def blob(descriptor: dict[str, Any]) -> bytes:
        data = blobs[f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}"]
        assert len(data) == descriptor["size"]
        return data

    manifest = json.loads(blob(json.loads(blobs["index.json"])["manifests"][0]))
    assert manifest["config"]["digest"] == made["image_id"]
    config = json.loads(blob(manifest["config"]))
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
    assert config["config"]["Labels"]["repro.environment"] == made["environment"]
    assert {item["name"] for item in json.loads(config["config"]["Labels"]["repro.sbom"])} == {"alpha", "python"}
    assert json.loads(blobs["manifest.json"])[0]["Config"] == f"blobs/{made['image_id'].replace(':', '/')}"
    (workshop.root / "layer.tar").write_bytes(blob(manifest["layers"][1]))
    with tarfile.open(workshop.root / "layer.tar") as layer:
        members = {member.name: member for member in layer}
        assert {(item.uid, item.gid, item.mtime, item.uname) for item in members.values()} == {(0, 0, 0, "")}
        assert {item.mode for item in members.values() if item.isfile()} == {0o644, 0o755}
        assert layer.extractfile("opt/env/etc/prefix.txt").read() == b"/opt/env/share\n"  # type: ignore[union-attr]
        assert list(members) == sorted(members, key=lambda name: name.split("/"))
        assert not [name for name in members if name.endswith(".pyc")]


def test_a_change_of_one_package_makes_one_layer(workshop: Workshop, channel: Channel) -> None:
    for name in ("large-a", "large-b"):
        channel.add(name, "1.0", {f"share/{name}": Content(noise(2 << 20, name))})
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha", "large-a", "large-b")
    first = build(workshop)
    assert (first["layers"], first["built_layers"]) == (5, 4)  # the base, python, two large ones, the small one
    assert build(workshop)["built_layers"] == 0
    channel.add("large-b", "2.0", {"share/large-b": Content(noise(2 << 20, "other"))})
    assert workshop.repro("lock", "job.toml", "--update", "large-b").code == 0
    second = build(workshop)
    assert (second["layers"], second["built_layers"]) == (5, 1)
    assert second["image_id"] != first["image_id"]
    rows = workshop.repro("image", "ls", "--json").json
    assert {row["image_id"] for row in rows} == {item["image_id"].removeprefix("sha256:") for item in (first, second)}
    assert rows[0]["layers"][0]["name"] == "base"
    assert "large-b 2.0" in workshop.repro("image", "inspect", "job.toml").out
    assert "image" in workshop.repro("image", "ls").out


def test_layers_are_capped(workshop: Workshop, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        channel.add(f"large-{number}", "1.0", {f"share/{number}": Content(noise((8 + number) << 20, str(number)))})
    recipe(workshop, channel, *(f"large-{number}" for number in range(4)))
    monkeypatch.setattr(image_module, "MAX_LAYERS", 4)
    made = build(workshop)
    assert made["layers"] == 4
    listed = workshop.repro("image", "inspect", "job.toml", "--json").json["layers"]
    names = [layer["name"] for layer in listed]
    assert [names[0], names[1].split()[0], *names[2:]] == ["base", "python", "large-3 1.0", "3 small packages"]


def test_two_packages_that_own_one_path_are_named(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    channel.add("large", "1.0", {"bin/tool": Content(noise(2 << 20, "x"))})
    channel.add("small", "1.0", {"bin/tool": Content(b"y")})
    recipe(workshop, channel, "large", "small")
    done = workshop.repro("image", "build", "job.toml", "--no-load")
    assert done.code == 5
    assert "two" in done.err
    assert "bin/tool" in done.err


def test_packages_may_share_a_file_that_is_the_same(workshop: Workshop, channel: Channel, index: PackageIndex) -> None:
    text = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"
    site = f"lib/python{MINOR}/site-packages"
    for name in ("alpha", "beta"):
        index.wheel(name, files={f"{name}.py": "", "shared/__init__.py": text})
    channel.add("delta", "1.0", {f"{site}/shared/__init__.py": Content(text.encode())})
    recipe(workshop, channel, "delta", pip=("alpha", "beta"), more=f'index_url = "{index.url}"', script="import shared")
    build(workshop)
    workshop.run("job.toml")


@pytest.mark.parametrize(
    ("path", "text", "shown"),
    [
        ("shared/__init__.py", "VERSION = 2\n", "shared/__init__.py"),
        ("shared/__init__.py/inner.py", "", "shared/__init__.py"),
    ],
)
def test_packages_that_differ_in_a_path_are_both_named(
    workshop: Workshop, channel: Channel, index: PackageIndex, path: str, text: str, shown: str
) -> None:
    index.wheel("alpha", files={"shared/__init__.py": "VERSION = 1\n"})
    index.wheel("beta", files={path: text})
    recipe(workshop, channel, "python", pip=("alpha", "beta"), more=f'index_url = "{index.url}"')
    done = workshop.repro("image", "build", "job.toml", "--no-load")
    assert done.code == 5
    assert f"two packages own /opt/env/lib/python{MINOR}/site-packages/{shown}: pip alpha and pip beta" in done.err
    done = workshop.repro("env", "build", "job.toml")
    assert done.code == 5
    assert f"two packages own lib/python{MINOR}/site-packages/{shown}: " in done.err
    assert "beta-1.0-py3-none-any.whl" in done.err


def test_a_layer_that_was_changed_is_found(workshop: Workshop, channel: Channel) -> None:
    recipe(workshop, channel, "python")
    build(workshop)
    assert workshop.repro("image", "verify", "job.toml").code == 0
    layer = max((workshop.root / "cache/layers").glob("*.tar"), key=lambda path: path.stat().st_size)
    layer.chmod(0o644)
    with open(layer, "r+b") as file:
        file.seek(5000)
        file.write(b"!")
    done = workshop.repro("image", "verify", "job.toml")
    assert done.code == 4
    assert "was changed, expected sha256" in done.err
    done = workshop.repro("image", "build", "job.toml", "--tarball", "image.tar")
    assert done.code == 4
    assert not (workshop.root / "image.tar").exists()
    assert workshop.repro("verify").code == 4
    assert workshop.repro("verify", "--repair").code == 4
    build(workshop)
    assert workshop.repro("image", "verify", "job.toml").code == 0
    assert workshop.repro("verify").code == 0


def test_a_note_that_names_another_layer_is_not_believed(workshop: Workshop, channel: Channel) -> None:
    channel.add("large", "1.0", {"share/large": Content(noise(2 << 20, "large"))})
    recipe(workshop, channel, "large")
    first = build(workshop)
    notes = sorted((workshop.root / "cache/layers").glob("*.json"), key=lambda path: path.stat().st_size)
    digest, _, text = notes[1].read_bytes().partition(b"\n")
    other = json.loads(notes[2].read_bytes().partition(b"\n")[2])["diff_id"]
    content = json.loads(text)
    notes[1].write_bytes(digest + b"\n" + text.replace(content["diff_id"].encode(), other.encode()))
    assert build(workshop)["image_id"] == first["image_id"]


def test_verify_makes_every_layer_anew(workshop: Workshop, channel: Channel) -> None:
    """Somebody who may write the store put another layer there, and a right note to it."""
    channel.add("large", "1.0", {"share/large": Content(noise(2 << 20, "large"))})
    recipe(workshop, channel, "large")
    first = build(workshop)
    layers = workshop.root / "cache/layers"
    (note,) = (path for path in layers.glob("*.json") if b'"large 1.0"' in path.read_bytes())
    content = json.loads(note.read_bytes().partition(b"\n")[2])
    forged = docker_image.layer({"opt/env/share/large": b"evil"})
    digest = hashlib.sha256(forged).hexdigest()
    (layers / f"{digest}.tar").write_bytes(forged)
    text = json.dumps({**content, "diff_id": digest, "size": len(forged)}, sort_keys=True).encode()
    note.write_bytes(xxh3_hex(text).encode() + b"\n" + text)
    done = workshop.repro("image", "verify", "job.toml", "--json")
    assert done.code == 4
    assert "is not what its packages make" in done.err
    for path in layers.iterdir():
        path.unlink()
    assert build(workshop)["image_id"] == first["image_id"]


@pytest.mark.parametrize("key", ["environment", "base", "origin"])
def test_a_changed_record_is_named_and_hides_no_other(workshop: Workshop, channel: Channel, key: str) -> None:
    recipe(workshop, channel, "python")
    made = build(workshop)["image_id"].removeprefix("sha256:")
    record = workshop.root / "cache/images" / f"{made}.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, key: "changed"}))
    listed = workshop.repro("image", "ls")
    assert listed.code == 0
    assert "was changed, it is not the record of image" in listed.err
    assert made[:12] not in listed.out


def test_a_device_is_written_to_and_stays_a_device(workshop: Workshop, channel: Channel) -> None:
    recipe(workshop, channel, "python")
    os.mkfifo(workshop.root / "pipe")
    opened = os.open(workshop.root / "pipe", os.O_RDWR)
    with subprocess.Popen(["cat"], stdin=opened, stdout=subprocess.DEVNULL) as reader:
        done = workshop.repro("image", "build", "job.toml", "--tarball", "pipe")
        reader.kill()
    os.close(opened)
    assert done.code == 0, done.err
    assert stat.S_ISFIFO((workshop.root / "pipe").stat().st_mode)


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "is no tar"), (b"text " * 999, "is no tar"), (None, "is no tar")]
)
def test_a_base_that_is_no_whole_tar_is_named(
    workshop: Workshop, channel: Channel, base_tar: Path, content: bytes | None, message: str
) -> None:
    recipe(workshop, channel, "python")
    workshop.write("cut.tar", base_tar.read_bytes()[:1_000_000] if content is None else content)
    workshop.write("repro.toml", '[images]\nbase = "cut.tar"\n')
    done = workshop.repro("image", "build", "job.toml", "--no-load")
    assert done.code == 2
    assert "[images] base" in done.err
    assert message in done.err


def test_a_lost_layer_is_made_again(workshop: Workshop, channel: Channel) -> None:
    recipe(workshop, channel, "python")
    first = build(workshop)
    for layer in (workshop.root / "cache/layers").glob("*.tar"):
        layer.unlink()
    again = build(workshop)
    assert again["image_id"] == first["image_id"]
    assert again["built_layers"] == first["built_layers"]


@pytest.mark.parametrize(
    ("settings", "code", "message"),
    [
        ("", 2, "no base image"),
        ('[images]\nbase = "nowhere.tar"\n', 2, "no such file"),
        ('[images]\nbase = "{base}"\nbase_sha256 = "00"\n', 4, "was changed"),
        ("[images]\nbase = 3\n", 2, "images.base: got 3, expected str"),
        ('[images]\nregistry = "UPPER/x"\n', 2, "expected a repository such as"),
    ],
)
def test_a_base_that_cannot_be_used_is_named(
    workshop: Workshop, channel: Channel, base_tar: Path, settings: str, code: int, message: str
) -> None:
    recipe(workshop, channel, "python")
    (workshop.root / "repro.toml").write_text(settings.replace("{base}", str(base_tar)))
    done = workshop.repro("image", "build", "job.toml", "--no-load")
    assert done.code == code
    assert message in done.err


def test_an_image_needs_a_python_of_its_own(workshop: Workshop) -> None:
    workshop.recipe("")
    done = workshop.repro("image", "build", "job.toml", "--no-load")
    assert done.code == 2
    assert "an image needs a Python that is locked" in done.err


@pytest.mark.parametrize(("verb", "megabytes"), [("env", 15), ("env", 60), ("image", 40), ("image", 60)])
def test_a_full_disk_is_named_with_the_way_out_while_fetching_and_while_linking(
    workshop: Workshop,
    channel: Channel,
    small_disk: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
    verb: str,
    megabytes: int,
) -> None:
    recipe(workshop, channel, "python")
    assert workshop.repro("lock", "job.toml").code == 0
    store = small_disk(megabytes << 20) / "store"
    monkeypatch.setenv("REPRO_STORE", str(store))
    done = workshop.repro(verb, "build", "job.toml", *(["--no-load"] if verb == "image" else []))
    assert done.code == 5
    assert f"error: {store}" in done.err
    assert done.err.count("no space left on the store's disk") == 1
    assert "os error" not in done.err
    assert "hint: free some space" in done.err


def test_a_full_disk_leaves_no_half_tarball(
    workshop: Workshop, channel: Channel, small_disk: Callable[[int], Path]
) -> None:
    recipe(workshop, channel, "python")
    place = small_disk(5 << 20)
    done = workshop.repro("image", "build", "job.toml", "--tarball", str(place / "image.tar"))
    assert done.code == 5
    assert "No space left" in done.err
    assert list(place.iterdir()) == []
