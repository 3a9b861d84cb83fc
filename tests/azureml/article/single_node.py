# Train on one node: the data is mounted, the packages come from conda.
import sys

from azureml.core import Dataset, Experiment, Workspace
from azureml.train.estimator import Estimator

ws = Workspace.from_config()
compute_target = ws.compute_targets[sys.argv[1]]

ds = Dataset.File.from_files("data")
script_params = {
    "--data-folder": ds.as_named_input("points").as_mount(),
    "--regularization": 0.8,
}

sk_est = Estimator(
    source_directory="code",
    compute_target=compute_target,
    entry_script="train.py",
    script_params=script_params,
    conda_packages=["scikit-learn"],
)

experiment = Experiment(workspace=ws, name="sklearn-points")
run = experiment.submit(sk_est)
run.wait_for_completion(show_output=True)

print("status:", run.get_status())
print("metrics:", run.get_metrics())
print("files:", [name for name in run.get_file_names() if name.startswith("outputs/")])
