"""List the pinned runs, oldest pin first, with who pinned them and why."""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_json, open_store, store_exists
from repro_est.console import Console
from repro_est.store.pins import Pins


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    console = Console()
    pins = Pins(open_store()[1].layout).all() if store_exists() else []
    if arguments.json:
        console.json([pin.to_json() for pin in pins])
    elif pins:
        rows = [[pin.run[:12], pin.when[:19].replace("T", " "), pin.who, pin.why] for pin in pins]
        console.table(rows, header=("run", "when (UTC)", "who", "why"))
    else:
        console.info("no pins: repro pin RUN")
    return 0
