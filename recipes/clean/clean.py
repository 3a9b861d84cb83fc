"""Keep the patients whose values all lie within three standard deviations."""

import csv
import json
import statistics
import sys
from pathlib import Path

with open(sys.argv[1]) as file:
    names, *rows = list(csv.reader(file))
columns = [[float(cell) for cell in column] for column in zip(*rows, strict=True)]
limits = [(statistics.mean(column), 3 * statistics.pstdev(column)) for column in columns]
kept = [
    row
    for row in rows
    if all(abs(float(cell) - middle) <= width for cell, (middle, width) in zip(row, limits, strict=True))
]
with open("outputs/diabetes.csv", "w", newline="") as file:
    csv.writer(file, lineterminator="\n").writerows([names, *kept])
Path("outputs/metrics.json").write_text(json.dumps({"patients": len(kept), "left_out": len(rows) - len(kept)}) + "\n")
print(f"kept {len(kept)} of {len(rows)} patients")
