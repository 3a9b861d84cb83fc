"""What one rank's record means, and what ranks do not agree on."""

from __future__ import annotations

from typing import Any

import pytest

from repro_est.hostside.verdicts import disagreements, in_words, is_success, most_common


@pytest.mark.parametrize(
    ("record", "good", "words"),
    [
        ({"exit_code": 0}, True, "exit code 0"),
        ({"exit_code": 1}, False, "exit code 1"),
        ({"exit_code": None, "signal": "SIGKILL"}, False, "was killed by SIGKILL"),
        ({"exit_code": None, "vanished": True}, False, "vanished: it was killed together with its supervisor"),
        ({"exit_code": None, "message": "no such file"}, False, "no such file"),
        ({"exit_code": 0, "canceled": True}, False, "exit code 0"),
        ({"exit_code": 0, "timed_out": True}, False, "exit code 0"),
        ({}, False, "exit code None"),
    ],
)
def test_only_a_script_that_ended_by_itself_with_0_is_good(record: dict[str, Any], good: bool, words: str) -> None:
    assert (is_success(record), in_words(record)) == (good, words)


def attest(host: str, **identity: Any) -> dict[str, Any]:
    return {"host": host, "identity": identity}


def test_ranks_that_agree_disagree_on_nothing() -> None:
    assert disagreements({0: attest("h1", a=1), 1: attest("h2", a=1)}, {"a": 1}) == []
    assert disagreements({}, {"a": 1}) == []


def test_without_a_word_of_the_controller_most_are_right_and_of_two_the_first() -> None:
    ranks = {0: attest("h1", a=1), 1: attest("h1", a=[2]), 2: attest("h2", a=[2])}
    assert disagreements(ranks, {}) == [{"rank": 0, "host": "h1", "key": "a", "got": 1, "expected": [2]}]
    del ranks[2]
    assert [item["rank"] for item in disagreements(ranks, {})] == [1]


def test_what_a_rank_does_not_say_is_a_difference() -> None:
    ranks = {0: attest("h1", a=1), 1: attest("h2")}
    assert disagreements(ranks, {"a": 1}) == [{"rank": 1, "host": "h2", "key": "a", "got": None, "expected": 1}]


def test_the_most_common_value_may_be_of_any_kind() -> None:
    assert most_common([]) is None
    assert most_common([{"a": 1}, [1], [1]]) == [1]
