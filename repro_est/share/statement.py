"""What is signed about a run: which plan it is of, what it made, where and by whom. This module owns the format.

The payload is canonical JSON (RFC 8785) in an envelope of type `application/vnd.repro.run+json` (`share.keys`):

    format        1
    run_hash      of the plan
    plan_sha256   of the plan's canonical document: what the run hash names, bound against malice too
    record        {"sha256"} of `plan.json`, which also says what to register and how to run it again
    source, outputs, logs    {"tree", "sha256"} each (`share.manifests`)
    attempt       as in `attempt.json`: times, machine, git
    metrics       NaN and infinities as strings
    environment   its key; `image` is the SHA-256 of an image's ID, or ""
    platform, finished
    builder       id of the key that signs
    revision      0, and one more each time its builder replaces it: one that was put back is found out without clocks
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repro_est.digest import RunHash, Sha256, TreeHash, canonical, sha256_hex
from repro_est.errors import UntrustedError, VerificationError
from repro_est.share.keys import RUN_PAYLOAD, Key, PublicKey, sign, verify_by
from repro_est.share.manifests import Bound
from repro_est.share.remote import is_run_hash, is_sha256
from repro_est.store.records import AttemptRecord, Result, Status

STATEMENT_FORMAT = 1
STATEMENT_LIMIT = 16 << 20
"""Bytes of a statement that are read at most."""

_TEXTS = ("environment", "image", "platform", "finished", "builder")


@dataclass(frozen=True, slots=True)
class Statement:
    """See above.

    Args:
        signer: whose signature it carries; None before it is signed.
        payload: the bytes that were signed.
    """

    run_hash: RunHash
    plan_sha256: Sha256
    record: Sha256
    source: Bound
    outputs: Bound
    logs: Bound
    attempt: Mapping[str, Any]
    metrics: Mapping[str, float | str]
    environment: str
    image: str
    platform: str
    finished: str
    builder: str
    revision: int = 0
    signer: PublicKey | None = None
    payload: bytes = b""

    @property
    def sha256(self) -> Sha256:
        return sha256_hex(self.payload)

    def to_json(self) -> dict[str, Any]:
        return {
            "format": STATEMENT_FORMAT,
            "run_hash": self.run_hash,
            "plan_sha256": self.plan_sha256,
            "record": {"sha256": self.record},
            "source": self.source.to_json(),
            "outputs": self.outputs.to_json(),
            "logs": self.logs.to_json(),
            "attempt": dict(self.attempt),
            "metrics": dict(self.metrics),
            "environment": self.environment,
            "image": self.image,
            "platform": self.platform,
            "finished": self.finished,
            "builder": self.builder,
            "revision": self.revision,
        }

    def signed(self, key: Key) -> bytes:
        """Returns the file of it.

        Raises:
            VerificationError: it holds a number that canonical JSON cannot carry.
        """
        try:
            payload = canonical(self.to_json())
        except ValueError as error:
            raise VerificationError(f"run {self.run_hash}: cannot be signed: {error}") from None
        return json.dumps(sign(key, RUN_PAYLOAD, payload), indent=1).encode() + b"\n"

    def result(self, attempt: int) -> Result:
        """Returns the commit record of it, for an attempt of this store."""
        return Result.from_json(
            {
                "format": 1,
                "run_hash": self.run_hash,
                "attempt": attempt,
                "outputs": self.outputs.tree,
                "logs": self.logs.tree,
                "metrics": dict(self.metrics),
                "finished": self.finished,
                "environment": self.environment,
                "plan_sha256": self.plan_sha256,
                "platform": self.platform,
            }
        )


def read_statement(data: bytes, trusted: list[PublicKey], run: RunHash) -> Statement:
    """Reads the file of a statement.

    Args:
        trusted: those who are believed.
        run: which run it is said to be about.

    Raises:
        UntrustedError: not signed by any of them, or changed since.
        VerificationError: it is about something else, or not a statement.
    """
    try:
        envelope = json.loads(data)
    except (ValueError, RecursionError):
        raise UntrustedError("is no signed statement: not JSON, or cut off") from None
    payload, signer = verify_by(envelope, trusted, RUN_PAYLOAD)
    try:
        statement = _parsed(json.loads(payload), signer, payload)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise VerificationError(f"signed by `{signer.name}`, is not a statement about a run: {error!r}") from None
    if statement.run_hash != run:
        raise VerificationError(f"signed by `{signer.name}`, is a statement about run {statement.run_hash}")
    if statement.builder != signer.id:
        raise VerificationError(f"signed by `{signer.name}`, says that {statement.builder} signed it")
    return statement


def _parsed(content: Any, signer: PublicKey, payload: bytes) -> Statement:
    if content["format"] != STATEMENT_FORMAT:
        raise ValueError(f"format {content['format']!r}, this version reads {STATEMENT_FORMAT}")
    if not is_run_hash(content["run_hash"]):
        raise ValueError("run_hash")
    for digest in (content["plan_sha256"], content["record"]["sha256"]):
        if not is_sha256(digest):
            raise ValueError(f"got {digest!r}, expected a SHA-256")
    for name in _TEXTS:
        if not isinstance(content[name], str):
            raise TypeError(name)
    if not re.fullmatch("[0-9a-f]{32}", content["environment"]):
        raise ValueError("environment")
    revision = content["revision"]
    if type(revision) is not int or revision < 0:
        raise ValueError("revision")
    statement = Statement(
        run_hash=RunHash(content["run_hash"]),
        plan_sha256=Sha256(content["plan_sha256"]),
        record=Sha256(content["record"]["sha256"]),
        source=_bound(content["source"]),
        outputs=_bound(content["outputs"]),
        logs=_bound(content["logs"]),
        attempt=content["attempt"],
        metrics=content["metrics"],
        **{name: content[name] for name in _TEXTS},
        revision=revision,
        signer=signer,
        payload=payload,
    )
    attempt = AttemptRecord.from_json(dict(statement.attempt))
    if attempt.status is not Status.COMPLETED:
        raise ValueError(f"its attempt is {attempt.status}, expected completed")
    statement.result(1)
    return statement


def _bound(value: Any) -> Bound:
    if not is_run_hash(value["tree"]) or not is_sha256(value["sha256"]):
        raise ValueError(f"got {value!r}, expected the digests of a tree")
    return Bound(TreeHash(value["tree"]), Sha256(value["sha256"]))
