"""Keys: the one that signs what you push, and those whose results this project believes.

repro key generate ada             a key of yours, in ~/.config/repro/keys
repro key show                     the public half, to be passed on
repro key trust ada ed25519:...    believe what this key signed; in trusted-keys.toml, to be committed
repro key trust ada                believe a key of yours
repro key distrust ada
repro key list
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping

from repro_est.cli.common import add_json, shown_path
from repro_est.console import Console
from repro_est.project import find_project
from repro_est.share.keys import Key, KeyRing, PublicKey
from repro_est.share.trust import Trust
from repro_est.store.leases import user_name


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    generate = verbs.add_parser("generate", help="make a key that signs what you push")
    generate.add_argument("name", nargs="?", help="its name (default: yours)")
    add_json(verbs.add_parser("list", help="your keys, and those that are trusted here"))
    show = verbs.add_parser("show", help="print the public half of a key of yours")
    show.add_argument("name", nargs="?", help="which (default: the one that signs)")
    trust = verbs.add_parser("trust", help="believe what a key signed")
    trust.add_argument("name", help="what this project calls its owner")
    trust.add_argument("key", nargs="?", help="`ed25519:...` as its owner prints it (default: your key of that name)")
    distrust = verbs.add_parser("distrust", help="believe it no longer")
    distrust.add_argument("name")


def execute(arguments: argparse.Namespace) -> int:
    actions: Mapping[str, Callable[[argparse.Namespace, Console], int]] = {
        "generate": _generate,
        "list": _list,
        "show": _show,
        "trust": _trust,
        "distrust": _distrust,
    }
    return actions[arguments.action](arguments, Console())


def _generate(arguments: argparse.Namespace, console: Console) -> int:
    key = Key.generate(arguments.name or user_name().replace(" ", "-"))
    path = KeyRing().add(key)
    console.step("Made", f"{path}, for you alone")
    console.out(key.public.text)
    console.info(f"\nhint: repro key trust {key.name} {key.public.text}   in each project that believes you")
    return 0


def _list(arguments: argparse.Namespace, console: Console) -> int:
    ring, trust = KeyRing(), Trust(find_project().root)
    mine = {name: ring.load(name).public for name in ring.names()}
    trusted = trust.entries()
    if arguments.json:
        console.json(
            {
                "mine": [{"name": name, "id": key.id, "public": key.text} for name, key in mine.items()],
                "trusted": [
                    {"name": item.key.name, "id": item.key.id, "public": item.key.text, "added": item.added}
                    for item in trusted
                ],
            }
        )
        return 0
    rows = [[name, key.id, "yours", key.text] for name, key in mine.items()]
    rows += [[item.key.name, item.key.id, f"trusted since {item.added}", item.key.text] for item in trusted]
    console.table(rows, header=("name", "id", "", "public"))
    return 0


def _show(arguments: argparse.Namespace, console: Console) -> int:
    ring = KeyRing()
    key = ring.load(arguments.name) if arguments.name else ring.signer()
    console.out(key.public.text)
    return 0


def _trust(arguments: argparse.Namespace, console: Console) -> int:
    name = arguments.name
    key = PublicKey.parse(name, arguments.key) if arguments.key else KeyRing().load(name).public
    trust = Trust(find_project().root)
    new = trust.add(key)
    console.out(f"{name} ({key.id}) is {'trusted now' if new else 'trusted already'}: {shown_path(trust.path)}")
    return 0


def _distrust(arguments: argparse.Namespace, console: Console) -> int:
    trust = Trust(find_project().root)
    gone = trust.remove(arguments.name)
    console.out(f"{gone.name} ({gone.id}) is trusted no longer: {shown_path(trust.path)}")
    return 0
