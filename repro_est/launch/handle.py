"""Where an attempt executes that its hosts own: `hosts.json` of the attempt, all it takes to find it again.

Written before anything is started on a host, gone when the attempt was collected. While it is there and nobody executes
the run on this machine, the run is `detached`, not lost. No secret is in it: the key by which the daemons of the hosts
know each other is only in their memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro_est.errors import VerificationError
from repro_est.files import write_atomic
from repro_est.hosts.inventory import HostSpec
from repro_est.store.layout import HANDLE

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Member:
    """One host of an attempt.

    Args:
        spec: how it is reached.
        ranks: those it executes, in order.
        directory: of the attempt on it.
        inputs: (name, key, path) of the read-only inputs on it.
        skew: seconds its clock is ahead of ours.
    """

    spec: HostSpec
    ranks: tuple[int, ...]
    directory: str
    inputs: tuple[tuple[str, str, str], ...] = ()
    skew: float = 0.0


@dataclass(frozen=True, slots=True)
class Handle:
    """An attempt on hosts.

    Args:
        token: what the hosts call it.
        target: as the user named it.
        lost_after: seconds after which a silent host is lost.
        members: node 0, the head, first.
        facts: recorded with the attempt.
        commit: its result is to be accepted.
    """

    token: str
    target: str
    lost_after: float
    members: tuple[Member, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    commit: bool = True

    @property
    def world_size(self) -> int:
        return sum(len(member.ranks) for member in self.members)

    def host_of(self, rank: int) -> str:
        return next(member.spec.name for member in self.members if rank in member.ranks)


def write_handle(attempt: Path, handle: Handle) -> None:
    members = [
        {
            "spec": member.spec.to_json(),
            "ranks": list(member.ranks),
            "directory": member.directory,
            "inputs": [list(item) for item in member.inputs],
            "skew": member.skew,
        }
        for member in handle.members
    ]
    content = {
        "format": _FORMAT,
        "token": handle.token,
        "target": handle.target,
        "lost_after": handle.lost_after,
        "members": members,
        "facts": dict(handle.facts),
        "commit": handle.commit,
    }
    write_atomic(attempt / HANDLE, json.dumps(content, indent=1).encode() + b"\n")


def read_handle(attempt: Path) -> Handle | None:
    """Returns the handle of an attempt, None when it is on no host.

    Raises:
        VerificationError: it cannot be read.
    """
    path = attempt / HANDLE
    try:
        content = json.loads(path.read_bytes())
        if content["format"] != _FORMAT:
            raise ValueError(f"format {content['format']}")
        return Handle(
            token=content["token"],
            target=content["target"],
            lost_after=content["lost_after"],
            members=tuple(
                Member(
                    HostSpec.from_json(item["spec"]),
                    tuple(item["ranks"]),
                    item["directory"],
                    tuple((name, key, place) for name, key, place in item["inputs"]),
                    item["skew"],
                )
                for item in content["members"]
            ),
            facts=content["facts"],
            commit=content.get("commit", True),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise VerificationError(f"{path}: does not say where the attempt is: {error!r}") from None


def remove_handle(attempt: Path) -> None:
    (attempt / HANDLE).unlink(missing_ok=True)
