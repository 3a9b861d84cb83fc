"""Messages between machines: whole ones come out, however the bytes come in, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.hostside import frames
from repro_est.hostside.frames import Decoder, ProtocolError, encode

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
bodies = st.dictionaries(st.text().filter(lambda name: name != "size"), values, max_size=4)
messages = st.lists(st.tuples(bodies, st.binary(max_size=50)), max_size=6)


@given(messages, st.data())
def test_any_split_of_the_bytes_gives_the_same_messages(
    said: list[tuple[dict[str, Any], bytes]], data: st.DataObject
) -> None:
    whole = b"".join(encode(message, payload) for message, payload in said)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=10)))
    decoder = Decoder()
    heard = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        heard += decoder.feed(whole[start:end])
    assert [({k: v for k, v in message.items() if k != "size"}, payload) for message, payload in heard] == said


def test_a_payload_may_look_like_messages() -> None:
    inside = encode({"op": "stop"}) * 2
    assert [*Decoder().feed(encode({"n": 1}, inside) + encode({"n": 2}))] == [
        ({"n": 1, "size": len(inside)}, inside),
        ({"n": 2}, b""),
    ]


@pytest.mark.parametrize(
    "line",
    [b"hello", b"", b"[1]", b"7", b"\xff\xfe", b'{"a": ', b"[" * 100_000],
    ids=["text", "empty", "list", "number", "no UTF-8", "cut", "deep"],
)
def test_what_is_no_object_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        list(Decoder().feed(line + b"\n"))


@pytest.mark.parametrize("size", [-1, frames.MAX_PAYLOAD + 1, 1.5, "7", True, None, [1]])
def test_a_payload_of_no_sensible_size_is_refused(size: object) -> None:
    with pytest.raises(ProtocolError, match="a payload of"):
        list(Decoder().feed(encode({"size": size})))


def test_the_largest_payload_passes() -> None:
    data = bytes(frames.MAX_PAYLOAD)
    assert [payload for _, payload in Decoder().feed(encode({}, data))] == [data]


def test_a_line_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MAX_LINE", 1000)
    decoder = Decoder()
    for _ in range(10):
        assert list(decoder.feed(b"x" * 100)) == []
    with pytest.raises(ProtocolError, match="without end"):
        list(decoder.feed(b"x"))
