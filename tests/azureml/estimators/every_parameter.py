# Says every parameter of an Estimator, and submits one that says many.

from azureml.core import ContainerRegistry, Dataset, Environment, Experiment, Workspace
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.runconfig import MpiConfiguration, PyTorchConfiguration, TensorflowConfiguration
from azureml.data.data_reference import DataReference
from azureml.data.datapath import DataPath
from azureml.train.dnn import Chainer, Gloo, Mpi, Nccl, ParameterServer, PyTorch, TensorFlow
from azureml.train.estimator import Estimator
from azureml.train.hyperdrive import HyperDriveConfig, RandomParameterSampling, choice
from azureml.train.sklearn import SKLearn

ws = Workspace.from_config()
datastore = ws.get_default_datastore()
data = Dataset.File.from_files("data")


def ok(name, right=True):
    assert right, name
    print("ok", name)


def refused(name, call):
    try:
        call()
    except Exception as error:
        assert name.split(".")[-1] in str(error), error
        print("refused", name)
    else:
        raise AssertionError(name)


def said(**keywords):
    return Estimator("code", entry_script="train.py", **keywords).to_recipe()


packages = ["tinylearn"]
params = {"--rate": 0.1, "--flag": "", "--sizes": [1, 2], "--data": data.as_named_input("points").as_mount()}
estimator = Estimator(
    source_directory="code",
    entry_script="train.py",
    compute_target="local",
    script_params=params,
    inputs=[DataReference(datastore, "more", "data/more").as_download()],
    node_count=1,
    process_count_per_node=1,
    use_gpu=False,
    use_docker=False,
    user_managed=False,
    pip_packages=packages,
    pip_requirements_file="more.txt",
    environment_variables={"MESSAGE": "hello"},
    shm_size="1g",
    resume_from=DataPath(datastore, "checkpoints"),
    max_run_duration_seconds=600,
    source_directory_data_store=None,
    _disable_validation=True,
    _show_lint_warnings=False,
)
assert (packages, len(params)) == (["tinylearn"], 4), "arguments are the caller's"
run = Experiment(ws, "every-parameter").submit(estimator)
run.wait_for_completion(show_output=True)
ok("source_directory")
ok("entry_script")
ok("compute_target")
ok("script_params")
ok("inputs")
ok("node_count")
ok("process_count_per_node")
ok("use_gpu")
ok("use_docker")
ok("user_managed")
ok("pip_packages")
ok("pip_requirements_file")
ok("environment_variables")
ok("shm_size")
ok("resume_from")
ok("max_run_duration_seconds")
other = Experiment(ws, "every-parameter").submit(estimator, script_params={"--rate": 0.5})
other.wait_for_completion()
ok("submit", (run.get_metrics()["rate"], other.get_metrics()["rate"]) == (0.1, 0.5))
ok("source_directory", estimator.source_directory.endswith("code") and estimator.entry_script == "train.py")

ok("vm_size", "vm_size" not in said(vm_size="STANDARD_D2_V2", vm_priority="dedicated"))
ok("vm_priority")
ok("conda_packages", 'conda_packages = ["scikit-learn"]' in said(conda_packages=["scikit-learn"]))
ok("conda_dependencies_file", "environment.yml" in said(conda_dependencies_file="environment.yml"))
ok("conda_dependencies_file_path", "environment.yml" in said(conda_dependencies_file_path="environment.yml"))
ok("pip_requirements_file_path", "more.txt" in said(pip_requirements_file_path="more.txt"))
ok("custom_docker_image", 'custom_docker_image = "team/base:1"' in said(custom_docker_image="team/base:1"))
ok("custom_docker_base_image", 'custom_docker_image = "team/base:1"' in said(custom_docker_base_image="team/base:1"))
registry = ContainerRegistry()
registry.address = "registry.lan:5000"
ok("image_registry_details", "registry.lan:5000" in said(custom_docker_image="a:1", image_registry_details=registry))
environment = Environment("named")
environment.python.conda_dependencies = CondaDependencies.create(pip_packages=["tinylearn"], python_version="3.11")
ok("environment_definition", 'pip_packages = ["tinylearn"]' in said(environment_definition=environment))
ok("distributed_backend", 'distributed_backend = "mpi"' in said(node_count=2, distributed_backend="mpi"))
for distributed, word, nodes in (
    (MpiConfiguration(process_count_per_node=2), "mpi", 2),
    (PyTorchConfiguration("Gloo", process_count=4), "torch", 2),
    (TensorflowConfiguration(worker_count=2, parameter_server_count=1), "tensorflow", 3),
    (Mpi(process_count_per_node=2), "mpi", 2),
    (Gloo(), "torch", 2),
    (ParameterServer(worker_count=2, parameter_server_count=1), "tensorflow", 3),
):
    ok("distributed_training", f'type = "{word}"' in said(distributed_training=distributed, node_count=nodes))
ok("distributed_training", 'type = "torch"' in said(distributed_training=Nccl(), use_gpu=True, node_count=2))

for framework, package in (
    (PyTorch, "torch"),
    (TensorFlow, "tensorflow"),
    (Chainer, "chainer"),
    (SKLearn, "scikit-learn"),
):
    version = framework.get_supported_versions()[-1]
    made = framework("code", entry_script="train.py", framework_version=version, compute_target="gpu-cluster")
    ok("framework_version", f'"{package}==' in made.to_recipe())
ok("get_supported_versions")

refused("framework_version", lambda: PyTorch("code", entry_script="train.py", framework_version="1.4"))
refused("node_count", lambda: said(node_count=2))
refused("user_managed", lambda: said(user_managed=True))
refused("environment_definition", lambda: said(environment_definition=environment, pip_packages=["tinylearn"]))
refused("source_directory_data_store", lambda: said(source_directory_data_store=datastore))
refused("entry_script", lambda: Estimator("code", entry_script="gone.py").plan())
refused("Estimator.run_config", lambda: estimator.run_config)
refused("Estimator.conda_dependencies", lambda: estimator.conda_dependencies)
refused("HyperDriveConfig", lambda: HyperDriveConfig(estimator=estimator))
refused("choice", lambda: RandomParameterSampling({"--rate": choice(0.1, 0.2)}))
