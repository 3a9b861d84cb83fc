"""Declarative build-and-run with Nix-like reproducibility for ML training."""

__version__ = "0.1.0"
__all__ = ["__version__"]
