# Asks a run from outside for everything there is, and prints "ok NAME" for each.
import os
import sys

from azureml.core import Dataset, Experiment, Run, Workspace
from azureml.core.authentication import InteractiveLoginAuthentication
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException
from azureml.train.estimator import Estimator
from azureml.widgets import RunDetails

here = sys.argv[1]  # a directory to write into


def ok(name, right=True):
    assert right, name
    print("ok", name)


def refused(name, call):
    try:
        call()
    except Exception as error:
        assert f"Run.{name}: " in str(error), error
        print("refused", name)
    else:
        raise AssertionError(name)


ws = Workspace(
    subscription_id="0000", resource_group="group", workspace_name="old", auth=InteractiveLoginAuthentication()
)
print(ws.name, ws.resource_group, ws.location, ws.subscription_id, sep="|")
try:
    cluster = ComputeTarget(workspace=ws, name="cpu-cluster")
except ComputeTargetException:
    raise AssertionError
config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=4, vm_priority="lowpriority")
cluster = ComputeTarget.create(ws, "cpu-cluster", config)
cluster.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)
print(cluster.get_status().serialize(), cluster.type, cluster.provisioning_state)

datastore = ws.get_default_datastore()
datastore.upload(src_dir="local-data", target_path="uploaded", overwrite=True, show_progress=True)
dataset = Dataset.File.from_files(path=(datastore, "uploaded"))
dataset = dataset.register(workspace=ws, name="points", description="two files", create_new_version=True)
dataset = Dataset.get_by_name(ws, name="points")

os.environ["OLD_SECRET"] = "hush-hush"
estimator = Estimator(
    source_directory=".",
    entry_script="train.py",
    compute_target=cluster,
    inputs=[dataset.as_named_input("points").as_mount()],
    pip_packages=["tinylearn"],
    secrets=["OLD_SECRET"],
)
experiment = Experiment(workspace=ws, name="every-method")
run = experiment.submit(estimator, tags={"from": "outside"})
ok("id", len(run.id) == 32)
RunDetails(run).show()
details = run.wait_for_completion(show_output=True, wait_post_processing=True, raise_on_error=True)
ok("wait_for_completion", details["status"] == "Completed")
ok("status", run.status == run.get_status() == "Completed")
ok("get_status")
ok("get_detailed_status", run.get_detailed_status()["status"] == "Completed")
ok("get_details", run.get_details()["inputDatasets"][0]["name"] == "points")
ok("get_details_with_logs", any("ok get_context" in text for text in run.get_details_with_logs()["logFiles"].values()))
ok("name", isinstance(run.name, str))
run.display_name = "everything"
ok("display_name", run.display_name == "everything")
ok("description", run.description == "")
ok("type", isinstance(run.type, str))
ok("number", run.number >= 1)
ok("parent", run.parent is None)
ok("experiment", run.experiment.name == "every-method")
ok("get_portal_url", run.get_portal_url().startswith("file://"))
ok("get_environment", run.get_environment().packages == {"tinylearn": "1.0"})

ok("get_metrics", run.get_metrics("loss") == {"loss": [1.5, 0.5]})
metrics = run.get_metrics()
ok("get_metrics", metrics["accuracies"] == [0.6, 0.7, 0.87] and metrics["nan"] != metrics["nan"])
ok(
    "get_metrics",
    metrics["line"] == {"angle": [0, 1, 2], "doubled": [0, 2, 4]},
)
ok("get_tags", run.get_tags() == {"from": "outside", "colour": "blue", "bare": "", "size": "small"})
run.tag("later", "yes")
ok("tag", run.tags["later"] == "yes")
run.set_tags({"even": "later"})
ok("set_tags", run.get_tags()["even"] == "later")
run.remove_tags(["even"])
ok("remove_tags", "even" not in run.tags)
ok("tags")
ok("get_properties", run.get_properties() == {"author": "me"})
run.add_properties({"checked": "true"})
try:
    run.add_properties({"checked": "false"})
except Exception:
    ok("add_properties", run.properties["checked"] == "true")
ok("properties")

children = list(run.get_children())
ok("get_children", [child.get_status() for child in children] == ["Completed"] * 3 + ["Failed", "Canceled"])
ok("get_children", [child.name for child in run.get_children(tags={"fold": "2"})] == [""])
ok("get_metrics", children[0].get_metrics() == {"loss": 0.25} and children[0].parent.id == run.id)

names = run.get_file_names()
ok("get_file_names", "outputs/folder/deep/inner.txt" in names and any(name.startswith("logs/") for name in names))
run.download_file("outputs/model.txt", os.path.join(here, "model.txt"))
ok("download_file", open(os.path.join(here, "model.txt")).read() == "weights")
run.download_files(prefix="outputs/folder", output_directory=here)
ok("download_files", os.path.exists(os.path.join(here, "outputs/folder/deep/inner.txt")))
ok("get_all_logs", len(run.get_all_logs(destination=os.path.join(here, "all"))) > 1)
model = run.register_model(model_name="tiny-two", model_path="outputs/one.txt", properties={"by": "hand"})
ok("register_model", (model.name, model.version, model.run_id) == ("tiny-two", 1, run.id))
ok("get_snapshot_id", len(run.get_snapshot_id()) == 32)
run.restore_snapshot(path=os.path.join(here, "source"))
ok("restore_snapshot", os.path.exists(os.path.join(here, "source/train.py")))
ok("get", Run.get(ws, run.id) == run)
ok("list", [found.id for found in Run.list(experiment)] == [run.id])
ok("list", [found.id for found in experiment.get_runs(status="Completed", tags={"colour": "blue"})] == [run.id])
ok("list", Run(experiment, run.id) == run and Run(experiment=experiment, run_id=run.id) == run)
ok("get_context", Run.get_context() is not None)
ok("get_submitted_run", Run.get_submitted_run() is Run.get_context())

again = experiment.submit(estimator)
ok("submit", again.id == run.id)
slow = experiment.submit(Estimator(source_directory="slow", entry_script="sleep.py", compute_target="local"))
slow.cancel()
try:
    slow.wait_for_completion()
except BaseException:
    ok("cancel", slow.get_status() == "Canceled")

with experiment.start_logging() as interactive:
    interactive.log("alpha", 1)
second = experiment.start_logging()
second.log("alpha", 2)
second.complete()
ok("start_logging", (interactive.get_metrics(), second.get_metrics()) == ({"alpha": 1}, {"alpha": 2}))

refused("add_type_provider", lambda: Run.add_type_provider("x", None))
refused("child_run", lambda: run.child_run())
refused("clean", lambda: run.clean())
refused("complete", lambda: run.complete())
refused("create_children", lambda: run.create_children(count=2))
refused("fail", lambda: run.fail())
refused("flush", lambda: run.flush())
refused("get_secret", lambda: run.get_secret("x"))
refused("get_secrets", lambda: run.get_secrets(["x"]))
refused("input_datasets", lambda: run.input_datasets)
refused("list_by_compute", lambda: Run.list_by_compute(cluster))
refused("log", lambda: run.log("x", 1))
refused("log_accuracy_table", lambda: run.log_accuracy_table("x", {}))
refused("log_confusion_matrix", lambda: run.log_confusion_matrix("x", {}))
refused("log_image", lambda: run.log_image("x", plot=None))
refused("log_list", lambda: run.log_list("x", [1]))
refused("log_predictions", lambda: run.log_predictions("x", {}))
refused("log_residuals", lambda: run.log_residuals("x", {}))
refused("log_row", lambda: run.log_row("x", y=1))
refused("log_table", lambda: run.log_table("x", {}))
refused("output_datasets", lambda: run.output_datasets)
refused("start", lambda: run.start())
refused("submit_child", lambda: run.submit_child(None))
refused("take_snapshot", lambda: run.take_snapshot("."))
refused("upload_file", lambda: run.upload_file("x", "y"))
refused("upload_files", lambda: run.upload_files([], []))
refused("upload_folder", lambda: run.upload_folder("x", "y"))
