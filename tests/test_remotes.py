"""What every remote promises, held against a directory, a real sshd and a server that speaks S3."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repro_est.digest import sha256_hex
from repro_est.errors import RemoteError, UsageError, VerificationError
from repro_est.share.directory import DirectoryRemote
from repro_est.share.packs import Catalog, index_name, pack_name, plan_packs
from repro_est.share.remote import Remote, Upload, check_format, read_small
from repro_est.share.settings import RemoteSpec, When
from repro_est.share.ssh import SshRemote
from tests.s3 import new_bucket, s3
from tests.sshd import free_port, sshds

__all__ = ["s3"]


_buckets = iter(range(1000))


def bucket(url: str, patch: pytest.MonkeyPatch) -> Remote:
    """Returns a new, empty bucket, with a prefix."""
    from repro_est.share.bucket import BucketRemote

    name = f"team-{next(_buckets)}"
    new_bucket(url, name, patch)
    return BucketRemote.at(RemoteSpec("team", f"s3://{name}/some/prefix"))


@pytest.fixture(params=["directory", "ssh", "bucket"])
def remote(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Remote]:
    if request.param == "directory":
        (tmp_path / "shared").mkdir()
        yield DirectoryRemote("team", tmp_path / "shared")
    elif request.param == "ssh":
        (tmp_path / "shared").mkdir()
        with sshds(tmp_path) as start:
            found = SshRemote("team", start("Subsystem sftp internal-sftp").host(), str(tmp_path / "shared"))
            yield found
            found.close()
    else:
        yield bucket(request.getfixturevalue("s3"), monkeypatch)


def test_what_is_written_reads_back_whole_and_in_parts(remote: Remote) -> None:
    data = os.urandom(3_000_000)
    remote.write([Upload.of("objects/ab/one", data), Upload.of("objects/cd/empty", b"")])
    assert b"".join(remote.read("objects/ab/one")) == data
    assert b"".join(remote.read("objects/ab/one", 1_000_000, 1_500_000)) == data[1_000_000:2_500_000]
    assert b"".join(remote.read("objects/ab/one", 2_999_990)) == data[-10:]
    assert b"".join(remote.read("objects/cd/empty")) == b""


def test_an_object_larger_than_one_request_reads_back(remote: Remote) -> None:
    data = os.urandom(20 << 20)
    remote.write(
        [Upload("objects/ab/large", len(data), lambda: [data[i : i + 65536] for i in range(0, len(data), 65536)])]
    )
    assert sha256_hex(b"".join(remote.read("objects/ab/large"))) == sha256_hex(data)
    assert remote.exists(["objects/ab/large"]) == {"objects/ab/large": len(data)}


def test_what_is_there_is_known_with_its_size(remote: Remote) -> None:
    names = [f"objects/{number % 3:02x}/{number}" for number in range(60)]
    assert remote.exists(names) == {}
    remote.write([Upload.of(name, name.encode()) for name in names[:40]])
    assert remote.exists(names) == {name: len(name) for name in names[:40]}
    assert remote.exists(names[:2]) == {name: len(name) for name in names[:2]}
    assert remote.exists(["nowhere/x"]) == {}


def test_what_is_below_a_directory_is_listed(remote: Remote) -> None:
    remote.write([Upload.of("runs/a/1.json", b"1"), Upload.of("runs/a/2.json", b"22"), Upload.of("runs/b/1.json", b"")])
    assert sorted(remote.below("runs/a/")) == [("runs/a/1.json", 1), ("runs/a/2.json", 2)]
    assert len(list(remote.below("runs/"))) == 3
    assert list(remote.below("runs/c/")) == []


def test_what_is_not_there_cannot_be_read(remote: Remote) -> None:
    with pytest.raises(FileNotFoundError):
        list(remote.read("objects/ab/none"))
    with pytest.raises(FileNotFoundError):
        read_small(remote, "format", limit=10)


def test_a_name_is_created_once_and_replaced_as_a_whole(remote: Remote) -> None:
    assert remote.create("leases/x", b"one")
    assert not remote.create("leases/x", b"two")
    assert read_small(remote, "leases/x", limit=10) == b"one"
    remote.replace("leases/x", b"three")
    assert read_small(remote, "leases/x", limit=10) == b"three"
    remote.delete("leases/x")
    remote.delete("leases/x")
    assert remote.create("leases/x", b"four")


def test_of_many_who_create_the_same_name_one_succeeds(remote: Remote) -> None:
    won: list[bool] = []
    threads = [threading.Thread(target=lambda: won.append(remote.create("leases/y", b"x"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def _cut_off(size: int) -> Upload:
    def chunks() -> Iterator[bytes]:
        yield bytes(size - 1)
        raise VerificationError("the source went bad")

    return Upload("objects/ab/cut", size, chunks)


@pytest.mark.parametrize("size", [1000, 12 << 20])
def test_an_upload_that_fails_on_the_way_leaves_nothing(size: int, remote: Remote) -> None:
    with pytest.raises(VerificationError, match="went bad"):
        remote.write([_cut_off(size)])
    assert remote.exists(["objects/ab/cut"]) == {}
    assert [item for item in remote.below("incoming/") if item.size] == []


def test_an_object_that_is_larger_than_its_kind_is_not_read(remote: Remote) -> None:
    remote.write([Upload.of("plans/x", bytes(5000))])
    with pytest.raises(RemoteError, match="larger than 100"):
        read_small(remote, "plans/x", limit=100)


def test_a_newer_format_is_refused(remote: Remote) -> None:
    check_format(remote, make=True)
    check_format(remote, make=False)
    remote.replace("format", b"7\n")
    with pytest.raises(UsageError, match="has format 7"):
        check_format(remote, make=False)


def test_many_small_files_are_two_objects_and_each_is_found(remote: Remote, tmp_path: Path) -> None:
    files = {sha256_hex(str(n).encode()): str(n).encode() for n in range(2000)}
    (plan,) = plan_packs((name, len(data)) for name, data in files.items())
    content = b"".join(files[name] for name in plan.files)
    remote.write([Upload.of(pack_name(plan.name), content)])
    remote.write([Upload.of(index_name(plan.name), plan.content)])
    catalog = Catalog(remote, tmp_path / "cache")
    assert catalog.all() == [plan.name]
    places = catalog.find(files, catalog.all())
    assert places.keys() == files.keys()
    for name in list(files)[:5]:
        place = places[name]
        assert b"".join(remote.read(pack_name(place.pack), place.offset, place.size)) == files[name]
    remote.delete(index_name(plan.name))
    assert len(catalog.find(files, [plan.name])) == 2000  # it was kept


def test_an_index_that_is_not_what_it_is_named_for_is_not_used(remote: Remote, tmp_path: Path) -> None:
    files = [(sha256_hex(str(n).encode()), 1) for n in range(9)]
    (plan,) = plan_packs(files)
    remote.write([Upload.of(index_name(plan.name), plan.content[:-48])])
    assert Catalog(remote, tmp_path / "cache").find(dict(files), [plan.name]) == {}


def test_the_same_files_make_the_same_pack() -> None:
    files = [(sha256_hex(str(n).encode()), 1) for n in range(100)]
    assert list(plan_packs(files)) == list(plan_packs(reversed(files)))


# ---- a directory


def test_a_directory_that_is_missing_is_not_made(tmp_path: Path) -> None:
    remote = DirectoryRemote("team", tmp_path / "unmounted")
    for act in (lambda: remote.exists(["x"]), lambda: remote.create("x", b""), lambda: list(remote.below("runs/"))):
        with pytest.raises(RemoteError, match="there is no directory"):
            act()
    assert not (tmp_path / "unmounted").exists()


def test_directories_take_the_mode_of_the_root(tmp_path: Path) -> None:
    root = tmp_path / "shared"
    root.mkdir()
    root.chmod(0o2775)
    DirectoryRemote("team", root).write([Upload.of("objects/ab/x", b"1")])
    assert (root / "objects").stat().st_mode & 0o7777 == 0o2775
    assert (root / "objects" / "ab").stat().st_mode & 0o7777 == 0o2775
    assert (root / "objects" / "ab" / "x").stat().st_mode & 0o777 == 0o444


def test_a_full_disk_is_said_in_words(small_disk: Callable[[int], Path]) -> None:
    remote = DirectoryRemote("team", small_disk(1 << 20))
    with pytest.raises(RemoteError, match="no space left") as caught:
        remote.write([Upload.of(f"objects/ab/{n}", os.urandom(300_000)) for n in range(6)])
    assert "the next push goes on" in (caught.value.hint or "")
    assert list(remote.below("incoming/")) == []


# ---- a host behind SSH


def test_a_host_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    with sshds(tmp_path) as start:
        sshd = start("Subsystem sftp internal-sftp")
        gone = SshRemote("team", sshd.host(port=free_port(), connect_seconds=1.0), "/x")
        with pytest.raises(Exception, match="nothing listens"):
            gone.exists(["x"])
        no_root = SshRemote("team", sshd.host(), str(tmp_path / "none"))
        with pytest.raises(RemoteError, match="there is no directory"):
            no_root.write([Upload.of("objects/ab/x", b"1")])
        no_root.close()


def test_a_full_disk_of_a_host_leaves_no_half_object(tmp_path: Path, small_disk: Callable[[int], Path]) -> None:
    place = small_disk(1 << 20)
    with sshds(tmp_path) as start:
        remote = SshRemote("team", start("Subsystem sftp internal-sftp").host(), str(place))
        with pytest.raises(RemoteError):
            remote.write([Upload.of(f"objects/ab/{n}", os.urandom(300_000)) for n in range(6)])
        for item in remote.below("objects/"):
            assert item.size == 300_000
        remote.close()


# ---- a bucket


def test_a_bucket_that_is_not_there_is_said_so(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from repro_est.share.bucket import BucketRemote

    bucket(s3, monkeypatch)
    gone = BucketRemote.at(RemoteSpec("team", "s3://no-such-bucket-here/x"))
    with pytest.raises((RemoteError, FileNotFoundError)):
        gone.create("format", b"1\n")


def test_a_remote_is_written_to_when_it_may_be() -> None:
    assert RemoteSpec("x", "file:///x").is_writable
    assert not RemoteSpec("x", "file:///x", read_only=True).is_writable
    assert not RemoteSpec("x", "file:///x", push=When.NEVER).is_writable
