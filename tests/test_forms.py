"""Requirements, versions and dates: the quick patterns let nothing pass that packaging refuses."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from repro_est.recipe.forms import is_date, is_python, requirement_problem

pieces = st.lists(
    st.sampled_from(
        ["a", "b-c", "1", "2", "0.1", ".", ".*", "==", ">=", "~=", "<", ",", " ", "[", "]", "[x]", ";", "_"]
    ),
    max_size=8,
).map("".join)


def reads(kind: type, error: type[Exception], text: str) -> bool:
    try:
        kind(text)
    except error:
        return False
    return True


@given(pieces)
def test_a_requirement_is_what_packaging_takes_for_one(text: str) -> None:
    assert (requirement_problem(text) is None) == reads(Requirement, InvalidRequirement, text)


@given(pieces)
def test_a_python_is_a_version_or_a_specifier(text: str) -> None:
    expected = reads(SpecifierSet, InvalidSpecifier, text) or reads(Version, InvalidVersion, text)
    assert is_python(text) == (expected and bool(text.strip()))


@pytest.mark.parametrize("text", ["2026-06-01", "2026-06-01T12:00:00Z", "2026-06-01T12:00:00.5+02:00"])
def test_a_date_of_the_calendar_is_one(text: str) -> None:
    assert is_date(text)


@pytest.mark.parametrize(
    "text", ["yesterday", "", "2026-13-01", "2026-02-30", "2026-06-01T25:00:00Z", "20260601", "2026-06-01T12:00:00"]
)
def test_anything_else_is_no_date(text: str) -> None:
    assert not is_date(text)


def test_the_usual_texts_cost_no_import() -> None:
    code = (
        "import sys; from repro_est.recipe.forms import is_python, requirement_problem\n"
        "for text in ('numpy', 'numpy>=2', 'a[b,c] >= 1.0, <2', 'x~=1.4', 'y==1.*'): assert not requirement_problem(text)\n"
        "for text in ('3.11', '3.11.7', '>=3.11,<3.13'): assert is_python(text)\n"
        "sys.exit(any(name.startswith('packaging') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
