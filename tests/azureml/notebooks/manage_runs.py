# Trains in this very process, then looks after its runs; as the first notebooks of Azure's did.
import os

from azureml.core import Experiment, Run, Workspace
from azureml.core.model import Model

ws = Workspace.from_config()
experiment = Experiment(workspace=ws, name="train-within-notebook")

run = experiment.start_logging(outputs=None, snapshot_directory=".")
alpha = 0.03
run.log("alpha", alpha)
run.log_list("errors", [0.5, 0.4, 0.3])
os.makedirs("models", exist_ok=True)
with open("models/ridge.pkl", "w") as file:
    file.write("weights")
run.upload_file(name="outputs/ridge.pkl", path_or_stream="models/ridge.pkl")
model = run.register_model(model_name="ridge", model_path="outputs/ridge.pkl", tags={"alpha": str(alpha)})
print(model.name, model.version, model.tags)
with run.child_run(name="fold") as fold:
    fold.log("loss", 0.1)
run.complete()
print(run.get_status(), run.get_metrics(), [child.name for child in run.get_children()])
print(run.experiment.name, run.experiment.workspace == ws, [name for name in run.get_file_names() if "ridge" in name])
print(Model.list(ws, tags=[["alpha", "0.03"]])[0].id)

failed = experiment.start_logging()
failed.fail(error_details="wrong path")
print(failed.get_status(), failed.id != run.id)
try:
    failed.log("late", 1)
except Exception as error:
    print("ended" in str(error))
try:
    run.register_model(model_name="gone", model_path="outputs/none.pkl")
except Exception as error:
    print(type(error).__name__)
print(list(Run.list(experiment)), [item.name for item in Experiment.list(ws)])
