from azureml.core import Dataset, Environment, Experiment, ScriptRunConfig, Workspace
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.runconfig import DockerConfiguration, PyTorchConfiguration
from azureml.data import OutputFileDatasetConfig


def main():
    ws = Workspace.from_config()
    datastore = ws.get_default_datastore()
    datastore.upload(src_dir="./data", target_path="digits", overwrite=True)
    digits = Dataset.File.from_files(path=(datastore, "digits/**"))
    titanic = Dataset.Tabular.from_delimited_files("https://example.org/titanic.csv")
    named = Dataset.get_by_name(ws, "names", version=2)
    prepared = OutputFileDatasetConfig(name="prepared")

    environment = Environment("train")
    conda = CondaDependencies.create(pip_packages=["azureml-defaults", "scikit-learn==1.5.2"], python_version="3.12")
    conda.add_pip_package("joblib")
    environment.python.conda_dependencies = conda
    environment.environment_variables["MODE"] = "fast"

    config = ScriptRunConfig(
        source_directory="src",
        script="train.py",
        arguments=[
            "--data",
            digits.as_named_input("digits").as_mount(),
            "--titanic",
            titanic.as_named_input("titanic"),
            "--names",
            named.as_download(),
            "--prepared",
            prepared.as_upload(),
            "--seed",
            7,
            "--empty",
            "",
            "--seed",
            8,
            "last",
        ],
        compute_target=ws.compute_targets["gpu"],
        environment=environment,
        distributed_job_config=PyTorchConfiguration("Gloo", process_count=4, node_count=2),
        docker_runtime_config=DockerConfiguration(use_docker=True, shm_size="8g"),
    )
    Experiment(ws, "digits").submit(config, tags={"team": "vision"})
