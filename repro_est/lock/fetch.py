"""Fetching a file by its SHA-256: streamed, verified while it is written, visible only when it is right.

Whatever the address serves, what is kept is what was locked. http(s) goes through requests, which honours proxies,
CA bundles and netrc; `file://` is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from repro_est.digest import sha256 as new_sha256
from repro_est.errors import InfrastructureError, VerificationError
from repro_est.files import fsync, fsync_directory
from repro_est.lock.lockfile import public_url

_CHUNK = 1 << 18
_TIMEOUT_SECONDS = (20, 120)
_TRIES = 3


def fetch(
    url: str, sha256: str, destination: Path, *, what: str, on_bytes: Callable[[int], None] | None = None
) -> None:
    """Fetches `url` to `destination`.

    Args:
        sha256: 64 hex digits the content must have.
        what: the subject of an error message, such as `numpy 2.1.0`.
        on_bytes: told how many bytes arrived, for a progress bar.

    Raises:
        VerificationError: the address serves something else; nothing is kept.
        InfrastructureError: it serves nothing.
    """
    destination.parent.mkdir(parents=True, exist_ok=True)
    temporary = destination.with_name(f".{os.getpid()}.{os.urandom(4).hex()}.part")
    try:
        got = _download(url, temporary, what, on_bytes)
        if got != sha256:
            raise VerificationError(
                f"{what}: {public_url(url)} is not what was locked\n"
                f"  expected sha256 {sha256}\n  got      sha256 {got}",
                hint="do not install it; ask who publishes it, and lock again only if the change is meant",
            )
        os.chmod(temporary, 0o444)
        os.replace(temporary, destination)
        fsync_directory(destination.parent)
    finally:
        temporary.unlink(missing_ok=True)


def check_md5(path: Path, md5: str, *, what: str) -> None:
    """Checks the second digest a lock may give for a file whose SHA-256 is right.

    Raises:
        VerificationError: the two are not of one file, so the lock was changed.
    """
    with open(path, "rb") as file:
        got = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        raise VerificationError(
            f"{what}: {path.name} is not what was locked\n  expected md5 {md5}\n  got      md5 {got}",
            hint="its sha256 is right, so somebody changed the lock; lock again, or ask who made the conda-lock file",
        )


def _download(url: str, temporary: Path, what: str, on_bytes: Callable[[int], None] | None) -> str:
    for attempt in range(1, _TRIES + 1):
        hasher = new_sha256()
        try:
            with open(temporary, "wb") as file:
                for chunk in _chunks(url, what):
                    hasher.update(chunk)
                    file.write(chunk)
                    if on_bytes is not None:
                        on_bytes(len(chunk))
                file.flush()
                fsync(file.fileno())
            return hasher.hexdigest()
        except _Transient as error:
            if attempt == _TRIES:
                raise InfrastructureError(f"{what}: {public_url(url)} cannot be fetched: {error}") from None
    raise AssertionError("unreachable")


class _Transient(Exception):
    """A failure that another try may get past."""


def _chunks(url: str, what: str) -> Iterator[bytes]:
    if url.startswith("file://"):
        path = Path(unquote(urlsplit(url).path))
        try:
            with open(path, "rb") as file:
                while chunk := file.read(_CHUNK):
                    yield chunk
        except FileNotFoundError:
            raise InfrastructureError(f"{what}: {path} is not there any more", hint="lock the recipe again") from None
        return
    import requests

    try:
        with contextlib.closing(requests.get(url, stream=True, timeout=_TIMEOUT_SECONDS)) as response:
            if response.status_code >= 500:
                raise _Transient(f"HTTP status {response.status_code}")
            if response.status_code != 200:
                raise InfrastructureError(f"{what}: {public_url(url)} answers with HTTP status {response.status_code}")
            response.raw.decode_content = False
            yield from response.raw.stream(_CHUNK, decode_content=False)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _Transient(type(error).__name__) from None
    except requests.RequestException as error:
        raise InfrastructureError(f"{what}: {public_url(url)} cannot be fetched: {error}") from None
