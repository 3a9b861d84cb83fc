"""Keys, envelopes and who is believed: what a signature covers, and everything that is refused."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.errors import UntrustedError, UsageError
from repro_est.share.keys import RUN_PAYLOAD, Key, KeyRing, PublicKey, sign, verify, verify_by
from repro_est.share.trust import Trust

ADA, EVE = Key.generate("ada"), Key.generate("eve")


def test_what_is_signed_is_what_comes_out() -> None:
    assert verify(sign(ADA, RUN_PAYLOAD, b'{"a":1}'), [EVE.public, ADA.public]) == b'{"a":1}'


def test_the_signer_is_named_as_the_project_calls_them() -> None:
    here = PublicKey("ada-lovelace", ADA.public.raw)
    assert verify_by(sign(ADA, RUN_PAYLOAD, b"x"), [here])[1].name == "ada-lovelace"


def test_the_signature_is_that_of_dsse() -> None:
    # The test vector of the DSSE protocol: PAE("http://example.com/HelloWorld", "hello world").
    envelope = sign(ADA, "http://example.com/HelloWorld", b"hello world")
    signature = base64.b64decode(envelope["signatures"][0]["sig"])
    assert ADA.public.accepts(signature, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world")


def test_a_public_key_of_rfc_8032_accepts_its_test_vector() -> None:
    public = PublicKey("t", bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"))
    signature = bytes.fromhex(
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
    )
    assert public.accepts(signature, b"\x72")
    assert not public.accepts(signature, b"\x73")


def _changed(envelope: dict[str, Any], **fields: object) -> dict[str, Any]:
    return json.loads(json.dumps({**envelope, **fields}))


def _refusals() -> list[tuple[str, object, str]]:
    good = sign(ADA, RUN_PAYLOAD, b"payload")
    other = sign(ADA, RUN_PAYLOAD, b"another")
    signature = good["signatures"][0]
    return [
        ("payload", _changed(good, payload=base64.b64encode(b"payloae").decode()), "changed since"),
        ("signature of another", _changed(good, signatures=other["signatures"]), "changed since"),
        ("type", _changed(good, payloadType="application/vnd.other+json"), "another kind"),
        ("no signature", _changed(good, signatures=[]), "not signed"),
        ("a stranger", sign(EVE, RUN_PAYLOAD, b"payload"), "not trusted here"),
        ("a stranger under a known id", _changed(sign(EVE, RUN_PAYLOAD, b"payload"), signatures=[
            {**sign(EVE, RUN_PAYLOAD, b"payload")["signatures"][0], "keyid": ADA.id}]), "changed since"),
        ("cut signature", _changed(good, signatures=[{**signature, "sig": signature["sig"][:40]}]), "changed since"),
        ("not base64", _changed(good, payload="%%%"), "no signed statement"),
        ("a list", [], "no signed statement"),
        ("null", None, "no signed statement"),
        ("signatures a text", _changed(good, signatures="x"), "no signed statement"),
        ("a number for an id", _changed(good, signatures=[{"keyid": 1, "sig": ""}]), "no signed statement"),
    ]  # fmt: skip


@pytest.mark.parametrize(("envelope", "reason"), [case[1:] for case in _refusals()], ids=[c[0] for c in _refusals()])
def test_what_is_not_signed_by_a_trusted_key_is_refused_with_the_reason(envelope: object, reason: str) -> None:
    with pytest.raises(UntrustedError, match=reason):
        verify(envelope, [ADA.public])


def test_nobody_is_believed_when_nobody_is_trusted() -> None:
    with pytest.raises(UntrustedError, match="not trusted"):
        verify(sign(ADA, RUN_PAYLOAD, b"x"), [])


@given(st.recursive(st.none() | st.integers() | st.text(), lambda i: st.lists(i) | st.dictionaries(st.text(), i)))
def test_any_json_is_refused_in_words_and_never_a_crash(document: object) -> None:
    for envelope in (document, {"payload": document, "payloadType": RUN_PAYLOAD, "signatures": [document]}):
        with pytest.raises(UntrustedError):
            verify(envelope, [ADA.public])


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_one_changed_bit_anywhere_in_the_payload_is_noticed(payload: bytes, position: int) -> None:
    envelope = sign(ADA, RUN_PAYLOAD, payload)
    if payload:
        bad = bytearray(payload)
        bad[position % len(bad)] ^= 1 << position % 8
        envelope["payload"] = base64.b64encode(bytes(bad)).decode()
        with pytest.raises(UntrustedError):
            verify(envelope, [ADA.public])


# ---- private keys


def test_a_key_is_kept_for_its_owner_only_and_reads_back(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path / "keys")
    path = ring.add(ADA)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert ring.load("ada").public == ADA.public
    assert ring.signer().id == ADA.id


def test_a_key_is_never_replaced(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    ring.add(ADA)
    with pytest.raises(UsageError, match="there is a key of that name"):
        ring.add(Key.generate("ada"))
    assert ring.load("ada").id == ADA.id


def test_a_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path)
    os.chmod(ring.add(ADA), 0o644)
    with pytest.raises(UsageError, match=r"others may read it \(mode 0644\)") as caught:
        ring.signer()
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("chmod 600")


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PRIVATE KEY-----\nxx\n-----END PRIVATE KEY-----\n", b"\xff" * 40])
def test_a_file_that_is_no_key_is_said_to_be_none(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "bad.key"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="no ed25519 key"):
        Key.load(path)


def test_of_several_keys_the_one_that_is_named_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(tmp_path)
    ring.add(ADA)
    ring.add(EVE)
    monkeypatch.delenv("REPRO_KEY", raising=False)
    with pytest.raises(UsageError, match="several keys"):
        ring.signer()
    monkeypatch.setenv("REPRO_KEY", "eve")
    assert ring.signer().id == EVE.id


def test_without_a_key_the_way_to_one_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        KeyRing(tmp_path / "none").signer()
    assert caught.value.hint == "repro key generate"


def test_the_value_of_a_private_key_is_in_no_repr() -> None:
    raw = ADA.private.private_bytes_raw()
    assert base64.b64encode(raw).decode() not in repr(ADA)
    assert raw.hex() not in repr(ADA)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "a b", "a" * 101, "a\n"])
def test_a_name_that_would_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        Key.generate(name)


# ---- who is believed


def test_trust_is_a_file_of_the_project_that_reads_back(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    assert trust.believed() == []
    assert trust.add(ADA.public)
    assert not trust.add(ADA.public)
    trust.add(EVE.public)
    assert [key.name for key in Trust(tmp_path).believed()] == ["ada", "eve"]
    assert [key.name for key in Trust(tmp_path).believed(["eve"])] == ["eve"]
    trust.remove("eve")
    assert [key.name for key in Trust(tmp_path).believed()] == ["ada"]


def test_a_name_stands_for_one_key_and_a_key_has_one_name(tmp_path: Path) -> None:
    trust = Trust(tmp_path)
    trust.add(ADA.public)
    with pytest.raises(UsageError, match="is another key"):
        trust.add(PublicKey("ada", EVE.public.raw))
    with pytest.raises(UsageError, match="key of `ada`"):
        trust.add(PublicKey("eve", ADA.public.raw))


@pytest.mark.parametrize(
    "text",
    ["x", "[key.ada]\n", "keys = 1\n", '[keys.ada]\npublic = "ed25519:AAAA"\n', "[keys.ada]\npublic = 1\n",
     '[keys.ada]\npublic = "rsa:AAAA"\n', '[keys.ada]\nsecret = "x"\n'],
)  # fmt: skip
def test_a_file_of_trust_that_is_not_understood_makes_nobody_trusted(text: str, tmp_path: Path) -> None:
    (tmp_path / "trusted-keys.toml").write_text(text)
    with pytest.raises(UsageError, match=r"trusted-keys\.toml"):
        Trust(tmp_path).believed()


def test_a_key_that_a_remote_asks_for_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has no key `ada`"):
        Trust(tmp_path).believed(["ada"])


def test_a_public_key_is_passed_on_as_text() -> None:
    assert PublicKey.parse("ada", ADA.public.text) == ADA.public
    with pytest.raises(UsageError, match="expected `ed25519:`"):
        PublicKey.parse("ada", ADA.public.text[:-4])
