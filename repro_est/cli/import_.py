"""Turn what you have into a recipe, and report what was taken, changed and dropped, each with its line and why.

repro import train.runconfig -o train.toml        Azure ML's run configuration
repro import train.ipynb -o recipes/              one recipe for each Estimator(...) or ScriptRunConfig(...) in it
repro import train.py --name est -o est.toml      the one of this variable; the file is read, never run
repro import MLproject --entry-point main         MLflow's; without -o the recipe goes to stdout
repro import environment.yml --script train.py    conda's; a requirements.txt too

What cannot be known is a TODO in the recipe and in the report; the exit code is 0 then, too.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import add_json, shown_path
from repro_est.console import Console, counted
from repro_est.errors import UsageError
from repro_est.migrate.draft import Draft, Kind, Note


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="a .runconfig, .py, .ipynb, conda.yaml, MLproject or requirements.txt")
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="the recipe to write, or a directory for several (default: stdout)"
    )
    parser.add_argument("--force", action="store_true", help="write over a recipe that is there")
    parser.add_argument("--name", metavar="VARIABLE", help="of several estimators in a file, the one of this variable")
    parser.add_argument("--entry-point", default="main", metavar="NAME", help="of an MLproject (default: main)")
    parser.add_argument("--script", metavar="FILE", help="the entry script, for a file that names none")
    add_json(parser, "print recipes and report as one JSON document on stdout")


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.migrate.source import Wishes, read_drafts

    output = None if arguments.output is None else Path(arguments.output)
    is_directory = output is not None and (output.is_dir() or arguments.output.endswith("/"))
    directory = Path.cwd() if output is None else (output if is_directory else output.parent).absolute()
    wishes = Wishes(directory, arguments.name, arguments.entry_point, arguments.script)
    drafts = read_drafts(Path(arguments.file), wishes)
    targets = _targets(drafts, output, is_directory=is_directory, json=arguments.json)
    _check_free(targets, force=arguments.force)
    for draft, target in zip(drafts, targets, strict=True):
        if target is not None:
            _write(target, draft.text(), force=arguments.force)
    if arguments.json:
        Console().json(_document(arguments.file, drafts, targets))
    else:
        _report(drafts, targets)
    return 0


def _targets(
    drafts: tuple[Draft, ...], output: Path | None, *, is_directory: bool, json: bool
) -> tuple[Path | None, ...]:
    """Where each recipe goes, None for stdout."""
    if output is not None and is_directory:
        return tuple(output / f"{draft.name}.toml" for draft in drafts)
    if len(drafts) > 1 and not (json and output is None):
        names = ", ".join(f"`{draft.name}`" for draft in drafts)
        raise UsageError(
            f"{drafts[0].file}: has {len(drafts)} estimators, expected one for one recipe: {names}",
            hint=f"--name {drafts[0].name}, or -o DIRECTORY/ for all of them",
        )
    return (output,) * len(drafts)


def _check_free(targets: tuple[Path | None, ...], *, force: bool) -> None:
    for target in targets:
        if target is not None and target.exists() and not force:
            raise UsageError(f"{target}: is there already", hint="--force writes over it")


def _write(target: Path, text: str, *, force: bool) -> None:
    from repro_est.files import write_atomic, write_new

    target.parent.mkdir(parents=True, exist_ok=True)
    if force:
        write_atomic(target, text.encode())
    else:
        write_new(target, text.encode(), mode=0o644)


def _report(drafts: tuple[Draft, ...], targets: tuple[Path | None, ...]) -> None:
    console = Console()
    for draft, target in zip(drafts, targets, strict=True):
        for note in draft.sorted_notes():
            console.info(_line(note, console))
        if target is None:
            print(draft.text(), end="", flush=True)
        shown = shown_path(target.absolute()) if target is not None else draft.name
        counts = ", ".join(f"{draft.count(kind)} {word}" for kind, word in _WORDS.items() if draft.count(kind))
        console.info(f"{shown}: {counts}" if counts else f"{shown}: nothing to report")
        if left := draft.count(Kind.TODO):
            console.warning(f"{counted(left, 'thing')} left to you, marked TODO in the recipe")
    written = [shown_path(target.absolute()) for target in targets if target is not None]
    if written:
        console.info(f"\nhint: repro check {written[0]}")


_WORDS = {Kind.TOOK: "taken", Kind.CHANGED: "changed", Kind.DROPPED: "dropped", Kind.TODO: "to do"}
_COLOURS = {Kind.TOOK: "green", Kind.CHANGED: "yellow", Kind.DROPPED: "yellow", Kind.TODO: "red"}


def _line(note: Note, console: Console) -> str:
    from repro_est.console import visible

    kind = console.style(note.kind, _COLOURS[note.kind])
    return f"{note.place}: {kind}: {visible(f'{note.what}: {note.why}')}"


def _document(file: str, drafts: tuple[Draft, ...], targets: tuple[Path | None, ...]) -> dict[str, object]:
    recipes = [
        {
            "name": draft.name,
            "path": None if target is None else str(target.absolute()),
            "text": draft.text(),
            "warnings": draft.count(Kind.TODO),
            "notes": [note.to_json() for note in draft.sorted_notes()],
        }
        for draft, target in zip(drafts, targets, strict=True)
    ]
    return {"file": file, "recipes": recipes, "warnings": sum(draft.count(Kind.TODO) for draft in drafts)}
