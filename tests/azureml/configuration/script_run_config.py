# The newer way: an environment, a ScriptRunConfig, one submit.
import azureml.core
from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from azureml.core.conda_dependencies import CondaDependencies
from azureml.widgets import RunDetails

print("SDK version:", azureml.core.VERSION)
ws = Workspace.get(name="my-workspace", subscription_id="0000", resource_group="my-group")

env = Environment("tiny-env")
env.python.conda_dependencies = CondaDependencies.create(pip_packages=["tinylearn==1.0", "azureml-defaults"])
env.environment_variables = {"MESSAGE": "hello"}
env.register(workspace=ws)
env = Environment.get(workspace=ws, name="tiny-env")

src = ScriptRunConfig(
    source_directory=".",
    script="train.py",
    arguments=["--learning-rate", 0.1, "--verbose"],
    compute_target="local",
    environment=env,
)
run = Experiment(ws, "script-run-config").submit(src, tags={"team": "blue"})
RunDetails(run).show()
run.wait_for_completion()
print(run.status, run.get_metrics("lr"), run.get_tags())
details = run.get_details()
print(details["runId"] == run.id, details["status"])
