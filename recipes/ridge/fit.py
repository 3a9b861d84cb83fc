"""Choose a ridge penalty by cross-validation and write the coefficients down."""

import argparse
import json
from pathlib import Path

import numpy as np


def solve(features: np.ndarray, target: np.ndarray, alpha: float) -> np.ndarray:
    penalty = alpha * np.eye(features.shape[1])
    penalty[0, 0] = 0.0  # the intercept is not shrunk
    return np.linalg.solve(features.T @ features + penalty, features.T @ target)


def cross_validated_error(features: np.ndarray, target: np.ndarray, alpha: float, folds: int) -> float:
    fold = np.arange(len(target)) % folds
    errors = [
        np.mean((target[fold == k] - features[fold == k] @ solve(features[fold != k], target[fold != k], alpha)) ** 2)
        for k in range(folds)
    ]
    return float(np.sqrt(np.mean(errors)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--alpha", type=float, nargs="+", required=True)
    parser.add_argument("--folds", type=int, default=5)
    arguments = parser.parse_args()

    with open(arguments.data) as file:
        names = file.readline().strip().split(",")[:-1]
        table = np.loadtxt(file, delimiter=",")
    features, target = table[:, :-1], table[:, -1]
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    features = np.column_stack([np.ones(len(target)), features])

    errors = {alpha: cross_validated_error(features, target, alpha, arguments.folds) for alpha in arguments.alpha}
    for alpha, error in errors.items():
        print(f"alpha {alpha:<8g} rmse {error:.4f}")
    best = min(errors, key=errors.get)
    coefficients = solve(features, target, best)
    Path("outputs/coefficients.json").write_text(
        json.dumps(dict(zip(["intercept", *names], coefficients.tolist(), strict=True)), indent=2) + "\n"
    )
    Path("outputs/metrics.json").write_text(json.dumps({"rmse": errors[best], "alpha": best}) + "\n")


if __name__ == "__main__":
    main()
