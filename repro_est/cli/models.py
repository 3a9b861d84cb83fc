"""List registered models, or the versions of one: `repro model list`, in one word.

repro models
repro models digits --json
"""

from repro_est.cli.model import configure_list as configure
from repro_est.cli.model import execute_list as execute

__all__ = ["configure", "execute"]
