"""Base images a recipe names, for real: tags, digests, registries with and without a login, Dockerfiles."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli

from tests.conftest import Workshop, missing
from tests.lab import docker_image
from tests.lab.__main__ import LOGIN, PRIVATE_REGISTRY, REGISTRY, registry_answers
from tests.lab.conda_package import Channel
from tests.test_conda import environment

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [pytest.mark.usefixtures("docker"), pytest.mark.xdist_group("docker")]  # one daemon, one test at a time

BASE = f"{REGISTRY}/lab/base"
SEEN = """
import json, os, sys
seen = {"prefix": sys.prefix, "version": sys.version.split()[0], "env": dict(os.environ), "uid": os.getuid()}
seen["mark"] = open("/etc/mark").read() if os.path.exists("/etc/mark") else ""
json.dump(seen, open("outputs/seen.json", "w"))
"""


@pytest.fixture(autouse=True)
def registry() -> None:
    for address in (REGISTRY, PRIVATE_REGISTRY):
        if not registry_answers(address):
            missing(f"no registry answers at {address} (`make lab-up` as root starts it)")


@pytest.fixture
def named(workshop: Workshop, channel: Channel) -> Callable[..., str]:
    """Writes a recipe that names a base image."""

    def write(image: str, more: str = "", *, script: str = SEEN, rest: str = "") -> str:
        return workshop.recipe(script, f"{environment(channel)}{rest}", estimator=f"{image}\n{more}\n")

    return write


def seen(workshop: Workshop, run: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workshop.root / "cache/runs" / run / "outputs/seen.json").read_text())
    return found


def locked_image(workshop: Workshop) -> dict[str, Any]:
    found: dict[str, Any] = tomli.loads((workshop.root / "job.lock").read_text())["image"]
    return found


def forget(docker: DockerClient, *images: str) -> None:
    from docker.errors import ImageNotFound

    for image in images:
        docker.images.remove(image, force=True)
        with pytest.raises(ImageNotFound):
            docker.images.get(image)


def mark(text: str) -> bytes:
    return docker_image.layer({"etc/mark": text.encode()})


def test_a_tag_is_resolved_once_and_then_it_is_that_image(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    first = docker_image.load(docker, f"{BASE}:1", base_tar, mark("one"), variables={"OF_BASE": "yes", "PATH": "/b"})
    name = named(f'custom_docker_image = "{BASE}:1"')
    done = workshop.run(name)
    found = seen(workshop, done["run_hash"])
    assert (found["mark"], found["prefix"], found["env"]["OF_BASE"]) == ("one", "/opt/env", "yes")
    assert found["env"]["PATH"] == "/opt/env/bin:/b"
    image = locked_image(workshop)
    assert (image["name"], image["image_ids"]) == (f"{BASE}:1", [f"linux-64={first}"])
    assert image["digest"].startswith("sha256:")
    attempt = workshop.repro("show", "@", "--json").json["attempts"][0]
    assert attempt["facts"]["image"]["base"] == f"image {first}"
    second = docker_image.load(docker, f"{BASE}:1", base_tar, mark("two"))
    assert workshop.repro("lock", name, "--check").code == 0
    assert workshop.run(name)["cached"] is True
    again = workshop.run(name, "--force")
    assert seen(workshop, again["run_hash"])["mark"] == "one"
    assert workshop.repro("lock", name, "--update", "custom_docker_image").code == 0
    assert locked_image(workshop)["image_ids"] == [f"linux-64={second}"]
    assert seen(workshop, workshop.run(name)["run_hash"])["mark"] == "two"
    leaves = [item["leaf"] for item in workshop.repro("why", "@", "--json").json["differences"]]
    assert leaves == ["environment.image"]


def test_a_base_image_is_pulled_by_its_digest_and_refused_when_it_is_gone_or_another(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    image_id = docker_image.load(docker, f"{BASE}:gone", base_tar, mark("gone"))
    name = named(f'custom_docker_image = "{BASE}:gone"')
    assert workshop.repro("lock", name).code == 0
    forget(docker, image_id)
    assert seen(workshop, workshop.run(name)["run_hash"])["mark"] == "gone"
    digest = locked_image(workshop)["digest"]
    lock = workshop.root / "job.lock"
    text = lock.read_text()
    lock.write_text(text.replace(image_id, f"sha256:{'0' * 64}"))
    done = workshop.repro("run", name)
    assert done.code == 4
    assert "was changed" in done.err
    lock.write_text(text)
    for image in docker.images.list():
        if image.tags and image.tags[0].startswith("repro-env:"):
            forget(docker, str(image.id))
    forget(docker, image_id)
    nowhere = f"sha256:{'1' * 64}"  # as if it had been deleted; of a real deletion the daemon remembers too much
    lock.write_text(text.replace(digest, nowhere))
    done = workshop.repro("run", name, "--force")
    assert done.code == 5
    assert f"its registry has no {nowhere[:19]} any more" in done.err
    assert "--update custom_docker_image" in done.err


def test_an_image_nobody_has_is_named(workshop: Workshop, named: Callable[..., str]) -> None:
    done = workshop.repro("lock", named(f'custom_docker_image = "{BASE}:nowhere"'))
    assert done.code == 3
    assert f"no registry and no daemon has {BASE}:nowhere" in done.err
    done = workshop.repro("lock", named('custom_docker_image = "127.0.0.1:1/lab/base:1"'))
    assert done.code == 5
    assert "127.0.0.1:1" in done.err
    assert "Traceback" not in done.err


def test_an_image_only_the_daemon_has_is_pinned_by_its_id(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    image_id = docker_image.load(docker, "127.0.0.1:1/lab/local:1", base_tar, mark("local"))
    name = named('custom_docker_image = "127.0.0.1:1/lab/local:1"')
    done = workshop.repro("lock", name)
    assert done.code == 0, done.err
    assert "taken from this daemon" in done.err
    assert locked_image(workshop) == {"name": "127.0.0.1:1/lab/local:1", "image_ids": [f"linux-64={image_id}"]}
    forget(docker, image_id)
    done = workshop.repro("run", name)
    assert done.code == 5
    assert "it is in no registry" in done.err


def test_a_private_registry_takes_dockers_own_login(
    workshop: Workshop,
    docker: DockerClient,
    base_tar: Path,
    named: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    repository = f"{PRIVATE_REGISTRY}/lab/base"
    image_id = docker_image.load(docker, f"{repository}:1", base_tar, mark("private"))
    answer = docker.images.push(repository, tag="1", auth_config={"username": LOGIN[0], "password": LOGIN[1]})
    assert "error" not in answer
    forget(docker, image_id)
    login = tmp_path / "docker"
    login.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(login))
    name = named('custom_docker_image = "lab/base:1"', f'image_registry_details = {{ address = "{PRIVATE_REGISTRY}" }}')
    done = workshop.repro("lock", name)
    assert done.code == 5
    assert "docker login" in done.err
    docker.images.get(docker_image.load(docker, "lab-same:1", base_tar, mark("private"))).tag(repository, "1")
    done = workshop.repro("lock", name)  # that the daemon has it is no answer of the registry
    assert done.code == 5
    forget(docker, image_id)
    token = base64.b64encode(":".join(LOGIN).encode()).decode()
    (login / "config.json").write_text(json.dumps({"auths": {PRIVATE_REGISTRY: {"auth": token}}}))
    done = workshop.run(name)
    assert seen(workshop, done["run_hash"])["mark"] == "private"
    for file in workshop.root.rglob("*"):
        if file.is_file() and file.suffix != ".tar":
            assert not any(secret.encode() in file.read_bytes() for secret in (LOGIN[1], token)), file


def test_an_image_of_another_architecture_is_refused(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, f"{BASE}:arm", base_tar, architecture="arm64")
    done = workshop.repro("lock", named(f'custom_docker_image = "{BASE}:arm"'))
    assert done.code in (3, 5)
    assert "arm" in done.err
    docker_image.load(docker, "lab-arm:1", base_tar, architecture="arm64")
    done = workshop.repro("lock", named('custom_docker_image = "lab-arm:1"'))
    assert done.code == 3
    assert "is for linux-aarch64, expected linux-64" in done.err


@pytest.mark.parametrize(("count", "code"), [(123, 0), (125, 2)])
def test_a_base_of_many_layers_fits_or_is_refused(
    workshop: Workshop,
    channel: Channel,
    docker: DockerClient,
    base_tar: Path,
    named: Callable[..., str],
    count: int,
    code: int,
) -> None:
    channel.add_module("alpha")
    more = [docker_image.layer({f"etc/layer{number}": b"x"}) for number in range(count - 1)]
    docker_image.load(docker, "lab-many:1", base_tar, *more)
    done = workshop.repro("run", named('custom_docker_image = "lab-many:1"', 'conda_packages = ["alpha"]'))
    assert done.code == code, done.err
    if code:
        assert "has 125 layers, and Docker takes 125" in done.err


def test_a_user_managed_image_runs_as_it_is(
    workshop: Workshop, channel: Channel, docker: DockerClient, named: Callable[..., str]
) -> None:
    workshop.recipe("", environment(channel), name="maker", estimator='conda_packages = ["python"]')
    made = workshop.repro("image", "build", "maker.toml", "--json").json
    assert docker.images.get(made["image_id"]).tag("lab-python", "1")
    before = {image.id for image in docker.images.list(all=True)}
    name = named('custom_docker_image = "lab-python:1"', "user_managed = true")
    done = workshop.run(name)
    found = seen(workshop, done["run_hash"])
    assert found["prefix"] == "/opt/env"
    assert locked_image(workshop)["python"] == found["version"]
    assert {image.id for image in docker.images.list(all=True)} == before
    assert workshop.repro("show", "@", "--json").json["plan"]["environment"]["user_managed"] is True
    docker.images.get(made["image_id"]).tag("lab-python", "1")
    export = workshop.repro("image", "build", name)
    assert export.code == 2
    assert "no image to make" in export.err
    docker.images.remove("lab-python:1")


def test_a_user_managed_image_needs_no_path_of_its_own(
    workshop: Workshop, channel: Channel, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    workshop.recipe("", environment(channel), name="maker", estimator='conda_packages = ["python"]')
    workshop.repro("image", "build", "maker.toml", "--no-load")
    layers = workshop.repro("image", "inspect", "maker.toml", "--json").json["layers"]
    python = (workshop.root / "cache/layers" / f"{layers[1]['diff_id']}.tar").read_bytes()
    docker_image.load(
        docker, "lab-path:1", base_tar, python, docker_image.link("usr/bin/python", "/opt/env/bin/python")
    )
    name = named('custom_docker_image = "lab-path:1"', "user_managed = true")
    assert seen(workshop, workshop.run(name)["run_hash"])["prefix"] == "/opt/env"


def test_a_user_managed_image_without_python_is_refused(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-bare:1", base_tar)
    done = workshop.repro("lock", named('custom_docker_image = "lab-bare:1"', "user_managed = true"))
    assert done.code == 3
    assert "has no `python` on its PATH" in done.err


def test_a_dockerfile_is_built_once_and_what_came_out_is_pinned(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-from:1", base_tar)
    workshop.write("images/Dockerfile", "FROM lab-from:1\nUSER root\nCOPY mark /etc/mark\nENTRYPOINT []\n")
    workshop.write("images/mark", "copied")
    name = named('dockerfile = "images"')
    done = workshop.run(name)
    assert seen(workshop, done["run_hash"])["mark"] == "copied"
    image = locked_image(workshop)
    assert "digest" not in image
    assert "not reproducible" in (workshop.root / "job.lock").read_text()
    lock = (workshop.root / "job.lock").read_bytes()
    assert workshop.repro("lock", name).code == 0
    assert (workshop.root / "job.lock").read_bytes() == lock
    workshop.write("images/mark", "another")
    done = workshop.repro("run", name)
    assert done.code == 3
    assert "is not what the locked base image was built of" in done.err
    again = workshop.run(name, "--relock")
    assert seen(workshop, again["run_hash"])["mark"] == "another"
    forget(docker, image["image_ids"][0].partition("=")[2], locked_image(workshop)["image_ids"][0].partition("=")[2])


def test_a_pruned_daemon_keeps_the_image_of_a_dockerfile(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-from:1", base_tar)
    workshop.write("Dockerfile.some", "FROM lab-from:1\nLABEL some=label\n")
    assert workshop.repro("lock", named('dockerfile = "Dockerfile.some"')).code == 0
    image_id = locked_image(workshop)["image_ids"][0].partition("=")[2]
    assert docker.images.get(image_id).tags == [f"repro-base:{image_id[7:39]}"]


def test_a_dockerfile_that_cannot_be_built_says_why(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-from:1", base_tar)
    workshop.write("Dockerfile.bad", "FROM lab-from:1\nCOPY nothing /etc/mark\n")
    done = workshop.repro("lock", named('dockerfile = "Dockerfile.bad"'))
    assert done.code == 5
    assert "docker build failed" in done.err
    assert "Traceback" not in done.err


def test_a_process_cannot_stand_in_for_a_base_image(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-from:1", base_tar)
    name = named('custom_docker_image = "lab-from:1"')
    done = workshop.repro("run", name, "-t", "local")
    assert done.code == 2
    assert "-t docker" in done.err
    assert workshop.repro("run", name).code == 0


def test_a_tarball_holds_the_base_image_too(
    workshop: Workshop, docker: DockerClient, base_tar: Path, named: Callable[..., str]
) -> None:
    docker_image.load(docker, "lab-from:1", base_tar, mark("packed"))
    name = named('custom_docker_image = "lab-from:1"')
    made = workshop.repro("image", "build", name, "--tarball", "image.tar", "--json")
    assert made.code == 0, made.err
    docker.images.remove("lab-from:1", force=True)
    (loaded,) = docker.images.load((workshop.root / "image.tar").read_bytes())
    assert loaded.id == made.json["image_id"]
    assert workshop.repro("image", "verify", name).code == 5  # the base is gone from the daemon, and in no registry


@pytest.fixture
def teammate(workshop: Workshop, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """Becomes somebody else: another store."""

    def become() -> None:
        monkeypatch.setenv("REPRO_STORE", str(tmp_path / "their-store"))

    return become


@pytest.fixture
def shared(workshop: Workshop) -> str:
    """A registry of the team's, in repro.toml."""
    repository = f"{REGISTRY}/team/env{os.urandom(4).hex()}"
    with open(workshop.root / "repro.toml", "a") as file:
        file.write(f'registry = "{repository}"\n')
    return repository


def test_a_team_shares_images_by_environment(
    workshop: Workshop,
    channel: Channel,
    docker: DockerClient,
    shared: str,
    teammate: Callable[[], None],
) -> None:
    workshop.recipe(SEEN, environment(channel), estimator='conda_packages = ["python"]')
    first = workshop.repro("run", "job.toml", "-t", "docker")
    assert first.code == 0, first.err
    assert f"to {shared}" in first.err
    image = workshop.repro("show", "@", "--json").json["attempts"][0]["facts"]["image"]
    assert image["origin"] == "built"
    forget(docker, image["id"])
    teammate()
    second = workshop.repro("run", "job.toml", "-t", "docker")
    assert second.code == 0, second.err
    assert f"from {shared}" in second.err
    assert "Making" not in second.err
    facts = workshop.repro("show", "@", "--json").json["attempts"][0]["facts"]["image"]
    assert facts == {**image, "origin": shared}
    assert f"in image {image['id'][7:19]} from {shared}" in workshop.repro("show", "@").out
    third = workshop.repro("run", "job.toml", "-t", "docker", "--force")  # known by now: nobody is asked
    assert shared not in third.err
    proved = workshop.repro("image", "verify", "job.toml")
    assert proved.code == 0, proved.err


def test_a_registry_that_is_down_is_a_warning(workshop: Workshop, channel: Channel) -> None:
    with open(workshop.root / "repro.toml", "a") as file:
        file.write('registry = "127.0.0.1:1/team/env"\n')
    channel.add_module("alpha")
    workshop.recipe(SEEN, environment(channel), estimator='conda_packages = ["alpha"]')
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 0, done.err
    assert "the image is made here" in done.err


def test_a_wrong_image_in_the_registry_is_an_error(
    workshop: Workshop, channel: Channel, docker: DockerClient, shared: str, teammate: Callable[[], None]
) -> None:
    channel.add_module("alpha")
    workshop.recipe(SEEN, environment(channel), estimator='conda_packages = ["alpha"]')
    workshop.recipe(SEEN, environment(channel), name="other", estimator='conda_packages = ["python"]')
    right = workshop.repro("image", "push", "job.toml", "--json").json
    wrong = workshop.repro("image", "build", "other.toml", "--json").json
    docker.images.get(wrong["image_id"]).tag(shared, right["tag"])
    docker.images.push(shared, tag=right["tag"])
    forget(docker, right["image_id"], wrong["image_id"])
    teammate()
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 4
    assert "is another image" in done.err


def test_a_forged_layer_is_found_by_making_the_image_anew(
    workshop: Workshop, channel: Channel, docker: DockerClient, shared: str, teammate: Callable[[], None]
) -> None:
    """The registry's image claims all the right packages, and one layer holds something else."""
    channel.add_module("alpha")
    workshop.recipe(SEEN, environment(channel), estimator='conda_packages = ["alpha"]')
    right = workshop.repro("image", "build", "job.toml", "--json").json
    config = workshop.repro("image", "inspect", "job.toml", "--json").json["config"]
    forged = docker_image.layer({"opt/env/lib/python3.11/site-packages/alpha.py": b"VERSION = 'evil'\n"})
    layers = [
        (workshop.root / "cache/layers" / f"{item.removeprefix('sha256:')}.tar").read_bytes()
        for item in config["rootfs"]["diff_ids"][:-1]
    ]
    docker.images.load(docker_image.forge(config, [*layers, forged], f"{shared}:{right['tag']}"))
    docker.images.push(shared, tag=right["tag"])
    forget(docker, f"{shared}:{right['tag']}", right["image_id"])
    teammate()
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 0, done.err
    assert workshop.repro("show", "@", "--json").json["attempts"][0]["facts"]["image"]["origin"] == shared
    proved = workshop.repro("image", "verify", "job.toml")
    assert proved.code == 4
    assert "is not what its packages make" in proved.err


def test_two_people_who_build_at_once_end_with_one_image(
    workshop: Workshop, channel: Channel, shared: str, tmp_path: Path
) -> None:
    channel.add_module("alpha")
    workshop.recipe(SEEN, environment(channel), estimator='conda_packages = ["alpha"]')
    assert workshop.repro("lock", "job.toml").code == 0
    command = [str(Path(sys.executable).parent / "repro"), "image", "push", "job.toml", "--json"]
    people = [
        subprocess.Popen(
            command,
            cwd=workshop.root,
            env={**os.environ, "REPRO_STORE": str(tmp_path / f"store{number}")},
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    answers = [json.loads(person.communicate(timeout=120)[0]) for person in people]
    assert answers[0]["image_id"] == answers[1]["image_id"]
    assert answers[0]["tag"] == answers[1]["tag"]
