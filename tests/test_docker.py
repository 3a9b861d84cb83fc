"""The docker target and the daemon, for real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from repro_est.images import daemon
from tests.conftest import Workshop, missing
from tests.lab.__main__ import REGISTRY, registry_answers
from tests.lab.conda_package import Channel, Content
from tests.test_conda import recipe
from tests.test_image import build, noise

if TYPE_CHECKING:
    from docker import DockerClient

pytestmark = [pytest.mark.usefixtures("docker"), pytest.mark.xdist_group("docker")]  # one daemon, one test at a time

LOOK = """
import json, os, socket, sys
def refused(path):
    try:
        open(path, "w").close()
    except OSError as error:
        return error.strerror
def network():
    try:
        socket.create_connection(("192.0.2.1", 9), timeout=2)
    except OSError as error:
        return error.strerror
seen = {
    "argv": sys.argv[1:], "cwd": os.getcwd(), "prefix": sys.prefix, "uid": os.getuid(), "network": network(),
    "source": refused("/work/x"), "input": refused(sys.argv[2] + "/x"), "data": open(sys.argv[2] + "/a").read(),
    "tmp": refused("/tmp/x"), "home": refused(os.path.expanduser("~/x")), "env": dict(os.environ),
    "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
}
json.dump(seen, open("outputs/seen.json", "w"))
open("logs/own.txt", "w").write("own")
print("to stdout"); print("to stderr", file=sys.stderr)
"""


def containers(docker: DockerClient, workshop: Workshop) -> list[str]:
    found = docker.containers.list(all=True, filters={"label": f"repro.store={workshop.root / 'cache'}"})
    return [str(container.id) for container in found]


def test_a_run_in_a_container_sees_what_it_may_and_leaves_nothing(
    workshop: Workshop, channel: Channel, docker: DockerClient
) -> None:
    workshop.write("data/a", "input")
    name = recipe(workshop, channel, "python", script=LOOK)
    path = workshop.root / name
    path.write_text(
        path.read_text().replace("[environment]", 'shm_size = "80m"\n[environment]')
        + '[estimator.script_params]\n"--data" = { input = "d" }\n[inputs.d]\npath = "data"\n'
    )
    done = workshop.run(name, "-t", "docker")
    run = workshop.root / "cache/runs" / done["run_hash"]
    seen = json.loads((run / "outputs/seen.json").read_text())
    assert (seen["argv"], seen["cwd"], seen["prefix"]) == (["--data", "/inputs/d"], "/work", "/opt/env")
    assert (seen["source"], seen["input"]) == ("Read-only file system",) * 2
    assert (seen["tmp"], seen["home"], seen["data"], seen["uid"]) == (None, None, "input", os.getuid())
    assert seen["network"] == "Network is unreachable"
    assert seen["shm"] == 80 << 20
    assert seen["env"]["REPRO_OUTPUTS"] == "/work/outputs"
    assert not [name for name in seen["env"] if name.startswith(("PYTEST", "SSH", "DOCKER"))]
    assert (run / "logs/own.txt").read_text() == "own"
    assert (run / "logs/rank-0/stdout.log").read_text() == "to stdout\n"
    assert (run / "logs/rank-0/stderr.log").read_text() == "to stderr\n"
    assert {item.stat().st_uid for item in run.rglob("*")} == {os.getuid()}
    facts = workshop.repro("show", done["run_hash"], "--json").json["attempts"][0]["facts"]
    assert facts["target"] == "docker"
    assert facts["image"]["origin"] == "built"
    assert facts["image"]["id"] == f"{build(workshop)['image_id']}"
    assert containers(docker, workshop) == []


def test_the_run_hash_and_the_outputs_are_those_of_the_process(workshop: Workshop, channel: Channel) -> None:
    channel.add_module("alpha")
    recipe(workshop, channel, "alpha", script="import alpha\nopen('outputs/v', 'w').write(alpha.VERSION)\n")
    in_container = workshop.run("job.toml", "-t", "docker")
    again = workshop.run("job.toml")
    assert again["cached"] is True
    assert again["run_hash"] == in_container["run_hash"]
    before = workshop.repro("show", "@", "--json").json["result"]["outputs"]
    workshop.run("job.toml", "--force", "-t", "local")
    assert workshop.repro("show", "@", "--json").json["result"]["outputs"] == before


@pytest.mark.parametrize(
    ("script", "more", "words"),
    [
        ("import sys; sys.exit(7)", "", "exit code 7"),
        ("import os; os.kill(os.getpid(), 11)", "", "SIGSEGV"),
        ("import time; time.sleep(60)", "max_run_duration_seconds = 2\n", "took longer than max_run_duration_seconds"),
        (
            "x = bytearray(300 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1",
            '[docker]\nmemory = "64m"\n',
            "raise [docker] memory",
        ),
        ("import nothing_there", "", "the module `nothing_there` is not in the environment"),
    ],
    ids=["exit code", "signal", "time limit", "memory", "traceback"],
)
def test_a_failure_in_a_container_is_explained(
    workshop: Workshop, channel: Channel, docker: DockerClient, script: str, more: str, words: str
) -> None:
    path = workshop.root / recipe(workshop, channel, "python", script=script)
    text = path.read_text()
    path.write_text(text + more if more.startswith("[") else text.replace("[environment]", f"{more}[environment]"))
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 1
    assert words in done.err
    assert containers(docker, workshop) == []


def start(workshop: Workshop, docker: DockerClient) -> subprocess.Popen[str]:
    """Starts a run that lasts, in a process of its own, and waits for its container."""
    repro = str(Path(sys.executable).parent / "repro")
    process = subprocess.Popen(
        [repro, "run", "job.toml", "-t", "docker"], cwd=workshop.root, stderr=subprocess.PIPE, text=True
    )
    for _ in range(300):
        if docker.containers.list(filters={"label": f"repro.store={workshop.root / 'cache'}"}):
            return process
        time.sleep(0.1)
    raise AssertionError("no container")


def test_an_interrupt_stops_the_container(workshop: Workshop, channel: Channel, docker: DockerClient) -> None:
    recipe(workshop, channel, "python", script="import time; time.sleep(100)")
    process = start(workshop, docker)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    assert containers(docker, workshop) == []


def test_a_container_of_a_dead_client_is_removed(workshop: Workshop, channel: Channel, docker: DockerClient) -> None:
    recipe(workshop, channel, "python", script="import time; time.sleep(100)")
    process = start(workshop, docker)
    process.kill()
    process.wait()
    for _ in range(200):  # the supervisor ends what its client leaves
        if not containers(docker, workshop):
            break
        time.sleep(0.1)
    assert containers(docker, workshop) == []
    labels = {"repro.store": str(workshop.root / "cache"), "repro.run": "0" * 32}
    docker.containers.create(f"sha256:{build(workshop)['image_id'][7:]}", labels=labels)
    assert workshop.repro("gc", "--json").json["containers"] == ["0" * 32]
    assert containers(docker, workshop) == []


def test_only_missing_layers_are_sent(
    workshop: Workshop, channel: Channel, docker: DockerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("large-a", "large-z"):
        channel.add(name, "1.0", {f"share/{name}": Content(noise(2 << 20, name))})
    recipe(workshop, channel, "large-a", "large-z")
    first = workshop.repro("image", "build", "job.toml")
    assert first.code == 0, first.err
    assert "(0 B sent)" in workshop.repro("image", "build", "job.toml").err
    channel.add("large-z", "2.0", {"share/large-z": Content(noise(2 << 20, "other"))})
    workshop.repro("lock", "job.toml", "--upgrade")
    sent = workshop.repro("image", "build", "job.toml").err
    assert "MB sent" in sent
    docker.images.remove(build(workshop)["image_id"], force=True)
    monkeypatch.setattr(
        daemon,
        "_present",
        lambda *_: {
            layer["diff_id"] for layer in workshop.repro("image", "inspect", "job.toml", "--json").json["layers"]
        },
    )
    again = workshop.repro("image", "build", "job.toml", "--json")  # a daemon that wants everything after all
    assert again.json["loaded"] is True


def test_an_image_goes_through_a_registry(workshop: Workshop, channel: Channel, docker: DockerClient) -> None:
    if not registry_answers(REGISTRY):
        missing("no registry answers (`make lab-up` as root starts one)")
    repository = f"{REGISTRY}/team/env"
    recipe(workshop, channel, "python")
    pushed = workshop.repro("image", "push", "job.toml", "--to", repository, "--json")
    assert pushed.code == 0, pushed.err
    docker.images.remove(pushed.json["image_id"], force=True)
    pulled = workshop.repro("image", "pull", "job.toml", "--from", repository, "--json")
    assert pulled.code == 0, pulled.err
    assert pulled.json["image_id"] == pushed.json["image_id"]
    channel.add_module("alpha")
    recipe(workshop, channel, "python", "alpha", name="other")
    other = workshop.repro("image", "build", "other.toml", "--json").json
    docker.images.get(other["image_id"]).tag(repository, pushed.json["tag"])
    docker.images.push(repository, tag=pushed.json["tag"])
    swapped = workshop.repro("image", "pull", "job.toml", "--from", repository)
    assert swapped.code == 4
    assert "is another image" in swapped.err
    absent = workshop.repro("image", "pull", "job.toml", "--from", f"{REGISTRY}/team/nobody-pushed")
    assert absent.code == 5
    assert f"repro image push job.toml --to {REGISTRY}/team/nobody-pushed" in absent.err
    down = workshop.repro("image", "push", "job.toml", "--to", "127.0.0.1:1/team/env")
    assert down.code == 5
    assert "127.0.0.1:1" in down.err


def test_variables_of_the_container_act_on_nothing_outside(workshop: Workshop, channel: Channel) -> None:
    script = "import os\nopen('outputs/v', 'w').write(os.environ['DOCKER_HOST'] + os.environ['HOSTNAME'])\n"
    recipe(workshop, channel, "python", script=script)
    path = workshop.root / "job.toml"
    more = 'environment_variables = { LD_PRELOAD = "./x.so", DOCKER_HOST = "tcp://x:1", PYTHONHOME = "" }\n'
    path.write_text(path.read_text().replace("[environment]", f"{more}[environment]"))
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 0, done.err
    shown = workshop.repro("show", "@", "--json").json
    assert Path(shown["outputs_path"], "v").read_text() == "tcp://x:1repro"


def test_doctor_tells_of_the_daemon_and_the_base(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {item["name"]: item for item in workshop.repro("doctor", "--json").json}
    assert checks["docker"]["found"].startswith("Docker ")
    assert checks["base image"]["ok"] is True
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    workshop.write("repro.toml", '[images]\nbase = "nowhere.tar"\n')
    done = workshop.repro("doctor")
    assert done.code == 0
    assert "no Docker daemon answers" in done.out
    assert "nowhere.tar: no such file" in done.out


def test_no_daemon_is_a_clear_error(workshop: Workshop, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(workshop, channel, "python")
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 5
    assert "no Docker daemon answers" in done.err
    assert "use the target `local`" in done.err
    built = workshop.repro("image", "build", "job.toml", "--json")
    assert built.json["loaded"] is False


def test_a_gpu_that_is_not_there_is_said_before_the_start(
    workshop: Workshop, channel: Channel, docker: DockerClient
) -> None:
    if "nvidia" in (docker.info().get("Runtimes") or {}):
        pytest.skip("this daemon has GPUs")
    recipe(workshop, channel, "python")
    path = workshop.root / "job.toml"
    path.write_text(path.read_text().replace("[environment]", "use_gpu = true\n[environment]"))
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 5
    assert "no NVIDIA runtime" in done.err


def test_a_secret_stays_out_of_logs_and_arguments(
    workshop: Workshop, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "hush-hush-1234")
    recipe(workshop, channel, "python", script="import os; print(os.environ['TOKEN'])")
    path = workshop.root / "job.toml"
    path.write_text('secrets = ["TOKEN"]\n' + path.read_text())
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 0, done.err
    assert "hush-hush" not in done.out + done.err
    for file in (workshop.root / "cache").rglob("*"):
        assert not file.is_file() or file.suffix == ".tar" or b"hush-hush-1234" not in file.read_bytes()
