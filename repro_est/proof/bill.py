"""The bill of materials of a run: SPDX 2.3 as JSON, every package of its lock by SHA-256 and package URL.

Made of the records of the run, its time that of the run's end: the same run gives the same bytes. Nothing is said of
licenses (`NOASSERTION`): the lock does not know them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from repro_est import __version__
from repro_est.proof import purl
from repro_est.proof.materials import Materials
from repro_est.proof.sums import manifest_sum

SPDX_VERSION = "SPDX-2.3"
_ROOT = "SPDXRef-Run"
_NO_WORD = "NOASSERTION"


def bill(materials: Materials) -> dict[str, Any]:
    """Returns the SPDX document of a run."""
    plan = materials.plan
    name = f"{plan.recorded.name}-{plan.hash[:12]}"
    packages = list(_packages(materials))
    return {
        "spdxVersion": SPDX_VERSION,
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"urn:x-repro:sbom:{plan.hash}:{manifest_sum(materials.outputs)}",
        "creationInfo": {"created": materials.finished, "creators": [f"Tool: repro-{__version__}"]},
        "documentDescribes": [_ROOT],
        "packages": [_root(materials, name), *packages],
        "relationships": [
            _relation("SPDXRef-DOCUMENT", "DESCRIBES", _ROOT),
            *(_relation(_ROOT, "DEPENDS_ON", package["SPDXID"]) for package in packages),
        ],
    }


def _root(materials: Materials, name: str) -> dict[str, Any]:
    package = _package(_ROOT, name, materials.plan.hash, sha256=manifest_sum(materials.outputs))
    return {
        **package,
        "comment": "A run; its checksum is that of the manifest of its outputs.",
        "primaryPackagePurpose": "OTHER",
    }


def _packages(materials: Materials) -> Iterator[dict[str, Any]]:
    python = materials.lock.python
    if not any(item.name == "python" for item in materials.conda):
        yield {
            **_package("SPDXRef-Python", "python", python),
            "externalRefs": [_reference(purl.python(python))],
            "primaryPackagePurpose": "APPLICATION",
        }
    for number, (package, artifact) in enumerate(materials.pip, 1):
        described = _package(
            f"SPDXRef-Pip-{number}", package.name, package.version, artifact.url, artifact.sha256, artifact.filename
        )
        yield {**described, "externalRefs": [_reference(purl.pypi(package, artifact))]}
    for number, item in enumerate(materials.conda, 1):
        described = _package(f"SPDXRef-Conda-{number}", item.name, item.version, item.url, item.sha256, item.filename)
        yield {**described, "externalRefs": [_reference(purl.conda(item))]}
    if materials.lock.image is not None:
        digest = str(materials.plan.environment["image"]).removeprefix("sha256:")
        image = materials.lock.image
        yield {
            **_package("SPDXRef-Image", image.name, digest[:12], sha256=digest),
            "primaryPackagePurpose": "CONTAINER",
        }


def _package(
    identity: str, name: str, version: str, url: str = "", sha256: str = "", filename: str = ""
) -> dict[str, Any]:
    return {
        "SPDXID": identity,
        "name": name,
        "versionInfo": version,
        **({"packageFileName": filename} if filename else {}),
        "downloadLocation": url if url.startswith(("https://", "http://", "git+")) else _NO_WORD,
        "filesAnalyzed": False,
        "licenseConcluded": _NO_WORD,
        "licenseDeclared": _NO_WORD,
        "copyrightText": _NO_WORD,
        "supplier": _NO_WORD,
        **({"checksums": [{"algorithm": "SHA256", "checksumValue": sha256}]} if sha256 else {}),
    }


def _reference(locator: str) -> dict[str, str]:
    return {"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": locator}


def _relation(element: str, kind: str, related: str) -> dict[str, str]:
    return {"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": related}
