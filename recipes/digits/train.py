"""Train a classifier of handwritten digits; the shape of Azure ML's own Estimator example."""

import argparse
import json
import logging
from pathlib import Path

import joblib
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import ConfusionMatrixDisplay, accuracy_score, confusion_matrix, f1_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-folder", type=Path, required=True, help="folder with digits.csv.gz")
    parser.add_argument("--regularization", type=float, default=0.5, help="strength of the penalty")
    arguments = parser.parse_args()
    logging.basicConfig(filename="logs/training.log", format="%(levelname)s %(message)s", level=logging.INFO)

    table = np.loadtxt(arguments.data_folder / "digits.csv.gz", delimiter=",", dtype=np.int64)
    images, labels = table[:, :-1] / 16.0, table[:, -1]
    train_x, test_x, train_y, test_y = train_test_split(images, labels, test_size=0.25, random_state=0, stratify=labels)
    logging.info("%d images to train on, %d to test on", len(train_y), len(test_y))
    print(f"training on {len(train_y)} images, regularization {arguments.regularization}")

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0 / arguments.regularization, max_iter=500))
    model.fit(train_x, train_y)
    predicted = model.predict(test_x)
    metrics = {
        "accuracy": float(accuracy_score(test_y, predicted)),
        "f1_macro": float(f1_score(test_y, predicted, average="macro")),
        "test_images": len(test_y),
    }
    print(f"accuracy {metrics['accuracy']:.4f}")
    logging.info("metrics %s", metrics)

    outputs = Path("outputs")
    (outputs / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    joblib.dump(model, outputs / "model.joblib")
    ConfusionMatrixDisplay(confusion_matrix(test_y, predicted)).plot(colorbar=False)
    plt.title(f"digits, accuracy {metrics['accuracy']:.3f}")
    plt.savefig(outputs / "confusion_matrix.png", dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
