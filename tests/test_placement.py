"""Which rank goes where: placement is a function of the layout and of what the hosts offer."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from repro_est.layout import Backend, Binding, Layout
from repro_est.targets.placement import Busy, Device, Impossible, Offer, Placement, place


def cards(count: int, *busy: int) -> tuple[Device, ...]:
    return tuple(Device(f"GPU-{i}", i, "H100", 81559, "run 1a2b of ann" if i in busy else "") for i in range(count))


def instances(card: int, count: int, *busy: int) -> tuple[Device, ...]:
    return tuple(Device(f"MIG-{card}-{i}", card, "1g.10gb", 9728, "x" if i in busy else "") for i in range(count))


def offer(name: str, slots: int = 4, free: int | None = None, gpus: tuple[Device, ...] = ()) -> Offer:
    return Offer(name, f"10.0.0.{name[1:]}", slots, slots if free is None else free, gpus)


THREE = (offer("h1"), offer("h2"), offer("h3"))


def seen(placement: Placement) -> list[str]:
    return [",".join(device.id for device in placement.devices_of(rank)) for rank in placement.layout.ranks()]


def test_each_node_gets_a_host_in_the_order_of_the_inventory() -> None:
    placement = place(Layout(2, 2, Backend.MPI), THREE, use_gpu=False)
    assert [(row.rank, row.host, row.node, row.local_rank, row.address) for row in placement.rows()] == [
        (0, "h1", 0, 0, "10.0.0.1"),
        (1, "h1", 0, 1, "10.0.0.1"),
        (2, "h2", 1, 0, "10.0.0.2"),
        (3, "h2", 1, 1, "10.0.0.2"),
    ]
    assert placement.head.host == "h1"


def test_free_hosts_are_taken_before_others_and_keep_their_order() -> None:
    offers = (offer("h1", free=3), offer("h2"), offer("h3"))
    assert place(Layout(2), offers, use_gpu=False).hosts == ("h2", "h3")
    assert place(Layout(3), offers, use_gpu=False).hosts == ("h1", "h2", "h3")


def test_all_nodes_of_a_local_run_are_on_one_host_with_devices_of_their_own() -> None:
    placement = place(Layout(2, 2, gpus_per_process=1), (offer("l1", gpus=cards(4)),), use_gpu=True, pack=True)
    assert placement.hosts == ("l1",)
    assert [share.ranks[0].node_rank for share in placement.shares_on("l1")] == [0, 1]
    assert seen(placement) == ["GPU-0,GPU-1"] * 2 + ["GPU-2,GPU-3"] * 2


def test_by_default_a_rank_sees_all_devices_of_its_node_and_bound_ones_their_own() -> None:
    layout = Layout(1, 2, gpus_per_process=2)
    offers = (offer("h1", gpus=cards(5, 0)),)
    assert seen(place(layout, offers, use_gpu=True)) == ["GPU-1,GPU-2,GPU-3,GPU-4"] * 2
    bound = dataclasses.replace(layout, gpu_binding=Binding.RANK)
    assert seen(place(bound, offers, use_gpu=True)) == ["GPU-1,GPU-2", "GPU-3,GPU-4"]


def test_no_gpu_is_given_where_none_is_asked_for() -> None:
    placement = place(Layout(1, 2), (offer("h1", gpus=cards(2)),), use_gpu=False)
    assert [row.devices for row in placement.rows()] == ["-", "-"]


def test_a_card_with_instances_is_no_device_itself_and_an_instance_goes_to_one_rank() -> None:
    mixed = (*cards(2), *instances(1, 3))
    assert seen(place(Layout(1, 2, gpus_per_process=1), (offer("h1", gpus=mixed),), use_gpu=True)) == [
        "MIG-1-0",
        "MIG-1-1",
    ]
    assert seen(place(Layout(1, 1, gpus_per_process=1), (offer("h1", gpus=mixed),), use_gpu=True)) == ["GPU-0"]
    with pytest.raises(Impossible, match="1 GPU and 3 MIG instances, expected 2, for a process can use one"):
        place(Layout(1, 1, gpus_per_process=2), (offer("h1", gpus=mixed),), use_gpu=True)


def test_a_card_whose_instances_are_all_taken_is_not_given_as_a_whole() -> None:
    taken = (*cards(1), *instances(0, 1, 0))
    with pytest.raises(Busy, match=r"h1: GPU 0 \(MIG-0-0\): x"):
        place(Layout(gpus_per_process=1), (offer("h1", gpus=taken),), use_gpu=True)


def test_what_never_fits_names_every_host_with_its_reason() -> None:
    offers = (offer("h1", slots=1), offer("h2", gpus=cards(1)), offer("h3"), offer("h4", gpus=cards(2)))
    with pytest.raises(Impossible) as caught:
        place(Layout(2, 2, gpus_per_process=1), offers, use_gpu=True)
    assert caught.value.exit_code == 2
    assert caught.value.message.splitlines() == [
        "2 x 2: expected 2 hosts it fits on, got 1",
        "  h1: 1 slot, expected 2",
        "  h2: 1 GPU, expected 2",
        "  h3: no GPUs, expected 2",
        "  h4: fits",
    ]


def test_too_few_hosts_is_said_even_if_one_had_room_for_all() -> None:
    with pytest.raises(Impossible, match="4 x 1: expected 4 hosts it fits on, got 3"):
        place(Layout(4), THREE, use_gpu=False)
    with pytest.raises(Impossible, match="expected 1 host it fits on, got 0"):
        place(Layout(), (), use_gpu=False)


def test_what_does_not_fit_now_names_who_has_it() -> None:
    offers = (offer("h1", gpus=cards(2, 1)), offer("h2", free=1, gpus=cards(2)), offer("h3", gpus=cards(2)))
    with pytest.raises(Busy) as caught:
        place(Layout(2, 2, gpus_per_process=1), offers, use_gpu=True)
    assert caught.value.exit_code == 5
    assert caught.value.message.splitlines() == [
        "2 x 2: expected 2 hosts with room now, got 1",
        "  h1: GPU 1: run 1a2b of ann",
        "  h2: 1 of 4 slots free, expected 2",
        "  h3: fits",
    ]


devices = st.integers(0, 6).flatmap(lambda count: st.sets(st.integers(0, 5)).map(lambda busy: cards(count, *busy)))
offers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), devices), max_size=5).map(
    lambda rows: tuple(offer(f"h{i}", slots, min(slots, free), gpus) for i, (slots, free, gpus) in enumerate(rows))
)
layouts = st.builds(
    Layout,
    st.integers(1, 4),
    st.integers(1, 3),
    gpus_per_process=st.integers(1, 2),
    gpu_binding=st.sampled_from(Binding),
)


@given(layouts, offers, st.booleans(), st.booleans())
def test_a_placement_gives_each_rank_room_and_no_device_twice(
    layout: Layout, offers: tuple[Offer, ...], use_gpu: bool, pack: bool
) -> None:
    try:
        placement = place(layout, offers, use_gpu=use_gpu, pack=pack)
    except (Impossible, Busy) as error:
        assume(isinstance(error, Impossible))
        free = tuple(dataclasses.replace(item, free_slots=item.slots) for item in offers)
        free = tuple(
            dataclasses.replace(item, gpus=tuple(dataclasses.replace(d, busy="") for d in item.gpus)) for item in free
        )
        with pytest.raises(Impossible):
            place(layout, free, use_gpu=use_gpu, pack=pack)
        return
    by_name = {item.host: item for item in offers}
    assert tuple(row.rank for row in placement.rows()) == tuple(range(layout.world_size))
    assert len(placement.hosts) == (1 if pack else layout.node_count)
    for host in placement.hosts:
        shares = placement.shares_on(host)
        given_devices = [device for share in shares for device in share.devices]
        assert sum(len(share.ranks) for share in shares) <= by_name[host].free_slots
        assert len(set(given_devices)) == len(given_devices)
        assert not any(device.busy for device in given_devices)
        assert len(given_devices) == (len(shares) * layout.gpus_per_node if use_gpu else 0)
    assert placement == place(layout, offers, use_gpu=use_gpu, pack=pack)
