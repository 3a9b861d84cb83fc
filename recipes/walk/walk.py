"""A random walk seeded by the operating system: two runs never end in the same place."""

import json
import random
import sys
from pathlib import Path

steps = int(sys.argv[1])
source = random.SystemRandom()
position = sum(source.choice((-1, 1)) for _ in range(steps))
print(f"after {steps} steps at {position}")
Path("outputs/metrics.json").write_text(json.dumps({"position": position}) + "\n")
