"""List the runs that go on: those a client executes on this machine, and those their hosts own.

repro ps
repro ps --json
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from repro_est.cli.common import add_json, open_store
from repro_est.console import Console
from repro_est.digest import RunHash
from repro_est.errors import InfrastructureError, VerificationError
from repro_est.store.index import Index
from repro_est.store.records import AttemptRecord, Status
from repro_est.store.runs import Runs
from repro_est.store.store import Store


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--offline", action="store_true", help="ask no host")
    add_json(parser)


def execute(arguments: argparse.Namespace) -> int:
    _, store = open_store()
    console = Console()
    found = [item for row in Index(store.layout).unsettled() for item in _going_on(row.run_hash, row.name, store)]
    if not arguments.offline:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda item: _asked(item, store), found))
    if arguments.json:
        console.json(found)
    elif not found:
        console.info("nothing is running")
    else:
        rows = [
            [item["run_hash"][:12], item["name"], _state(item), item["started"][:19].replace("T", " "), item["where"]]
            for item in found
        ]
        console.table(rows, header=("run", "recipe", "status", "since (UTC)", "where"))
    return 0


def _going_on(run: RunHash, name: str, store: Store) -> list[dict[str, Any]]:
    open_attempts = [item for item in Runs(store.layout).attempts(run) if not item.status.is_terminal]
    return [_document(run, name, item) for item in open_attempts]


def _document(run: RunHash, name: str, record: AttemptRecord) -> dict[str, Any]:
    hosts = record.facts.get("hosts")
    names = [str(host.get("host")) for host in hosts] if isinstance(hosts, list) else []
    where = ", ".join(names) or str(record.facts.get("target", ""))
    return {
        "run_hash": run,
        "name": name,
        "attempt": record.number,
        "status": record.status.value,
        "phase": record.phase,
        "started": record.started,
        "where": where,
    }


def _asked(item: dict[str, Any], store: Store) -> dict[str, Any]:
    """Adds what the hosts of a detached run say: it still runs, or how it ended and waits to be collected."""
    if item["status"] != Status.DETACHED.value:
        return item
    from repro_est.hosts.pool import host_of
    from repro_est.hosts.session import Session
    from repro_est.launch.handle import read_handle

    try:
        handle = read_handle(store.layout.attempt(RunHash(item["run_hash"]), item["attempt"]))
        if handle is None:
            return item
        host = host_of(handle.members[0].spec)
        session = Session(host)
        try:
            status = session.call("status", token=handle.token)
        finally:
            session.close()
            host.close()
    except (InfrastructureError, VerificationError) as error:
        return {**item, "where": f"{item['where']}  ({error.message})"}
    return {**item, "outcome": "running" if status["alive"] else (status["verdict"] or {}).get("outcome", "lost")}


def _state(item: dict[str, Any]) -> str:
    """Returns the status of a run in words."""
    if "outcome" not in item:
        return str(item["status"])
    more = "" if item["outcome"] == "running" else f": repro attach {item['run_hash'][:12]}"
    return f"{item['status']}, {item['outcome']}{more}"
