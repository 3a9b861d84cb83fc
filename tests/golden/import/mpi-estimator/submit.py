"""Azure's classic: two nodes, MPI, an image of one's own."""

import argparse
import os

from azureml.core import Experiment, Workspace
from azureml.core.container_registry import ContainerRegistry
from azureml.core.runconfig import MpiConfiguration
from azureml.train.estimator import Estimator

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int)
args = parser.parse_args()

ws = Workspace.from_config()
here = os.path.dirname(os.path.abspath(__file__))

registry = ContainerRegistry()
registry.address = "registry.example.org"
registry.username = "robot"
registry.password = os.environ["REGISTRY_PASSWORD"]

LEARNING_RATE = 0.01
params = {"--lr": LEARNING_RATE, "--name": f"lr-{LEARNING_RATE:.3f}"}
params["--layers"] = [64] + [32, 16]
params.update({"--resume": None, "--nesterov": True})
params["--epochs"] = args.epochs
if os.path.exists("warm.pt"):
    params["--warm"] = "warm.pt"

variables = dict(NCCL_DEBUG="INFO")

estimator = Estimator(
    source_directory=os.path.join(here, "src"),
    entry_script="train.py",
    script_params=params,
    compute_target="cluster",
    node_count=2,
    process_count_per_node=1,
    distributed_training=MpiConfiguration(),
    custom_docker_image="team/" + "horovod:0.19",
    image_registry_details=registry,
    pip_packages=["pandas", "azureml-sdk"],
    environment_variables=variables,
    use_gpu=True,
    vm_size="STANDARD_NC6",
    shm_size="4g",
    max_run_duration_seconds=60 * 60,
)

run = Experiment(ws, "horovod").submit(estimator)
run.wait_for_completion(show_output=True)
model = run.register_model(model_name="horovod", model_path="outputs/model")
