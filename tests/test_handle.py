"""The handle of an attempt holds all it takes to find it again, or says that it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from repro_est.errors import VerificationError
from repro_est.hosts.inventory import HostSpec
from repro_est.launch.handle import Handle, Member, read_handle, remove_handle, write_handle
from repro_est.store.layout import HANDLE

GATE = HostSpec("gate", address="gate.example.org", user="me", port=2222)
HANDLE_OF_TWO = Handle(
    token="abc1",
    target="lab",
    lost_after=15.0,
    members=(
        Member(
            HostSpec("h1", gpus=({"index": 0},), gateway=GATE, labels=("a",)), (0, 2), "/d/1", (("x", "k", "/p"),), 0.25
        ),
        Member(HostSpec("h2", is_local=True), (1, 3), "/d/2"),
    ),
    facts={"user": "me"},
)


def test_it_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_handle(tmp_path, HANDLE_OF_TWO)
    assert read_handle(tmp_path) == HANDLE_OF_TWO
    assert (HANDLE_OF_TWO.world_size, HANDLE_OF_TWO.host_of(3)) == (4, "h2")
    remove_handle(tmp_path)
    remove_handle(tmp_path)
    assert read_handle(tmp_path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format": 2}', "\x00", '{"format": 1, "token": "a"}'])
def test_what_is_none_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / HANDLE).write_text(text)
    with pytest.raises(VerificationError, match="does not say where the attempt is"):
        read_handle(tmp_path)


@pytest.mark.parametrize("spec", [None, "h1", {"name": "h1", "colour": "red"}])
def test_a_host_that_makes_no_sense_is_told(tmp_path: Path, spec: object) -> None:
    write_handle(tmp_path, HANDLE_OF_TWO)
    content = json.loads((tmp_path / HANDLE).read_text())
    content["members"][0]["spec"] = spec
    (tmp_path / HANDLE).write_text(json.dumps(content))
    with pytest.raises(VerificationError):
        read_handle(tmp_path)
