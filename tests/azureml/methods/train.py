# Calls everything a training script can ask of its run, and prints "ok NAME" for each.
import io
import json
import os

from azureml.core import Dataset, Experiment, Model, Workspace
from azureml.core.run import Run, _OfflineRun

import tinylearn

run = Run.get_context(allow_offline=False)
assert not isinstance(run, _OfflineRun)


def ok(name, right=True):
    assert right, name
    print("ok", name)


def refused(name, call):
    try:
        call()
    except Exception as error:
        assert f"Run.{name}: has no meaning inside a run; " in str(error), error
        print("refused", name)
    else:
        raise AssertionError(name)


ok("get_context", Run.get_context() is run)
ok("get_submitted_run", Run.get_submitted_run() is run)
ok("id", len(run.id) == 32)
ok("name", isinstance(run.name, str))
ok("display_name", isinstance(run.display_name, str))
ok("type", isinstance(run.type, str))
ok("number", run.number == 1)
ok("parent", run.parent is None)
ok("status", run.status == "Running")
ok("get_status", run.get_status() == "Running")
ok("get_detailed_status", run.get_detailed_status()["status"] == "Running")
ok("get_details", run.get_details()["runId"] == run.id)
ok("experiment", run.experiment.name == "repro")
ok("get_environment", run.get_environment().packages["tinylearn"] == tinylearn.VERSION)
ok("start", run.start() is None)

run.log("loss", 1.5)
run.log("loss", 0.5, description="of the last epoch", step=2)
run.log("text", "as it is")
run.log("nan", float("nan"))
ok("log")
run.log_list("accuracies", [0.6, 0.7, 0.87])
ok("log_list")
for angle in range(3):
    run.log_row("line", angle=angle, doubled=2 * angle)
ok("log_row")
run.log_table("table", {"x": [1, 2], "y": [3, 4]})
ok("log_table")
with open("picture.png", "wb") as file:
    file.write(b"\x89PNG\r\n\x1a\n")


class Plot:
    def savefig(self, target, **keywords):
        with open(target, "wb") as file:
            file.write(b"\x89PNG\r\n\x1a\n")


run.log_image("picture", path="picture.png")
run.log_image("plot", plot=Plot())
ok("log_image")
run.log_confusion_matrix(
    "confusion",
    {
        "schema_type": "confusion_matrix",
        "schema_version": "v1",
        "data": {"class_labels": ["a", "b"], "matrix": [[3, 1], [0, 4]]},
    },
)
ok("log_confusion_matrix")


def curve(kind):
    return json.dumps({"schema_type": kind, "schema_version": "v1", "data": {"bin": [1]}})


run.log_accuracy_table("accuracy table", curve("accuracy_table"))
ok("log_accuracy_table")
run.log_residuals("residuals", curve("residuals"))
ok("log_residuals")
run.log_predictions("predictions", curve("predictions"))
ok("log_predictions")
ok("get_metrics", run.get_metrics("loss") == {"loss": [1.5, 0.5]})

run.tag("colour", "blue")
run.tag("bare")
ok("tag")
run.set_tags({"size": "small", "gone": "soon"})
ok("set_tags")
run.remove_tags(["gone"])
ok("remove_tags")
ok("get_tags", run.get_tags() == {"colour": "blue", "bare": "", "size": "small"})
ok("tags", run.tags == run.get_tags())
run.add_properties({"author": "me"})
try:
    run.add_properties({"author": "you"})
except ValueError:
    ok("add_properties")
ok("get_properties", run.get_properties() == {"author": "me"})
ok("properties", run.properties == {"author": "me"})

ok("input_datasets", sorted(os.listdir(run.input_datasets["points"])) == ["a.csv", "b.csv"])
assert os.environ["points"] == run.input_datasets["points"]
assert open(os.path.join(run.input_datasets["points"], "a.csv")).read() == "1\n"
assert run.input_datasets["points"].to_path() == ["/a.csv", "/b.csv"]
with run.input_datasets["points"].mount() as mounted:
    assert sorted(os.listdir(mounted.mount_point)) == ["a.csv", "b.csv"]
assert len(run.input_datasets["points"].download("fetched", overwrite=True)) == 2
ok("get_secret", run.get_secret("OLD_SECRET") == "hush-hush")
ok("get_secrets", run.get_secrets(["OLD_SECRET"]) == {"OLD_SECRET": "hush-hush"})

with open("model.txt", "w") as file:
    file.write("weights")
run.upload_file("outputs/model.txt", "model.txt")
run.upload_file("outputs/stream.txt", io.BytesIO(b"streamed"))
ok("upload_file")
run.upload_files(["outputs/one.txt", "outputs/two.txt"], ["model.txt", "model.txt"])
ok("upload_files")
os.makedirs("folder/deep", exist_ok=True)
with open("folder/deep/inner.txt", "w") as file:
    file.write("inner")
run.upload_folder("outputs/folder", "folder")
ok("upload_folder")
ok("get_file_names", "outputs/folder/deep/inner.txt" in run.get_file_names())
run.download_file("outputs/model.txt", "again.txt")
ok("download_file", open("again.txt").read() == "weights")
model = run.register_model(model_name="tiny", model_path="outputs/model.txt", tags={"area": "tests"})
ok("register_model", model.name == "tiny")

with run.child_run(name="fold") as child:
    child.log("loss", 0.25)
ok("child_run", child.get_status() == "Completed")
folds = run.create_children(tag_key="fold", tag_values=["1", "2"])
for fold in folds:
    fold.log("score", int(fold.tags["fold"]))
    fold.complete()
failing = run.create_children(count=1)[0]
failing.fail("it diverged", error_code=3)
ok("fail", failing.status == "Failed")
stopped = run.child_run()
stopped.cancel()
ok("cancel", stopped.status == "Canceled")
ok("create_children", len(folds) == 2)
ok("get_children", len(list(run.get_children())) == 5)
run.flush(timeout_seconds=10)
ok("flush")

workspace = run.experiment.workspace
ok("Workspace", Workspace.from_config() is workspace or workspace.name == Workspace.from_config().name)
ok("Dataset", Dataset.get_by_name(workspace, "points").to_path() == ["/a.csv", "/b.csv"])
ok("datasets", os.fspath(workspace.datasets["points"]) == run.input_datasets["points"])
ok("Experiment", Experiment(workspace, "every-method").start_logging() is run)
ok("Keyvault", workspace.get_default_keyvault().get_secret("OLD_SECRET") == "hush-hush")
for look in (lambda: Dataset.get_by_name(workspace, "others"), lambda: Model.get_model_path("digits")):
    try:
        look()
    except Exception as error:
        ok("lookup", "a run reads what its recipe declares" in str(error))

refused("add_type_provider", lambda: Run.add_type_provider("x", None))
refused("clean", lambda: run.clean())
refused("description", lambda: run.description)
refused("download_files", lambda: run.download_files())
refused("get", lambda: Run.get(workspace, "x"))
refused("get_all_logs", lambda: run.get_all_logs())
refused("get_details_with_logs", lambda: run.get_details_with_logs())
refused("get_portal_url", lambda: run.get_portal_url())
refused("get_snapshot_id", lambda: run.get_snapshot_id())
refused("list", lambda: Run.list(run.experiment))
refused("list_by_compute", lambda: Run.list_by_compute(None))
refused("output_datasets", lambda: run.output_datasets)
refused("restore_snapshot", lambda: run.restore_snapshot())
refused("submit_child", lambda: run.submit_child(None))
refused("take_snapshot", lambda: run.take_snapshot("."))
refused("wait_for_completion", lambda: run.wait_for_completion())

run.complete()
ok("complete", run.get_status() == "Completed")
try:
    run.log("late", 1)
except Exception as error:
    ok("ended", "has ended" in str(error))
