"""`azureml` inside a run whose recipe says `[compat] azureml = true`: Azure ML's names for what `repro_est` has.

In runs this package is the top-level `azureml` (`targets.parcel`), and comes before one that is installed. `Run` is the
class of `repro_est`. What only makes sense where runs are submitted is refused by name.
"""

if __name__ == "azureml":
    from .surface import finder

    finder().install()
