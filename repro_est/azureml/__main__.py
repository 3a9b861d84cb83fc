"""`python -m repro_est.azureml SCRIPT-OR-NOTEBOOK [args...]`."""

import sys

from repro_est.azureml.program import main

raise SystemExit(main(sys.argv[1:]))
