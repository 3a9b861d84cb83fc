"""Reading an old file as text, with what is wrong with it said in one line."""

from __future__ import annotations

from pathlib import Path

from repro_est.errors import UsageError


def read_text(path: Path, shown: str) -> str:
    """Returns the text of a file.

    Raises:
        UsageError: it is not there, cannot be read, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{shown}: no such file") from None
    except ValueError:
        raise UsageError(f"{shown!r}: no file can have this name") from None
    except OSError as error:
        raise UsageError(f"{shown}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UsageError(f"{shown}:{line}: not UTF-8 at byte {error.start + 1:,}") from None
