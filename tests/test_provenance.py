"""Provenance: statements, bills of materials and checklists that say what the records say, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from repro_est.errors import UntrustedError
from repro_est.lock.values import Artifact, CondaPackage, Package
from repro_est.proof import purl
from repro_est.proof.checklist import _code
from repro_est.share.keys import Key, KeyRing, verify
from tests.conftest import PackageIndex, Workshop

SCHEMAS = Path(__file__).parent / "schemas"
SCRIPT = (
    "open('outputs/model.bin', 'wb').write(b'weights'); open('outputs/metrics.json', 'w').write('{\"acc\": 0.5}')\n"
)


def schema(name: str) -> Any:
    content = json.loads((SCHEMAS / name).read_text())
    jsonschema.Draft202012Validator.check_schema(content)
    return content


@pytest.fixture
def run(workshop: Workshop, index: PackageIndex) -> dict[str, Any]:
    """A run with packages, an input, and a git commit."""
    index.wheel("tiny", "1.2+local.1", requires=("leaf",))
    index.wheel("leaf", "0.1")
    workshop.write("data/digits.csv", "1,2\n")
    workshop.write("notes.txt", "n")
    recipe = workshop.recipe(
        SCRIPT,
        f'[environment]\nindex_url = "{index.url}"\n[inputs.digits]\npath = "data"\n[inputs.notes]\npath = "notes.txt"\n',
        estimator='pip_packages = ["tiny"]\nscript_params = {"--lr" = 0.1, "--data" = {input = "digits"}}',
    )
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "job", recipe], ["commit", "-qm", "m"]):
        subprocess.run([*git, *words], cwd=workshop.root, check=True)
    return workshop.run(recipe)


def test_a_statement_is_valid_and_names_every_output_by_sha256(workshop: Workshop, run: dict[str, Any]) -> None:
    statement = workshop.repro("provenance", "@").json
    jsonschema.validate(statement, schema("slsa-provenance-v1.json"))
    found = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert found["outputs/model.bin"] == hashlib.sha256(b"weights").hexdigest()
    assert set(found) == {"outputs/model.bin", "outputs/metrics.json"}


def test_a_statement_names_what_went_into_the_run(workshop: Workshop, run: dict[str, Any], index: PackageIndex) -> None:
    definition = workshop.repro("provenance", "@").json["predicate"]["buildDefinition"]
    found = {item["name"]: item for item in definition["resolvedDependencies"]}
    wheel = next(index.root.glob("tiny/*.whl"))
    assert found[wheel.name]["digest"]["sha256"] == hashlib.sha256(wheel.read_bytes()).hexdigest()
    assert found[wheel.name]["uri"] == f"pkg:pypi/tiny@1.2%2Blocal.1?file_name={wheel.name.replace('+', '%2B')}"
    assert {"source", "git", "inputs/digits", "inputs/notes", "leaf-0.1-py3-none-any.whl"} <= set(found)
    assert found["inputs/notes"]["digest"]["sha256"] == hashlib.sha256(b"n").hexdigest()
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=workshop.root, text=True).strip()
    assert found["git"]["digest"] == {"gitCommit": commit}
    assert definition["externalParameters"]["script_params"] == [["--lr", ["0.1"]], ["--data", [{"input": "digits"}]]]
    assert definition["internalParameters"]["run_hash"] == run["run_hash"]


def test_the_digest_of_a_tree_is_that_of_its_manifest(workshop: Workshop, run: dict[str, Any]) -> None:
    definition = workshop.repro("provenance", "@").json["predicate"]["buildDefinition"]
    (given,) = [item for item in definition["resolvedDependencies"] if item["name"] == "inputs/digits"]
    content = b"1,2\n"
    import xxhash

    line = f"f\t{xxhash.xxh3_128_hexdigest(content)}\t4\t{hashlib.sha256(content).hexdigest()}\tdigits.csv\n"
    assert given["digest"]["sha256"] == hashlib.sha256(f"repro-tree 1\n{line}".encode()).hexdigest()


def test_an_input_that_is_gone_or_changed_has_no_sha256(workshop: Workshop, run: dict[str, Any]) -> None:
    workshop.write("data/digits.csv", "3,4\n")
    (workshop.root / "notes.txt").unlink()
    statement = workshop.repro("provenance", "@").json
    jsonschema.validate(statement, schema("slsa-provenance-v1.json"))
    found = {item["name"]: item for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert "digest" not in found["inputs/digits"]
    assert "digest" not in found["inputs/notes"]


def test_a_run_without_outputs_has_a_subject_all_the_same(workshop: Workshop) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    statement = workshop.repro("provenance", "@").json
    jsonschema.validate(statement, schema("slsa-provenance-v1.json"))
    assert [item["name"] for item in statement["subject"]] == ["outputs"]


def test_a_bill_of_materials_is_valid_and_lists_the_lock(workshop: Workshop, run: dict[str, Any]) -> None:
    assert workshop.repro("provenance", "@", "--sbom", "run.spdx.json").out == "run.spdx.json\n"
    bill = json.loads((workshop.root / "run.spdx.json").read_text())
    jsonschema.validate(bill, schema("spdx-2.3.json"))
    found = {item["name"]: item for item in bill["packages"]}
    assert {"tiny", "leaf", "python"} <= set(found)
    assert found["tiny"]["externalRefs"][0]["referenceLocator"].startswith("pkg:pypi/tiny@1.2%2Blocal.1")
    identities = [item["SPDXID"] for item in bill["packages"]]
    assert len(set(identities)) == len(identities)
    assert {item["relatedSpdxElement"] for item in bill["relationships"]} == set(identities)


def test_the_same_run_gives_the_same_bytes(workshop: Workshop, run: dict[str, Any]) -> None:
    for number in (1, 2):
        done = workshop.repro(
            "provenance", "@", "-o", f"{number}.json", "--sbom", f"{number}.spdx", "--checklist", f"{number}.md"
        )
        assert done.code == 0, done.err
    for ending in ("json", "spdx", "md"):
        one, two = ((workshop.root / f"{number}.{ending}").read_bytes() for number in (1, 2))
        assert one == two


def test_a_statement_is_signed_and_a_changed_one_is_refused(
    workshop: Workshop, run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(workshop.root / "config"))
    key = Key.generate("ada")
    KeyRing().add(key)
    envelope = workshop.repro("provenance", "@", "--key", "ada").json
    payload = verify(envelope, [key.public], "application/vnd.in-toto+json")
    assert json.loads(payload) == workshop.repro("provenance", "@").json
    changed = payload.replace(b"model.bin", b"modal.bin")
    with pytest.raises(UntrustedError, match="changed since"):
        verify(
            {**envelope, "payload": base64.b64encode(changed).decode()}, [key.public], "application/vnd.in-toto+json"
        )
    assert workshop.repro("provenance", "@", "--key", "nobody").code == 2


def test_a_checklist_ticks_only_what_a_record_stands_behind(workshop: Workshop, run: dict[str, Any]) -> None:
    assert workshop.repro("provenance", "@", "--checklist", "c.md").code == 0
    text = (workshop.root / "c.md").read_text()
    assert "- [x] Every hyper-parameter given to `train.py`: `--lr 0.1`, `--data {input digits}`." in text
    assert "- [x] The metrics, as they were measured: `acc` = 0.5." in text
    assert "- [x] Commit `" in text
    assert "- [ ] Not executed again yet" in text
    assert workshop.repro("check", "@").code == 0
    assert workshop.repro("provenance", "@", "--checklist", "c.md").code == 0
    assert "- [x] reproduced, bitwise  on " in (workshop.root / "c.md").read_text()


def test_a_run_that_has_no_result_has_no_provenance(workshop: Workshop) -> None:
    assert workshop.repro("run", workshop.recipe("raise SystemExit(1)\n")).code == 1
    done = workshop.repro("provenance", "@")
    assert (done.code, "has no result" in done.err) == (2, True)


def test_a_file_goes_only_where_there_is_a_directory(workshop: Workshop) -> None:
    workshop.run(workshop.recipe("print(1)\n"))
    assert workshop.repro("provenance", "@", "-o", "nowhere/x.json").code == 2


def test_package_urls_are_those_of_their_specification() -> None:
    artifact = Artifact("Ruamel.Yaml-1.0.whl", "0" * 64, 1, "https://x/y.whl", ("linux-64",))
    package = Package("ruamel_yaml", "1!2.0+a b", "", "", (artifact,))
    assert purl.pypi(package, artifact) == "pkg:pypi/ruamel-yaml@1%212.0%2Ba%20b?file_name=Ruamel.Yaml-1.0.whl"
    conda = CondaPackage(
        "zlib",
        "1.3",
        "h1_0",
        "zlib-1.3-h1_0.conda",
        "0" * 64,
        "",
        "https://x/forge/linux-64/zlib-1.3-h1_0.conda",
        "linux-64",
    )
    assert purl.conda(conda) == "pkg:conda/zlib@1.3?build=h1_0&channel=forge&subdir=linux-64&type=conda"


@pytest.mark.parametrize(
    ("text", "expected"), [("a", "`a`"), ("a`b", "``a`b``"), ("`a", "`` `a ``"), ("a\nb", "`a\\nb`")]
)
def test_text_of_a_run_is_code_in_a_checklist_whatever_it_holds(text: str, expected: str) -> None:
    assert _code(text) == expected
