"""Why something is kept: the chain from what a person asks for to a model, a pin, a tag or a date."""

from __future__ import annotations

import re

from repro_est.digest import RunHash
from repro_est.errors import UsageError
from repro_est.project import Keeping
from repro_est.store.layout import Layout
from repro_est.store.marking import ENVIRONMENTS, IMAGES, LAYERS, UNPACKED, Marked, Thing
from repro_est.store.reach import layers_of_image, names, tree_of_unpacked, trees_of_blob, trees_of_environment
from repro_est.store.scratch import claimed_directory
from repro_est.store.spill import Spill

_SHORTEST = 4


def keepers(layout: Layout, keeping: Keeping, text: str) -> list[list[str]]:
    """Returns a chain for each thing that a hash may mean, the thing first; its last line says what keeps it.

    Args:
        text: the hash, or a start of it, of a run, tree, environment, image, layer, package or fetched file; the whole
            hash of a blob.

    Raises:
        UsageError: nothing in the store has that hash.
    """
    if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", text):
        raise UsageError(f"{text}: is no hash, expected at least {_SHORTEST} hex digits", hint="repro ls")
    with claimed_directory(layout, "tmp") as scratch:
        found = _Keepers(Marked(layout, keeping, Spill(scratch))).of(text)
    if not found:
        raise UsageError(f"{text}: nothing in the store has that hash", hint="repro ls, repro env list, repro show")
    return found


class _Keepers:
    def __init__(self, marked: Marked) -> None:
        self._marked, self._layout = marked, marked.layout

    def of(self, text: str) -> list[list[str]]:
        chains = [self._run(run) for run in self._marked.runs if run.startswith(text)]
        chains += [
            [f"{_singular(t)} {t.name}", *self._thing(t)] for t in self._marked.things if t.name.startswith(text)
        ]
        shard, rest = text[:2], text[2:]
        trees = [shard + name for name in names(self._layout.directory("trees") / shard) if name.startswith(rest)]
        chains += [[f"tree {tree}", *self._tree(tree)] for tree in trees]
        if len(text) == 32 and (listing := trees_of_blob(self._layout, text)):
            best = max(listing, key=lambda tree: self._marked.tree_ranks.get(bytes.fromhex(tree), 0))
            chains.append([f"blob {text}", f"tree {best}", *self._tree(best)])
        return chains

    def _run(self, run: RunHash) -> list[str]:
        return self._marked.roots.chain(run) or [f"run {run}: nothing keeps it"]

    def _thing(self, thing: Thing) -> list[str]:
        marked = self._marked
        if thing.rank == 0:
            return ["nothing keeps it"]
        environment = thing.name if thing.kind == ENVIRONMENTS else ""
        if thing.kind == IMAGES:
            environment = layers_of_image(thing.path)[0]
        if thing.kind == LAYERS:
            for image in (item for item in marked.things if item.kind == IMAGES):
                if thing.path.stem in layers_of_image(image.path)[1]:
                    return [f"image {image.name}", *self._thing(image)]
        users = [
            run
            for run, facts in marked.runs.items()
            if (environment and facts.environment == environment)
            or (len(thing.name) == 64 and bytes.fromhex(thing.name) in facts.files)
        ]
        best = max(users, key=marked.rank, default=None)
        if best is not None and marked.rank(best):
            return self._run(best)
        return ["it was used lately"]

    def _tree(self, tree: str) -> list[str]:
        marked, digest = self._marked, bytes.fromhex(tree)
        models = [kept.model.id for kept in marked.registry.kept if kept.model.tree == tree]
        if models:
            return [f"it is model {models[0]}"]
        users = [run for run, facts in marked.runs.items() if digest in facts.trees]
        best = max(users, key=marked.rank, default=None)
        if best is not None and marked.rank(best):
            return self._run(best)
        for thing in (item for item in marked.things if item.rank and item.kind in (ENVIRONMENTS, UNPACKED)):
            if digest in (*trees_of_environment(thing.path), *tree_of_unpacked(thing.path)):
                return [f"{_singular(thing)} {thing.name}", *self._thing(thing)]
        old = {name for _, name in marked.old_trees}
        return ["nothing keeps it"] if tree in old else ["it was used within a day"]


def _singular(thing: Thing) -> str:
    return {"unpacked": "unpacked wheel", "fetched": "fetched file", "stat notes": "stat note"}.get(
        thing.kind, thing.kind.removesuffix("s")
    )
