"""`repro_est`, as a script inside a run imports it: `from repro_est import Run`.

In runs this file is the package's `__init__.py` (`targets.parcel`).
"""

from repro_est.inside.run import Run, RunError

__all__ = ["Run", "RunError"]
