"""Train a small network on handwritten digits with DistributedDataParallel; the same numbers every time."""

import argparse
import json
import platform
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

TEST_IMAGES = 400
BATCH = 256  # over all ranks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-folder", type=Path, required=True, help="folder with digits.csv.gz")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps")
    arguments = parser.parse_args()
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    torch.manual_seed(0)

    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    print(f"rank {rank} of {world} on {platform.node()}", flush=True)

    table = torch.from_numpy(np.loadtxt(arguments.data_folder / "digits.csv.gz", delimiter=",", dtype=np.float32))
    table = table[torch.randperm(len(table))]  # the same on every rank: they share the seed
    images, labels = table[:, :-1] / 16.0, table[:, -1].long()
    test, train = slice(0, TEST_IMAGES), slice(TEST_IMAGES, None)

    network = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loss_of = nn.CrossEntropyLoss()
    for step in range(1, arguments.steps + 1):
        chosen = torch.randint(len(labels) - TEST_IMAGES, (BATCH,))[rank::world]
        loss = loss_of(model(images[train][chosen]), labels[train][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0 and rank == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)

    if rank == 0:
        with torch.no_grad():
            right = int((network(images[test]).argmax(dim=1) == labels[test]).sum())
        metrics = {"accuracy": right / TEST_IMAGES, "loss": loss.item(), "ranks": world, "steps": arguments.steps}
        torch.save(network.state_dict(), "outputs/model.pt")
        Path("outputs/metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        print(f"accuracy {metrics['accuracy']:.4f}")
    # Everybody is done before anybody leaves. The group goes with its process: gloo's own way to end it
    # (destroy_process_group) hung in one of four runs on one machine, with torch 2.13.
    dist.barrier()


if __name__ == "__main__":
    main()
