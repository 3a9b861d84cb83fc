"""A Docker daemon that dies or has no space: a daemon of the test's own, which may be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import Workshop, as_root, missing
from tests.lab.conda_package import Channel, Content
from tests.test_conda import recipe
from tests.test_image import noise

pytestmark = pytest.mark.xdist_group("docker")  # two daemons of other tests at once are enough


class Daemon:
    """A dockerd with a directory and a socket of its own, and no network."""

    def __init__(self, root: Path, data: Path) -> None:
        self.root, self.data, self.address = root, data, f"unix://{root}/docker.sock"
        self.start()

    def start(self) -> None:
        # In a network of its own: without a bridge it would remove the one that others use.
        command = [
            "unshare",
            "--net",
            "dockerd",
            "--host",
            self.address,
            "--data-root",
            str(self.data),
            "--pidfile",
            f"{self.root}/pid",
        ]
        command += [
            "--exec-root",
            f"{self.root}/exec",
            "--bridge",
            "none",
            "--iptables=false",
            "--storage-driver",
            "vfs",
        ]
        environment = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}
        with open(self.root / "log", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        for _ in range(200):
            done = subprocess.run(["docker", "-H", self.address, "info"], capture_output=True)
            if done.returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError((self.root / "log").read_text()[-2000:])

    def kill(self) -> None:
        """Kills it and its containerd; containers go on without them."""
        self.process.kill()
        self.process.wait()
        for pid_file in self.root.glob("exec/containerd/*.pid"):
            subprocess.run(["pkill", "-KILL", "-F", str(pid_file)], check=False)
            pid_file.unlink()
        time.sleep(0.5)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=60)
        self.kill()
        subprocess.run(["pkill", "-KILL", "-f", str(self.root / "exec")], check=False)
        places = (f"{self.root}/", f"{self.data}/")
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            if f"{line.split()[1]}/".startswith(places) and line.split()[0] != "tmpfs":
                subprocess.run(["umount", "-l", line.split()[1]], check=False)


@pytest.fixture
def own_daemon(
    workshop: Workshop, base_tar: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[Path], Daemon]]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if not as_root() or not shutil.which("dockerd", path=path):
        missing("a Docker daemon of its own needs root and dockerd (`make lab-up`)")
    (workshop.root / "repro.toml").write_text(f'[images]\nbase = "{base_tar}"\n')
    started: list[Daemon] = []
    root = Path("/tmp") / f"repro-dockerd-{os.getpid()}"  # a socket's path must be short
    root.mkdir()

    def start(data: Path) -> Daemon:
        started.append(Daemon(root, data))
        monkeypatch.setenv("DOCKER_HOST", started[-1].address)
        return started[-1]

    yield start
    for daemon in started:
        daemon.stop()
    shutil.rmtree(root, ignore_errors=True)


def test_a_daemon_that_dies_during_a_run_is_an_infrastructure_failure(
    workshop: Workshop, channel: Channel, own_daemon: Callable[[Path], Daemon], tmp_path: Path
) -> None:
    daemon = own_daemon(tmp_path / "data")
    script = "import time\nprint('started', flush=True)\ntime.sleep(100)\n"
    recipe(workshop, channel, "python", script=script)
    assert workshop.repro("image", "build", "job.toml").code == 0
    command = [str(Path(sys.executable).parent / "repro"), "run", "job.toml", "-t", "docker"]
    with subprocess.Popen(command, cwd=workshop.root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("started"):
                break
        daemon.kill()
        said = process.stderr.read()
    assert process.returncode == 5, said
    assert "the Docker daemon" in said
    assert "Traceback" not in said
    assert workshop.repro("show", "@", "--json").json["status"] == "failed"
    daemon.start()  # and what it finds again is removed by the next run
    recipe(workshop, channel, "python", script="print('well')")
    assert workshop.repro("run", "job.toml", "-t", "docker").code == 0
    left = subprocess.run(["docker", "-H", daemon.address, "ps", "-aq"], capture_output=True, text=True)
    assert left.stdout == ""


def test_a_daemon_without_space_is_said_while_loading(
    workshop: Workshop,
    channel: Channel,
    own_daemon: Callable[[Path], Daemon],
    small_disk: Callable[[int], Path],
) -> None:
    own_daemon(small_disk(20 << 20))
    channel.add("large", "1.0", {"share/large": Content(noise(8 << 20, "large"))})
    recipe(workshop, channel, "large")
    done = workshop.repro("run", "job.toml", "-t", "docker")
    assert done.code == 5
    assert "no space left" in done.err.lower()
    assert "Traceback" not in done.err
    assert workshop.repro("image", "verify", "job.toml").code == 0  # what was made here is whole
