# The oldest way: a RunConfiguration with everything in it.
from azureml.core import Experiment, ScriptRunConfig, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.runconfig import DEFAULT_CPU_IMAGE, RunConfiguration
from azureml.telemetry import set_diagnostics_collection

set_diagnostics_collection(send_diagnostics=True)
auth = ServicePrincipalAuthentication("tenant", "principal", "not-a-password")
ws = Workspace("0000", "my-group", "my-workspace", auth=auth)

run_config = RunConfiguration(framework="python", conda_dependencies=CondaDependencies())
run_config.target = "cpu-cluster"
run_config.environment.docker.enabled = False
run_config.environment.docker.base_image = DEFAULT_CPU_IMAGE
run_config.environment.python.user_managed_dependencies = False
run_config.environment.python.conda_dependencies.add_pip_package("tinylearn==1.0")
run_config.environment.environment_variables["MESSAGE"] = "hello"
run_config.auto_prepare_environment = True
run_config.node_count = 1

src = ScriptRunConfig(
    source_directory=".", script="train.py", arguments=["--learning-rate", "0.5"], run_config=run_config
)
run = Experiment(workspace=ws, name="run-configuration").submit(config=src)
run.wait_for_completion(show_output=False)
print(run.get_status(), run.get_metrics())
