"""Every file name of the store, and what stands under it. Nothing else spells a path below the root.

format                        version; a newer one is refused
blobs/ab/cdef...              file contents by XXH3-128, read-only
packs/<name>.pack, .index     many small blobs in one file (`store.packs`)
trees/ab/cdef...              manifests (`store.trees`)
runs/<hash>/plan.json         the closure: enough to run it again
runs/<hash>/attempts/<n>/     attempt.json, logs/, outputs/ (read-only views)
runs/<hash>/result.json       the commit record, written last
runs/<hash>/outputs, logs     links to those of the accepted attempt
runs/<hash>/notes.jsonl       tags, properties, experiments (`store.notes`)
runs/<hash>/verdicts.jsonl    what executing it again gave (`proof.verdicts`)
runs/<hash>/submission.json   who was started to execute it, by the Python API (`api.submission`)
runs/<hash>/page.html         the run for people (`portal.page`); may be missing, or be made again
envs/<key>/                   a finished prefix; env.json inside is its record
layers/<diff id>.tar          layers of images, uncompressed; layers/<key>.json says which one is which
images/<image id>.json        images of environments; images/<tag> is a link to one
unpacked/<key>/               a wheel unpacked and compiled, which prefixes are copied from
packages/<sha256>/<filename>  artifacts of an index, verified
fetched/<sha256>/<filename>   URL inputs, verified
models/<name>/<version>.json  registered models; <version>.tags.jsonl is how their tags changed since
models/<name>/<version>/      a read-only view of its bytes, once somebody asked for its path
models/<name>/aliases.jsonl   how the aliases of a model moved (`store.aliases`)
pins/<run hash>.json          runs a person said to keep (`store.pins`)
leases/<name>.lock            kernel locks: who works on what
remotes/<id>/                 what was seen of a remote (`share.memory`)
stat/<id>...                   stat caches, and what was said once (<name>.said); disposable
work/<id>/                    where attempts execute; gone when they end
hosts/                        what this machine keeps as a host of runs with several ranks (`hostside.objects`)
tmp/<id>                      files and directories being written
quarantine/<id>/              what failed verification, with reason.json
trash/<id>                    on its way out
index.db                      rebuildable list of runs
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from repro_est.digest import BlobHash, EnvironmentKey, RunHash, Sha256, TreeHash

DRIVER_LOG = "driver.log"
"""Below `logs/` of an attempt of several ranks: the lines of all, in the order of time (`launch.streams`)."""

LIVE = "live"
"""In an attempt's directory while it runs: a link to the directory the script works in, or what was brought of it."""

HANDLE = "hosts.json"
"""Beside attempt.json while an attempt is at hosts, which own it (`launch.handle`)."""

DIRECTORIES = (
    "blobs", "packs", "trees", "runs", "envs", "layers", "images", "unpacked", "packages", "fetched", "models",
    "pins", "leases", "remotes", "stat", "work", "hosts", "tmp", "quarantine", "trash",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below one store root."""

    root: Path

    @property
    def format_file(self) -> Path:
        return self.root / "format"

    @property
    def index(self) -> Path:
        return self.root / "index.db"

    def directory(self, name: str) -> Path:
        """One of `DIRECTORIES`."""
        return self.root / name

    def blob(self, blob: BlobHash) -> Path:
        return self.root / "blobs" / blob[:2] / blob[2:]

    def tree(self, tree: TreeHash) -> Path:
        return self.root / "trees" / tree[:2] / tree[2:]

    def run(self, run: RunHash) -> Path:
        return self.root / "runs" / run

    def plan(self, run: RunHash) -> Path:
        return self.run(run) / "plan.json"

    def result(self, run: RunHash) -> Path:
        return self.run(run) / "result.json"

    def notes(self, run: RunHash) -> Path:
        return self.run(run) / "notes.jsonl"

    def verdicts(self, run: RunHash) -> Path:
        return self.run(run) / "verdicts.jsonl"

    def submission(self, run: RunHash) -> Path:
        return self.run(run) / "submission.json"

    def page(self, run: RunHash) -> Path:
        return self.run(run) / "page.html"

    def attempts(self, run: RunHash) -> Path:
        return self.run(run) / "attempts"

    def attempt(self, run: RunHash, number: int) -> Path:
        return self.attempts(run) / str(number)

    def environment(self, key: EnvironmentKey) -> Path:
        return self.root / "envs" / key

    def layer(self, diff_id: Sha256) -> Path:
        return self.root / "layers" / f"{diff_id}.tar"

    def layer_note(self, key: Sha256) -> Path:
        return self.root / "layers" / f"{key}.json"

    def image(self, image_id: Sha256) -> Path:
        return self.root / "images" / f"{image_id}.json"

    def image_link(self, tag: str) -> Path:
        return self.root / "images" / tag

    def package(self, sha256: Sha256, filename: str) -> Path:
        return self.root / "packages" / sha256 / filename

    def fetched(self, sha256: Sha256, filename: str) -> Path:
        return self.root / "fetched" / sha256 / filename

    def model(self, name: str, version: int) -> Path:
        return self.root / "models" / name / f"{version}.json"

    def model_tags(self, name: str, version: int) -> Path:
        return self.root / "models" / name / f"{version}.tags.jsonl"

    def model_view(self, name: str, version: int) -> Path:
        return self.root / "models" / name / str(version)

    def aliases(self, name: str) -> Path:
        return self.root / "models" / name / "aliases.jsonl"

    def pin(self, run: RunHash) -> Path:
        return self.root / "pins" / f"{run}.json"

    def said(self, name: str) -> Path:
        return self.root / "stat" / f"{name}.said"

    def lease(self, name: str) -> Path:
        return self.root / "leases" / f"{name}.lock"
