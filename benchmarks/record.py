"""What a script pays for its record: `run.log` beside `mlflow.log_metric`, reading a million points, the import.

MLFLOW is the Python of an environment with MLflow, all of it (`pip install mlflow`): `$BENCH_MLFLOW`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.measure import Command, interleaved
from repro_est.targets.parcel import unpack

MLFLOW = os.environ.get("BENCH_MLFLOW")

_TIMED = """
import time
{setup}
started = time.perf_counter()
for number in range({count}):
    {call}
print((time.perf_counter() - started) / {count})
"""
_OURS = "from repro_est import Run\nrun = Run.get_context()"
_PEER = "import mlflow\nmlflow.start_run()"
_READ = """
import time
from repro_est import Run
run = Run.get_context()
for number in range(1_000_000):
    run.log("loss" if number % 10 else "accuracy", number / 7, step=number)
taken = []
for _ in range(5):
    started = time.perf_counter()
    found = run.get_metrics()
    taken.append(time.perf_counter() - started)
assert sum(map(len, found.values())) == 1_000_000
print(sorted(taken)[2])
"""


def bench_record(root: Path) -> None:
    """Scalars a second, a million points read, and what `from repro_est import Run` costs."""
    _log(root)
    taken = float(_output(sys.executable, _READ, _inside(root / "read"), root))
    print(f"\nget_metrics of 1,000,000 points\n  {taken:.2f} s, wanted at most 1: {_word(taken <= 1)}")
    _import(root)


def _log(root: Path) -> None:
    contenders = {
        "run.log": (sys.executable, _OURS, "run.log('loss', number / 7)", 200_000, {}),
        "run.log, with a step": (sys.executable, _OURS, "run.log('loss', number / 7, step=number)", 200_000, {}),
    }
    peers = {}
    if MLFLOW:
        call = "mlflow.log_metric('loss', number / 7, step=number)"
        peers = {
            "mlflow.log_metric, default store": (MLFLOW, _PEER, call, 500, {}),
            "mlflow.log_metric, files": (
                MLFLOW, _PEER, call, 2_000, {"MLFLOW_TRACKING_URI": "file:mlruns", "MLFLOW_ALLOW_FILE_STORE": "true"}
            ),
            "mlflow.log_metric, in a run": (MLFLOW, _PEER, call, 10_000, {"MLFLOW_TRACKING_URI": "repro:"}),
        }  # fmt: skip
    else:
        print("\nmlflow.log_metric: left out, $BENCH_MLFLOW names no Python that has MLflow")
    samples: dict[str, list[float]] = {name: [] for name in {**contenders, **peers}}
    for turn in range(5):
        for name, (python, setup, call, count, variables) in {**contenders, **peers}.items():
            place = root / f"{turn} {name}"
            script = _TIMED.format(setup=setup, call=call, count=count)
            samples[name].append(float(_output(python, script, {**_inside(place), **variables}, place)))
    medians = {name: statistics.median(taken) for name, taken in samples.items()}
    print("\nScalars logged in one process")
    for name, seconds in medians.items():
        line = f"  {name:<34} {1 / seconds:>10,.0f}/s   {seconds * 1e6:>8.1f} us"
        if name.startswith("run.log"):
            line += f"   wanted >= 100,000/s: {_word(seconds <= 1e-5)}"
        elif name.endswith("default store"):
            ratio = seconds / medians["run.log, with a step"]
            line += f"   peer / ours {ratio:.0f}, wanted >= 20: {_word(ratio >= 20)}"
        print(line)


def _import(root: Path) -> None:
    variables = _inside(root / "import")
    start = ["env", *(f"{name}={value}" for name, value in variables.items()), sys.executable, "-c"]
    results = interleaved(
        {
            "from repro_est import Run": Command([*start, "from repro_est import Run"], root),
            "and Run.get_context()": Command([*start, "from repro_est import Run; Run.get_context()"], root),
            "pass": Command([*start, "pass"], root),
        },
        rounds=31,
    )
    bare = results.pop("pass")
    print(f"\nThe import in a run, beside `python -c pass` ({bare * 1000:.1f} ms)")
    for name, seconds in results.items():
        added = (seconds - bare) * 1000
        print(f"  {name:<34} {added:+.1f} ms, wanted at most 15: {_word(added <= 15)}")


def _inside(place: Path) -> dict[str, str]:
    """Makes what a run has around its script, and returns its variables."""
    for name in ("modules", "outputs", "logs"):
        (place / name).mkdir(parents=True)
    unpack(place / "modules", azureml=False)
    return {
        "PYTHONPATH": str(place / "modules"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "REPRO_RUN": "ab" * 16,
        "REPRO_OUTPUTS": str(place / "outputs"),
        "REPRO_LOGS": str(place / "logs"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }


def _output(python: str, script: str, variables: Mapping[str, str], cwd: Path) -> str:
    environment = {**os.environ, **variables}
    done = subprocess.run([python, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    return done.stdout.splitlines()[-1]


def _word(is_met: bool) -> str:
    return "met" if is_met else "MISSED"
