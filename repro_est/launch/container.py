"""One container from its start to its end, as a process: `python -m repro_est.launch.container SPECIFICATION`.

Its output is the container's output, its end is the container's end: the same exit code, the same signal. Where Docker
is what failed, it says so in the file `report`, for an exit code may be the script's own. TERM stops the container. It
removes the container whatever happens; what a kill -9 of everything leaves is found by its labels.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from types import FrameType
from typing import Any

VARIABLES = "REPRO_CONTAINER_VARIABLES"
"""Holds all variables of the container as JSON: none of them may act on this process, and none be an argument."""

_STOP_SECONDS = 8  # less than the supervisor waits between TERM and KILL


def main(specification: dict[str, Any]) -> int:
    """Runs the container; returns its exit code."""
    import docker
    from docker.errors import DockerException
    from docker.types import DeviceRequest, Mount

    variables = json.loads(os.environ.pop(VARIABLES))
    limits = specification["limits"]
    gpu = [DeviceRequest(count=-1, capabilities=[["gpu"]])] if specification["use_gpu"] else []
    try:
        client = docker.from_env(timeout=600)
        container = client.containers.create(
            specification["image"],
            specification["command"][1:],
            entrypoint=specification["command"][:1],  # in place of what the image would start
            healthcheck={"test": ["NONE"]},
            environment=variables,
            hostname="repro",
            working_dir="/work",
            user=specification["user"],
            labels=specification["labels"],
            mounts=[
                Mount(target, source, type="bind", read_only=mode == "ro")
                for source, target, mode in specification["mounts"]
            ],
            network_mode="bridge" if specification["network"] else "none",
            device_requests=gpu,
            mem_limit=limits.get("memory"),
            memswap_limit=limits.get("memory"),
            nano_cpus=int(limits["cpus"] * 1e9) if "cpus" in limits else None,
            shm_size=limits.get("shm_size"),
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            init=True,
        )
    except (DockerException, OSError) as error:
        return _failed(specification, "the container could not be made", error)

    def stop(number: int, frame: FrameType | None) -> None:
        with contextlib.suppress(DockerException, OSError):
            docker.from_env(timeout=60).api.stop(container.id, timeout=_STOP_SECONDS)

    signal.signal(signal.SIGTERM, stop)
    try:
        output = container.attach(stdout=True, stderr=True, stream=True, logs=True, demux=True)
        container.start()
        for pair in output:
            for data, descriptor in zip(pair, (1, 2), strict=True):
                _write(descriptor, data or b"")
        code = int(container.wait()["StatusCode"])
        container.reload()
        if container.attrs["State"].get("OOMKilled"):
            _write(2, b"repro: the container used more memory than [docker] memory allows\n")
            code = 128 + signal.SIGKILL
        return code
    except (DockerException, OSError) as error:
        return _failed(specification, "the Docker daemon failed", error)
    finally:
        with contextlib.suppress(DockerException, OSError):
            container.remove(force=True, v=True)


def _failed(specification: dict[str, Any], what: str, error: Exception) -> int:
    text = f"{what}: {getattr(error, 'explanation', None) or error}"
    with open(specification["report"], "w", encoding="utf-8") as file:
        file.write(text)
    return 125


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


if __name__ == "__main__":
    ended = main(json.loads(sys.argv[1]))
    if ended > 128 and ended - 128 in signal.valid_signals():  # ended by a signal, as this process then does
        if ended - 128 != signal.SIGKILL:
            signal.signal(ended - 128, signal.SIG_DFL)
        os.kill(os.getpid(), ended - 128)
    sys.exit(ended)
