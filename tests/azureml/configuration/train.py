import os
import sys

import tinylearn

from azureml.core import Run

run = Run.get_context()
print(tinylearn.VERSION, os.environ["MESSAGE"], sys.argv[1:])
run.log("lr", float(sys.argv[2]))
