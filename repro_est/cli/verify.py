"""Check every byte of the store against its name: blobs, trees, runs, packages, environments.

repro verify                all of it
repro verify @ 3f9c         these runs only
repro verify --repair       set aside what is bad, so that it is made again; what a remote of the team has is fetched
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from repro_est.cli.common import TerminalObserver, add_json, open_store
from repro_est.console import Console, counted, human_size
from repro_est.errors import VerificationError
from repro_est.project import Project
from repro_est.store.runs import Runs
from repro_est.store.store import Store

if TYPE_CHECKING:
    from repro_est.digest import BlobHash
    from repro_est.store.trees import Entry
    from repro_est.store.verify import Refetch


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="*", help="runs to check (default: the whole store)")
    parser.add_argument("--repair", action="store_true", help="move what is bad into quarantine/")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.store.verify import verify

    console = Console()
    project, store = open_store()
    chosen = [Runs(store.layout).resolve(run) for run in arguments.runs] or None
    report = verify(store, runs=chosen, repair=arguments.repair, refetch=_refetch(project, store, console))
    if arguments.json:
        console.json(report.to_json())
        return VerificationError.exit_code if report.findings else 0
    for finding in report.repaired:
        console.out(f"{finding}: made whole again")
    for finding in report.findings:
        console.out(str(finding))
    console.out(
        f"verified {counted(report.blobs, 'blob')} ({human_size(report.size)}), {counted(report.trees, 'tree')}, "
        f"{counted(report.runs, 'run')}, {counted(report.packages, 'package')}, "
        f"{counted(report.environments, 'environment')}, {counted(report.layers, 'layer')}: "
        + (f"{len(report.findings)} bad" if report.findings else "all good")
    )
    if report.findings and not arguments.repair:
        console.info("\nhint: repro verify --repair   sets aside what is bad, so that it is made again")
    return VerificationError.exit_code if report.findings else 0


def _refetch(project: Project, store: Store, console: Console) -> Refetch | None:
    """What asks the remotes of the team, where there are some."""
    if not project.remotes:
        return None

    def refetch(missing: Sequence[Entry]) -> list[BlobHash]:
        from repro_est.share.mend import mend
        from repro_est.share.remotes import Remotes

        observer = TerminalObserver(console)
        remotes = Remotes(project, store, observer)
        try:
            return mend(missing, remotes, store, observer)
        finally:
            remotes.close()

    return refetch
