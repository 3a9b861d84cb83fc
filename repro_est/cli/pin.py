"""Keep a run whatever `repro gc --collect` removes, with the reason; `repro unpin` takes the pin away.

repro pin @ --why "figure 3 of the paper"
"""

from __future__ import annotations

import argparse

from repro_est.cli.common import add_run, open_store
from repro_est.console import Console
from repro_est.errors import UsageError
from repro_est.files import is_utf8, printable
from repro_est.store.pins import Pins
from repro_est.store.runs import Runs


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("--why", default="", help="the reason, for whoever cleans up later")


def execute(arguments: argparse.Namespace) -> int:
    if not is_utf8(arguments.why):
        raise UsageError(f"--why {printable(arguments.why)}: got bytes that are not UTF-8")
    _, store = open_store()
    pin = Pins(store.layout).add(Runs(store.layout).resolve(arguments.run), arguments.why)
    Console().out(f"pinned run {pin.run}")
    return 0
