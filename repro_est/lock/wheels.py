"""Which file of a package a platform gets: wheel tags and environment markers, for any target, from any machine.

Nothing of the machine that locks decides: a Linux target is one with glibc 2.28 or newer (manylinux_2_28), a
macOS target 13 or newer. Tags after PyPA's platform compatibility tags, markers after PEP 508.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from packaging.markers import Marker
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

_GLIBC_MINOR = 28
_MACOS = (13, 0)
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}

UV_PLATFORMS = {
    "linux-64": "x86_64-manylinux_2_28",
    "linux-aarch64": "aarch64-manylinux_2_28",
    "osx-64": "x86_64-apple-darwin",
    "osx-arm64": "aarch64-apple-darwin",
}
_MACHINES = {"linux-64": "x86_64", "linux-aarch64": "aarch64", "osx-64": "x86_64", "osx-arm64": "arm64"}


def needed(marker: str, platform: str, python: str) -> bool:
    """Whether a package with this marker is installed on a platform."""
    return not marker or Marker(marker).evaluate(_environment(platform, python))


def best_wheel(filenames: Iterable[str], platform: str, python: str) -> str | None:
    """Returns the wheel an installer would take on the platform, or None when none fits."""
    rank = _ranks(platform, python)
    best: tuple[int, tuple[int, str], str] | None = None
    for filename in filenames:
        try:
            _, _, build, tags = parse_wheel_filename(filename)
        except InvalidWheelFilename:
            continue
        position = min((rank[tag] for tag in tags if tag in rank), default=None)
        if position is None:
            continue
        number, suffix = (build[0], build[1]) if build else (-1, "")
        candidate = (position, (-number, suffix), filename)
        if best is None or candidate < best:
            best = candidate
    return best[2] if best else None


def _environment(platform: str, python: str) -> Mapping[str, str]:
    linux = platform.startswith("linux")
    return {
        "implementation_name": "cpython",
        "implementation_version": python,
        "os_name": "posix",
        "platform_machine": _MACHINES[platform],
        "platform_python_implementation": "CPython",
        "platform_release": "",
        "platform_system": "Linux" if linux else "Darwin",
        "platform_version": "",
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
        "sys_platform": "linux" if linux else "darwin",
        "extra": "",
    }


@lru_cache(maxsize=8)
def _ranks(platform: str, python: str) -> dict[Tag, int]:
    major, minor = (int(part) for part in python.split(".")[:2])
    platforms = _platform_tags(platform)
    ordered = [
        *cpython_tags((major, minor), platforms=platforms),
        *compatible_tags((major, minor), f"cp{major}{minor}", platforms),
    ]
    ranks: dict[Tag, int] = {}
    for position, tag in enumerate(ordered):
        ranks.setdefault(tag, position)
    return ranks


def _platform_tags(platform: str) -> list[str]:
    machine = _MACHINES[platform]
    if platform.startswith("osx"):
        return list(mac_platforms(_MACOS, machine))
    tags: list[str] = []
    for glibc in range(_GLIBC_MINOR, 4, -1):
        tags.append(f"manylinux_2_{glibc}_{machine}")
        if glibc in _LEGACY_MANYLINUX and (machine == "x86_64" or glibc == 17):
            tags.append(f"{_LEGACY_MANYLINUX[glibc]}_{machine}")
    return [*tags, f"linux_{machine}"]
