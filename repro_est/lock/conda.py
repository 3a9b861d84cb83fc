"""conda by py-rattler: solving channels, and linking packages into a prefix. No conda program is needed.

py-rattler's interface still moves, so this module is the only one that knows it. It is told everything: platform,
virtual packages and date come from the recipe, never from the machine that locks. It trusts nothing it links: every
file was checked against its SHA-256 before (rattler itself does not look at packages that lie on this machine).
"""

from __future__ import annotations

import asyncio
import datetime
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro_est.errors import EnvironmentBuildError, InfrastructureError, LockError
from repro_est.files import nested, same_file
from repro_est.lock.condarequest import CondaRequest
from repro_est.lock.lockfile import public_url
from repro_est.lock.values import CondaPackage
from repro_est.recipe.forms import NETRC, credential
from repro_est.store.guard import full_disk_in

if TYPE_CHECKING:
    from rattler import RepoDataRecord

_ALIAS = "CONDA_CHANNEL_ALIAS"  # conda's own variable: where channels that are plain names are looked for
_CLOBBERED = "__clobbers__"  # where rattler puts the second file of one path
_VIRTUAL: Mapping[str, Mapping[str, str]] = {
    "linux-64": {"__unix": "0", "__linux": "5.10", "__glibc": "2.28", "__archspec": "1=x86_64"},
    "linux-aarch64": {"__unix": "0", "__linux": "5.10", "__glibc": "2.28", "__archspec": "1=aarch64"},
    "osx-64": {"__unix": "0", "__osx": "13.0", "__archspec": "1=x86_64"},
    "osx-arm64": {"__unix": "0", "__osx": "13.0", "__archspec": "1=m1"},
}


def channel_urls(request: CondaRequest) -> list[str]:
    """Returns the addresses of the channels, in order.

    Raises:
        LockError: a channel that is a directory is not there, or one has a credential in its address.
    """
    import rattler

    urls: list[str] = []
    for channel in request.channels:
        if channel.startswith((".", "/")):
            path = (request.directory / channel).resolve()
            if not path.is_dir():
                raise LockError(f"channel {channel}: no such directory: {path}", hint="environment.channels")
            urls.append(path.as_uri())
        elif "://" in channel:
            urls.append(channel)
        else:
            alias = os.environ.get(_ALIAS)
            config = rattler.ChannelConfig(f"{alias.rstrip('/')}/") if alias else rattler.ChannelConfig()
            urls.append(str(rattler.Channel(channel, config).base_url).rstrip("/"))
            if held := credential(urls[-1]):
                raise LockError(f"environment.channels, or ${_ALIAS}: {held}; repro keeps none in files", hint=NETRC)
    return urls


def solve(
    request: CondaRequest,
    platform: str,
    *,
    keep: Sequence[CondaPackage] = (),
    as_of: str = "",
    on_warning: Any = None,
) -> list[CondaPackage]:
    """Solves the specs for one platform.

    Args:
        keep: packages of the last lock, preferred where they still fit.
        as_of: date nothing may be newer than, `""` for none.
        on_warning: told when a channel cannot be reached and what is known of it from before was used.

    Raises:
        LockError: there is no solution, and why; a spec is not one.
        InfrastructureError: a channel cannot be reached and nothing is known of it.
    """
    import rattler
    from rattler.exceptions import GatewayError, InvalidMatchSpecError, SolverError

    urls = channel_urls(request)
    arguments: dict[str, Any] = {
        "sources": urls,
        "specs": [_spec(text) for text in request.specs],
        "platforms": [platform, "noarch"],
        "virtual_packages": _virtual_packages(platform, request.virtual_packages),
        "locked_packages": [_record(package, package.url) for package in keep],
    }
    if as_of:
        arguments["exclude_newer"] = _moment(as_of)
    try:
        try:
            found = asyncio.run(rattler.solve(**arguments))
        except GatewayError as error:
            found = _solve_from_memory(arguments, error, on_warning)
    except SolverError as error:
        raise LockError(
            f"conda, {platform}: {_readable(str(error))}", hint="change a spec in conda_packages, or the channels"
        ) from None
    except InvalidMatchSpecError as error:
        raise LockError(f"conda_packages: {error}") from None
    return sorted((_package(record, platform) for record in found), key=lambda package: package.name)


def satisfies(package: CondaPackage, spec: str) -> bool:
    """Whether a locked package is one that a spec (a MatchSpec) asks for."""
    return bool(_spec(spec).matches(_record(package, package.url)))


def spec_name(spec: str) -> str:
    """Returns the name of the package a spec asks for.

    Raises:
        LockError: it is not a spec.
    """
    name = _spec(spec).name
    return str(name.normalized if hasattr(name, "normalized") else name)


def link(
    packages: Sequence[CondaPackage],
    files: Mapping[str, Path],
    stage: Path,
    final: str,
    scratch: Path,
    *,
    beside: CondaPackage | None = None,
) -> None:
    """Links packages into a directory of their own.

    Args:
        files: verified package files, by SHA-256.
        stage: where the prefix is made.
        final: the path it will have; it is what the files in it say.
        scratch: for the unpacked packages; hard links into it are safe, for nobody else has them.
        beside: a Python they are laid out for, which is taken as there and not linked.

    Raises:
        EnvironmentBuildError: a package is broken, or two own one path.
        OSError: the disk is full.
    """
    import rattler

    _check_directories(packages, files, beside)
    records = [_record(package, files[package.sha256].as_uri()) for package in packages]
    if beside is not None:
        there = _write_record(beside, stage)
        records.append(_record(beside, beside.url))
    cache = scratch / "conda-packages"
    try:
        asyncio.run(
            rattler.install(
                records,
                stage,
                cache_dir=cache,
                platform=rattler.Subdir(packages[0].platform),
                show_progress=False,
                execute_link_scripts=False,
                alternative_target_prefix=final,
            )
        )
    except Exception as error:  # rattler's own hierarchy has no root
        number = full_disk_in(str(error))
        if number is not None:
            raise OSError(number, os.strerror(number), str(stage)) from None
        raise EnvironmentBuildError(f"conda packages cannot be linked: {_readable(str(error))}") from None
    shutil.rmtree(cache, ignore_errors=True)
    if beside is not None:
        there.unlink()
    records_of = {file: json.loads(file.read_bytes()) for file in sorted((stage / "conda-meta").glob("*.json"))}
    _check_owners(stage, records_of.values())
    shutil.rmtree(stage / _CLOBBERED, ignore_errors=True)
    for file, content in records_of.items():
        file.unlink()
        file.write_text(json.dumps(_lasting(content), indent=1, sort_keys=True) + "\n")
    (stage / "conda-meta" / "history").write_text("")


def _check_directories(
    packages: Sequence[CondaPackage], files: Mapping[str, Path], beside: CondaPackage | None
) -> None:
    """Refuses what is a file or a link in one package and a directory in another: what came of it would be chance.

    Packages are asked, before anything is linked: linking then fails, or not, as its threads happen to run.
    """
    owners: dict[str, set[str]] = {}
    python = next((item for item in (*packages, beside) if item is not None and item.name == "python"), None)
    for package in packages:
        for path in _paths(files[package.sha256]):
            place = _noarch_place(path, python) if package.subdir == "noarch" else path
            owners.setdefault(place, set()).add(package.name)
    pairs = ((path, owners[path] | owners[below]) for path, below in nested(owners))
    _refuse({path: names for path, names in pairs if len(names) > 1})


def _paths(file: Path) -> Iterator[str]:
    """Yields the files and links of a package; a broken one has none, which linking it says better."""
    from rattler.package import PathsJson

    try:
        entries = PathsJson.from_package_archive(file).paths
    except Exception:  # rattler's own hierarchy has no root
        return
    yield from (entry.relative_path.as_posix() for entry in entries if not entry.path_type.directory)


def _noarch_place(path: str, python: CondaPackage | None) -> str:
    """Returns where a file of a package without architecture comes to lie (CEP 20)."""
    top, _, rest = path.partition("/")
    if top == "python-scripts":
        return f"bin/{rest}"
    if top == "site-packages" and python is not None:
        return f"lib/python{'.'.join(python.version.split('.')[:2])}/{path}"
    return path


def _refuse(shared: Mapping[str, Iterable[str]]) -> None:
    if shared:
        listed = "\n".join(f"  {path}: {' and '.join(sorted(found))}" for path, found in sorted(shared.items())[:10])
        raise EnvironmentBuildError(f"two conda packages own one path\n{listed}", hint="drop one of them")


def _write_record(package: CondaPackage, prefix: Path) -> Path:
    """Writes conda's record of a package that owns no file here."""
    content = {
        "name": package.name,
        "version": package.version,
        "build": package.build,
        "build_number": 0,
        "subdir": package.subdir,
        "depends": list(package.depends),
        "fn": package.filename,
        "url": package.url,
        "channel": package.url.rsplit("/", 2)[0],
        "sha256": package.sha256,
        "md5": package.md5,
        "files": [],
        "paths_data": {"paths_version": 1, "paths": []},
    }
    path = prefix / "conda-meta" / f"{package.name}-{package.version}-{package.build}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def owned_files(prefix: Path) -> dict[str, list[str]]:
    """Returns the files of each conda package of a prefix, its record among them.

    Raises:
        EnvironmentBuildError: a file belongs to no package.
    """
    owned: dict[str, list[str]] = {}
    for file in sorted((prefix / "conda-meta").glob("*.json")):
        content = json.loads(file.read_bytes())
        owned[content["name"]] = [*content["files"], f"conda-meta/{file.name}"]
    known = {path for paths in owned.values() for path in paths} | {"CACHEDIR.TAG", "conda-meta/history"}
    for place, directories, names in os.walk(prefix):
        links = [name for name in directories if os.path.islink(os.path.join(place, name))]
        for name in (*names, *links):
            path = os.path.relpath(os.path.join(place, name), prefix)
            if path not in known:
                raise EnvironmentBuildError(f"{path}: was linked and belongs to no conda package")
    return owned


def _check_owners(prefix: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Refuses a path that two packages own with different contents: which one it got is an accident of order."""
    owners: dict[str, dict[str, str]] = {}
    for content in records:
        for item in content["paths_data"]["paths"]:
            owners.setdefault(item.get("original_path") or item["_path"], {})[content["name"]] = item["_path"]
    shared = {path: found for path, found in owners.items() if len(set(found.values())) > 1}
    differ = (path for path, found in shared.items() if not _all_the_same([prefix / place for place in found.values()]))
    _refuse({path: shared[path] for path in differ})


def _all_the_same(files: Sequence[Path]) -> bool:
    return all(same_file(files[0], file) for file in files[1:])


def _lasting(record: dict[str, Any]) -> dict[str, Any]:
    """Returns one of conda's records without where, when and in which order things were linked.

    Of two packages with the same file rattler puts one aside, as it happens to come; both own the one there is.
    """
    for key in ("extracted_package_dir", "package_tarball_full_path", "link", "url", "channel"):
        record.pop(key, None)
    items = record["paths_data"]["paths"]
    moved = {item["_path"]: item.pop("original_path") for item in items if "original_path" in item}
    for item in items:
        item["_path"] = moved.get(item["_path"], item["_path"])
    items.sort(key=lambda item: str(item["_path"]))
    record["files"] = sorted(moved.get(path, path) for path in record["files"])
    return record


def _solve_from_memory(arguments: Mapping[str, Any], error: Exception, on_warning: Any) -> list[RepoDataRecord]:
    import rattler
    from rattler.exceptions import GatewayError

    gateway = rattler.Gateway(default_config=rattler.SourceConfig(cache_action="force-cache-only"))
    try:
        found = asyncio.run(rattler.solve(**arguments, gateway=gateway))
    except GatewayError:
        raise InfrastructureError(
            f"a channel cannot be read: {_readable(str(error))}", hint="check [environment] channels and the network"
        ) from None
    if on_warning is not None:
        on_warning(f"a channel cannot be reached, locked from what was read of it before: {_readable(str(error))}")
    return found


def _spec(text: str) -> Any:
    import rattler
    from rattler.exceptions import InvalidMatchSpecError

    try:
        return rattler.MatchSpec(text)
    except InvalidMatchSpecError as error:
        raise LockError(f"conda_packages: `{text}` is not a conda spec: {error}") from None


def _virtual_packages(platform: str, declared: Sequence[tuple[str, str]]) -> list[Any]:
    import rattler

    made: list[Any] = []
    for name, value in sorted({**_VIRTUAL[platform], **dict(declared)}.items()):
        version, _, build = value.partition("=")
        try:
            parts = (rattler.PackageName(name), rattler.Version(version), rattler.BuildString(build or "0"))
        except Exception as error:
            raise LockError(f"environment.virtual_packages.{name}: got {value!r}: {error}") from None
        made.append(rattler.GenericVirtualPackage(*parts))
    return made


def _package(record: RepoDataRecord, platform: str) -> CondaPackage:
    name = record.name.normalized
    if record.sha256 is None or record.md5 is None:
        missing = "sha256" if record.sha256 is None else "md5, which conda-lock's format wants"
        raise LockError(f"{name} {record.version}: its channel gives no {missing}, so it cannot be locked")
    return CondaPackage(
        name=name,
        version=str(record.version),
        build=str(record.build),
        filename=str(record.file_name),
        sha256=record.sha256.hex(),
        md5=record.md5.hex(),
        url=public_url(str(record.url)),
        platform=platform,
        depends=tuple(sorted(text for text in map(str, record.depends) if not text.startswith("__"))),
    )


def _record(package: CondaPackage, url: str) -> RepoDataRecord:
    import rattler

    record = rattler.PackageRecord(
        name=package.name,
        version=package.version,
        build=rattler.BuildString(package.build),
        build_number=0,
        subdir=package.subdir,
        depends=list(package.depends),
        sha256=bytes.fromhex(package.sha256),
        md5=bytes.fromhex(package.md5) if package.md5 else None,
    )
    return rattler.RepoDataRecord(record, package.filename, url, url.rsplit("/", 2)[0])


def _moment(date: str) -> datetime.datetime:
    text = date if "T" in date else f"{date}T23:59:59Z"
    moment = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)


def _readable(text: str) -> str:
    """Returns rattler's explanation without drawing."""
    drawn = str.maketrans(dict.fromkeys("├└│─", " "))
    lines = [line.translate(drawn).strip() for line in text.strip().splitlines()]
    return "\n  ".join(line.removeprefix("Cannot solve the request because of: ") for line in lines if line)
