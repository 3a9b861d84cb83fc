"""Executing a run again: what is called reproduced, what is not, and how exactly the difference is told."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro_est.proof.distance import ABSENT, Distance, Tally, distance, first_offset
from repro_est.proof.machines import differing_facts, machine_in_words
from repro_est.recipe.reproducible import EXACT, Determinism, Reproducible, Tolerance
from tests.conftest import Workshop

pytestmark = pytest.mark.usefixtures("unenclosed")  # scripts here look at what is outside

SAME = "import json; open('outputs/a.txt', 'w').write('hello'); json.dump({'acc': 0.5}, open('outputs/metrics.json', 'w'))\n"
COUNTED = """\
import json, os, pathlib, struct
counter = pathlib.Path({counter!r})
number = int(counter.read_text()) if counter.exists() else 0
counter.write_text(str(number + 1))
"""


def varying(workshop: Workshop, script: str, more: str = "", *, name: str = "job") -> str:
    """Writes a recipe whose script knows as `number` how often it was executed, which no honest one would."""
    return workshop.recipe(COUNTED.format(counter=str(workshop.root / f"{name}.count")) + script, more, name=name)


def npy(
    values: list[float], *, descr: str = "<f8", shape: tuple[int, ...] | None = None, fortran: bool = False
) -> bytes:
    codes = {"f8": "d", "f4": "f", "i4": "i", "f2": "e", "i8": "q", "u1": "B"}
    order = "=" if descr[0] == "|" else descr[0]
    header = repr({"descr": descr, "fortran_order": fortran, "shape": shape or (len(values),)}).encode() + b"\n"
    data = struct.pack(f"{order}{len(values)}{codes[descr[1:]]}", *values)
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def apart(tmp_path: Path, name: str, one: bytes, two: bytes, tolerance: Tolerance = EXACT) -> Distance | None:
    (tmp_path / "one").write_bytes(one)
    (tmp_path / "two").write_bytes(two)
    return distance(name, tmp_path / "one", tmp_path / "two", lambda place: tolerance)


# ---- the verb


def test_the_same_bytes_are_called_reproduced_with_class_and_machines_and_the_verdict_is_kept(
    workshop: Workshop,
) -> None:
    run = workshop.run(workshop.recipe(SAME))["run_hash"]
    done = workshop.repro("check", "@")
    assert done.code == 0, done.err
    assert f"run      {run}  reproduced, class bitwise" in done.out
    assert done.out.count(" CPU") == 2
    (verdict,) = workshop.repro("show", "@", "--json").json["verdicts"]
    assert (verdict["reproduced"], verdict["promise"]["class"], verdict["compared"]) == (True, "bitwise", 2)
    assert verdict["expected"]["facts"]["machine"] == verdict["got"]["facts"]["machine"]
    assert "checked  reproduced, bitwise  on" in workshop.repro("show", "@").out


def test_the_attempt_of_a_check_is_kept_and_not_accepted(workshop: Workshop) -> None:
    recipe = varying(workshop, "open('outputs/n', 'w').write(str(number))\n")
    workshop.run(recipe)
    assert workshop.repro("check", "@").code == 4
    shown = workshop.repro("show", "@", "--json").json
    assert [item["accepted"] for item in shown["attempts"]] == [True, False]
    assert (Path(shown["outputs_path"]) / "n").read_text() == "0"
    assert workshop.run(recipe)["cached"] is True


def test_every_output_that_differs_is_named_with_its_first_offset(workshop: Workshop) -> None:
    recipe = varying(
        workshop,
        "open('outputs/a.bin', 'w').write('x' * 5000 + str(number))\n"
        "open('outputs/b.bin', 'w').write('same')\n"
        "open(f'outputs/only-{number}', 'w').write('')\n"
        "os.symlink(f'a{number}', 'outputs/link')\n"
        "open('outputs/mode', 'w').write('m'); os.chmod('outputs/mode', 0o755 if number else 0o644)\n"
        "open('outputs/longer', 'w').write('ab' * (number + 1))\n",
    )
    for target in ("a0", "a1"):
        recipe_script = workshop.root / "job" / "train.py"
        recipe_script.write_text(recipe_script.read_text() + f"open('outputs/{target}', 'w').write('t')\n")
    workshop.run(recipe)
    done = workshop.repro("check", "@", "--json")
    assert done.code == 4
    found = {item["path"]: item for item in done.json["files"]}
    assert set(found) == {
        "outputs/a.bin", "outputs/only-0", "outputs/only-1", "outputs/link", "outputs/mode", "outputs/longer",
    }  # fmt: skip
    assert found["outputs/a.bin"]["offset"] == 5000
    assert found["outputs/longer"]["offset"] == 2
    assert (found["outputs/only-0"]["got"], found["outputs/only-1"]["expected"]) == (None, None)
    assert "executable" in found["outputs/mode"]["got"]
    text = workshop.repro("show", "@").out
    assert "checked  not reproduced, 6 of" in text


TOLERANT = """
[reproducible]
class = "tolerance"
metrics = {acc = 0.01}
files = {"outputs/*.csv" = {rtol = 1e-3}}
ignore = ["outputs/time.txt"]
"""
DRIFTING = """\
json.dump({'acc': 0.5 + number * DRIFT}, open('outputs/metrics.json', 'w'))
open('outputs/w.csv', 'w').write(f'name,value\\na,{1 + number * DRIFT / 100}\\n')
open('outputs/time.txt', 'w').write(str(number))
"""


def test_what_is_within_its_tolerance_is_reproduced_and_told_all_the_same(workshop: Workshop) -> None:
    workshop.run(varying(workshop, DRIFTING.replace("DRIFT", "0.005"), TOLERANT))
    done = workshop.repro("check", "@", "--json")
    assert (done.code, done.json["reproduced"], done.json["promise"]["class"]) == (0, True, "tolerance")
    assert done.json["ignored"] == ["outputs/time.txt"]
    assert {item["path"]: item["tolerated"] for item in done.json["files"]} == {
        "outputs/metrics.json": True, "outputs/w.csv": True,
    }  # fmt: skip
    (table,) = [item for item in done.json["files"] if item["path"] == "outputs/w.csv"]
    assert table["relative_error"] == pytest.approx(5e-5)
    assert table["element"]["place"] == "[1][1]"
    assert [(item["name"], item["tolerated"]) for item in done.json["metrics"]] == [("acc", True)]


def test_what_is_beyond_its_tolerance_is_not(workshop: Workshop) -> None:
    workshop.run(varying(workshop, DRIFTING.replace("DRIFT", "0.02"), TOLERANT))
    done = workshop.repro("check", "@")
    assert done.code == 4
    assert "NOT reproduced, class tolerance" in done.out
    assert "differs  metric acc: 0.5 -> 0.52  (allowed: atol 0.01)" in done.out
    assert "within   outputs/w.csv  (allowed: rtol 0.001)" in done.out
    assert "1 beyond tolerance" not in done.out.split("outputs/w.csv")[1].splitlines()[0]


def test_under_tolerance_what_no_line_speaks_of_must_be_the_same(workshop: Workshop) -> None:
    more = '[reproducible]\nclass = "tolerance"\nmetrics = {acc = 1}\n'
    workshop.run(varying(workshop, "open('outputs/x.csv', 'w').write(f'{1 + number * 1e-9}')\n", more))
    assert workshop.repro("check", "@").code == 4


def test_a_tolerance_does_not_help_where_every_byte_is_asked_for(workshop: Workshop) -> None:
    workshop.run(varying(workshop, DRIFTING.replace("DRIFT", "0.005"), TOLERANT))
    done = workshop.repro("check", "@", "--class", "bitwise", "--json")
    assert (done.code, done.json["promise"]) == (
        4, {"class": "bitwise", "metrics": {}, "files": [], "ignore": ["outputs/time.txt"]},
    )  # fmt: skip


def test_a_recipe_that_promises_nothing_has_nothing_to_reproduce(workshop: Workshop) -> None:
    workshop.run(workshop.recipe(SAME, '[reproducible]\nclass = "none"\n'))
    done = workshop.repro("check", "@")
    assert (done.code, 'class = "none"' in done.err, "--class bitwise" in done.err) == (2, True, True)
    assert workshop.repro("check", "@", "--class", "bitwise").code == 0


def test_a_promise_that_was_written_later_can_be_asked_for(workshop: Workshop) -> None:
    script = DRIFTING.replace("DRIFT", "0.005")
    workshop.run(varying(workshop, script))
    recipe = varying(workshop, script, TOLERANT)
    assert workshop.run(recipe)["cached"] is True
    assert workshop.repro("check", "@").code == 4
    (workshop.root / "job.count").write_text("1")
    assert workshop.repro("check", "@", "--promise", recipe).code == 0


def test_a_run_that_fails_the_second_time_is_a_verdict_too(workshop: Workshop) -> None:
    workshop.run(varying(workshop, "raise SystemExit(number)\n"))
    assert workshop.repro("check", "@").code == 1
    (verdict,) = workshop.repro("show", "@", "--json").json["verdicts"]
    assert (verdict["reproduced"], verdict["got"]["attempt"]) == (False, 2)
    assert "attempt 2" in verdict["failure"]
    assert "not reproduced, it failed" in workshop.repro("show", "@").out


def test_a_result_that_was_tampered_with_is_no_measure(workshop: Workshop) -> None:
    run = workshop.run(workshop.recipe(SAME))["run_hash"]
    store = workshop.store
    from repro_est.digest import RunHash
    from repro_est.store.runs import Runs

    result = Runs(store.layout).result(RunHash(run))
    assert result is not None
    entry = next(store.read_tree(result.outputs).files())
    blob = store.layout.blob(entry.xxh3)
    blob.chmod(0o644)
    blob.write_bytes(b"jello")
    done = workshop.repro("check", "@")
    assert (done.code, "blob" in done.err) == (4, True)


def test_options_of_runs_mean_nothing_for_a_recipe_and_the_other_way_round(workshop: Workshop) -> None:
    recipe = workshop.recipe(SAME)
    assert workshop.repro("check", recipe, "--class", "bitwise").code == 2
    assert workshop.repro("check", recipe).code == 0
    workshop.run(recipe)
    assert workshop.repro("check", "@", "--set", "salt=1").code == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('class = "exact"', 'expected "bitwise" or "tolerance" or "none"'),
        ("metrics = {a = 1}", 'reproducible.metrics: goes with class = "tolerance"'),
        ('class = "tolerance"\nmetrics = {a = -1}', "reproducible.metrics.a: got -1 (integer), expected a number"),
        ('class = "tolerance"\nmetrics = {a = {tol = 1}}', "expected a number, or a table with rtol and atol"),
        ('class = "tolerance"\nfiles = {"w.npy" = 1}', "got 'w.npy', expected a path or glob below `outputs/`"),
        ('ignore = ["/etc"]', "got '/etc', expected a path or glob below `outputs/`"),
    ],
)
def test_a_promise_that_makes_no_sense_is_refused(workshop: Workshop, text: str, expected: str) -> None:
    done = workshop.repro("plan", workshop.recipe("", f"[reproducible]\n{text}\n"))
    assert (done.code, expected in done.err) == (2, True), done.err


# ---- machines


def _at(*hosts: str, cpu: str = "AMD EPYC") -> dict[str, Any]:
    return {
        "target": "lab",
        "hosts": [
            {
                "host": host,
                "address": "10.0.0.1",
                "ranks": [0],
                "clock_skew": 0.1,
                "machine": {"cpu_model": cpu, "cpu_count": 2},
            }
            for host in hosts
        ],
    }


def test_the_hosts_of_a_run_are_named_with_their_hardware() -> None:
    assert machine_in_words(_at("h1", "h2")) == "h1 (AMD EPYC, 2 CPUs); h2 (AMD EPYC, 2 CPUs)"
    gpus = [{"name": "H100", "driver_version": "570.1"}, {"name": "H100", "driver_version": "570.1"}]
    machine = {"hostname": "ada", "cpu": "Xeon", "cpu_count": 1, "memory": 8e9, "gpus": gpus}
    assert machine_in_words({"machine": machine}) == "ada (Xeon, 1 CPU, 8.0 GB; 2 x H100, driver 570.1)"


def test_what_differs_of_two_machines_is_named_and_a_host_less_only_by_its_name() -> None:
    assert differing_facts(_at("h1", "h2"), _at("h1", cpu="Xeon")) == [
        ("hosts.0.machine.cpu_model", "AMD EPYC", "Xeon"),
        ("hosts.1.host", "h2", "-"),
    ]
    moved = _at("h1")
    moved["hosts"][0] |= {"clock_skew": 0.2, "address": "10.0.0.9"}
    assert differing_facts(_at("h1"), moved) == []


# ---- distances


def test_an_array_is_compared_by_its_elements(tmp_path: Path) -> None:
    one, two = npy([1, 2, 3, 4], shape=(2, 2)), npy([1, 2, 3.3, 5], shape=(2, 2))
    found = apart(tmp_path, "w.npy", one, two)
    assert found is not None
    assert (found.compared, found.differing, found.outside) == (4, 2, 2)
    assert found.first is not None
    assert (found.first.place, found.first.expected, found.first.got) == ("[1][0]", "3.0", "3.3")
    assert (found.relative, found.absolute) == (pytest.approx(0.25), pytest.approx(1.0))


def test_an_array_in_fortran_order_has_its_own_places(tmp_path: Path) -> None:
    one, two = (npy([1, 2, 3, 4, x, 6], shape=(2, 3), fortran=True) for x in (5, 5.5))
    found = apart(tmp_path, "w.npy", one, two)
    assert found is not None
    assert found.first is not None
    assert found.first.place == "[0][2]"


def test_arrays_of_any_byte_order_and_size_are_read(tmp_path: Path) -> None:
    for descr in (">f8", "<f4", "<i4", ">i8", "<f2", "|u1"):
        found = apart(tmp_path, "w.npy", npy([1, 2, 4], descr=descr), npy([1, 2, 5], descr=descr))
        assert found is not None
        assert (found.differing, found.relative) == (1, 0.25)


def test_nan_is_near_nan_and_an_infinity_is_near_nothing_else(tmp_path: Path) -> None:
    loose = Tolerance(rtol=1e9, atol=1e9)
    other_nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
    same = apart(tmp_path, "w.npy", npy([math.nan]), npy([other_nan]), loose)
    assert same is not None
    assert same.differing == 0
    for pair in ((math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (1.0, -math.inf), (math.inf, -math.inf)):
        found = apart(tmp_path, "w.npy", npy([pair[0]]), npy([pair[1]]), loose)
        assert found is not None
        assert (found.outside, found.absolute) == (1, math.inf)


def test_another_shape_is_a_difference_no_tolerance_allows(tmp_path: Path) -> None:
    found = apart(tmp_path, "w.npy", npy([1, 2]), npy([1, 2], shape=(2, 1)), Tolerance(1, 1))
    assert found is not None
    assert (found.outside, found.first and found.first.expected) == (1, "shape (2,) of <f8")


@given(
    st.lists(st.tuples(st.floats(), st.floats()) | st.floats().map(lambda x: (x, x)), min_size=1, max_size=30),
    st.floats(0, 1e3),
    st.floats(0, 1e3),
)
def test_many_numbers_are_told_as_one_by_one(pairs: list[tuple[float, float]], rtol: float, atol: float) -> None:
    at_once, one_by_one = (Tally(lambda place: Tolerance(rtol, atol)) for _ in range(2))
    at_once.numbers([one for one, _ in pairs], [two for _, two in pairs], lambda at: (at,))
    for at, (one, two) in enumerate(pairs):
        one_by_one.number((at,), one, two)
    assert at_once.distance() == one_by_one.distance()


def test_the_same_arrays_packed_in_another_way_do_not_differ(tmp_path: Path) -> None:
    def packed(compression: int, day: int, value: float) -> bytes:
        path = tmp_path / "z"
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr(zipfile.ZipInfo("w.npy", (2020, 1, day, 0, 0, 0)), npy([1.0, value]), compression)
        return path.read_bytes()

    same = apart(tmp_path, "w.npz", packed(zipfile.ZIP_STORED, 1, 2.0), packed(zipfile.ZIP_DEFLATED, 2, 2.0))
    assert same is not None
    assert same.differing == 0
    found = apart(tmp_path, "w.npz", packed(0, 1, 2.0), packed(0, 1, 2.5))
    assert found is not None
    assert found.first is not None
    assert found.first.place == "w[1]"


@pytest.mark.parametrize("name", ["w.npy", "w.npz", "w.json", "w.csv"])
def test_a_file_that_is_not_what_its_name_says_is_compared_by_bytes(tmp_path: Path, name: str) -> None:
    assert apart(tmp_path, name, b"\xff\x00rubbish", b"\xff\x00more") is None
    assert apart(tmp_path, "w.npy", npy([1.0])[:-1], npy([2.0])[:-1]) is None
    pickled = npy([1.0]).replace(b"'<f8'", b"'|O' ")
    assert apart(tmp_path, "w.npy", pickled, pickled) is None


def test_json_is_compared_value_by_value(tmp_path: Path) -> None:
    one = {"a": [1, 2.0, True], "b": {"c": "x"}, "gone": 1}
    two = {"b": {"c": "y"}, "a": [1.0, 2.2, 1]}
    found = apart(tmp_path, "m.json", json.dumps(one).encode(), json.dumps(two, indent=4).encode(), Tolerance(rtol=0.2))
    assert found is not None
    assert (found.differing, found.outside) == (4, 3)
    assert found.first is not None
    assert found.first_outside is not None
    assert (found.first.place, found.first_outside.place) == ("a[1]", "a[2]")


@given(st.lists(st.floats(width=64), min_size=1, max_size=40), st.integers(0), st.floats(width=64))
def test_exactly_the_elements_that_are_not_equal_are_counted(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], where: int, new: float
) -> None:
    changed = list(values)
    changed[where % len(values)] = new
    found = apart(tmp_path_factory.mktemp("a"), "w.npy", npy(values), npy(changed))
    assert found is not None
    old = values[where % len(values)]
    equal = old == new or (math.isnan(old) and math.isnan(new))
    assert (found.compared, found.differing) == (len(values), 0 if equal else 1)


@given(st.binary(max_size=3000), st.binary(max_size=3000), st.binary(max_size=20))
def test_the_first_offset_is_the_length_of_what_is_common(
    tmp_path_factory: pytest.TempPathFactory, one: bytes, two: bytes, common: bytes
) -> None:
    directory = tmp_path_factory.mktemp("o")
    (directory / "one").write_bytes(common + one)
    (directory / "two").write_bytes(common + two)
    found = first_offset(directory / "one", directory / "two")
    if one == two:
        assert found is None
    else:
        assert found is not None
        first, second = common + one, common + two
        assert first[:found] == second[:found]
        assert first[found : found + 1] != second[found : found + 1]


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(-1e9, 1e9), st.floats(-1e9, 1e9))
def test_a_tolerance_is_that_of_numpy(rtol: float, atol: float, expected: float, got: float) -> None:
    assert Tolerance(rtol, atol).allows(expected, got) == (
        expected == got or abs(got - expected) <= atol + rtol * abs(expected)
    )


def test_a_promise_survives_the_plan_it_is_kept_in() -> None:
    promise = Reproducible(
        Determinism.TOLERANCE,
        (("acc", Tolerance(atol=0.1)),),
        (("outputs/*", Tolerance(1e-6, 1e-9)), ("outputs/b", EXACT)),
        ("metrics/time",),
    )
    content: Any = json.loads(json.dumps(promise.to_json()))
    assert Reproducible.from_json(content) == promise


def test_nothing_is_nothing_in_words() -> None:
    assert repr(ABSENT) == "nothing"
