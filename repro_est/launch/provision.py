"""What a run needs on its hosts: environment, source and inputs, brought there as far as they are not there already."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from repro_est.digest import sha256_hex
from repro_est.environment.key import environment_key
from repro_est.environment.prefix import Prefix, realise
from repro_est.errors import InfrastructureError, UsageError
from repro_est.hosts.inventory import TargetSpec
from repro_est.images.image import PREFIX
from repro_est.launch.berth import Berth
from repro_est.launch.crew import at_once
from repro_est.launch.sandbox import of_hosts
from repro_est.lock.values import Lock
from repro_est.observer import Observer
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan, PlannedInput
from repro_est.platforms import current_platform
from repro_est.project import Project
from repro_est.snapshot import InputTree
from repro_est.store.store import Store
from repro_est.store.trees import Tree
from repro_est.targets.deliver import Parcel, copied, parcel_of_tree, placed
from repro_est.targets.stage import open_input


class Provision:
    """Brings things to all hosts of a run at once.

    Args:
        token: what the hosts call the attempt.
        work: directory of this machine for as long as that takes.
    """

    def __init__(
        self,
        plan: Plan,
        lock: Lock,
        target: TargetSpec,
        token: str,
        store: Store,
        observer: Observer,
        project: Project,
        work: Path,
    ) -> None:
        self._plan, self._lock, self._target, self._token = plan, lock, target, token
        self._store, self._observer, self._project, self._work = store, observer, project, work
        self._tunnels = contextlib.ExitStack()
        self.facts: dict[str, Any] = {"sandbox": of_hosts(plan, target).to_json()}

    def close(self) -> None:
        self._tunnels.close()

    def bring_environment(self, berths: Sequence[Berth]) -> None:
        """Makes the environment, if need be, and has it on every host: a prefix, or an image."""
        for package in self._lock.packages:
            if package.name.startswith("nvidia-nccl"):
                self.facts["nccl"] = package.version
        if self._target.runtime == "docker":
            self._bring_image(berths)
        else:
            self._bring_prefix(berths)

    def bring_source(self, berths: Sequence[Berth]) -> None:
        """Makes the working directory of the ranks on every host."""
        source = self._store.read_tree(self._plan.source)
        parcel = parcel_of_tree(source, self._store)
        at_once(lambda berth: self._bring_source(berth, source, parcel), berths)

    def bring_inputs(self, berths: Sequence[Berth]) -> None:
        for item in self._plan.recorded.inputs:
            tree = open_input(item, self._store, self._work / "views")
            at_once(functools.partial(self._bring_input, item, tree), berths)

    def _bring_prefix(self, berths: Sequence[Berth]) -> None:
        lock = self._lock
        if lock.image is not None:
            raise UsageError(
                f"the recipe names the base image {lock.image.name}, and the target {self._target.name} runs processes",
                hint='runtime = "docker" in the target of the inventory',
            )
        prefix = realise(lock, self._store, self._observer)
        self.facts["interpreter"] = dict(prefix.interpreter)
        whole = self._store.read_tree(prefix.whole)
        at_once(lambda berth: self._bring_prefix_to(berth, prefix, whole), berths)

    def _bring_prefix_to(self, berth: Berth, prefix: Prefix, whole: Tree) -> None:
        berth.identity["environment"] = environment_key(self._plan.environment)
        if berth.mate.spec.is_local:
            berth.prefix = str(prefix.path)
        else:
            parcel, interpreter = self._prefix_parcel(berth, prefix, whole)
            path = str(prefix.path.absolute()) if self._lock.conda else None  # a conda prefix names its own path
            key = f"env-{prefix.key}-{sha256_hex(interpreter.encode())[:12]}"
            berth.prefix = placed(berth.mate.session, key, parcel, self._store, path=path)
        berth.python = f"{berth.prefix}/bin/python"
        berth.search_path = f"{berth.prefix}/bin:/usr/local/bin:/usr/bin:/bin"

    def _prefix_parcel(self, berth: Berth, prefix: Prefix, whole: Tree) -> tuple[Parcel, str]:
        """Returns the prefix as this host needs it: standing on an interpreter that is there."""
        parcel = parcel_of_tree(whole, self._store, root=prefix.path)
        if self._lock.conda:
            return parcel, "conda"
        here = prefix.interpreter
        found = berth.mate.session.call(
            "interpreter", version=here["version"], path=here["path"], sha256=here["sha256"]
        )
        if not found["path"]:
            have = ", ".join(found["found"]) or "none"
            raise InfrastructureError(
                f"{berth.mate.name}: has no Python {here['version']}, on which the environment stands; it has {have}",
                hint='install that version there, use a conda python, or a target with runtime = "docker"',
            )
        berth.expected.setdefault("python", here["version"])
        berth.identity["python"] = found["version"]
        if found["path"] == here["path"]:
            return parcel, found["path"]
        return relinked(parcel, prefix, here["path"], found["path"]), found["path"]

    def _bring_image(self, berths: Sequence[Berth]) -> None:
        from repro_est.images.daemon import connect
        from repro_est.images.obtain import environment_image
        from repro_est.targets.tunnel import docker_of

        def bring(berth: Berth) -> None:
            client = connect() if berth.mate.spec.is_local else docker_of(berth.mate.session.host, self._tunnels)
            image, python = environment_image(
                self._lock, current_platform(), self._project, self._store, self._observer, client
            )
            berth.image, berth.prefix, berth.python, berth.search_path = image, PREFIX, python, image.search_path
            berth.expected["image"] = f"sha256:{image.image_id}"
            inspect = ["docker", "image", "inspect", "--format", "{{.Id}}", f"sha256:{image.image_id}"]
            berth.identity["image"] = self._asked(berth, inspect, {}) or "not there"

        bring(berths[0])  # which makes it, if need be
        at_once(bring, berths[1:])
        image = berths[0].image
        assert image is not None
        self.facts["image"] = {"id": f"sha256:{image.image_id}", "base": image.base, "origin": image.origin}

    def _bring_source(self, berth: Berth, source: Tree, parcel: Parcel) -> None:
        session = berth.mate.session
        if berth.mate.spec.is_local:
            directory = Path(berth.directory) / "source"
            directory.rmdir()
            self._store.materialise(source, directory)
            digest = session.call("described", token=self._token, path="source")["digest"]
        else:
            digest = copied(session, self._token, parcel, self._store)
        berth.identity["source"], berth.expected["source"] = digest, parcel.digest
        session.call("folders", token=self._token, names=[f"source/{OUTPUTS}", f"source/{LOGS}"])

    def _bring_input(self, item: PlannedInput, tree: InputTree, berth: Berth) -> None:
        session, single = berth.mate.session, tree.tree.single_file
        inside = f"{item.name}/{tree.path.name}" if single else item.name
        if berth.mate.spec.is_local and not item.copy:
            path = str(tree.path)
        else:
            parcel = parcel_of_tree(tree.tree, self._store, root=tree.path)
            key = f"input-{tree.tree.hash}"
            path = placed(session, key, parcel, self._store)
            if not item.copy:
                berth.inputs.append((item.name, key, path))
            path = f"{path}/{tree.path.name}" if single else path
        session.call("input", token=self._token, name=inside, path=path, copy=item.copy)
        if self._target.runtime == "docker":
            berth.input_paths[item.name] = f"/inputs/{inside}"
            source = f"{berth.directory}/inputs/{inside}" if item.copy else path
            berth.mounts.append((source, f"/inputs/{inside}", "rw" if item.copy else "ro"))
        else:
            berth.input_paths[item.name] = f"{berth.directory}/inputs/{inside}"

    def _asked(self, berth: Berth, words: Sequence[str], environment: Mapping[str, str]) -> str:
        answer = berth.mate.session.call("execute", words=list(words), environment=dict(environment))
        return str(answer["out"]).strip()


def relinked(parcel: Parcel, prefix: Prefix, old: str, new: str) -> Parcel:
    """Returns a virtual environment that stands on another build of its interpreter (docs/decisions/0001)."""
    config = (prefix.path / "pyvenv.cfg").read_text("utf-8").replace(os.path.dirname(old), os.path.dirname(new))
    data = config.encode()
    digest = hashlib.sha256(data).hexdigest()
    entries = []
    for name, kind, value, size in parcel.entries:
        if name == "pyvenv.cfg":
            entries.append([name, kind, digest, len(data)])
        elif kind == "l" and value == old:
            entries.append([name, kind, new, size])
        else:
            entries.append([name, kind, value, size])
    return replace(parcel, entries=tuple(entries), replaced=((digest, data),))
