"""Keys that people sign with, and the envelope a signed statement travels in.

A key is an ed25519 pair (RFC 8032). The private half is a PEM file (PKCS #8) that only its owner may read,

    $XDG_CONFIG_HOME/repro/keys/NAME.key        (~/.config when that is not set)

and the public halves of those who are believed stand in `trusted-keys.toml` of the project, which is committed
(`share.trust`). An id is the first 16 hex digits of SHA-256 of the 32 public bytes: it names, and proves nothing.

The envelope is DSSE 1.0 (https://github.com/secure-systems-lab/dsse): the signature covers the bytes of the payload and
its type, so that nothing is parsed before it is believed and a statement of one kind never passes for another.

    {"payload": base64, "payloadType": TYPE, "signatures": [{"keyid": ID, "sig": base64}]}
    signed: "DSSEv1" SP len(TYPE) SP TYPE SP len(payload) SP payload
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro_est.errors import UntrustedError, UsageError
from repro_est.files import fsync_directory

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

RUN_PAYLOAD = "application/vnd.repro.run+json"
"""Type of a statement about a run (`share.statement`)."""

KEY_VARIABLE = "REPRO_KEY"
"""Names the key to sign with, where a person has several."""

_NAME = r"[A-Za-z0-9][-A-Za-z0-9._@]{0,99}"
_RAW = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """Whom a signature is checked against.

    Args:
        name: what this project calls its owner.
        raw: the 32 bytes of RFC 8032.
    """

    name: str
    raw: bytes

    @property
    def id(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The key as people pass it on: `ed25519:` and base64."""
        return "ed25519:" + base64.b64encode(self.raw).decode()

    @classmethod
    def parse(cls, name: str, text: str) -> PublicKey:
        """Reads `text`.

        Raises:
            UsageError: it is no such key.
        """
        check_key_name(name)
        try:
            raw = base64.b64decode(text.removeprefix("ed25519:"), validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if not text.startswith("ed25519:") or len(raw) != _RAW:
            raise UsageError(
                f"key {name}: got {text!r}, expected `ed25519:` and 44 characters of base64",
                hint="its owner prints it with `repro key show`",
            )
        return cls(name, raw)

    def accepts(self, signature: bytes, message: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError):
            return False
        return True


@dataclass(frozen=True, slots=True)
class Key:
    """A private key, and the public one of it."""

    public: PublicKey
    private: Ed25519PrivateKey = field(repr=False)

    @property
    def name(self) -> str:
        return self.public.name

    @property
    def id(self) -> str:
        return self.public.id

    @classmethod
    def generate(cls, name: str) -> Key:
        """Makes a new key, which is nowhere yet; see `KeyRing.add`."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        check_key_name(name)
        return cls._of(name, Ed25519PrivateKey.generate())

    @classmethod
    def load(cls, path: Path) -> Key:
        """Reads a private key.

        Raises:
            UsageError: there is none, it is none, or others may read it.
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            mode, data = path.stat().st_mode, path.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"{path}: no such key", hint="repro key generate") from None
        if stat.S_IMODE(mode) & 0o077:
            raise UsageError(
                f"{path}: others may read it (mode {stat.S_IMODE(mode):04o}), expected 0600", hint=f"chmod 600 {path}"
            )
        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, Ed25519PrivateKey):
            raise UsageError(f"{path}: is no ed25519 key in PEM without a passphrase", hint="repro key generate")
        return cls._of(path.stem, private)

    def pem(self) -> bytes:
        from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @classmethod
    def _of(cls, name: str, private: Ed25519PrivateKey) -> Key:
        return cls(PublicKey(name, private.public_key().public_bytes_raw()), private)


class KeyRing:
    """The private keys of one person.

    Args:
        directory: where they are; by default that of the user.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or _default_directory()

    def names(self) -> list[str]:
        try:
            found = [name.removesuffix(".key") for name in os.listdir(self.directory) if name.endswith(".key")]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(name for name in found if re.fullmatch(_NAME, name))

    def load(self, name: str) -> Key:
        check_key_name(name)
        return Key.load(self.directory / f"{name}.key")

    def add(self, key: Key) -> Path:
        """Keeps a new key; returns its file.

        Raises:
            UsageError: there is one of that name; it is never replaced.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self.directory / f"{key.name}.key"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise UsageError(f"{path}: there is a key of that name", hint="choose another name") from None
        with open(descriptor, "wb") as file:
            file.write(key.pem())
            file.flush()
            os.fsync(file.fileno())
        fsync_directory(self.directory)
        return path

    def signer(self) -> Key:
        """Returns the key to sign with: the one that `$REPRO_KEY` names, else the only one.

        Raises:
            UsageError: none, or several and no word which.
        """
        chosen = os.environ.get(KEY_VARIABLE)
        if chosen:
            return self.load(chosen)
        names = self.names()
        if not names:
            raise UsageError(f"{self.directory}: no key to sign with", hint="repro key generate")
        if len(names) > 1:
            raise UsageError(
                f"{self.directory}: several keys ({', '.join(names)}), and no word which one signs",
                hint=f"export {KEY_VARIABLE}={names[0]}",
            )
        return self.load(names[0])


def check_key_name(name: str) -> None:
    """Raises UsageError for a name that no key may have."""
    if not re.fullmatch(_NAME, name):
        raise UsageError(f"got {name!r} as the name of a key, expected letters, digits, `-`, `_`, `.` and `@`")


def key_id(public: PublicKey) -> str:
    """Returns the id of a key."""
    return public.id


def sign(key: Key, payload_type: str, payload: bytes) -> dict[str, Any]:
    """Returns the envelope of a payload, signed."""
    signature = key.private.sign(_encoded(payload_type, payload))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key.id, "sig": base64.b64encode(signature).decode()}],
    }


def verify(envelope: object, trusted: Iterable[PublicKey], payload_type: str = RUN_PAYLOAD) -> bytes:
    """Returns the payload of an envelope that somebody who is trusted has signed.

    Args:
        envelope: as JSON has it; nothing of it is believed.
        trusted: those who are believed.
        payload_type: what it must be a statement of.

    Raises:
        UntrustedError: it is no envelope, of another type, not signed by any of them, or changed since.
    """
    return verify_by(envelope, trusted, payload_type)[0]


def verify_by(
    envelope: object, trusted: Iterable[PublicKey], payload_type: str = RUN_PAYLOAD
) -> tuple[bytes, PublicKey]:
    """As `verify`, with the key that has signed."""
    try:
        payload, got_type, signatures = _parts(envelope)
    except (KeyError, TypeError, ValueError, binascii.Error):
        raise UntrustedError("is no signed statement: expected an envelope (DSSE 1.0)") from None
    if got_type != payload_type:
        raise UntrustedError(f"is a statement of another kind: got {got_type!r}, expected {payload_type!r}")
    if not signatures:
        raise UntrustedError("is not signed")
    known = {key.id: key for key in trusted}
    for identity, signature in signatures:
        key = known.get(identity)
        if key is None:
            continue
        if not key.accepts(signature, _encoded(payload_type, payload)):
            raise UntrustedError(f"does not carry a good signature of `{key.name}` ({identity}): it was changed since")
        return payload, key
    shown = ", ".join(identity for identity, _ in signatures)
    raise UntrustedError(
        f"is signed by {shown}, who is not trusted here", hint="repro key trust NAME KEY   if you believe them"
    )


def _parts(envelope: object) -> tuple[bytes, str, list[tuple[str, bytes]]]:
    if not isinstance(envelope, Mapping):
        raise TypeError
    payload, payload_type, signatures = envelope["payload"], envelope["payloadType"], envelope["signatures"]
    if not isinstance(payload_type, str) or not isinstance(signatures, list):
        raise TypeError
    signed: list[tuple[str, bytes]] = []
    for item in signatures:
        if not isinstance(item["keyid"], str):
            raise TypeError
        signed.append((item["keyid"][:64], base64.b64decode(item["sig"], validate=True)))
    return base64.b64decode(payload, validate=True), payload_type, signed


def _encoded(payload_type: str, payload: bytes) -> bytes:
    """The pre-authentication encoding (PAE) of DSSE."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _default_directory() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "repro" / "keys"
