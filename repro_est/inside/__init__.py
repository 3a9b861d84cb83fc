"""What a training script sees of `repro` while it runs: standard library only, Python 3.8 and later.

A run has a directory on its Python path that holds a copy of this package under the name `repro_est` (`targets.parcel`
makes it), whatever the environment has installed. The same modules serve a script that is started without `repro`.
"""
