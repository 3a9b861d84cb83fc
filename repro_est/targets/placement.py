"""Which rank runs on which host, with which devices.

Pure: hosts come as offers, what each has and what of it is free. A node is one share of one host; nodes are taken in
the order of the inventory, free hosts before others, so that the same offers always give the same placement.

A device is what a process may be given alone: a whole GPU, or one MIG instance of it. A share never holds both, and a
card that is cut into instances is no device itself. CUDA gives a process one instance only, so instances are always
bound to a rank each.

    Impossible   these hosts can never hold the layout
    Busy         they can, and others have what it needs now
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from repro_est.errors import InfrastructureError, UsageError
from repro_est.layout import Binding, Layout, Rank


class Impossible(UsageError):
    """The hosts of a target cannot hold the layout, whoever leaves them."""


class Busy(InfrastructureError):
    """The hosts of a target could hold the layout, and are taken."""


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU, or a MIG instance of one.

    Args:
        id: what CUDA_VISIBLE_DEVICES takes: a UUID, or the index as text.
        index: of the card; that of its card for a MIG instance.
        memory_mb: in MiB.
        busy: who has it, `""` for nobody.
    """

    id: str
    index: int
    name: str = ""
    memory_mb: int = 0
    busy: str = ""

    @property
    def is_instance(self) -> bool:
        return self.id.startswith("MIG-")

    def __str__(self) -> str:
        return f"GPU {self.index}" + (f" ({self.id})" if self.is_instance else "")


@dataclass(frozen=True, slots=True)
class Offer:
    """What one host has.

    Args:
        address: by which the other hosts reach it.
        slots: ranks it takes at all.
        free_slots: of those, the ones nobody has.
        holders: who has the others.
    """

    host: str
    address: str
    slots: int
    free_slots: int
    gpus: tuple[Device, ...] = ()
    holders: tuple[str, ...] = ()

    @property
    def is_free(self) -> bool:
        return self.free_slots == self.slots and not any(device.busy for device in self.gpus)


@dataclass(frozen=True, slots=True)
class Share:
    """One node of a layout: ranks and devices on one host."""

    host: str
    address: str
    ranks: tuple[Rank, ...]
    devices: tuple[Device, ...] = ()


class Row(NamedTuple):
    """One rank, for the table that `--dry-run` prints."""

    rank: int
    host: str
    node: int
    local_rank: int
    devices: str
    address: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Every rank's host and devices; share `n` is node `n`."""

    layout: Layout
    shares: tuple[Share, ...]

    @property
    def head(self) -> Share:
        """The share of rank 0, whose host starts and watches the others."""
        return self.shares[0]

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every host once, the head first."""
        return tuple(dict.fromkeys(share.host for share in self.shares))

    def shares_on(self, host: str) -> tuple[Share, ...]:
        """Returns the nodes on one host: one, or all of them for a local run."""
        return tuple(share for share in self.shares if share.host == host)

    def share_of(self, rank: Rank) -> Share:
        return self.shares[rank.node_rank]

    def devices_of(self, rank: Rank) -> tuple[Device, ...]:
        """Returns the devices a rank sees: all of its share, or its own equal and contiguous part."""
        devices = self.share_of(rank).devices
        bound = self.layout.gpu_binding is Binding.RANK or any(device.is_instance for device in devices)
        if not bound:
            return devices
        count = self.layout.gpus_per_process
        return devices[rank.local_rank * count : (rank.local_rank + 1) * count]

    def rows(self) -> tuple[Row, ...]:
        """Returns a row for each rank, in order."""
        return tuple(
            Row(
                rank.rank,
                share.host,
                rank.node_rank,
                rank.local_rank,
                ",".join(device.id for device in self.devices_of(rank)) or "-",
                share.address,
            )
            for share in self.shares
            for rank in share.ranks
        )


def place(layout: Layout, offers: Sequence[Offer], *, use_gpu: bool, pack: bool = False) -> Placement:
    """Gives every node of a layout a host.

    Args:
        offers: in the order of the inventory.
        pack: all nodes go to one host, as on the local target; else each gets a host of its own.

    Raises:
        Impossible: the hosts never hold it; says for each host why.
        Busy: not now; says who has what.
    """
    nodes, needed = (layout.node_count, 1) if pack else (1, layout.node_count)
    need = _Need(layout, nodes, layout.gpus_per_process if use_gpu else 0)
    lacking = {offer.host: need.lacking(offer) for offer in offers}
    able = [offer for offer in offers if not lacking[offer.host]]
    if len(able) < needed:
        raise Impossible(
            _message(f"{layout}: expected {_count(needed, 'host')} it fits on, got {len(able)}", lacking), hint=_HINT
        )
    taken = {offer.host: need.taken(offer) for offer in able}
    ready = [offer for offer in able if not taken[offer.host]]
    if len(ready) < needed:
        raise Busy(
            _message(
                f"{layout}: expected {_count(needed, 'host')} with room now, got {len(ready)}", {**lacking, **taken}
            )
        )
    first = sorted(ready, key=lambda offer: not offer.is_free)[:needed]
    chosen = [offer for offer in ready if offer in first]
    return Placement(layout, tuple(_shares(layout, chosen, need)))


_HINT = "fewer nodes or processes, another target, or more slots for the host in the inventory"


@dataclass(frozen=True, slots=True)
class _Need:
    """What one host must have: room for `nodes` nodes, with so many GPUs for each process."""

    layout: Layout
    nodes: int
    gpus_per_process: int

    @property
    def ranks(self) -> int:
        return self.nodes * self.layout.process_count_per_node

    @property
    def gpus(self) -> int:
        return self.ranks * self.gpus_per_process

    def lacking(self, offer: Offer) -> str:
        """Returns what the host will never have, `""` when it has all."""
        if offer.slots < self.ranks:
            return f"{_count(offer.slots, 'slot')}, expected {self.ranks}"
        if not self.gpus or self.devices(offer, taken=True):
            return ""
        whole, instances = map(len, _kinds(offer.gpus))
        has = _count(whole, "GPU") + (f" and {_count(instances, 'MIG instance')}" if instances else "")
        alone = ", for a process can use one MIG instance only" if instances and self.gpus_per_process > 1 else ""
        return f"{has}, expected {self.gpus}{alone}"

    def taken(self, offer: Offer) -> str:
        """Returns what of the host others have and this needs, `""` when there is room."""
        if offer.free_slots < self.ranks:
            held = f"; held by {', '.join(offer.holders)}" if offer.holders else ""
            return f"{offer.free_slots} of {_count(offer.slots, 'slot')} free, expected {self.ranks}{held}"
        if not self.gpus or self.devices(offer):
            return ""
        return ", ".join(f"{device}: {device.busy}" for device in offer.gpus if device.busy)

    def devices(self, offer: Offer, *, taken: bool = False) -> tuple[Device, ...]:
        """Returns the devices a host would give, all of one kind; none when it has too few.

        Args:
            taken: counts those that others have as well.
        """
        whole, instances = (tuple(device for device in kind if taken or not device.busy) for kind in _kinds(offer.gpus))
        if len(whole) >= self.gpus:
            return whole[: self.gpus]
        if self.gpus_per_process == 1 and len(instances) >= self.gpus:
            return instances[: self.gpus]
        return ()


def _kinds(devices: Sequence[Device]) -> tuple[tuple[Device, ...], tuple[Device, ...]]:
    """Returns the cards that are not cut into instances, and the instances."""
    instances = tuple(device for device in devices if device.is_instance)
    cut = {device.index for device in instances}
    return tuple(device for device in devices if device.index not in cut), instances


def _shares(layout: Layout, chosen: Sequence[Offer], need: _Need) -> Iterable[Share]:
    each = layout.process_count_per_node * need.gpus_per_process
    for number, offer in enumerate(chosen):
        devices = need.devices(offer) if need.gpus else ()
        for inside in range(need.nodes):
            node = number * need.nodes + inside
            yield Share(offer.host, offer.address, layout.ranks_of(node), devices[inside * each : (inside + 1) * each])


def _message(what: str, reasons: dict[str, str]) -> str:
    return "\n".join([what, *(f"  {host}: {reason or 'fits'}" for host, reason in reasons.items())])


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}" + ("" if number == 1 else "s")
