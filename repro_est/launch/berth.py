"""What one host has for a run: filled by whoever allocates, provides and gives orders, in that order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from repro_est.images.image import Image
from repro_est.launch.crew import Mate
from repro_est.launch.handle import Member
from repro_est.layout import Rank
from repro_est.targets.placement import Device, Share

_MACHINE = ("hostname", "kernel", "machine", "libc", "cpu_model", "cpu_count", "memory", "gpus")


@dataclass(slots=True)
class Berth:
    """What one host has for the run.

    Args:
        prefix: path of the environment there, or in the container.
        python: interpreter the script is run with.
        identity: what the host attests, beside what its ranks see.
        inputs: name, key and path of the read-only inputs there.
    """

    mate: Mate
    shares: tuple[Share, ...]
    directory: str = ""
    ports: tuple[int, ...] = ()
    mesh_port: int = 0
    prefix: str = ""
    python: str = ""
    search_path: str = ""
    image: Image | None = None
    identity: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    inputs: list[tuple[str, str, str]] = field(default_factory=list)
    input_paths: dict[str, str] = field(default_factory=dict)
    mounts: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        return tuple(rank for share in self.shares for rank in share.ranks)

    @property
    def devices(self) -> tuple[Device, ...]:
        return tuple(device for share in self.shares for device in share.devices)

    @property
    def driver(self) -> str | None:
        """Version of the GPU driver."""
        return next((str(gpu.get("driver")) for gpu in self.mate.facts.get("gpus") or ()), None)

    @property
    def vendor(self) -> str:
        """Of its devices: `nvidia` or `amd`."""
        return "amd" if self.mate.facts.get("amd") and not self.mate.facts.get("gpus") else "nvidia"

    def member(self, ranks: Iterable[Rank]) -> Member:
        """Returns what a handle keeps of it."""
        numbers = tuple(rank.rank for rank in ranks)
        return Member(self.mate.spec, numbers, self.directory, tuple(self.inputs), self.mate.skew)

    def to_json(self) -> dict[str, Any]:
        """What is recorded of it with the attempt."""
        return {
            "host": self.mate.name,
            "address": self.mate.address,
            "ranks": [rank.rank for rank in self.ranks],
            "devices": [device.id for device in self.devices],
            "machine": {name: self.mate.facts.get(name) for name in _MACHINE},
            "clock_skew": self.mate.skew,
        }
