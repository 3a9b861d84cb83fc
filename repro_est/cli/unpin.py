"""Take the pin of a run away: from then on it is kept as long as other runs are.

repro unpin 3f9c
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import open_store
from repro_est.console import Console
from repro_est.store.pins import Pins
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run hash, or a unique start of one")


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    run = Runs(store.layout).resolve(arguments.run)
    Pins(store.layout).remove(run)
    Console().out(f"unpinned run {run}")
    return 0
