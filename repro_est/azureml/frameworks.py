"""Estimators of old code that declare a framework's packages: those of `repro_est`."""

from __future__ import annotations

from repro_est.api import presets
from repro_est.azureml.estimators import Old


class PyTorch(Old, presets.PyTorch):
    """`repro_est.PyTorch`."""


class TensorFlow(Old, presets.TensorFlow):
    """`repro_est.TensorFlow`."""


class Chainer(Old, presets.Chainer):
    """`repro_est.Chainer`."""


class SKLearn(Old, presets.SKLearn):
    """`repro_est.SKLearn`."""
