"""The daemons of one attempt believe each other, and nobody else; over real sockets."""

from __future__ import annotations

import contextlib
import json
import select
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from repro_est.hostside.mesh import Forged, Line, free_port, listen

KEY = b"k" * 32


@pytest.fixture
def closing() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


class Wire:
    """A node and the head with a wire in between that can be listened to and written on."""

    def __init__(self, stack: contextlib.ExitStack, *, node: int = 1, key: bytes = KEY) -> None:
        listener = stack.enter_context(listen("127.0.0.1"))
        listener.setblocking(True)
        self.node = Line.dial(listener.getsockname(), key, node)
        self.node_end = listener.accept()[0]
        self.head_end, far = socket.socketpair()
        self.head = Line(far, KEY, "head")
        for end in (self.node_end, self.head_end):
            stack.enter_context(end)
            end.settimeout(2)
        stack.callback(self.node.close)
        stack.callback(self.head.close)

    def from_node(self) -> bytes:
        self.node.write()
        return self.node_end.recv(1 << 16)

    def from_head(self) -> bytes:
        self.head.write()
        return self.head_end.recv(1 << 16)

    def to_head(self, data: bytes) -> list[dict[str, Any]]:
        self.head_end.sendall(data)
        select.select([self.head.connection], [], [], 2)
        return list(self.head.read())

    def to_node(self, data: bytes) -> list[dict[str, Any]]:
        self.node_end.sendall(data)
        select.select([self.node.connection], [], [], 2)
        return list(self.node.read())

    def greet(self) -> None:
        assert self.to_head(self.from_node()) == []
        assert self.to_node(self.from_head()) == []


def test_both_sides_hear_what_was_said_in_its_order(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.node.say({"attest": 0})  # before anybody has said hello
    wire.greet()
    wire.node.say({"attest": 1})
    assert wire.to_head(wire.from_node()) == [{"attest": 0}, {"attest": 1}]
    assert wire.head.node == 1
    assert (wire.head.is_ready, wire.node.is_ready) == (True, False)
    wire.head.say({"go": True})
    wire.head.say({"ping": 2})
    said = wire.from_head()
    assert wire.to_node(said[:20]) == []
    assert wire.to_node(said[20:]) == [{"go": True}, {"ping": 2}]


def test_a_changed_line_is_noticed(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    wire.node.say({"rank_ended": 1, "exit_code": 1})
    with pytest.raises(Forged):
        wire.to_head(wire.from_node().replace(b'"exit_code":1', b'"exit_code":0'))
    assert not wire.head.is_ready


def test_a_line_that_nobody_said_is_noticed(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    with pytest.raises(Forged):
        wire.to_node(b"0" * 32 + b' {"go":true}\n')


def test_a_line_said_again_is_noticed(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    wire.node.say({"stop": "now"})
    said = wire.from_node()
    assert wire.to_head(said) == [{"stop": "now"}]
    with pytest.raises(Forged):
        wire.to_head(said)


def test_a_line_left_out_is_noticed(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    wire.node.say({"first": 1})
    wire.node.say({"second": 2})
    with pytest.raises(Forged):
        wire.to_head(wire.from_node().split(b"\n", 1)[1])


def test_a_line_sent_back_is_noticed(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    wire.node.say({"go": True})
    with pytest.raises(Forged):
        wire.to_node(wire.from_node())


def test_a_line_of_another_connection_is_noticed(closing: contextlib.ExitStack) -> None:
    first, second = Wire(closing), Wire(closing)
    first.greet()
    second.greet()
    first.node.say({"stop": "now"})
    with pytest.raises(Forged):
        second.to_head(first.from_node())


def test_whoever_has_another_key_is_not_heard(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing, key=b"x" * 32)
    wire.greet()
    wire.node.say({"stop": "now"})
    with pytest.raises(Forged):
        wire.to_head(wire.from_node())


def test_a_node_cannot_be_passed_off_as_another(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing, node=2)
    wire.to_head(wire.from_node().replace(b" 2 ", b" 1 "))
    wire.to_node(wire.from_head())
    wire.node.say({"attest": 5})
    with pytest.raises(Forged):
        wire.to_head(wire.from_node())


@pytest.mark.parametrize(
    "hello",
    [b"GET / HTTP/1.1\n", b"\n", b"REPRO-MESH-1 x " + b"0" * 32 + b"\n", b"REPRO-MESH-1 1 short\n", b"z" * 1000],
    ids=["web", "empty", "no number", "short nonce", "long"],
)
def test_strangers_are_turned_away(closing: contextlib.ExitStack, hello: bytes) -> None:
    with pytest.raises(Forged):
        Wire(closing).to_head(hello)


def test_an_end_is_told_and_a_new_line_starts_anew(closing: contextlib.ExitStack) -> None:
    wire = Wire(closing)
    wire.greet()
    wire.node_end.close()
    with pytest.raises(OSError, match="hung up"):
        list(wire.node.read())
    again = Wire(closing)
    again.node.say({"attest": 1})
    again.greet()
    assert again.to_head(again.from_node()) == [{"attest": 1}]


def test_a_large_message_goes_in_pieces(closing: contextlib.ExitStack) -> None:
    listener = closing.enter_context(listen("127.0.0.1"))
    listener.setblocking(True)
    node = Line.dial(listener.getsockname(), KEY, 3)
    head = Line(listener.accept()[0], KEY, "head")
    closing.callback(node.close)
    closing.callback(head.close)
    large = {"words": "x" * 3_000_000}
    node.say(large)
    heard: list[dict[str, Any]] = []
    for _ in range(10_000):
        for line in (node, head):
            if line.has_output:
                line.write()
            if select.select([line.connection], [], [], 0.001)[0]:
                heard += list(line.read())
        if heard:
            break
    assert heard == [large]
    assert head.node == 3


def test_ports_of_a_range_are_taken_one_after_the_other(closing: contextlib.ExitStack) -> None:
    port = free_port("127.0.0.1")
    taken = closing.enter_context(listen("127.0.0.1", (port, port)))
    assert taken.getsockname()[1] == port
    with pytest.raises(OSError, match="in use"):
        listen("127.0.0.1", (port, port))


def test_nothing_is_listened_to_on_other_addresses(closing: contextlib.ExitStack) -> None:
    listener = closing.enter_context(listen("127.0.0.1"))
    assert json.dumps(listener.getsockname()[0]) == '"127.0.0.1"'
