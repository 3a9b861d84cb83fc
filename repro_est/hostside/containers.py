"""The one container in which the ranks of a host run: the words of `docker run`.

One for all ranks of a host, not one for each: they share memory and its IPC namespace, which NCCL and MPI need.
Values of variables go through the environment of the docker program, never through its words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from repro_est.hostside import runs

_OWN = ("PATH", "HOME")


def run_command(
    container: Mapping[str, Any],
    name: str,
    words: Sequence[str],
    environment: Mapping[str, str],
    token: str,
    directory: str,
    link: str,
) -> tuple[list[str], dict[str, str]]:
    """Returns the words and the environment of `docker run` for one task.

    Args:
        container: image, mounts ([source, target, `ro` or `rw`]), network, limits, devices, labels.
        words: what runs in it.
        environment: of what runs in it.
        link: where the directory of the attempt is, in the container too.
    """
    statistics = os.statvfs("/dev/shm")  # its size is asked for
    limits = container["limits"]
    command = [
        "docker", "run", "--rm", "--init", "--name", f"repro-{token}-{name}",
        "--label", f"{runs.LABEL}={token}", "--network", container["network"],
        "--user", f"{os.getuid()}:{os.getgid()}", "--workdir", "/work",
        "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--no-healthcheck",
        "--shm-size", str(limits.get("shm_size") or statistics.f_frsize * statistics.f_blocks),
        "--volume", f"{directory}:{link}",
    ]  # fmt: skip
    for label, value in container["labels"].items():
        command += ["--label", f"{label}={value}"]
    for source, target, mode in container["mounts"]:
        command += ["--mount", "type=bind,source={},target={}{}".format(source, target, ",readonly" * (mode == "ro"))]
    if "memory" in limits:
        command += ["--memory", str(limits["memory"]), "--memory-swap", str(limits["memory"])]
    if "cpus" in limits:
        command += ["--cpus", str(limits["cpus"])]
    if container["devices"]:
        command += ["--gpus", '"device={}"'.format(",".join(container["devices"]))]
    for variable in sorted(environment):
        # PATH and HOME as words: no secrets, and the docker program needs its own.
        command += ["--env", f"{variable}={environment[variable]}" if variable in _OWN else variable]
    command += ["--entrypoint", words[0], container["image"], *words[1:]]
    own = {name: os.environ[name] for name in (*_OWN, "DOCKER_HOST") if name in os.environ}
    return command, {**environment, **own}
