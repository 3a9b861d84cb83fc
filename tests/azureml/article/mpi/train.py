import os

from azureml.core.run import Run

# any launcher of Azure's sets these
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK", "0")))
size = int(os.environ.get("OMPI_COMM_WORLD_SIZE", os.environ.get("PMI_SIZE", "1")))

run = Run.get_context()
print(f"rank {rank} of {size}")
os.makedirs("outputs", exist_ok=True)
with open(f"outputs/rank-{rank}.txt", "w") as file:
    file.write(str(size))
if rank == 0:
    run.log("ranks", size)
