"""`repro image export`: an image that runs with nothing but Docker."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import Workshop
from tests.lab import docker_image
from tests.lab.conda_package import Channel
from tests.test_conda import environment

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [pytest.mark.usefixtures("docker"), pytest.mark.xdist_group("docker")]  # one daemon, one test at a time

SCRIPT = """
import json, os, sys
seen = {"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "mode": os.stat("tool.sh").st_mode & 0o777}
seen["data"] = [open(path).read() for path in sys.argv[2::2]] if os.path.exists("/inputs") else []
print(json.dumps(seen))
open("outputs/done", "w").write("yes")
"""


@pytest.fixture
def exported(workshop: Workshop, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TOKEN", "hush-hush-1234")
    workshop.write("data/deep/a", "of a directory")
    workshop.write("one.txt", "of a file")
    more = '[estimator.script_params]\n"--d" = { input = "d" }\n"--f" = { input = "f" }\n'
    more += '[inputs.d]\npath = "data/deep/a"\n[inputs.f]\npath = "one.txt"\n'
    estimator = 'conda_packages = ["python"]\nenvironment_variables = { DECLARED = "yes" }'
    name = workshop.recipe(SCRIPT, environment(channel) + more, estimator=estimator)
    workshop.write("job/tool.sh", "#!/bin/sh\n").chmod(0o755)
    path = workshop.root / name
    path.write_text('secrets = ["TOKEN"]\n' + path.read_text())
    return name


def run(docker: DockerClient, image: str, outputs: Path) -> dict[str, Any]:
    volumes = {str(outputs): {"bind": "/work/outputs", "mode": "rw"}}
    said = docker.containers.run(image, volumes=volumes, network_mode="none", remove=True)
    found: dict[str, Any] = json.loads(said)
    return found


def test_it_runs_with_nothing_but_docker(
    workshop: Workshop, docker: DockerClient, exported: str, tmp_path: Path
) -> None:
    done = workshop.repro("image", "export", exported, "--tag", "repro-run:it", "--json")
    assert done.code == 0, done.err
    (tmp_path / "outputs").mkdir()
    seen = run(docker, "repro-run:it", tmp_path / "outputs")
    assert (tmp_path / "outputs/done").read_text() == "yes"
    assert seen["argv"] == ["--d", "/inputs/d/a", "--f", "/inputs/f/one.txt"]
    assert seen["data"] == ["of a directory", "of a file"]
    assert (seen["cwd"], seen["mode"]) == ("/work", 0o755)
    assert (seen["env"]["DECLARED"], seen["env"]["TZ"]) == ("yes", "UTC")
    assert "TOKEN" not in seen["env"]
    image = docker.images.get("repro-run:it")
    assert image.id == done.json["image_id"]
    assert image.labels["repro.run"] == done.json["run_hash"]
    assert "hush-hush" not in json.dumps(image.attrs)


def test_exporting_twice_gives_the_same_bytes(
    workshop: Workshop, docker: DockerClient, exported: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first = workshop.repro("image", "export", exported, "--tarball", "first.tar", "--json")
    assert first.code == 0, first.err
    monkeypatch.setenv("REPRO_STORE", str(tmp_path / "another"))
    old = os.umask(0o077)
    second = workshop.repro("image", "export", exported, "--tarball", "second.tar", "--json")
    os.umask(old)
    assert second.json["image_id"] == first.json["image_id"]
    tars = [(workshop.root / name).read_bytes() for name in ("first.tar", "second.tar")]
    assert len({hashlib.sha256(tar).hexdigest() for tar in tars}) == 1
    assert b"hush-hush" not in tars[0]
    (loaded,) = docker.images.load(tars[0])
    assert loaded.id == first.json["image_id"]


def test_any_user_may_run_it(workshop: Workshop, docker: DockerClient, exported: str) -> None:
    assert workshop.repro("image", "export", exported, "--tag", "repro-run:anyone").code == 0
    said = docker.containers.run("repro-run:anyone", user="1234:1234", network_mode="none", remove=True)
    assert json.loads(said)["cwd"] == "/work"


def test_many_inputs_share_a_layer_when_docker_would_refuse_more(
    workshop: Workshop, channel: Channel, docker: DockerClient, base_tar: Path, tmp_path: Path
) -> None:
    layers = [docker_image.layer({f"etc/layer{number}": b"x"}) for number in range(119)]
    docker_image.load(docker, "lab-many:1", base_tar, *layers)
    more = "".join(f'[inputs.i{n}]\npath = "in{n}"\n' for n in range(6))
    for number in range(6):
        workshop.write(f"in{number}", str(number))
    words = ", ".join(f'{{ input = "i{n}" }}' for n in range(6))
    estimator = f'custom_docker_image = "lab-many:1"\narguments = [{words}]'
    script = "import json, sys\nprint(json.dumps([open(path).read() for path in sys.argv[1:]]))\n"
    name = workshop.recipe(script, environment(channel) + more, estimator=estimator)
    done = workshop.repro("image", "export", name, "--tag", "repro-run:many")
    assert done.code == 0, done.err
    (tmp_path / "outputs").mkdir()
    assert run(docker, "repro-run:many", tmp_path / "outputs") == list("012345")


@pytest.mark.parametrize("name", ["a:b:c", "trailing:", "UPPER:1", "-x:1"])
def test_a_name_docker_would_not_take_is_refused(workshop: Workshop, exported: str, name: str) -> None:
    done = workshop.repro("image", "export", exported, f"--tag={name}")
    assert done.code == 2
    assert "expected a name such as" in done.err
    pushed = workshop.repro("image", "push", exported, "--to", "127.0.0.1:5000/team/env:v1")
    assert pushed.code == 2
    assert "without a tag" in pushed.err


def test_inputs_may_be_left_out(workshop: Workshop, docker: DockerClient, exported: str, tmp_path: Path) -> None:
    done = workshop.repro("image", "export", exported, "--tag", "repro-run:bare", "--without-inputs")
    assert done.code == 0, done.err
    (tmp_path / "outputs").mkdir()
    assert run(docker, "repro-run:bare", tmp_path / "outputs")["data"] == []


def test_a_user_managed_image_gets_the_source_on_top(
    workshop: Workshop, channel: Channel, docker: DockerClient, tmp_path: Path
) -> None:
    workshop.recipe("", environment(channel), name="maker", estimator='conda_packages = ["python"]')
    made = workshop.repro("image", "build", "maker.toml", "--json").json
    docker.images.get(made["image_id"]).tag("lab-python", "1")
    estimator = 'custom_docker_image = "lab-python:1"\nuser_managed = true'
    script = "import sys\nprint('[\"%s\"]' % sys.prefix)\nopen('outputs/done', 'w').write('yes')\n"
    name = workshop.recipe(script, environment(channel), estimator=estimator)
    done = workshop.repro("image", "export", name, "--tag", "repro-run:managed")
    assert done.code == 0, done.err
    (tmp_path / "outputs").mkdir()
    assert run(docker, "repro-run:managed", tmp_path / "outputs") == ["/opt/env"]
    tarball = workshop.repro("image", "export", name, "--tarball", "run.tar", "--json")
    assert tarball.code == 0, tarball.err
    assert docker.images.get("repro-run:managed").id == tarball.json["image_id"]


def test_a_name_in_use_moves_to_the_new_image(
    workshop: Workshop, docker: DockerClient, base_tar: Path, exported: str
) -> None:
    docker_image.load(docker, "repro-run:moved", base_tar)
    done = workshop.repro("image", "export", exported, "--tag", "repro-run:moved", "--json")
    assert docker.images.get("repro-run:moved").id == done.json["image_id"]
