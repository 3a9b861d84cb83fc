"""Compute targets of old code, on the machines there are.

A name that the inventory has is that target. Any other, as of a cluster that was made in the cloud, is this machine,
which is said once. Nothing is created, scaled or deleted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from repro_est.azureml.notes import note
from repro_est.errors import UsageError
from repro_est.hosts.inventory import RESERVED, find_inventory
from repro_est.project import find_project

_LOCAL = "local"


def target_of(name: str) -> str:
    """Returns the target of `repro` that a compute target's name stands for."""
    if name in targets():
        return name
    note(f"compute target `{name}`: is not in the inventory, so it runs on this machine (docs/hosts.md)")
    return _LOCAL


def targets() -> list[str]:
    """Returns the names of the targets there are."""
    inventory = find_inventory(find_project())
    return [*RESERVED, *(inventory.targets if inventory is not None else ())]


class ComputeStatus:
    """The state of a compute target: ready."""

    provisioning_state = "Succeeded"
    allocation_state = "Steady"
    current_node_count = target_node_count = 0
    errors: tuple[str, ...] = ()

    def serialize(self) -> dict[str, Any]:
        return {"provisioningState": self.provisioning_state, "allocationState": self.allocation_state, "errors": None}

    def __repr__(self) -> str:
        return "Succeeded"


class ProvisioningConfiguration:
    """What a cluster was to be like; kept, and without effect."""

    def __init__(self, **wishes: object) -> None:
        self.__dict__.update(wishes)


class ComputeTarget:
    """A compute target by name.

    Args:
        workspace: any; the machines are those of the project.
    """

    type = "AmlCompute"
    provisioning_state = "Succeeded"

    def __init__(self, workspace: object, name: str) -> None:
        self.workspace, self.name = workspace, name
        self.target = target_of(name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, runs on {self.target!r})"

    @classmethod
    def create(cls, workspace: object, name: str, provisioning_configuration: object = None) -> ComputeTarget:
        """Returns the target of that name; no machine is made."""
        return cls(workspace, name)

    @classmethod
    def attach(cls, workspace: object, name: str, attach_configuration: object = None) -> ComputeTarget:
        """Returns the target of the inventory that has this name.

        Raises:
            UsageError: there is none: how a machine is reached is written in the inventory.
        """
        if name not in targets():
            address = getattr(attach_configuration, "address", None) or "ADDRESS"
            raise UsageError(
                f"compute target {name}: not in the inventory, and machines are not attached by code here",
                hint=f'in inventory.toml: [hosts.{name}] address = "{address}"; [targets.{name}] hosts = ["{name}"]',
            )
        return cls(workspace, name)

    @staticmethod
    def list(workspace: object) -> list[ComputeTarget]:
        return [AmlCompute(workspace, name) for name in targets()]

    @staticmethod
    def provisioning_configuration(vm_size: str = "", **wishes: object) -> ProvisioningConfiguration:
        """Returns the wishes as they are: no machine is made."""
        note("clusters are not made here: runs go to the targets of the inventory, or to this machine")
        return ProvisioningConfiguration(vm_size=vm_size, **wishes)

    @staticmethod
    def attach_configuration(**wishes: object) -> ProvisioningConfiguration:
        """Returns how a machine was to be reached; passwords and keys are not kept."""
        return ProvisioningConfiguration(address=wishes.get("address"), ssh_port=wishes.get("ssh_port"))

    def wait_for_completion(self, show_output: bool = False, *more: object, **keywords: object) -> None:
        if show_output:
            print("Succeeded", flush=True)

    wait_for_provisioning = wait_for_completion

    @property
    def status(self) -> ComputeStatus:
        return ComputeStatus()

    def get_status(self) -> ComputeStatus:
        return ComputeStatus()

    def serialize(self) -> dict[str, Any]:
        return {"name": self.name, "type": self.type, "provisioningState": self.provisioning_state}

    def list_nodes(self) -> Sequence[dict[str, Any]]:
        """Returns none: `repro hosts` tells of the machines."""
        return []

    def refresh_state(self) -> None:
        """Nothing is to be done: the inventory is read whenever it is needed."""

    def _unchanged(self, *arguments: object, **keywords: object) -> None:
        note(f"compute target `{self.name}`: is left as it is; machines are the inventory's")

    delete = detach = update = start = stop = restart = add_identity = _unchanged


class AmlCompute(ComputeTarget):
    """A cluster, where old code names one."""


class ComputeInstance(ComputeTarget):
    """A single machine, where old code names one."""

    type = "ComputeInstance"


class RemoteCompute(ComputeTarget):
    """A machine reached by SSH: one of the inventory."""

    type = "VirtualMachine"


class KubernetesCompute(ComputeTarget):
    """An attached cluster: a target of the inventory."""

    type = "Kubernetes"
