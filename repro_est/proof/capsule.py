"""The capsule: one run with all it takes to execute it again, in a tar that any tool opens. This owns the format.

    capsule.json            first: what is in here, every other file by SHA-256 and size; canonical JSON (RFC 8785)
    capsule.dsse.json       only when signed: an envelope (DSSE 1.0) around exactly those bytes
    README.txt              for people without `repro`
    plan.json, result.json, attempt.json, recipe.lock, conda-lock.yml
    trees/<hash>            manifests (`store.trees`), a SHA-256 for every file: source, outputs, logs, inputs
    source/ outputs/ logs/  the files
    inputs/NAME/            likewise; without the bytes of inputs, their manifests are all there is
    packages/<sha256>/FILE  every artifact of the lock for the platform of the run

    capsule.json = {"format": 1, "run_hash", "inputs": [NAME of those with bytes], "files": {path: [sha256, size]}}

The same run gives the same bytes: names sorted, times and owners 0, the attempt numbered 1. Executing needs an
interpreter of the version of the lock (a conda environment brings its own), and a base image where there is one.

Whoever reads believes nothing: a name that is not listed, listed twice, absolute or with `..`, a link that leaves its
tree, another kind of member, another size or SHA-256 is refused, before anything enters the store.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from repro_est.digest import RunHash, Sha256, canonical
from repro_est.errors import VerificationError

CAPSULE_FORMAT = 1
PAYLOAD_TYPE = "application/vnd.repro.capsule+json"

INDEX = "capsule.json"
ENVELOPE = "capsule.dsse.json"
README = "README.txt"
PLAN, RESULT, ATTEMPT, LOCK, CONDA_LOCK = "plan.json", "result.json", "attempt.json", "recipe.lock", "conda-lock.yml"
TREES, PACKAGES, INPUTS, SOURCE = "trees", "packages", "inputs", "source"

LARGEST_INDEX = 256 << 20
LARGEST_RECORD = 64 << 20
_HEX32, _HEX64 = r"[0-9a-f]{32}", r"[0-9a-f]{64}"


class Listed(NamedTuple):
    """What the index says of a file."""

    sha256: Sha256
    size: int


@dataclass(frozen=True, slots=True)
class Index:
    """The index of a capsule.

    Args:
        inputs: names of those whose bytes are in it.
        files: every file but the index and its envelope, by path.
    """

    run_hash: RunHash
    inputs: tuple[str, ...]
    files: Mapping[str, Listed]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(item.size for item in self.files.values())

    def dumps(self) -> bytes:
        return canonical(
            {
                "format": CAPSULE_FORMAT,
                "run_hash": self.run_hash,
                "inputs": list(self.inputs),
                "files": {path: list(item) for path, item in self.files.items()},
            }
        )

    @classmethod
    def loads(cls, data: bytes) -> Index:
        """Reads an index.

        Raises:
            VerificationError: it is none, or one that no export has written.
        """
        try:
            content = json.loads(data, object_pairs_hook=_unique)
            if content["format"] != CAPSULE_FORMAT:
                raise VerificationError(
                    f"{INDEX}: got format {content['format']!r}, this version reads {CAPSULE_FORMAT}",
                    hint="upgrade repro",
                )
            index = cls(
                RunHash(_matching(_HEX32, content["run_hash"])),
                tuple(_matching(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name) for name in content["inputs"]),
                {check_path(path): _listed(item) for path, item in content["files"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise VerificationError(f"{INDEX}: is no index of a capsule: {error}") from None
        if index.dumps() != data:
            raise VerificationError(f"{INDEX}: is not written as an export writes it")
        return index


def check_path(path: str) -> str:
    """Returns a path if it stays where it is unpacked.

    Raises:
        ValueError: it does not.
    """
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise ValueError(f"got the path {path!r}, expected one below the capsule")
    return path


def _listed(item: Any) -> Listed:
    sha256, size = item
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"got the size {size!r}")
    return Listed(Sha256(_matching(_HEX64, sha256)), size)


def _matching(pattern: str, text: Any) -> str:
    if not isinstance(text, str) or not re.fullmatch(pattern, text):
        raise ValueError(f"got {text!r}")
    return text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a name is there twice")
    return content
