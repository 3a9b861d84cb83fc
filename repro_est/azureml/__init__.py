"""Old Azure ML code that submits runs, executed as it is: `azureml` served by the Python API of `repro`."""
