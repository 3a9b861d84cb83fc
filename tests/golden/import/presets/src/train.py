import torchvision
import mpi4py
