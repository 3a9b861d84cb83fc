"""What reaches a terminal, a pipe, or nobody."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.conftest import Workshop


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(
    "words", ["ls", "show @", "run job.toml -q --force", "run job.toml", "logs @", "check job.toml"]
)
def test_a_closed_stream_is_no_traceback(workshop: Workshop, words: str, closed: str) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    command = f"{sys.executable} -m repro_est {words} {closed}"
    done = subprocess.run(["bash", "-c", command], cwd=workshop.root, capture_output=True, text=True)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
