# Train on one node: the data is mounted, the packages come from conda.
from azureml.core import Dataset, Experiment, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException
from azureml.train.estimator import Estimator

ws = Workspace.from_config()
print("Workspace:", ws.name, ws.resource_group, ws.location, sep="\n")

cluster_name = "cpu-cluster"
try:
    compute_target = ComputeTarget(workspace=ws, name=cluster_name)
    print("Found existing compute target")
except ComputeTargetException:
    config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=4)
    compute_target = ComputeTarget.create(ws, cluster_name, config)
    compute_target.wait_for_completion(show_output=True, min_node_count=None, timeout_in_minutes=20)

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
