"""A remote that is a bucket: `s3://bucket/prefix`, at any server that speaks S3, through obstore.

Credentials and endpoint come from the environment (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`,
`AWS_REGION`, `AWS_ENDPOINT_URL`), a role of the machine, or, where boto3 is there, its own chain (profiles,
single sign-on). `repro` stores none of them.

A put is atomic in S3, and the condition `If-None-Match: *` makes it a creation.
"""

from __future__ import annotations

import contextlib
import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

from repro_est.errors import RemoteError, UsageError
from repro_est.share.remote import CHUNK, Listed, Told, Upload
from repro_est.share.settings import RemoteSpec

_THREADS = 8
_WHOLE = 8 << 20
"""Objects up to this many bytes are sent in one request, larger ones in parts."""
_LIST_FROM = 16


class BucketRemote:
    """See above.

    Args:
        store: an object store of obstore, with the prefix.
    """

    def __init__(self, name: str, store: Any) -> None:
        self._name, self._store = name, store

    @classmethod
    def at(cls, spec: RemoteSpec) -> BucketRemote:
        try:
            from obstore.store import S3Store
        except ImportError:
            raise UsageError(f"remote {spec.name}: a bucket needs obstore", hint="pip install obstore") from None
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {"client_options": {"timeout": "120s", "connect_timeout": "10s"}}
        if endpoint:
            options["endpoint"] = endpoint
            options["client_options"]["allow_http"] = endpoint.startswith("http://")
        options["retry_config"] = {"max_retries": 4}
        options |= _credentials()
        return cls(spec.name, S3Store(urlsplit(spec.url).netloc, prefix=spec.path.strip("/") or None, **options))

    @property
    def name(self) -> str:
        return self._name

    def exists(self, names: Sequence[str]) -> dict[str, int]:
        import obstore

        grouped: dict[str, list[str]] = defaultdict(list)
        for name in names:
            grouped[name.split("/")[0] + "/"].append(name)

        def head(name: str) -> tuple[str, int] | None:
            try:
                return name, int(obstore.head(self._store, name)["size"])
            except FileNotFoundError:
                return None

        found: dict[str, int] = {}
        with self._words(""), ThreadPoolExecutor(_THREADS) as pool:
            for prefix, inside in grouped.items():
                if len(inside) >= _LIST_FROM:
                    wanted = set(inside)
                    found |= {item.name: item.size for item in self.below(prefix) if item.name in wanted}
                else:
                    found |= dict(filter(None, pool.map(head, inside)))
        return found

    def below(self, prefix: str) -> Iterator[Listed]:
        import obstore

        with self._words(prefix):
            for chunk in obstore.list(self._store, prefix.rstrip("/"), chunk_size=1000):
                for item in chunk:
                    yield Listed(str(item["path"]), int(item["size"]))

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        import obstore

        with self._words(name):
            if length is not None:
                if length:
                    yield bytes(obstore.get_range(self._store, name, start=offset, length=length))
                return
            options: Any = {"range": {"offset": offset}} if offset else None
            for chunk in obstore.get(self._store, name, options=options).stream(min_chunk_size=CHUNK):
                yield bytes(chunk)

    def write(self, uploads: Sequence[Upload], told: Told | None = None) -> None:
        def one(upload: Upload) -> None:
            self._put(upload, told)

        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                list(pool.map(one, uploads))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def create(self, name: str, data: bytes) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        with self._words(name):
            try:
                obstore.put(self._store, name, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        import obstore

        with self._words(name):
            obstore.put(self._store, name, data, use_multipart=False)

    def delete(self, name: str) -> None:
        import obstore

        with self._words(name), contextlib.suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    def close(self) -> None:
        """Connections are pooled by obstore."""

    # ---- parts

    def _put(self, upload: Upload, told: Told | None) -> None:
        import obstore

        with self._words(upload.name):
            if upload.size <= _WHOLE:
                data = b"".join(upload.chunks())
                obstore.put(self._store, upload.name, data, use_multipart=False)
                if told is not None:
                    told(len(data))
                return
            with obstore.open_writer(self._store, upload.name, buffer_size=_WHOLE) as writer:
                # An error leaves the block before the parts are put together, so nothing appears.
                for chunk in upload.chunks():
                    writer.write(chunk)
                    if told is not None:
                        told(len(chunk))

    @contextlib.contextmanager
    def _words(self, name: str) -> Iterator[None]:
        """Says what obstore says in terms of the remote."""
        from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except (FileNotFoundError, NotFoundError):
            raise FileNotFoundError(name) from None
        except (UnauthenticatedError, PermissionDeniedError) as error:
            raise RemoteError(
                f"remote {self._name}: {name}: no permission: {_first_line(error)}",
                hint="export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=...   or `read_only = true`",
            ) from None
        except (BaseError, OSError) as error:
            raise RemoteError(f"remote {self._name}: {name}: {_first_line(error)}") from None


def _credentials() -> dict[str, Any]:
    """Returns boto3's own chain where the environment holds no keys and boto3 is there, else nothing."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return {}
    try:
        from boto3 import Session
        from obstore.auth.boto3 import Boto3CredentialProvider
    except ImportError:
        return {}
    session = Session()
    if session.get_credentials() is None:
        return {}
    return {"credential_provider": Boto3CredentialProvider(session)}


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
