"""Logs of many ranks: each byte once, whole lines with their rank, and one driver log in the order of time."""

from __future__ import annotations

import os
import re
import resource
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.launch import streams
from repro_est.launch.streams import Logs, Mark, Prefixed, parse_timeline, write_driver_log


class Screen:
    def __init__(self) -> None:
        self.text: dict[str, bytes] = {"stdout": b"", "stderr": b""}
        self.longest = 0

    def __call__(self, stream: str, data: bytes) -> None:
        self.text[stream] += data if len(data) < 1000 else b"<%d>" % len(data)
        self.longest = max(self.longest, len(data))


# ---- files


def test_each_byte_is_kept_once_whatever_is_sent_twice(tmp_path: Path) -> None:
    logs = Logs(tmp_path)
    logs.add("3", "stdout", 0, b"hello ")
    logs.add("3", "stdout", 0, b"hello ")
    logs.add("3", "stdout", 3, b"lo world")
    logs.add("3", "stdout", 20, b"a piece is missing before this")
    logs.add("3", "stderr", 0, b"err")
    logs.add("launcher", "stderr", 0, b"mpi")
    logs.close()
    assert (tmp_path / "rank-3/stdout.log").read_bytes() == b"hello world"
    assert (tmp_path / "rank-3/stderr.log").read_bytes() == b"err"
    assert (tmp_path / "launcher/stderr.log").read_bytes() == b"mpi"


def test_it_goes_on_where_another_client_stopped(tmp_path: Path) -> None:
    first = Logs(tmp_path)
    first.add("0", "stdout", 0, b"one\n")
    first.close()
    second = Logs(tmp_path)
    assert second.offsets() == [["0", "stdout", 4]]
    second.add("0", "stdout", 4, b"two\n")
    second.close()
    third = Logs(tmp_path)  # that did not ask for the offsets
    third.add("0", "stdout", 0, b"one\ntwo\nthree\n")
    third.close()
    assert (tmp_path / "rank-0/stdout.log").read_bytes() == b"one\ntwo\nthree\n"


@given(st.binary(min_size=1, max_size=60), st.data())
def test_any_order_of_overlapping_pieces_never_spoils_a_file(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("logs")
    logs = Logs(root)
    for _ in range(data.draw(st.integers(0, 8))):
        start = data.draw(st.integers(0, len(whole)))
        end = data.draw(st.integers(start, len(whole)))
        logs.add("0", "stdout", start, whole[start:end])
    logs.add("0", "stdout", 0, whole)
    logs.close()
    assert (root / "rank-0/stdout.log").read_bytes() == whole


# ---- what a person sees


def test_lines_carry_their_rank_and_never_mix() -> None:
    screen = Screen()
    shown = Prefixed(screen)
    shown.add("0", "stdout", b"loss ")
    shown.add("1", "stdout", b"hello\nwor")
    shown.add("0", "stdout", b"0.5\n")
    shown.add("1", "stdout", b"ld\n")
    shown.add("launcher", "stderr", b"bye\n")
    assert screen.text == {"stdout": b"[1] hello\n[0] loss 0.5\n[1] world\n", "stderr": b"[launcher] bye\n"}


def test_a_part_of_a_line_waits_but_not_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen()
    shown = Prefixed(screen)
    shown.add("0", "stdout", b"password? ")
    shown.flush()
    assert screen.text["stdout"] == b""
    monkeypatch.setattr(streams, "_PATIENCE_SECONDS", -1.0)
    shown.flush()
    shown.flush(everything=True)
    assert screen.text["stdout"] == b"[0] password? \n"


def test_only_the_ranks_that_were_asked_for_are_shown() -> None:
    screen = Screen()
    shown = Prefixed(screen, only=[1])
    for name in ("0", "1", "launcher"):
        shown.add(name, "stdout", b"x\n")
    assert screen.text["stdout"] == b"[1] x\n"


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        (b"10%\r50%\r99%\n", b"99%"),
        (b"windows\r\n", b"windows"),
        (b"50%\r100%\r\n", b"100%"),
        (b"\r\n", b""),
        (b"\n", b""),
    ],
)
def test_of_what_was_written_over_only_the_last_is_seen(line: bytes, seen: bytes) -> None:
    screen = Screen()
    Prefixed(screen).add("0", "stdout", line)
    assert screen.text["stdout"] == b"[0] " + seen + b"\n"


def test_a_line_without_end_is_shown_in_parts_and_in_bounded_memory(tmp_path: Path) -> None:
    screen = Screen()
    logs = Logs(tmp_path, Prefixed(screen))
    piece = b"x" * (1 << 18)
    tracemalloc.start()
    for number in range(800):  # 200 MB
        logs.add("0", "stdout", number << 18, piece)
    logs.close()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert screen.longest < 70_000
    assert (tmp_path / "rank-0/stdout.log").stat().st_size == 800 << 18


# ---- the driver log


def write(root: Path, name: str, data: bytes, stream: str = "stdout") -> None:
    path = root / name / f"{stream}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def driver(root: Path) -> list[str]:
    return (root / "driver.log").read_text().splitlines()


def test_lines_of_all_ranks_stand_in_the_order_of_time(tmp_path: Path) -> None:
    write(tmp_path, "rank-0", b"a\nc\n")
    write(tmp_path, "rank-1", b"b\nd")
    write(tmp_path, "launcher", b"e\n", "stderr")
    first = parse_timeline("1000.000 0 stdout 2\n1002.250 0 stdout 4\n1004.000 launcher stderr 2\n")
    second = parse_timeline("1001.000 1 stdout 2\n1003.000 1 stdout 3\n")
    write_driver_log(tmp_path, [first, second], [0.0, 0.0])
    assert driver(tmp_path) == [
        "00:16:40.000 rank 0 | a",
        "00:16:41.000 rank 1 | b",
        "00:16:42.250 rank 0 | c",
        "00:16:43.000 rank 1 | d",
        "00:16:44.000 launcher err | e",
    ]


def test_clocks_that_differ_are_taken_into_account(tmp_path: Path) -> None:
    write(tmp_path, "rank-0", b"first\nthird\n")
    write(tmp_path, "rank-1", b"second\n")
    ahead = [Mark(3601.0, "1", "stdout", 7)]
    write_driver_log(tmp_path, [[Mark(0.5, "0", "stdout", 6), Mark(2.0, "0", "stdout", 12)], ahead], [0.0, 3600.0])
    assert [line.rpartition("| ")[2] for line in driver(tmp_path)] == ["first", "second", "third"]


def test_a_clock_that_was_set_back_does_not_turn_lines_round(tmp_path: Path) -> None:
    write(tmp_path, "rank-0", b"1\n2\n3\n")
    marks = [Mark(100.0, "0", "stdout", 2), Mark(50.0, "0", "stdout", 4), Mark(101.0, "0", "stdout", 6)]
    write_driver_log(tmp_path, [marks], [0.0])
    assert [line[-1] for line in driver(tmp_path)] == ["1", "2", "3"]


def test_a_line_has_the_time_at_which_it_was_complete(tmp_path: Path) -> None:
    write(tmp_path, "rank-0", b"begun and ended\n")
    write_driver_log(tmp_path, [[Mark(1.0, "0", "stdout", 5), Mark(9.0, "0", "stdout", 16)]], [0.0])
    assert driver(tmp_path) == ["00:00:09.000 rank 0 | begun and ended"]


def test_what_the_timeline_does_not_know_comes_last_and_a_lost_file_not_at_all(tmp_path: Path) -> None:
    write(tmp_path, "rank-0", b"known\nmore\n")
    write_driver_log(tmp_path, [[Mark(1.0, "0", "stdout", 6), Mark(2.0, "7", "stdout", 10)]], [0.0])
    assert [line.rpartition("| ")[2] for line in driver(tmp_path)] == ["known", "more"]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "1.000 0 stdout",
        "x 0 stdout 3",
        "nan 0 stdout 3",
        "1.000 ../.. stdout 3",
        "1.000 0 stdin 3",
        "1.000 0 stdout -1",
        "1.000 0 stdout \u0663",
    ],
)
def test_lines_that_are_none_of_a_timeline_are_left_out(line: str) -> None:
    assert parse_timeline(f"1.000 0 stdout 3\n{line}\n") == [Mark(1.0, "0", "stdout", 3)]


def test_the_driver_log_of_many_ranks_needs_few_open_files(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    marks = []
    for rank in range(200):
        write(tmp_path, f"rank-{rank}", b"x\n")
        marks.append(Mark(float(rank), str(rank), "stdout", 2))
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, hard))
    try:
        write_driver_log(tmp_path, [marks], [0.0])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [re.findall(r"rank (\d+)", line)[0] for line in driver(tmp_path)] == [str(rank) for rank in range(200)]


def test_the_driver_log_of_a_huge_line_is_written_in_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "rank-0").mkdir()
    with open(tmp_path / "rank-0/stdout.log", "wb") as file:
        file.truncate(200 << 20)
    tracemalloc.start()
    write_driver_log(tmp_path, [[Mark(1.0, "0", "stdout", 200 << 20)]], [0.0])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 << 20
    assert (tmp_path / "driver.log").stat().st_size > 200 << 20
