# Train on two nodes joined by MPI, in an image of our own where one is named.
import sys

from azureml.core import Experiment, Workspace
from azureml.core.runconfig import MpiConfiguration
from azureml.train.estimator import Estimator

ws = Workspace.from_config()
image = sys.argv[2] if len(sys.argv) > 2 else None

estimator = Estimator(
    source_directory="mpi",
    compute_target=sys.argv[1],
    entry_script="train.py",
    node_count=2,
    process_count_per_node=1,
    distributed_training=MpiConfiguration(),
    conda_packages=["openmpi"],
    custom_docker_image=image,
)

run = Experiment(ws, "two-nodes").submit(estimator)
run.wait_for_completion(show_output=True)
print("ranks:", run.get_metrics()["ranks"])
print("files:", [name for name in run.get_file_names() if name.startswith("outputs/")])
