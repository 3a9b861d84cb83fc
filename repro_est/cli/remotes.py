"""List the remotes of the project, and ask each whether it answers.

repro remotes
repro remotes --json
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from repro_est.cli.common import TerminalObserver, add_json, open_store
from repro_est.console import Console, human_time
from repro_est.errors import InfrastructureError, ReproError


def configure(parser: argparse.ArgumentParser) -> None:
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    from repro_est.share.remote import Remote, check_format
    from repro_est.share.remotes import Remotes
    from repro_est.share.settings import RemoteSpec
    from repro_est.share.trust import Trust

    console = Console(quiet=arguments.json)
    project, store = open_store()
    remotes, trust = Remotes(project, store, TerminalObserver(console)), Trust(project.root)

    def probed(spec: RemoteSpec, remote: Remote) -> dict[str, Any]:
        started, error = time.monotonic(), ""
        try:
            remote.exists(["format"])
            check_format(remote, make=False)
        except ReproError as failure:
            error = failure.message
        return {
            "name": spec.name,
            "url": spec.url,
            "read_only": not spec.is_writable,
            "push": spec.push.value,
            "trust": [key.name for key in trust.believed(spec.trust)],
            "seconds": round(time.monotonic() - started, 4),
            "error": error or None,
        }

    try:
        found = [probed(spec, remote) for spec, remote in remotes.all()]
    finally:
        remotes.close()
    if arguments.json:
        console.json(found)
    elif not found:
        console.info('no remotes in repro.toml\n\nhint: [remotes.team]   url = "file:///mnt/team"')
    else:
        rows = [
            [
                item["name"],
                item["url"],
                "read-only" if item["read_only"] else f"push {item['push']}",
                ", ".join(item["trust"]) or "nobody",
                item["error"] or f"answers in {human_time(item['seconds'])}",
            ]
            for item in found
        ]
        console.table(rows, header=("name", "url", "", "believed", "state"))
    return InfrastructureError.exit_code if any(item["error"] for item in found) else 0
