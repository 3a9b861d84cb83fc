"""What a person asks for on the command line besides the plan: nothing of it changes a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wishes:
    """How to execute this once.

    Args:
        hosts: only these of the target; empty for all.
        detach: leave when all ranks have started.
        shown: ranks whose output is shown, None for all.
        commit: accept its result; kept with an attempt that is left, whoever comes to collect it.
    """

    hosts: tuple[str, ...] = ()
    detach: bool = False
    shown: tuple[int, ...] | None = None
    commit: bool = True
