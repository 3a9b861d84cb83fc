# Register what the newest run of the experiment has written.
import sys

from azureml.core import Experiment, Workspace
from azureml.core.model import Model

ws = Workspace.from_config()
run = next(iter(Experiment(ws, "sklearn-points").get_runs()))
model = run.register_model(
    model_name="sklearn-points",
    model_path="outputs/model.pkl",
    tags={"area": "points"},
    description="A line through the points",
)
print(model.name, model.id, model.version, sep="\t")

for found in Model.list(workspace=ws, name="sklearn-points"):
    print(found.name, "version", found.version, found.tags)

Model(ws, name="sklearn-points").download(target_dir=sys.argv[1], exist_ok=True)
