"""Write the page of a run: one HTML file with its metrics, plots, images, logs, files and lineage; prints its URL.

repro page @ --open             in the browser
repro page 3f9c -o report.html  a copy to send around; images and logs are in it, other files are not
"""

from __future__ import annotations

import argparse
from pathlib import Path

from repro_est.cli.common import add_run, open_store
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError, UsageError
from repro_est.outputs import LOGS
from repro_est.store.layout import LIVE
from repro_est.store.runs import Runs
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("-o", "--output", metavar="FILE", help="write it there instead of beside the run in the store")
    parser.add_argument("--open", action="store_true", help="open it in the browser")


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.portal.page import write_page

    _, store = open_store()
    console, run = Console(), Runs(store.layout).resolve(arguments.run)
    destination = _destination(arguments.output) if arguments.output else None
    _bring(run, store, console)
    url = write_page(run, store, destination).as_uri()
    console.out(url)
    if arguments.open:
        _open(url)
    return 0


def _destination(output: str) -> Path:
    path = Path(output).absolute()
    if path.is_dir():
        raise UsageError(f"{output}: is a directory, expected the name of a file", hint=f"-o {output}/page.html")
    if not path.parent.is_dir():
        raise UsageError(f"{output}: there is no directory {path.parent}")
    return path


def _bring(run: RunHash, store: Store, console: Console) -> None:
    """Fetches what a run that goes on at hosts has logged so far; a host that does not answer is a warning."""
    number = Runs(store.layout).at_hosts(run)
    if number is None:
        return
    from repro_est.launch.handle import read_handle
    from repro_est.launch.peek import bring_logs

    attempt = store.layout.attempt(run, number)
    handle = read_handle(attempt)
    if handle is not None:
        try:
            bring_logs(handle, attempt / LIVE / LOGS)
        except InfrastructureError as error:
            console.warning(f"{error.message}; the page has what was fetched before")


def _open(url: str) -> None:
    """Raises InfrastructureError where no browser can be started."""
    import webbrowser

    if not webbrowser.open(url):
        raise InfrastructureError("no browser could be started", hint=f"open {url}")
