"""`[compat]`: a script written for Azure ML's SDK says so, and `repro check` knows."""

from __future__ import annotations

import pytest

from tests.conftest import PackageIndex, Workshop

SCRIPT = "import os\nfrom azureml.core.run import Run\nimport repro_est\n"


def findings(workshop: Workshop, recipe: str) -> list[tuple[str, int | None, str, str | None]]:
    found = workshop.repro("check", recipe, "--json").json["findings"]
    return [(item["severity"], item["line"], item["message"], item["hint"]) for item in found]


def test_a_script_that_imports_azureml_is_told_of_compat_with_its_line(workshop: Workshop) -> None:
    recipe = workshop.recipe(SCRIPT)
    workshop.repro("lock", recipe)
    assert findings(workshop, recipe) == [
        (
            "error",
            2,
            "imports `azureml.core.run`, which the environment does not have",
            "[compat] azureml = true in job.toml",
        )
    ]


@pytest.mark.parametrize("locked", [True, False])
def test_with_compat_nothing_is_missing(workshop: Workshop, locked: bool) -> None:
    recipe = workshop.recipe(SCRIPT, "[compat]\nazureml = true\n")
    if locked:
        workshop.repro("lock", recipe)
    assert [item for item in findings(workshop, recipe) if item[0] == "error"] == []


def test_with_the_sdk_itself_in_the_packages_nothing_is_said_of_compat(workshop: Workshop, index: PackageIndex) -> None:
    index.wheel("azureml-core")
    recipe = workshop.recipe(
        SCRIPT, f'[environment]\nindex_url = "{index.url}"\n', estimator='pip_packages = ["azureml-core"]'
    )
    workshop.repro("lock", recipe)
    assert findings(workshop, recipe) == []


def test_an_import_that_may_fail_is_a_warning(workshop: Workshop) -> None:
    recipe = workshop.recipe("try:\n    import azureml.core\nexcept ImportError:\n    pass\n")
    workshop.repro("lock", recipe)
    assert [item[:2] for item in findings(workshop, recipe)] == [("warning", 2)]


def test_compat_is_part_of_what_identifies_a_run(workshop: Workshop) -> None:
    recipe = workshop.recipe("print(1)\n")
    off = workshop.repro("plan", recipe, "--json").json
    on = workshop.repro("plan", recipe, "--json", "--set", "compat.azureml=true").json
    assert "compat" not in off["plan"]
    assert on["plan"]["compat"] == {"azureml": True}
    assert on["run_hash"] != off["run_hash"]
    assert workshop.repro("plan", recipe, "--json", "--set", "compat.azureml=false").json["run_hash"] == off["run_hash"]
