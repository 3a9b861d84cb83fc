"""Carry a whole run to another machine: plan, lock, source, packages, inputs, outputs and logs, in one tar.

repro capsule export @ -o run.tar                   the same run gives the same bytes
repro capsule export @ -o run.tar --without-inputs --key ada     digests of the inputs only; signed
repro capsule import run.tar                        everything is checked first; then the run is a hit here
repro run HASH --force                              and can be executed again, without network
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import TerminalObserver, add_json, check_store_exists, metrics_line, open_store, shown_path
from repro_est.console import Console, human_size
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    export = verbs.add_parser("export", help="write the capsule of a run")
    export.add_argument("run", help="a run hash, a unique start of one, or `@`")
    export.add_argument("-o", "--output", metavar="FILE", required=True, help="where to")
    export.add_argument("--without-inputs", action="store_true", help="keep digests of the inputs, not their bytes")
    export.add_argument("--key", metavar="NAME", help="sign it with this key (`repro key list`)")
    add_json(export)
    take = verbs.add_parser("import", help="check a capsule and take its run into the store")
    take.add_argument("file", help="a capsule")
    take.add_argument("--signed", action="store_true", help="refuse one that no key of trusted-keys.toml has signed")
    add_json(take)


def execute(arguments: argparse.Namespace) -> int:
    return _export(arguments) if arguments.action == "export" else _import(arguments)


def _export(arguments: argparse.Namespace) -> int:
    from repro_est.proof.exported import export
    from repro_est.proof.materials import materials_of
    from repro_est.share.keys import KeyRing

    check_store_exists()
    console = Console()
    _, store = open_store()
    key = KeyRing().load(arguments.key) if arguments.key else None
    materials = materials_of(Runs(store.layout).resolve(arguments.run), store)
    observer = TerminalObserver(Console(quiet=arguments.json))
    done = export(materials, store, Path(arguments.output), observer, inputs=not arguments.without_inputs, key=key)
    if arguments.json:
        console.json(
            {
                "run_hash": materials.plan.hash,
                "path": str(done.path.absolute()),
                "size": done.size,
                "sha256": done.sha256,
                "left_out": list(done.left_out),
            }
        )
        return 0
    console.out(f"capsule  {shown_path(done.path.absolute())}  {human_size(done.size)}")
    console.out(f"sha256   {done.sha256}")
    for item in done.left_out:
        console.out(f"needs    {item}, which is not in it")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from repro_est.proof.imported import import_capsule, signer_in_words
    from repro_est.share.trust import Trust

    console = Console()
    project, store = open_store()
    done = import_capsule(Path(arguments.file), store, Trust(project.root).believed(), must_be_signed=arguments.signed)
    run = done.plan.hash
    if arguments.json:
        console.json(
            {
                "run_hash": run,
                "known": done.known,
                "signer": done.signer or None,
                "inputs": list(done.inputs),
                "outputs": str(store.layout.run(run) / "outputs"),
            }
        )
        return 0
    if not done.signer:
        console.warning("signed by nobody who is trusted here: every byte is what the capsule says, whoever made it")
    console.out(f"run      {run}  {'was here already' if done.known else 'imported'}, {signer_in_words(done)}")
    if done.result.metrics:
        console.out(f"metrics  {metrics_line(done.result.metrics)}")
    console.out(f"outputs  {shown_path(store.layout.run(run) / 'outputs')}")
    return 0
