"""Cleaning a store of 100,000 runs: how long it takes, and how much memory.

A year of work, made up: each run has a plan of a realistic size with one of 50 locks, its own outputs of three files
beside one that many share, and one of 200 sources of 30 files.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from pathlib import Path

from benchmarks.measure import Command, interleaved
from repro_est.digest import RunHash, identify, sha256_hex, xxh3_hex
from repro_est.store.index import Index
from repro_est.store.records import AttemptRecord, Result, Status
from repro_est.store.store import Store
from repro_est.store.trees import Entry, Kind, Tree

RUNS = int(os.environ.get("BENCH_RUNS", "100000"))
_WANTED_SECONDS, _WANTED_MEGABYTES = 30.0, 500.0


def bench_gc(root: Path) -> None:
    """`repro gc` over a store in which half of the runs go, and over what is left."""
    store = Store.open(root / "store")
    started = time.monotonic()
    fill(store, RUNS)
    print(f"\nCleaning a store of {RUNS:,} runs (made in {time.monotonic() - started:.0f} s)")
    peer = _peer(store, root)
    print(f"  rm -r of the runs that go alone      {peer:6.1f} s")
    for title, words in (
        ("repro gc, a preview", ["gc"]),
        ("repro gc --collect, half of them", ["gc", "--collect"]),
        ("repro gc --collect, nothing left", ["gc", "--collect"]),
        ("repro du", ["du", "--json"]),
    ):
        command = Command(
            ["env", f"REPRO_STORE={store.layout.root}", sys.executable, "-m", "benchmarks.clean", *words, "--json"],
            root,
        )
        took = interleaved({title: command}, rounds=1, warm_up=0)[title]
        peak = float((root / "peak").read_text())
        met = took <= _WANTED_SECONDS * RUNS / 100_000 and peak <= _WANTED_MEGABYTES
        print(f"  {title:<36} {took:6.1f} s  {peak:4.0f} MB  {'met' if met else 'MISSED'}")


def _peer(store: Store, root: Path) -> float:
    """Returns how long `rm -r` takes for a copy of the runs that will go."""
    old = time.time() - 86400 * 30
    (root / "copy").mkdir()
    for run in os.scandir(store.layout.directory("runs")):
        if run.stat().st_mtime < old:
            shutil.copytree(run.path, root / "copy" / run.name)
    os.sync()
    return interleaved({"rm": Command(["rm", "-r", str(root / "copy")], root)}, rounds=1, warm_up=0)["rm"]


def fill(store: Store, count: int) -> None:
    """Writes finished runs without syncing each; the older half is older than a cleaning keeps."""
    layout, now = store.layout, time.time()
    sources = [_tree(store, [(f"m{n}.py", f"{n} of {s}\n" * 20) for n in range(30)]) for s in range(200)]
    locks = ["".join(f'sha256 = "{sha256_hex(f"{n} {k}".encode())}"\n' for n in range(120)) for k in range(50)]
    for number in range(count):
        outputs = _tree(store, [("model", f"weights {number}"), ("metrics", f"{number % 977}"), ("same", "same")])
        document = {"format": 1, "n": number, "source": sources[number % 200].hash, "environment": {}}
        run = RunHash(identify("repro:plan:1", document))
        directory = layout.run(run)
        (directory / "attempts" / "1").mkdir(parents=True)
        started = "2026-01-01T00:00:00.000Z"
        recorded = {"name": f"job{number % 20}", "tags": {}, "inputs": [], "lock": locks[number % 50]}
        result = Result(run, 1, outputs.hash, outputs.hash, {"loss": 1.0}, started, "e" * 32, "0" * 64, "linux-64")
        record = AttemptRecord(1, Status.COMPLETED, started, started, outputs=outputs.hash, logs=outputs.hash)
        for name, content in (
            ("plan.json", {"format": 1, "plan": document, "recorded": recorded}),
            ("attempts/1/attempt.json", record.to_json()),
            ("result.json", result.to_json()),
        ):
            (directory / name).write_text(json.dumps(content))
        when = now - 86400 * 60 * (count - number) / count
        os.utime(directory, (when, when))
    Index(store.layout).rebuild()


def _tree(store: Store, files: list[tuple[str, str]]) -> Tree:
    old = time.time() - 86400 * 90
    entries: list[Entry] = []
    for name, text in files:
        data = text.encode()
        blob = xxh3_hex(data)
        path = store.layout.blob(blob)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            os.utime(path, (old, old))
        entries.append(Entry(name, Kind.FILE, blob, len(data), sha256_hex(data)))
    tree = Tree.of(entries)
    path = store.layout.tree(tree.hash)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tree.manifest())
    os.utime(path, (old, old))
    return tree


def main() -> None:
    """Runs `repro`, and leaves its peak of memory, in megabytes, in the file `peak`."""
    from repro_est.cli.main import main as repro

    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    code = repro(sys.argv[1:])
    Path("peak").write_text(str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000))
    sys.exit(code)


if __name__ == "__main__":
    main()
