"""How a run on hosts can end, and why one rank's record is good or bad: pure, for the head's daemon and for the client.

completed            every rank ended with 0, and so did the launcher
rank_failed          a rank's script failed first; the others were ended
timed_out            it took longer than it may
canceled             somebody said so
rank_hung            a rank gave no sign of life for longer than it may
host_lost            a host did not answer for too long: gone, or cut off
launcher_failed      mpirun, one of its daemons or a container failed, or mpirun said 0 and ranks are missing
not_started          not every rank was there in time, or a script could not be started
disagreement         the ranks do not all execute the same thing: nothing was started
"""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any

INFRASTRUCTURE = ("host_lost", "launcher_failed", "not_started")
"""What may go away by trying again; the rest is the recipe's or the user's."""

Record = typing.Mapping[str, Any]


def is_success(record: Record) -> bool:
    """Whether a rank's record is that of a script that ended by itself with 0."""
    return record.get("exit_code") == 0 and not record.get("canceled") and not record.get("timed_out")


def in_words(record: Record) -> str:
    """Returns how a rank ended, for people."""
    if record.get("message"):
        return str(record["message"])
    if record.get("signal"):
        return "was killed by {}".format(record["signal"])
    if record.get("vanished"):
        return "vanished: it was killed together with its supervisor"
    return "exit code {}".format(record.get("exit_code"))


def disagreements(attests: Mapping[int, Record], expected: Record) -> list[dict[str, Any]]:
    """Returns what the ranks do not agree on.

    Args:
        attests: what each rank reports of what it is about to execute.
        expected: what the controller says it must be, for the keys it knows.

    Returns:
        One item for each rank and key: `rank`, `host`, `key`, `got`, `expected`.
    """
    found: list[dict[str, Any]] = []
    keys = sorted({key for item in attests.values() for key in item["identity"]} | set(expected))
    for key in keys:
        values = [attests[rank]["identity"].get(key) for rank in sorted(attests)]
        right = expected.get(key, most_common(values))
        found += [
            {"rank": rank, "host": attests[rank]["host"], "key": key, "got": value, "expected": right}
            for rank, value in zip(sorted(attests), values)
            if value != right
        ]
    return found


def most_common(values: Sequence[Any]) -> Any | None:
    """Returns the value that most have, the first one of several."""
    return max(values, key=values.count) if values else None
