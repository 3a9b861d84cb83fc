# Train on two nodes joined by MPI, in an image of our own.
import sys

from azureml.core import Experiment, Workspace
from azureml.core.runconfig import MpiConfiguration
from azureml.train.estimator import Estimator

ws = Workspace.from_config()
compute_target = ws.compute_targets[sys.argv[1]]
image = sys.argv[2]

estimator = Estimator(
    source_directory="mpi",
    compute_target=compute_target,
    entry_script="train.py",
    node_count=2,
    process_count_per_node=1,
    distributed_training=MpiConfiguration(),
    conda_packages=["python"],
    custom_docker_image=image,
)

run = Experiment(ws, "two-nodes").submit(estimator)
run.wait_for_completion(show_output=True)
print("ranks:", run.get_metrics()["ranks"])
