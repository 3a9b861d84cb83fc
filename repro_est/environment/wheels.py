"""Unpacking a wheel into a prefix that will have another path, or any path: PyPA's installer, told where it will be.

Only the wheel, the path and the Python version decide what is written, so the same wheel is the same files in every
prefix of that path (PEP 427, PEP 376). Scripts that may be moved look for the interpreter beside themselves.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from repro_est.errors import EnvironmentBuildError

if TYPE_CHECKING:
    from installer.destinations import SchemeDictionaryDestination
    from installer.records import RecordEntry
    from installer.utils import Scheme

_NOWHERE = "/nowhere/bin/python"
_BESIDE = b'#!/bin/sh\n\'\'\'exec\' "$(dirname -- "$(realpath -- "$0")")/python" "$0" "$@"\n\' \'\'\'\n'
"""For sh and Python alike: sh replaces itself by the python beside the script, for which two lines are text."""


def unpack(wheel: Path, stage: Path, *, final: str | None, python: str) -> None:
    """Unpacks a wheel.

    Args:
        stage: directory that will be `final`.
        final: what scripts name as the place of their interpreter; None makes scripts that may be moved.
        python: version of the interpreter, `3.11.7`.

    Raises:
        EnvironmentBuildError: not a wheel, or one of its files is there already.
    """
    from installer import install
    from installer.exceptions import InstallerError
    from installer.sources import WheelFile

    site = stage / "lib" / f"python{'.'.join(python.split('.')[:2])}" / "site-packages"
    places = {
        "purelib": site,
        "platlib": site,
        "headers": stage / "include" / "site" / wheel.name.split("-")[0],
        "scripts": stage / "bin",
        "data": stage,
    }
    schemes = {scheme: str(place) for scheme, place in places.items()}
    destination = _destination(schemes, f"{final}/bin/python" if final else None)
    try:
        with WheelFile.open(wheel) as source:
            install(source, destination, additional_metadata={"INSTALLER": b"repro\n"})
    except FileExistsError as error:
        path = str(error).rpartition(": ")[2].removeprefix(f"{stage}/")
        raise EnvironmentBuildError(f"{wheel.name}: two packages own {path}", hint="drop one of them") from None
    except (InstallerError, ValueError, KeyError) as error:
        raise EnvironmentBuildError(f"{wheel.name}: cannot be installed: {error}") from None


def _destination(schemes: dict[str, str], interpreter: str | None) -> SchemeDictionaryDestination:
    from installer.destinations import SchemeDictionaryDestination

    class Destination(SchemeDictionaryDestination):
        def write_to_fs(self, scheme: Scheme, path: str, stream: BinaryIO, is_executable: bool) -> RecordEntry:
            if scheme == "scripts":  # whatever its mode in the archive (PEP 427)
                is_executable = True
                stream = io.BytesIO(stream.read().replace(f"#!{_NOWHERE}\n".encode(), _BESIDE, 1))
            return super().write_to_fs(scheme, path, stream, is_executable)

    return Destination(schemes, interpreter=interpreter or _NOWHERE, script_kind="posix")
