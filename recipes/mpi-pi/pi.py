"""Pi as the integral of 4 / (1 + x^2) from 0 to 1: each rank sums its share of the steps, an allreduce joins them."""

import argparse
import json
import math
import platform
from pathlib import Path

from mpi4py import MPI


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000, help="rectangles under the curve")
    steps = parser.parse_args().steps
    world = MPI.COMM_WORLD

    width = 1.0 / steps
    partial = math.fsum(4.0 / (1.0 + ((i + 0.5) * width) ** 2) for i in range(world.rank, steps, world.size)) * width
    print(f"rank {world.rank} of {world.size} on {platform.node()}: {partial:.12f}", flush=True)

    # A list is joined, and fsum rounds once: the order in which an MPI adds numbers does not matter then.
    pi = math.fsum(world.allreduce([partial]))
    if world.rank == 0:
        metrics = {"pi": pi, "error": abs(pi - math.pi), "ranks": world.size}
        Path("outputs/metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"pi is {pi:.12f}, off by {metrics['error']:.1e}")


if __name__ == "__main__":
    main()
