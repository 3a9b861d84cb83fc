"""What several verbs share: where the store is, how a recipe is named, how a run is shown."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repro_est.cli.summary import relative
from repro_est.console import Console, Progress, counted, human_size, visible
from repro_est.errors import UsageError
from repro_est.files import write_all
from repro_est.project import Project, find_project
from repro_est.store.store import Store


def open_store() -> tuple[Project, Store]:
    """Returns the project around the current directory and its store, which is made when there is none."""
    project = find_project()
    return project, Store.open(project.store)


def store_exists() -> bool:
    """Whether the project has a store; whoever only looks makes none."""
    return find_project().store.is_dir()


def check_store_exists() -> None:
    """Raises UsageError where there is no store to look at."""
    if not store_exists():
        raise UsageError(f"{shown_path(find_project().store)}: no store yet", hint="repro run RECIPE   makes one")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", help="a recipe file, such as recipes/digits.toml")
    add_overrides(parser)


def add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override one key of the recipe, such as script_params.--lr=0.1; may be repeated",
    )


def add_json(parser: argparse.ArgumentParser, help_text: str = "print one JSON document on stdout") -> None:
    parser.add_argument("--json", action="store_true", help=help_text)


def add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        nargs="?",
        default="@",
        help="a run hash or a unique start of one; `@` newest (default), `@2` the one before",
    )


def names_a_run(path: Path) -> bool:
    """Whether what may be a recipe or a run is a run: `@`, or hex digits that are no file."""
    text = str(path)
    return (
        not path.suffix and not path.exists() and (text.startswith("@") or all(c in "0123456789abcdef" for c in text))
    )


def shown_path(path: Path) -> str:
    """Returns a path relative to the current directory when it is below it, else absolute."""
    return relative(str(path), str(Path.cwd()))


def number(value: float) -> str:
    """Returns a metric as people write it: six significant digits."""
    return f"{value:.6g}"


def metrics_line(metrics: Mapping[str, float], limit: int = 6) -> str:
    """Returns `accuracy 0.97  loss 0.1`, cut after `limit`."""
    shown = [f"{visible(name)} {number(value)}" for name, value in list(metrics.items())[:limit]]
    more = f"  (+{len(metrics) - limit} more)" if len(metrics) > limit else ""
    return "  ".join(shown) + more


class TerminalObserver:
    """Says on stderr what happens, one line each, and passes the script's output through."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress: Progress | None = None

    def event(self, kind: str, **facts: Any) -> None:
        console = self._console
        if kind == "progress":
            if self._progress is not None:
                self._progress.advance(facts["bytes"])
            return
        if self._progress is not None:
            self._progress.close()
            self._progress = None
        match kind:
            case "warning" | "quarantined":
                console.warning(str(facts.get("message") or f"set aside: {facts.get('reason')}"))
            case "locking":
                console.step("Locking", shown_path(Path(facts["recipe"])))
            case "locked":
                count = facts["packages"]
                console.step(
                    "Locked",
                    f"{counted(count, 'package')} for Python {facts['python']} in {shown_path(Path(facts['lock']))}",
                )
            case "needed":
                console.step("Needed", f"{shown_path(Path(facts['recipe']))}, for inputs.{facts['input']}")
            case "ready":
                run = f"run {str(facts['run_hash'])[:12]} of {facts['name']}"
                console.step("Ready", run + (", cached" if facts["cached"] else ""))
            case "waiting":
                what = f"environment {str(facts['environment'])[:12]}" if "environment" in facts else "the same run"
                console.step("Waiting", f"for {what}, made by {facts['owner']}")
            case "fetching":
                console.step(
                    "Fetching",
                    counted(facts["count"], "package") + (f", {human_size(facts['bytes'])}" if facts["bytes"] else ""),
                )
                self._progress = Progress(console, f"{'':>12}  fetching", facts["bytes"], unit=" bytes")
            case "pushing" | "pulling":
                verb, word = ("Pushing", "to") if kind == "pushing" else ("Pulling", "from")
                amount = f"{counted(facts['count'], 'object')}, {human_size(facts['bytes'])}"
                console.step(verb, f"{amount} {word} {facts['remote']}")
                self._progress = Progress(console, f"{'':>12}  {verb.lower()}", facts["bytes"], unit=" bytes")
            case "pushed":
                what = (
                    f"{counted(facts['count'], 'object')}, {human_size(facts['bytes'])}"
                    if facts["new"]
                    else "nothing new"
                )
                console.step("Pushed", f"run {str(facts['run_hash'])[:12]} to {facts['remote']}: {what}")
            case "pulled":
                console.step(
                    "Pulled", f"run {str(facts['run_hash'])[:12]} from {facts['remote']}, signed by {facts['signer']}"
                )
            case "refused":
                console.warning(f"not used: {facts['reason']}")
            case "building":
                console.step("Building", f"environment {str(facts['key'])[:12]}")
            case "built":
                console.step("Built", f"environment {str(facts['key'])[:12]}")
            case "message":
                console.info(f"{'':>12}  {facts['message']}")
            case "attempt":
                console.step("Executing", f"run {str(facts['run_hash'])[:12]}, attempt {facts['number']}")
            case "attached":
                hosts = ", ".join(facts["hosts"])
                console.step("Attached", f"run {str(facts['run_hash'])[:12]}, attempt {facts['number']}, on {hosts}")
            case "placed":
                console.step("Placed", str(facts["words"]))
            case "queued":
                console.step("Queued", str(facts["reason"]))
            case "unreachable":
                console.warning(f"{facts['host']}: {facts['reason']}; trying again, the run goes on")
            case "reconnected":
                console.step("Reconnected", str(facts["host"]))
            case "retrying":
                console.warning(f"{facts['reason']}\n{'':>12}  trying again, {facts['left']} left")
            case "sandbox" if facts["network"] and facts["sandbox"] != "none":
                console.step("Network", "is open to the script: [environment] network = true")
            case "running":
                console.step("Running", str(facts["entry_script"]))

    def output(self, stream: str, data: bytes) -> None:
        if not self._console.quiet:
            write_all(2, data)
