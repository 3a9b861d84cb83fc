"""Unpacking a wheel into a prefix that will have another path: PyPA's installer, told where it will be.

Only the wheel, the path and the Python version decide what is written, so the same wheel is the same files in every
prefix of that path (PEP 427, PEP 376).
"""

from __future__ import annotations

from pathlib import Path

from repro_est.errors import EnvironmentBuildError


def unpack(wheel: Path, stage: Path, *, final: str, python: str) -> None:
    """Unpacks a wheel.

    Args:
        stage: directory that will be `final`.
        final: what scripts name as the place of their interpreter.
        python: version of the interpreter, `3.11.7`.

    Raises:
        EnvironmentBuildError: not a wheel, or one of its files is there already.
    """
    from installer import install
    from installer.destinations import SchemeDictionaryDestination
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
    destination = SchemeDictionaryDestination(
        {scheme: str(place) for scheme, place in places.items()},
        interpreter=f"{final}/bin/python",
        script_kind="posix",
    )
    try:
        with WheelFile.open(wheel) as source:
            install(source, destination, additional_metadata={"INSTALLER": b"repro\n"})
    except FileExistsError as error:
        path = str(error).rpartition(": ")[2].removeprefix(f"{stage}/")
        raise EnvironmentBuildError(f"{wheel.name}: two packages own {path}", hint="drop one of them") from None
    except (InstallerError, ValueError, KeyError) as error:
        raise EnvironmentBuildError(f"{wheel.name}: cannot be installed: {error}") from None
