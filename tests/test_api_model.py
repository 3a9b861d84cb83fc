"""`Model` in Python: Azure ML's class, over the registry of the store."""

from __future__ import annotations

import datetime
import os
from pathlib import Path
from typing import Any

import pytest

from repro_est.api.model import Model, labels
from repro_est.errors import InputError, UsageError, VerificationError
from repro_est.registration import register_output
from repro_est.store.models import Models
from repro_est.store.runs import Runs
from repro_est.store.verify import verify
from tests.conftest import Workshop

WRITES = (
    "import os; os.makedirs('outputs/net/deep'); open('outputs/net/deep/w', 'w').write('weights')\n"
    "open('outputs/tool', 'w').write('t'); os.chmod('outputs/tool', 0o755)\n"
)


@pytest.fixture
def trained(workshop: Workshop) -> Workshop:
    """A project with a run, and its directory registered as `net`."""
    workshop.run(workshop.recipe(WRITES))
    said = labels("net", tags={"stage": "dev"}, properties={"loss": 0.5}, model_framework="PyTorch")
    register_output(workshop.store, Runs(workshop.store.layout).resolve("@"), "outputs/net", "net", said)
    return workshop


def registered(workshop: Workshop, text: str, name: str = "file", **words: Any) -> Model:
    return Model.register(None, workshop.write("file.bin", text), name, **words)


def test_a_model_says_what_it_is(trained: Workshop) -> None:
    model = Model(None, "net")
    assert (model.name, model.version, model.id) == ("net", 1, "net:1")
    assert (model.tags, model.properties) == ({"stage": "dev"}, {"loss": "0.5"})
    assert (model.framework, model.model_framework, model.framework_version) == ("PyTorch", "PyTorch", "")
    assert model.run_id == Runs(trained.store.layout).resolve("@")
    assert model.path == "outputs/net"
    assert abs(datetime.datetime.now(datetime.UTC) - model.created_time) < datetime.timedelta(minutes=5)
    assert repr(model) == f"Model(name='net', version=1, run_id={model.run_id!r}, tags={{'stage': 'dev'}})"
    assert model == Model(None, id="net:1")
    assert len({model, Model(None, "net")}) == 1


def test_a_file_of_no_run_is_registered_with_a_copy_of_its_bytes(workshop: Workshop) -> None:
    model = registered(
        workshop, "one", tags={"n": 1}, description="mine", model_framework="Onnx", model_framework_version="1"
    )
    (workshop.root / "file.bin").write_text("two")
    assert (model.run_id, model.path, model.version, model.tags, model.description) == (
        "",
        "file.bin",
        1,
        {"n": "1"},
        "mine",
    )
    assert Path(model.download("got")).read_text() == "one"
    assert registered(workshop, "one").version == 1
    assert registered(workshop, "one", always_new=True).version == 2
    assert verify(workshop.store).findings == []


def test_a_version_is_found_by_number_alias_tags_run_and_framework(trained: Workshop) -> None:
    registered(trained, "one", "net", tags={"stage": "live", "area": "x"})
    registered(trained, "two", "net", model_framework="Onnx")
    run = Model(None, "net:1").run_id
    assert Model(None, "net").version == 3
    assert Model(None, "net", version=2).version == 2
    assert Model(None, "net", tags=["area"]).version == 2
    assert Model(None, "net", tags=[["stage", "dev"]]).version == 1
    assert Model(None, "net", properties=[["loss", "0.5"]]).version == 1
    assert Model(None, "net", run_id=run).version == 1
    assert Model(None, "net", model_framework="Onnx").version == 3
    Model(None, "net:2").promote("production", why="it is good")
    assert Model(None, "net@production").version == 2
    assert Model(None, "net", version=2).aliases == ["production"]
    with pytest.raises(UsageError, match="no version has all that was asked for, of: 1, 2, 3"):
        Model(None, "net", tags=["area", ["stage", "dev"]])


def test_list_returns_what_matches_and_nothing_is_no_error(trained: Workshop) -> None:
    registered(trained, "one", "net", tags={"stage": "live"})
    registered(trained, "one", "other")
    assert [model.id for model in Model.list()] == ["net:1", "net:2", "other:1"]
    assert [model.id for model in Model.list(latest=True)] == ["net:2", "other:1"]
    assert [model.id for model in Model.list(name="net", tags=[["stage", "live"]])] == ["net:2"]
    assert [model.id for model in Model.list(framework="PyTorch")] == ["net:1"]
    assert [model.id for model in Model.list(run_id=Model(None, "net:1").run_id)] == ["net:1"]
    assert Model.list(name="nut") == []


def test_tags_change_and_what_is_returned_is_a_copy(trained: Workshop) -> None:
    model = Model(None, "net")
    model.tags["x"] = "y"
    assert model.tags == {"stage": "dev"}
    model.add_tags({"stage": "live", "n": 2})
    model.remove_tags(["n"])
    assert Model(None, "net").tags == model.tags == {"stage": "live"}
    with pytest.raises(UsageError, match="has no tag `n`, it has: stage"):
        model.remove_tags(["n"])


def test_a_download_puts_the_copy_into_a_directory(trained: Workshop) -> None:
    model = Model(None, "net")
    assert model.download("serve/here") == "serve/here/net"
    assert Path("serve/here/net/deep/w").read_text() == "weights"
    with pytest.raises(UsageError, match="serve/here/net: exists already"):
        model.download("serve/here")
    Path("serve/here/net/stale").write_text("")
    assert model.download("serve/here", exist_ok=True) == "serve/here/net"
    assert not Path("serve/here/net/stale").exists()


def test_a_path_of_a_model_is_read_only_and_checked_each_time(trained: Workshop) -> None:
    path = Path(Model.get_model_path("net"))
    assert (path.name, (path / "deep/w").read_text()) == ("net", "weights")
    assert not (path / "deep/w").stat().st_mode & 0o222
    assert Model.get_model_path("net", version=1) == str(path)
    (path / "deep/w").chmod(0o644)
    (path / "deep/w").write_text("other")
    with pytest.raises(VerificationError, match="model net:1: its bytes in the store were changed"):
        Model.get_model_path("net@latest")


def test_a_view_that_was_changed_is_made_anew(trained: Workshop) -> None:
    path = Path(Model.get_model_path("net"))
    (path / "deep").chmod(0o755)
    (path / "deep/w").unlink()
    (path / "deep/w").write_text("other")
    assert Model.get_model_path("net") == str(path)
    assert (path / "deep/w").read_text() == "weights"
    path.chmod(0o755)
    (path / "new").write_text("")
    assert not (Path(Model.get_model_path("net")) / "new").exists()
    assert verify(trained.store).findings == []


def test_a_path_of_a_model_that_is_a_file_is_the_file(trained: Workshop) -> None:
    register_output(trained.store, Runs(trained.store.layout).resolve("@"), "outputs/tool", "tool")
    registered(trained, "one")
    tool = Path(Model.get_model_path("tool"))
    assert (tool.name, tool.read_text(), os.access(tool, os.X_OK)) == ("tool", "t", True)
    assert Path(Model.get_model_path("file")).read_text() == "one"
    assert verify(trained.store).findings == []
    assert [model.id for model in Models(trained.store.layout).all()] == ["file:1", "net:1", "tool:1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"model_name": "n t"}, "is no name for a model"),
        ({"model_framework_version": "1"}, "without a framework"),
        ({"tags": {"a": ["x"]}}, r"model file: tags: got 'a': \['x'\] \(list\), expected text or a number"),
        ({"properties": {1: "x"}}, "model file: properties: got 1: 'x'"),
        ({"tags": ["a"]}, "model file: tags: got list, expected a dict"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_a_byte_is_kept(
    workshop: Workshop, words: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        Model.register(None, workshop.write("file.bin", "x"), **{"model_name": "file", **words})
    assert not list(workshop.store.layout.directory("blobs").iterdir())


def test_a_file_that_is_not_there_cannot_be_registered(workshop: Workshop) -> None:
    with pytest.raises(InputError, match=r"nothing\.bin: No such file"):
        Model.register(None, "nothing.bin", "file")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"name": "nut"}, "no such model, registered ones: net"),
        ({"name": "net", "version": 9}, "`net` has: 1"),
        ({"name": "net@production"}, "no such alias"),
        ({"name": "net", "version": "x"}, "got 'x', expected a number from 1"),
        ({"name": "net:1", "version": 2}, "got 'net:1' and version 2, expected one of the two"),
        ({"name": "a/b"}, "got 'a/b', expected NAME, NAME:VERSION or NAME@ALIAS"),
        ({}, "got None, expected NAME"),
        ({"name": "net", "tags": [["a", "b", "c"]]}, 'expected "key" or'),
    ],
)
def test_a_model_that_there_is_not_is_named(trained: Workshop, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Model(None, **words)
