"""Say where a run came from, for tools that know nothing of `repro`: an in-toto statement with SLSA provenance v1.

repro provenance @                             to stdout
repro provenance @ -o run.intoto.json --key ada    signed: the statement in a DSSE envelope
repro provenance @ --sbom run.spdx.json        and the bill of materials of its environment, SPDX 2.3
repro provenance @ --checklist appendix.md     and a reproducibility checklist, filled from what is known

The same run gives the same bytes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from repro_est.cli.common import add_run, open_store, shown_path
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.files import write_atomic
from repro_est.proof.materials import materials_of
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="where the statement goes (default: stdout)")
    parser.add_argument("--sbom", metavar="FILE", help="write the bill of materials there, SPDX 2.3 in JSON")
    parser.add_argument("--checklist", metavar="FILE", help="write a reproducibility checklist there, Markdown")
    parser.add_argument("--key", metavar="NAME", help="sign the statement with this key (`repro key list`)")


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.proof.bill import bill
    from repro_est.proof.checklist import checklist
    from repro_est.proof.statement import PAYLOAD_TYPE, statement, statement_bytes
    from repro_est.proof.verdicts import read_verdicts

    console = Console()
    _, store = open_store()
    run = Runs(store.layout).resolve(arguments.run)
    materials = materials_of(run, store)
    if arguments.key is None:
        document: Any = statement(materials)
    else:
        from repro_est.share.keys import KeyRing, sign

        document = sign(KeyRing().load(arguments.key), PAYLOAD_TYPE, statement_bytes(materials))
    wanted: list[tuple[str, bytes]] = []
    if arguments.sbom is not None:
        wanted.append((arguments.sbom, _json(bill(materials))))
    if arguments.checklist is not None:
        wanted.append((arguments.checklist, checklist(materials, read_verdicts(store.layout, run)).encode()))
    if arguments.output is not None:
        wanted.append((arguments.output, _json(document)))
    for name, content in wanted:
        path = Path(name).absolute()
        if not path.parent.is_dir():
            raise UsageError(f"{name}: no such directory", hint=f"mkdir -p {Path(name).parent}")
        write_atomic(path, content)
        console.out(shown_path(path))
    if not wanted:
        console.out(_json(document).decode().rstrip("\n"))
    return 0


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"
