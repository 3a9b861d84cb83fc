"""What several nodes wrote is brought together: nothing is lost, nothing is overwritten, nothing gets out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from repro_est.hosts.host import HostError, HostLost
from repro_est.hosts.inventory import HostSpec
from repro_est.hosts.local import LocalHost
from repro_est.hosts.session import Session
from repro_est.hostside import runs
from repro_est.hostside.objects import remove_tree
from repro_est.launch.streams import directory_of
from repro_est.targets.gather import Taken, gather_logs, gather_tree, is_below


class Node:
    """A host of this machine with an attempt on it, whose scripts have ended."""

    def __init__(self, root: Path, rank: int) -> None:
        self.rank, self.token = rank, "unit" + os.urandom(6).hex()
        self.session = Session(LocalHost(HostSpec(f"h{rank}", store=str(root / f"host{rank}"), is_local=True)))
        self.session.open()
        self.directory = Path(runs.create(str(root / f"host{rank}"), self.token, {}))
        self.outputs = self.directory / "source/outputs"
        self.outputs.mkdir()

    def write(self, name: str, data: str, mode: int = 0o644) -> None:
        path = self.outputs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)
        path.chmod(mode)

    def close(self) -> None:
        self.session.close()
        os.unlink(runs.link(self.token))
        remove_tree(str(self.directory))


class Nodes:
    def __init__(self, root: Path, count: int = 2) -> None:
        self.all = [Node(root, 2 * number) for number in range(count)]
        self.here = root / "here/outputs"
        self.here.mkdir(parents=True)
        self.taken = Taken()

    def gather(self) -> list[str]:
        return [problem for node in self.all for problem in self.gather_one(node)]

    def gather_one(self, node: Node) -> list[str]:
        return gather_tree(node.session, node.token, "source/outputs", self.here, rank=node.rank, taken=self.taken)

    def files(self) -> dict[str, str]:
        return {
            str(path.relative_to(self.here)): f"-> {os.readlink(path)}" if path.is_symlink() else path.read_text()
            for path in sorted(self.here.rglob("*"))
            if path.is_symlink() or path.is_file()
        }


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path)
    yield nodes
    for node in nodes.all:
        node.close()


def test_what_is_the_same_is_kept_once_and_what_differs_beside(nodes: Nodes) -> None:
    for node in nodes.all:
        node.write("model.pt", "same")
        node.write("empty", "")
        node.write("log/rank.txt", f"I am {node.rank}")
        node.write(f"shards/{node.rank}.pt", str(node.rank))
    assert nodes.gather() == []
    assert nodes.files() == {
        "empty": "",
        "log/rank.txt": "I am 0",
        "model.pt": "same",
        "rank-2/log/rank.txt": "I am 2",
        "shards/0.pt": "0",
        "shards/2.pt": "2",
    }


def test_an_exec_bit_is_kept_and_is_a_difference(nodes: Nodes) -> None:
    for node, mode in zip(nodes.all, (0o755, 0o644), strict=True):
        node.write("tool", "x", mode)
    nodes.gather()
    assert [os.access(nodes.here / name, os.X_OK) for name in ("tool", "rank-2/tool")] == [True, False]


def test_a_file_where_another_node_has_a_directory(nodes: Nodes) -> None:
    first, second = nodes.all
    first.write("a", "file")
    second.write("a/b", "below")
    first.write("c/d", "below")
    second.write("c", "file")
    assert nodes.gather() == []
    assert nodes.files() == {"a": "file", "c/d": "below", "rank-2/a/b": "below", "rank-2/c": "file"}


def test_empty_directories_are_no_conflict(nodes: Nodes) -> None:
    first, second = nodes.all
    for node in nodes.all:
        (node.outputs / "both").mkdir()
    (first.outputs / "checkpoints").mkdir()
    second.write("checkpoints/2.pt", "2")
    first.write("plots/0.png", "0")
    (second.outputs / "plots").mkdir()
    assert nodes.gather() == []
    assert nodes.files() == {"checkpoints/2.pt": "2", "plots/0.png": "0"}
    assert (nodes.here / "both").is_dir()
    assert not (nodes.here / "rank-2").exists()


def test_a_script_may_have_names_as_ours(nodes: Nodes) -> None:
    first, second = nodes.all
    first.write("x", "0")
    first.write("rank-2", "mine")
    second.write("x", "2")
    second.write("rank-2/x", "hers")
    assert nodes.gather() == []
    assert sorted(nodes.files().values()) == ["0", "2", "hers", "mine"]
    assert (nodes.here / "rank-2").read_text() == "mine"


def test_links_come_as_links_and_nothing_is_written_through_them(nodes: Nodes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first, second = nodes.all
    for name in ("d", "rank-2"):
        (first.outputs / name).symlink_to(outside)
    second.write("d/evil", "x")
    (second.outputs / "link").symlink_to("/etc/passwd")
    (first.outputs / "link").symlink_to("/etc/passwd")
    assert nodes.gather() == []
    assert os.listdir(outside) == []
    assert nodes.files() == {
        "d": f"-> {outside}",
        "link": "-> /etc/passwd",
        "rank-2": f"-> {outside}",
        "rank-2-2/d/evil": "x",
    }


def test_what_cannot_be_kept_is_named_and_the_rest_kept(nodes: Nodes) -> None:
    first, second = nodes.all
    os.mkfifo(first.outputs / "pipe")
    with open(os.fsencode(str(first.outputs)) + b"/caf\xe9", "wb"):
        pass
    first.write("kept", "x")
    second.write("two", "2")
    reason = "is no regular file, or its name is not UTF-8"
    assert sorted(nodes.gather()) == [f"outputs/{name}: {reason}" for name in ("caf\\xe9", "pipe")]
    assert nodes.files() == {"kept": "x", "two": "2"}


def test_a_file_that_goes_before_it_is_fetched_is_named_and_hides_no_other(
    nodes: Nodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = nodes.all
    first.write("state", "0")
    second.write("state", "")
    fetch = Session.fetch

    def late(self: Session, *arguments: object) -> list[tuple[int, str]]:
        (first.outputs / "state").unlink(missing_ok=True)
        return fetch(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "fetch", late)
    assert nodes.gather() == ["outputs/state: No such file or directory"]
    assert nodes.files() == {"rank-2/state": ""}


def test_outputs_that_were_removed_are_told(nodes: Nodes) -> None:
    remove_tree(str(nodes.all[0].outputs))
    assert nodes.gather() == ["outputs/: the script removed or replaced the directory"]


def test_a_connection_that_breaks_is_told_and_all_is_there_the_next_time(nodes: Nodes, tmp_path: Path) -> None:
    first, second = nodes.all
    first.write("large", "x" * (3 << 20))
    second.write("other", "y")
    os.kill(first.session.call("hello")["pid"], 9)
    with pytest.raises(HostLost):
        nodes.gather()
    first.session.close()
    nodes.here, nodes.taken = tmp_path / "again", Taken()
    assert nodes.gather() == []
    assert {name: len(text) for name, text in nodes.files().items()} == {"large": 3 << 20, "other": 1}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", ".", ""])
def test_a_name_that_leads_elsewhere_is_refused(nodes: Nodes, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert not is_below(name)
    monkeypatch.setattr(Session, "call", lambda *_, **__: {"entries": [[name, "f", "", 1]]})
    with pytest.raises(HostError, match="lists"):
        nodes.gather_one(nodes.all[0])


def test_many_files_are_placed_in_no_time() -> None:
    taken = Taken()
    for number in range(20_000):
        taken.add(f"shard/{number}", "f", "")
    assert [taken.place_for(f"shard/{number}x", 1) for number in range(20_000)][-1] == "shard/19999x"


# ---- logs


def test_logs_are_completed_and_corrected(nodes: Nodes, tmp_path: Path) -> None:
    node, logs = nodes.all[0], tmp_path / "logs"
    for name, text in (("0", "all of it"), ("1", "right"), ("2", "short"), ("3", "same"), ("launcher", "mpi")):
        (node.directory / "ranks" / name).mkdir()
        (node.directory / "ranks" / name / "stdout.log").write_text(text)
    (node.directory / "timeline").write_text("1.000 0 stdout 9\n")
    (node.directory / "node.log").write_text("Traceback\n")
    for name, text in (("0", "all "), ("1", "wrong"), ("2", "much longer"), ("3", "same")):
        (logs / f"rank-{name}").mkdir(parents=True)
        (logs / f"rank-{name}/stdout.log").write_text(text)
    before = (logs / "rank-3/stdout.log").stat().st_mtime_ns
    assert gather_logs(node.session, node.token, logs, directory_of, ["timeline"]) == "1.000 0 stdout 9\n"
    assert {path.parent.name: path.read_text() for path in logs.rglob("stdout.log")} == {
        "rank-0": "all of it",
        "rank-1": "right",
        "rank-2": "short",
        "rank-3": "same",
        "launcher": "mpi",
    }
    assert (logs / "rank-3/stdout.log").stat().st_mtime_ns == before
    assert (logs / "hosts/h0.log").read_text() == "Traceback\n"
