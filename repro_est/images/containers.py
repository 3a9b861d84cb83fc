"""Containers of the Docker daemon: a question asked in one, what a run needs of them, and those nobody owns any more.

A run's own container is started by `launch.container`; it has the labels `repro.run` and `repro.store`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro_est.digest import Sha256
from repro_est.errors import InfrastructureError
from repro_est.images.daemon import asking, connect
from repro_est.store.leases import Leases
from repro_est.store.store import Store

if TYPE_CHECKING:
    from docker import DockerClient


def ask(client: DockerClient, image_id: Sha256, command: Sequence[str]) -> str | None:
    """Runs a program in a container without network; returns what it prints, None when it cannot be run or fails."""
    from docker.errors import APIError

    with asking(f"running {command[0]} in image {image_id[:12]}"):
        container = client.containers.create(
            f"sha256:{image_id}",
            list(command[1:]),
            entrypoint=list(command[:1]),
            network_mode="none",
            user=f"{os.getuid()}:{os.getgid()}",  # as a run
        )
        try:
            container.start()
            done = container.wait()["StatusCode"] == 0
            return bytes(container.logs(stdout=True, stderr=False)).decode("utf-8", "replace").strip() if done else None
        except APIError:  # there is no such program in it
            return None
        finally:
            container.remove(force=True, v=True)


def require_gpu(client: DockerClient) -> None:
    """Checks that the daemon can give a container a GPU.

    Raises:
        InfrastructureError: it cannot.
    """
    info = client.info()
    if "nvidia" not in (info.get("Runtimes") or {}) and not info.get("CDISpecDirs"):
        raise InfrastructureError(
            "use_gpu = true, and the Docker daemon has no NVIDIA runtime and no CDI devices",
            hint="install the NVIDIA container toolkit on that machine, or use_gpu = false",
        )


def reap(client: DockerClient, store: Store) -> list[str]:
    """Removes containers of runs of this store that nobody executes any more; returns their runs."""
    from docker.errors import APIError

    removed: list[str] = []
    leases = Leases(store.layout)
    for container in client.containers.list(all=True, filters={"label": f"repro.store={store.layout.root}"}):
        run = container.labels.get("repro.run", "")
        if not leases.is_held(f"run-{run}"):
            with contextlib.suppress(APIError):  # somebody else was faster
                container.remove(force=True, v=True)
                removed.append(run)
    return removed


def remove_containers(run: str, store: Store) -> None:
    """Removes what is left of a run's container, as a killed client leaves it."""
    with contextlib.suppress(Exception):  # the daemon may be gone; the next run reaps
        labels = [f"repro.store={store.layout.root}", f"repro.run={run}"]
        for container in connect().containers.list(all=True, filters={"label": labels}):
            container.remove(force=True, v=True)
