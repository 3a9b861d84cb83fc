"""An image as a stream: an OCI image layout that `docker load` takes too.

    oci-layout, index.json, blobs/sha256/...     OCI image spec, image-layout.md
    manifest.json                                what docker load reads

The bytes depend on the image alone. Layers a daemon has already may be left out of the stream that is sent to it; what
is left then is no OCI layout any more, and does not say it was one.
"""

from __future__ import annotations

import tarfile
from collections.abc import Collection, Iterator
from typing import Any

from repro_est.digest import Sha256, canonical, sha256_hex
from repro_est.images.image import Image
from repro_est.store.store import Store

_CHUNK = 1 << 20
_BLOCK = 512


def archive(image: Image, store: Store, *, tag: str, without: Collection[Sha256] = ()) -> Iterator[bytes]:
    """Yields the tar.

    Args:
        image: whose layers are all in the store, but for those left out.
        tag: what the image is called where it is loaded, `NAME:TAG`.
        without: diff IDs of layers to leave out.
    """
    docker: dict[str, Any] = {
        "Config": _blob(image.image_id),
        "RepoTags": [tag],
        "Layers": [_blob(layer.diff_id) for layer in image.layers],
    }
    if not without:
        yield from _layout(image, tag)
    yield from _member("manifest.json", canonical([docker]))
    yield from _member(_blob(image.image_id), image.config_bytes)
    sent = set(without)
    for layer in image.layers:
        if layer.diff_id in sent:
            continue
        sent.add(layer.diff_id)
        assert layer.size is not None, layer.name
        yield _header(_blob(layer.diff_id), layer.size)
        with open(store.layout.layer(layer.diff_id), "rb") as file:
            while chunk := file.read(_CHUNK):
                yield chunk
        yield _padding(layer.size)
    yield b"\0" * (2 * _BLOCK)


def _layout(image: Image, tag: str) -> Iterator[bytes]:
    """The parts of an OCI image layout but for configuration and layers."""
    manifest = canonical(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("config.v1+json", image.image_id, len(image.config_bytes)),
            "layers": [_descriptor("layer.v1.tar", item.diff_id, item.size or 0) for item in image.layers],
        }
    )
    entry = _descriptor("manifest.v1+json", sha256_hex(manifest), len(manifest))
    entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
    yield from _member("oci-layout", canonical({"imageLayoutVersion": "1.0.0"}))
    yield from _member("index.json", canonical({"schemaVersion": 2, "manifests": [entry]}))
    yield from _member(_blob(sha256_hex(manifest)), manifest)


def _descriptor(kind: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": size}


def _blob(digest: str) -> str:
    return f"blobs/sha256/{digest}"


def _member(name: str, data: bytes) -> Iterator[bytes]:
    yield _header(name, len(data)) + data + _padding(len(data))


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size = size
    return member.tobuf(tarfile.PAX_FORMAT)


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)
