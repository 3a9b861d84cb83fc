"""Registered models: versions that never change, and aliases such as `production` that point at them.

repro model register digits @ outputs/model.joblib --tag stage=dev --framework ScikitLearn --framework-version 1.7
repro model list digits                             `repro models` is the same
repro model show digits@production                  NAME is the latest, NAME:3 a version, NAME@ALIAS where it points
repro model promote digits 3 --as production --why "2 % better"
repro model history digits --at 2026-11-25          what each alias pointed at when that day ended (UTC)
repro model history digits --head SHA256            whether the history still has all it had at that head
repro model download digits@production ./serve
repro model trace digits:3                          run, lock, source, inputs, and where those came from
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repro_est.cli.common import add_json, check_store_exists, open_store, shown_path, store_exists
from repro_est.console import Console, human_size, visible
from repro_est.errors import UsageError, VerificationError
from repro_est.files import is_utf8, printable
from repro_est.store.models import Model, Models, parse_reference
from repro_est.store.runs import Runs
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_register(verbs.add_parser("register", help="register a path of a completed run as the next version"))
    configure_list(verbs.add_parser("list", help="list models, or the versions of one"))
    show = verbs.add_parser("show", help="all that is known of one version")
    _add_reference(show)
    add_json(show)
    tag = verbs.add_parser("tag", help="set tags of a version, or remove some")
    _add_reference(tag)
    tag.add_argument("tags", nargs="*", metavar="KEY=VALUE", help="tags to set")
    tag.add_argument("--remove", action="append", default=[], metavar="KEY", help="a tag to remove; may be repeated")
    promote = verbs.add_parser("promote", help="point an alias at a version")
    promote.add_argument("name", help="a model")
    promote.add_argument("version", type=_version, help="a version of it")
    _add_move(promote)
    demote = verbs.add_parser("demote", help="take an alias away")
    demote.add_argument("name", help="a model")
    _add_move(demote)
    _configure_history(verbs.add_parser("history", help="how the aliases of a model moved; checks that nobody bent it"))
    download = verbs.add_parser("download", help="copy a version out of the store, verified")
    _add_reference(download)
    download.add_argument("destination", nargs="?", help="where to (default: the same name in the current directory)")
    download.add_argument("-f", "--force", action="store_true", help="replace a directory that is there")
    trace = verbs.add_parser("trace", help="the run, lock, source and inputs a version was made of")
    trace.add_argument("models", nargs="+", metavar="NAME", help="NAME, NAME:VERSION or NAME@ALIAS")
    add_json(trace)


def configure_list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", help="one model; default: all")
    parser.add_argument("--tag", metavar="KEY=VALUE", help="only versions with this tag; KEY alone is any value")
    parser.add_argument("--run", help="only versions that this run made")
    parser.add_argument("--latest", action="store_true", help="only the latest of what is left of each model")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    actions: Mapping[str, Callable[[argparse.Namespace], int]] = {
        "register": _register,
        "list": execute_list,
        "show": _show,
        "tag": _tag,
        "promote": _promote,
        "demote": _demote,
        "history": _history,
        "download": _download,
        "trace": _trace,
    }
    if arguments.action != "list":
        check_store_exists()
    return actions[arguments.action](arguments)


def _configure_register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="what the model is called")
    parser.add_argument("run", help="a run hash, a unique start of one, or `@`")
    parser.add_argument("path", help="a file or directory of its outputs, such as outputs/model.joblib")
    parser.add_argument(
        "--tag", action="append", default=[], metavar="KEY=VALUE", help="for filters; may be changed later"
    )
    parser.add_argument("--property", action="append", default=[], metavar="KEY=VALUE", help="never changes")
    parser.add_argument("--framework", default="", help="what it was made with, such as ScikitLearn")
    parser.add_argument("--framework-version", default="", help="of the framework")
    parser.add_argument("--description", default="", help="for people")
    parser.add_argument("--new-version", action="store_true", help="make a new version of the same bytes too")
    add_json(parser)


def _configure_history(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a model")
    parser.add_argument("--as", dest="alias", metavar="ALIAS", help="only this alias")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--at", metavar="DATE", help="what each alias pointed at then: a day (its end, UTC), or a time with its zone"
    )
    asked.add_argument("--head", metavar="SHA256", help="whether the history still has all that it had at this head")
    add_json(parser)


def _add_reference(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="NAME (the latest), NAME:VERSION or NAME@ALIAS")


def _add_move(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--as", dest="alias", required=True, metavar="ALIAS", help="such as production")
    parser.add_argument("--why", default="", help="for whoever reads the history")


def _version(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"got `{text}`, expected a number")
    return int(text)


def _found(text: str, models: Models) -> Model:
    reference = parse_reference(text)
    if reference is None:
        raise UsageError(
            f"{printable(text)}: is no model, expected NAME, NAME:VERSION or NAME@ALIAS", hint="repro model list"
        )
    return models.find(reference)


def _pairs(words: Sequence[str], option: str) -> dict[str, str]:
    """Reads `KEY=VALUE` words; a key that is given twice is a mistake."""
    pairs: dict[str, str] = {}
    for word in words:
        key, equals, value = _text(word, option).partition("=")
        if not key or not equals:
            raise UsageError(f"{option} {word}: expected KEY=VALUE")
        if key in pairs:
            raise UsageError(f"{option} {word}: `{key}` is given twice, first as {pairs[key]!r}")
        pairs[key] = value
    return pairs


def _text(word: str, option: str) -> str:
    if not is_utf8(word):
        raise UsageError(f"{option} {printable(word)}: got bytes that are not UTF-8")
    return word


def _register(arguments: argparse.Namespace) -> int:
    from repro_est.registration import Labels, register_output

    labels = Labels(
        description=_text(arguments.description, "--description"),
        tags=_pairs(arguments.tag, "--tag"),
        properties=_pairs(arguments.property, "--property"),
        framework=_text(arguments.framework, "--framework"),
        framework_version=_text(arguments.framework_version, "--framework-version"),
    )
    _, store = open_store()
    known = {model.version for model in Models(store.layout).versions(arguments.name)}
    run = Runs(store.layout).resolve(arguments.run)
    model = register_output(
        store, run, _text(arguments.path, "PATH"), arguments.name, labels, always_new=arguments.new_version
    )
    console = Console()
    if arguments.json:
        console.json({**model.to_json(), "new": model.version not in known})
        return 0
    console.out(f"{model.name} version {model.version}")
    if model.version in known:
        console.info(f"the same bytes were version {model.version} already; --new-version makes another one")
    return 0


def execute_list(arguments: argparse.Namespace) -> int:
    console = Console()
    store = open_store()[1] if store_exists() else None
    registry = Models(store.layout) if store is not None else None
    found = _listed(registry, arguments) if registry is not None else []
    if arguments.name and not found and (registry is None or not registry.versions(arguments.name)):
        names = ", ".join(registry.names() if registry is not None else ()) or "none"
        raise UsageError(f"`{arguments.name}` is not a registered model, registered ones: {names}")
    aliases = _aliases(registry, found) if registry is not None else {}
    if arguments.json:
        console.json([{**model.to_json(), "aliases": aliases.get(model.id, [])} for model in found])
        return 0
    if not found:
        console.info(_why_nothing(registry, arguments))
        return 0
    rows = [_row(model, aliases.get(model.id, [])) for model in found]
    console.table(rows, header=("model", "version", "aliases", "run", "path", "digest", "created", "description"))
    return 0


def _row(model: Model, aliases: Sequence[str]) -> list[str]:
    where = [model.run[:12], model.path, model.tree[:12]]
    return [model.name, str(model.version), " ".join(aliases), *where, model.created, model.description]


def _listed(registry: Models, arguments: argparse.Namespace) -> list[Model]:
    found = registry.versions(arguments.name) if arguments.name else registry.all()
    if arguments.run:
        run = Runs(open_store()[1].layout).resolve(arguments.run)
        found = [model for model in found if model.run == run]
    if arguments.tag:
        key, equals, value = arguments.tag.partition("=")
        found = [model for model in found if key in model.tags and (not equals or model.tags[key] == value)]
    return list({model.name: model for model in found}.values()) if arguments.latest else found


def _why_nothing(registry: Models | None, arguments: argparse.Namespace) -> str:
    asked = [f"--{option} {getattr(arguments, option)}" for option in ("tag", "run") if getattr(arguments, option)]
    if registry is not None and asked and registry.names():
        return f"no version with {' '.join(asked)}"
    there = "store" if registry is None else "models"
    return f"no {there} yet: a recipe registers a model with [models.NAME], `repro model register` a path of a run"


def _aliases(registry: Models, found: Sequence[Model]) -> dict[str, list[str]]:
    """Returns the aliases that point at each version, by `NAME:VERSION`; a history that was bent says nothing."""
    pointing: dict[str, list[str]] = {}
    for name in sorted({model.name for model in found}):
        try:
            aliases = registry.aliases(name)
        except VerificationError as error:
            Console().warning(error.message)
            continue
        for alias, version in sorted(aliases.items()):
            pointing.setdefault(f"{name}:{version}", []).append(alias)
    return pointing


def _show(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    registry, console = Models(store.layout), Console()
    model = _found(arguments.model, registry)
    aliases, tree = _aliases(registry, [model]).get(model.id, []), store.read_tree(model.tree)
    files = [{"path": entry.path, "size": entry.size, "sha256": entry.sha256} for entry in tree.files()]
    if arguments.json:
        console.json({**model.to_json(), "aliases": aliases, "size": tree.size, "files": files})
        return 0
    console.out(f"{console.style('model', 'bold', out=True)}       {model.name} version {model.version}")
    for name, text in _described(model, aliases):
        console.out(f"{name:<10}  {visible(text)}")
    for entry in tree.files():
        console.out(f"file        {visible(entry.path)}  {human_size(entry.size)}  sha256 {entry.sha256 or '-'}")
    return 0


def _described(model: Model, aliases: Sequence[str]) -> list[tuple[str, str]]:
    framework = f"{model.framework} {model.framework_version}".rstrip()
    attempt = f"  attempt {model.attempt}" if model.attempt else ""
    facts = [
        ("aliases", "  ".join(aliases)),
        ("about", model.description),
        ("run", f"{model.run}{attempt}" if model.run else "none: a file of this machine"),
        ("path", model.path),
        ("digest", model.tree),
        ("created", model.created),
        ("framework", framework),
        ("tags", "  ".join(f"{key}={value}" for key, value in model.tags.items())),
        ("properties", "  ".join(f"{key}={value}" for key, value in model.properties.items())),
    ]
    return [(name, text) for name, text in facts if text]


def _tag(arguments: argparse.Namespace) -> int:
    tags = _pairs(arguments.tags, "tag")
    if not tags and not arguments.remove:
        raise UsageError(
            "model tag: expected KEY=VALUE, or --remove KEY", hint="repro model show NAME   shows its tags"
        )
    registry = Models(open_store()[1].layout)
    model = _found(arguments.model, registry)
    model = registry.tag(model.name, model.version, tags, remove=[_text(key, "--remove") for key in arguments.remove])
    said = "  ".join(visible(f"{key}={value}") for key, value in model.tags.items())
    Console().out(f"{model.id}  {said or 'no tags'}")
    return 0


def _promote(arguments: argparse.Namespace) -> int:
    from repro_est.store.aliases import Aliases

    layout, console = open_store()[1].layout, Console()
    why = _text(arguments.why, "--why")
    moved = Models(layout).promote(arguments.name, arguments.version, arguments.alias, why=why)
    if moved is None:
        console.info(f"{arguments.name}@{arguments.alias} is version {arguments.version} already, nothing was written")
    _say_head(
        f"{arguments.name}@{arguments.alias}  version {arguments.version}", Aliases(layout, arguments.name).head()
    )
    return 0


def _demote(arguments: argparse.Namespace) -> int:
    from repro_est.store.aliases import Aliases

    layout = open_store()[1].layout
    Models(layout).demote(arguments.name, arguments.alias, why=_text(arguments.why, "--why"))
    _say_head(f"{arguments.name}@{arguments.alias}  taken away", Aliases(layout, arguments.name).head())
    return 0


def _say_head(moved: str, head: str) -> None:
    console = Console()
    console.out(moved)
    console.out(f"head  {head}")
    console.info(
        "\nkeep the head: `repro model history NAME --head SHA256` tells whether anything before it was cut off"
    )


def _history(arguments: argparse.Namespace) -> int:
    from repro_est.store.aliases import Aliases, parse_moment

    layout, console = open_store()[1].layout, Console()
    Models(layout).known(arguments.name)
    aliases = Aliases(layout, arguments.name)
    if arguments.head:
        return _check_head(aliases, arguments, console)
    if arguments.at:
        state = aliases.current(parse_moment(arguments.at))
        changes = [change for _, change in sorted(state.items())]
    else:
        changes = aliases.history()
    changes = [change for change in changes if arguments.alias in (None, change.alias)]
    if arguments.json:
        console.json({"model": arguments.name, "head": aliases.head(), "history": [item.to_json() for item in changes]})
        return 0
    if not changes:
        then = f" at {arguments.at}" if arguments.at else ""
        console.info(
            f"{arguments.name} had no such alias{then}" if arguments.alias else f"{arguments.name}: no aliases{then}"
        )
        return 0
    rows = [
        [item.when, item.alias, str(item.version) if item.version else "taken away", item.who, item.sha256, item.why]
        for item in changes
    ]
    console.table(rows, header=("when", "alias", "version", "who", "sha256", "why"))
    return 0


def _check_head(aliases: Any, arguments: argparse.Namespace, console: Console) -> int:
    if not aliases.holds(arguments.head.lower()):
        raise VerificationError(
            f"model {arguments.name}: the history of its aliases does not hold {arguments.head}\n"
            f"  expected it to be the head of now or of before, got {aliases.head()} as the head of now",
            hint="lines were cut off, or all of it was written anew: compare with a copy of the store",
        )
    if arguments.json:
        console.json({"model": arguments.name, "head": aliases.head(), "holds": arguments.head.lower()})
    else:
        console.out(f"{arguments.name}: the history still has all that it had then")
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from repro_est.store.checkout import check_out

    _, store = open_store()
    model = _found(arguments.model, Models(store.layout))
    tree, name = store.read_tree(model.tree), model.path.rpartition("/")[2]
    destination = Path(arguments.destination or name)
    if tree.single_file and destination.is_dir():
        destination = destination / name
    check_out(tree, destination, store, force=arguments.force)
    Console().out(shown_path(destination.absolute()))
    return 0


def _trace(arguments: argparse.Namespace) -> int:
    from repro_est.lineage import lines_above, makers

    _, store = open_store()
    registry, console = Models(store.layout), Console()
    models = [_found(text, registry) for text in arguments.models]
    aliases = _aliases(registry, models)
    if arguments.json:
        console.json([_traced(model, aliases, store) for model in models])
        return 0
    for number, model in enumerate(models):
        if number:
            console.out("")
        pointing = "".join(f"  @{alias}" for alias in aliases.get(model.id, ()))
        attempt = f"  of attempt {model.attempt}" if model.attempt else ""
        facts = f"{model.path}{attempt}  digest {model.tree[:12]}  {model.created}"
        console.out(visible(f"model {model.id}{pointing}  {facts}"))
        for line in lines_above(model.run, makers([model.run], store), depth=1) if model.run else ():
            console.out(visible(line))
    return 0


def _traced(model: Model, aliases: Mapping[str, Sequence[str]], store: Store) -> dict[str, Any]:
    from repro_est.lineage import makers

    runs = makers([model.run], store).values() if model.run else ()
    return {**model.to_json(), "aliases": aliases.get(model.id, []), "runs": [maker.to_json() for maker in runs]}
