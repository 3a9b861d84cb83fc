import argparse
import os

import tinylearn
import tinymore
from azureml.core.run import Run

parser = argparse.ArgumentParser()
parser.add_argument("--rate", type=float)
parser.add_argument("--flag", action="store_true")
parser.add_argument("--sizes", type=int, nargs="+")
parser.add_argument("--data")
parser.add_argument("--resume-from")
args = parser.parse_args()

run = Run.get_context()
run.log("rate", args.rate)
print(tinylearn.VERSION, tinymore.VERSION, args.flag, args.sizes, os.environ["MESSAGE"])
assert (args.flag, args.sizes) == (True, [1, 2])
assert sorted(os.listdir(args.data)) == ["a.csv", "more"]
assert os.environ["points"] == args.data == run.input_datasets["points"]
assert os.listdir(run.input_datasets["more"]) == ["b.csv"]
assert open(os.path.join(args.resume_from, "last.txt")).read() == "3\n"
assert os.environ["AZUREML_DATAREFERENCE_MODEL_LOCATION"] == args.resume_from
