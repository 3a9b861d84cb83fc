"""The lab's base image: a root file system of a few packages of this Debian, as a tar.

    python -m tests.lab.base FILE

No root, no network: the files are those that dpkg installed here, so the same machine gives the same bytes.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

PACKAGES = ("libc6", "libc-bin", "libgcc-s1", "libstdc++6", "libcrypt1", "libtinfo6", "libselinux1", "libpcre2-8-0", "libacl1", "libattr1", "libgmp10", "zlib1g", "dash", "bash", "coreutils")  # fmt: skip
_LEFT_OUT = ("/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/lintian", "/usr/share/info")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


def build(path: Path) -> None:
    """Writes the tar."""
    listed = subprocess.run(["dpkg-query", "-L", *PACKAGES], capture_output=True, text=True).stdout.splitlines()
    found: dict[str, Path] = {}
    for name in listed:
        file = Path(name)
        if name.startswith("/") and not name.startswith(_LEFT_OUT) and (file.is_file() or file.is_symlink()):
            real = Path(os.path.realpath(file.parent)) / file.name  # /lib is a link to /usr/lib
            if not real.is_dir():
                found[str(real)[1:]] = real
    directories = {parent for name in (*found, "etc/x", "root/x", "var/tmp/x", "proc/x", "sys/x", "dev/x", "opt/x", "work/x", "tmp/x") for parent in map(str, Path(name).parents) if parent != "."}  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted({*found, *directories, *_LINKS, "etc/passwd", "etc/group"}):
            member = tarfile.TarInfo(name)
            if name in _LINKS:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, _LINKS[name], 0o777
                archive.addfile(member)
            elif name in ("etc/passwd", "etc/group"):
                text = b"root:x:0:0:root:/root:/bin/sh\n" if name == "etc/passwd" else b"root:x:0:\n"
                member.size, member.mode = len(text), 0o644
                archive.addfile(member, io.BytesIO(text))
            elif name not in found:
                member.type, member.mode = tarfile.DIRTYPE, 0o1777 if name.endswith("tmp") else 0o755
                archive.addfile(member)
            elif found[name].is_symlink():
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, os.readlink(found[name]), 0o777
                archive.addfile(member)
            else:
                data = found[name].read_bytes()
                member.size, member.mode = len(data), 0o755 if os.access(found[name], os.X_OK) else 0o644
                archive.addfile(member, io.BytesIO(data))
    temporary.replace(path)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
