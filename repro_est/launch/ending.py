"""The end of a run that its hosts own: how it ended, what it has written brought here, and the hosts' memory of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repro_est.errors import InfrastructureError
from repro_est.hosts.session import Session
from repro_est.hostside.verdicts import in_words
from repro_est.launch.follow import Verdict
from repro_est.launch.handle import Handle, remove_handle
from repro_est.launch.process import Outcome
from repro_est.launch.streams import directory_of, parse_timeline, write_driver_log
from repro_est.outputs import LOGS, OUTPUTS
from repro_est.plan import Plan
from repro_est.targets.deliver import changed_files
from repro_est.targets.gather import Taken, gather_logs, gather_tree
from repro_est.targets.parcel import MODULES
from repro_est.targets.stage import Workplace


def outcome_of(verdict: Verdict, ended: Mapping[int, Verdict], handle: Handle) -> Outcome:
    """Returns how a run ended as one outcome, of the rank that counts."""
    records: dict[int, Mapping[str, Any]] = {}
    for item in [verdict, *ended.values()]:
        for number, record in {**item.get("all_records", {}), **item.get("records", {})}.items():
            if record is not None:
                records.setdefault(int(number), record)
    kind = verdict["outcome"]
    rank = int(verdict.get("rank") or 0)
    record = verdict.get("record") or records.get(rank) or {}
    good = kind == "completed"
    return Outcome(
        exit_code=0 if good else record.get("exit_code") if kind == "rank_failed" else None,
        signal=record.get("signal") if kind == "rank_failed" else None,
        timed_out=kind == "timed_out",
        canceled=kind == "canceled",
        max_rss=max((int(item.get("max_rss") or 0) for item in records.values()), default=0),
        user_seconds=round(sum(float(item.get("user_seconds") or 0) for item in records.values()), 3),
        system_seconds=round(sum(float(item.get("system_seconds") or 0) for item in records.values()), 3),
        leftovers=sum(int(item.get("leftovers") or 0) for item in records.values()),
        oom_kills=max((int(item.get("oom_kills") or 0) for item in records.values()), default=0),
        read_only=str(
            record.get("read_only")
            or next((str(item["read_only"]) for item in records.values() if item.get("read_only")), "no inputs")
        ),
        unlogged=sum(int(item.get("unlogged") or 0) for item in records.values()),
        rank=rank,
        host=str(verdict.get("host") or "") if kind != "completed" else "",
        cause="" if kind in ("completed", "rank_failed", "timed_out", "canceled") else kind,
        detail=_detail(verdict) if kind != "rank_failed" else in_words(record),
        ranks={
            str(number): {"host": handle.host_of(number), **{key: value for key, value in item.items() if key != "at"}}
            for number, item in sorted(records.items())
        },
        attests=verdict.get("attests") or {},
    )


def _detail(verdict: Verdict) -> str:
    words = str(verdict.get("words") or "")
    for item in verdict.get("consequences") or ():
        words += f"\n  then {item}"
    rows = verdict.get("disagreements") or ()
    if rows:
        cells = [("host", "rank", "key", "got", "expected")]
        cells += [(row["host"], str(row["rank"]), row["key"], str(row["got"]), str(row["expected"])) for row in rows]
        widths = [max(len(row[column]) for row in cells) for column in range(5)]
        words += "".join(
            "\n  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in cells
        )
    return words


def gather(
    plan: Plan,
    handle: Handle,
    sessions: Mapping[int, Session],
    verdict: Verdict | None,
    ended: Mapping[int, Verdict],
    attempt: Path,
    work: Path,
) -> tuple[Workplace, list[str]]:
    """Brings what the hosts have of a run to this machine.

    Args:
        sessions: of the members by number.
        ended: what each member says of the end; one that says nothing is skipped, and named.
        work: an empty directory of the store's file system.
    """
    source = work / "source"
    for directory in (source / OUTPUTS, source / LOGS):
        directory.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    outputs, logs = Taken(), Taken()
    timelines, skews = [], []
    good = verdict is not None and verdict["outcome"] == "completed"
    for number, member in enumerate(handle.members):
        session, rank = sessions[number], member.ranks[0]
        if number not in ended:
            problems.append(f"{member.spec.name}: could not be reached at the end; what it has is not here")
            continue
        try:
            problems += gather_tree(
                session, handle.token, f"source/{OUTPUTS}", source / OUTPUTS, rank=rank, taken=outputs
            )
            problems += gather_tree(session, handle.token, f"source/{LOGS}", source / LOGS, rank=rank, taken=logs)
            names = handle.facts.get("timelines") or ["timeline"]
            text = gather_logs(session, handle.token, attempt / LOGS, directory_of, names)
            timelines.append(parse_timeline(text))
            skews.append(member.skew)
            problems += [
                f"inputs.{name}: the script changed it on {member.spec.name}; inputs are read-only"
                for name in changed_files(session, member.inputs)
            ]
            if number == 0 and not plan.recorded.metrics.startswith(f"{OUTPUTS}/"):
                _fetch_one(session, handle.token, plan.recorded.metrics, source)
        except InfrastructureError as error:
            if good:
                raise
            problems.append(error.message)
    write_driver_log(attempt / LOGS, timelines, skews)
    return Workplace(source, work / "home", work / "tmp", work / MODULES, {}, (), ()), problems


def _fetch_one(session: Session, token: str, name: str, source: Path) -> None:
    target = source / name
    target.parent.mkdir(parents=True, exist_ok=True)
    with open(target, "wb") as file:

        def take(number: int, data: bytes) -> None:
            file.write(data)

        unreadable = session.fetch(token, "source", [(name, 0)], take)
    if unreadable:
        target.unlink()


def release(handle: Handle, sessions: Sequence[Session], attempt: Path) -> None:
    """Has the hosts forget a run that was collected.

    Args:
        sessions: of the hosts that were there at the end; one that was not forgets the run by itself some day.
    """
    for session in sessions:
        with contextlib.suppress(InfrastructureError):
            session.call("release", token=handle.token)
    remove_handle(attempt)
