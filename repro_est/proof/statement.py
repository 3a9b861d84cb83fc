"""Where a run came from, for tools that know nothing of `repro`: an in-toto Statement v1 with SLSA provenance v1.

    https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
    https://slsa.dev/spec/v1.0/provenance

The subjects are the outputs, each by SHA-256. `externalParameters` is the plan without its environment,
`resolvedDependencies` is every package, the source, the inputs, the base image and the git commit. Made of the records
of the run alone: the same run gives the same bytes. A tree is named by the SHA-256 of its manifest (`store.trees`), in
which every file has its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from repro_est.digest import canonical
from repro_est.environment.key import environment_key
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.proof import purl
from repro_est.proof.materials import InputMaterial, Materials, seconds
from repro_est.proof.sums import manifest_sum
from repro_est.store.trees import Tree

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
"""Of the envelope a signed statement travels in."""

BUILD_TYPE = "urn:x-repro:run:1"
_MANIFEST = "urn:x-repro:manifest:1"
_RESOLVED = ("environment", "format")

Descriptor = dict[str, Any]
"""A ResourceDescriptor of in-toto."""


def statement(materials: Materials) -> dict[str, Any]:
    """Returns the statement of a run."""
    plan, result, attempt = materials.plan, materials.result, materials.attempt
    external = {name: value for name, value in plan.document.items() if name not in _RESOLVED}
    return {
        "_type": STATEMENT_TYPE,
        "subject": list(_files(OUTPUTS, materials.outputs)) or [_tree(OUTPUTS, materials.outputs)],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {"recipe": plan.recorded.name, **external},
                "internalParameters": {
                    "run_hash": plan.hash,
                    "plan_sha256": result.plan_sha256,
                    "environment_key": environment_key(plan.environment),
                    "python": plan.environment["python"],
                    "platform": materials.platform,
                    "reproducible": plan.recorded.reproducible.to_json(),
                },
                "resolvedDependencies": list(_dependencies(materials)),
            },
            "runDetails": {
                "builder": {"id": f"urn:x-repro:builder:{_host(attempt.facts)}"},
                "metadata": {
                    "invocationId": f"urn:x-repro:run:{plan.hash}",
                    "startedOn": seconds(attempt.started),
                    "finishedOn": materials.finished,
                },
                "byproducts": list(_files(LOGS, materials.logs)),
            },
        },
    }


def statement_bytes(materials: Materials) -> bytes:
    """Returns the statement as it is signed: canonical JSON."""
    return canonical(statement(materials))


def _dependencies(materials: Materials) -> Iterator[Descriptor]:
    yield _tree("source", materials.source)
    git = materials.attempt.facts.get("git")
    if isinstance(git, Mapping) and git.get("commit"):
        dirty = {"dirty": True} if git.get("dirty") else {}
        yield {
            "name": "git",
            "uri": f"git+{git.get('remote') or 'unknown:'}@{git['commit']}",
            "digest": {"gitCommit": git["commit"]},
            **({"annotations": dirty} if dirty else {}),
        }
    for item in materials.inputs:
        yield _input(item)
    if materials.lock.image is not None:
        image = materials.lock.image
        digest = str(materials.plan.environment["image"]).removeprefix("sha256:")
        yield {"name": "image", "uri": f"oci:{image.name}", "digest": {"sha256": digest}}
    for package, artifact in materials.pip:
        yield {
            "name": artifact.filename,
            "uri": purl.pypi(package, artifact),
            "digest": {"sha256": artifact.sha256},
            **({"downloadLocation": artifact.url} if artifact.url else {}),
        }
    for built in materials.conda:
        yield {
            "name": built.filename,
            "uri": purl.conda(built),
            "digest": {"sha256": built.sha256},
            "downloadLocation": built.url,
        }


def _input(item: InputMaterial) -> Descriptor:
    planned, origin = item.planned, dict(item.planned.origin)
    name = f"inputs/{planned.name}"
    uri = str(origin["url"]) if "url" in origin else f"urn:x-repro:tree:{planned.tree}"
    if item.tree is None:  # its bytes are gone: what is left is what this machine calls them
        return {"name": name, "uri": uri, "annotations": {"tree": planned.tree}}
    if item.tree.single_file:
        (entry,) = item.tree.entries
        return {"name": name, "uri": uri, "digest": {"sha256": entry.sha256}, "annotations": {"tree": planned.tree}}
    return {**_tree(name, item.tree), "uri": uri}


def _tree(name: str, tree: Tree) -> Descriptor:
    return {
        "name": name,
        "digest": {"sha256": manifest_sum(tree)},
        "mediaType": "text/plain",
        "annotations": {"tree": tree.hash, "format": _MANIFEST},
    }


def _files(top: str, tree: Tree) -> Iterator[Descriptor]:
    for entry in tree.files():
        yield {"name": f"{top}/{entry.path}", "digest": {"sha256": entry.sha256}}


def _host(facts: Mapping[str, Any]) -> str:
    from urllib.parse import quote

    machine = facts.get("machine")
    return quote(str(machine.get("hostname") or "unknown")) if isinstance(machine, Mapping) else "unknown"
