import argparse
import json
import os

import sklearn

from azureml.core.run import Run

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder", type=str, dest="data_folder", help="where the data is mounted")
parser.add_argument("--regularization", type=float, dest="reg", default=0.01, help="strength of the penalty")
args = parser.parse_args()

run = Run.get_context()

with open(os.path.join(args.data_folder, "points.csv")) as file:
    rows = [list(map(float, line.split(","))) for line in file.read().split()[1:]]

print("scikit-learn", sklearn.VERSION, "on", len(rows), "rows, regularization", args.reg)
slope = sum(x * y for x, y in rows) / (sum(x * x for x, _ in rows) + args.reg)
for epoch in range(3):
    run.log("loss", sum((y - slope * x) ** 2 for x, y in rows) / (epoch + 1))
run.log("regularization rate", args.reg)
run.log("slope", slope)
run.tag("kind", "ridge")

os.makedirs("outputs", exist_ok=True)
# whatever is written into outputs is kept with the run
with open("outputs/model.pkl", "w") as file:
    json.dump({"slope": slope}, file)
