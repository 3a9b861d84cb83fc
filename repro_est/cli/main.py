"""The entry point of `repro`: a hit that is known by stat signatures alone, else the command in full.

Everything else is imported only when the answer is not known (`cli.recall`, docs/decisions/0009).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from repro_est.cli.recall import recall


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `repro`; default: those of the process.

    Returns:
        The exit code.
    """
    _open_standard_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["run"]:
        text = recall(words[1:])
        if text is not None:
            try:
                sys.stdout.write(text)
                sys.stdout.flush()
                return 0
            except BrokenPipeError:
                pass  # said in full below, where it is handled
    from repro_est.cli.command import run_command

    return run_command(words)


def _open_standard_streams() -> None:
    """Opens what the caller closed (`>&-`): else the next file that is opened would be taken for stdout."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 -- open as long as the process
