"""Digests and canonical documents: what they are is published, so it may never move."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.digest import canonical, identify, sha256_hex, tagged, xxh3, xxh3_hex

GOLDEN = json.loads((Path(__file__).parent / "golden" / "digests.json").read_text())


@pytest.mark.parametrize("vector", GOLDEN["xxh3_128"], ids=lambda vector: vector["text"][:12])
def test_xxh3_128_is_the_published_one(vector: dict[str, str]) -> None:
    assert xxh3_hex(vector["text"].encode()) == vector["digest"]


@pytest.mark.parametrize("vector", GOLDEN["identify"], ids=lambda vector: vector["tag"])
def test_a_document_keeps_its_published_digest(vector: dict[str, object]) -> None:
    assert identify(str(vector["tag"]), vector["document"]) == vector["digest"]  # type: ignore[arg-type]


def test_the_same_document_under_two_tags_has_two_digests() -> None:
    assert identify("repro:plan:1", {"a": 1}) != identify("repro:tree:1", {"a": 1})


def test_canonical_form_is_rfc_8785() -> None:
    # RFC 8785, section 3.2.2 and 3.2.3: sorted by UTF-16 code units, shortest numbers, minimal escapes.
    document = {"\u20ac": "Euro Sign", "\r": "CR", "1": 1e30, "\U0001f600": "smile", "\ufb33": "Hebrew", "ö": 0.000001}
    assert canonical(document).decode() == (
        '{"\\r":"CR","1":1e+30,"ö":0.000001,"€":"Euro Sign","😀":"smile","\ufb33":"Hebrew"}'
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**60])
def test_what_json_cannot_carry_is_refused(value: float) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        canonical({"value": value})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_canonical_bytes_read_back_as_the_same_document(value: object) -> None:
    assert json.loads(canonical(value)) == value  # type: ignore[arg-type]


@given(st.dictionaries(st.text(), st.integers(0, 99), min_size=2))
def test_the_order_of_keys_does_not_matter(document: dict[str, int]) -> None:
    backwards = dict(reversed(document.items()))
    assert identify("t", document) == identify("t", backwards)


@given(st.lists(st.binary(max_size=200)))
def test_hashing_in_pieces_is_hashing_the_whole(pieces: list[bytes]) -> None:
    hasher = xxh3()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.hexdigest() == xxh3_hex(b"".join(pieces))


def test_tagged_bytes_are_the_tag_a_nul_and_the_bytes() -> None:
    assert tagged("t", b"x") == xxh3_hex(b"t\0x")
    assert len(sha256_hex(b"")) == 64
