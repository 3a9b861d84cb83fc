"""What Azure ML calls schematised metrics, drawn: confusion matrices, ROC and precision-recall curves, histograms.

The data is the script's. What is not of the documented shape is shown as the JSON it is.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from repro_est.portal.logged import Shape
from repro_est.portal.markup import Markup, element, joined
from repro_est.portal.plot import COLOURS, bar_plot, legend, line_plot
from repro_est.portal.series import Series
from repro_est.portal.words import shown

_NUMBERED_UP_TO = 25
"""Classes up to which the cells of a confusion matrix have room for their numbers."""
_MAX_CLASSES = 100
_MAX_JSON = 4000


def shape_figures(shape: Shape) -> Markup:
    """Returns the pictures of one object."""
    draw = _DRAWN.get(shape.kind)
    try:
        drawn = draw(shape) if draw else None
    except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
        drawn = None
    return drawn or _as_json(shape)


def _confusion_matrix(shape: Shape) -> Markup | None:
    matrix = [[float(cell) for cell in row] for row in shape.data["matrix"]]
    labels = [str(label) for label in shape.data.get("class_labels") or range(len(matrix))]
    if len(matrix) > _MAX_CLASSES or {len(labels), *map(len, matrix)} != {len(matrix)} or not matrix:
        return None
    dense = len(matrix) > _NUMBERED_UP_TO
    body = [
        element("tr", element("th", label, scope="row"), *_heat_row(row, labels, label, dense=dense))
        for label, row in zip(labels, matrix, strict=True)
    ]
    head = element("tr", element("td.corner", "true ↓ predicted →"), *(element("th", label) for label in labels))
    total, right = sum(map(sum, matrix)), sum(row[place] for place, row in enumerate(matrix))
    told = f"{right / total:.1%} of {shown(total)} on the diagonal" if total > 0 else "empty"
    table = element("table.heat.dense" if dense else "table.heat", element("thead", head), element("tbody", *body))
    return _figure(shape.name, told, element("div.scroll", table), wide=len(matrix) > 8)


def _heat_row(row: Sequence[float], labels: Sequence[str], label: str, *, dense: bool) -> list[Markup]:
    """Cells as dark as their share of the row, so that a rare class is as readable as a common one."""
    most = sum(abs(cell) for cell in row) or 1.0
    cells = []
    for other, cell in zip(labels, row, strict=True):
        share = min(1.0, abs(cell) / most)
        cells.append(
            element(
                "td.strong" if share > 0.5 else "td",
                "" if dense else shown(cell),
                style=f"--v:{share:.3f}",
                title=f"true {label}, predicted {other}: {shown(cell)}",
            )
        )
    return cells


def _accuracy_table(shape: Shape) -> Markup | None:
    """Curves of each class, of its true and false positives and negatives at every threshold."""
    tables = [[[float(cell) for cell in row] for row in table] for table in shape.data["probability_tables"]]
    labels = [str(label) for label in shape.data.get("class_labels") or range(len(tables))]
    roc: list[Series] = []
    recall: list[Series] = []
    for label, table in zip(labels[:COLOURS], tables, strict=False):
        rates = [_rates(*row[:4]) for row in table]
        roc.append(_curve(label, [(false, true) for true, false, _ in rates]))
        recall.append(_curve(label, [(true, precision) for true, _, precision in rates if precision is not None]))
    if not any(item.values for item in roc):
        return None
    keys = legend([item.name for item in roc])
    return joined(
        [
            _figure(
                f"{shape.name}: ROC", "true by false positives", line_plot(roc, across="false positive rate"), keys
            ),
            _figure(f"{shape.name}: precision", "by recall", line_plot(recall, across="recall"), keys),
        ]
    )


def _rates(true_positives: float, false_positives: float, true_negatives: float, false_negatives: float) -> Any:
    positives, negatives = true_positives + false_negatives, false_positives + true_negatives
    taken = true_positives + false_positives
    return (
        true_positives / positives if positives else 0.0,
        false_positives / negatives if negatives else 0.0,
        true_positives / taken if taken else None,
    )


def _curve(name: str, points: Sequence[tuple[float, float]]) -> Series:
    ordered = sorted(points)
    return Series(name, [x for x, _ in ordered], [y for _, y in ordered])


def _residuals(shape: Shape) -> Markup | None:
    edges, counts = _floats(shape.data, "bin_edges"), _floats(shape.data, "bin_counts")
    if len(edges) != len(counts) + 1 or not counts:
        return None
    told = ", ".join(f"{key} {shown(shape.data[key])}" for key in ("mean", "stddev") if key in shape.data)
    return _figure(shape.name, told, bar_plot(edges, counts, across="residual"))


def _predictions(shape: Shape) -> Markup | None:
    """Averages by bin of the true value, beside the line on which a perfect model would be."""
    edges, averages = _floats(shape.data, "bin_edges"), _floats(shape.data, "bin_averages")
    if len(edges) not in (len(averages), len(averages) + 1) or not averages:
        return None
    bins = list(itertools.pairwise(edges)) if len(edges) > len(averages) else [(edge, edge) for edge in edges]
    middles = [(low + high) / 2 for low, high in bins]
    lines = [Series.of("predicted", middles, averages), Series.of("perfect", middles, middles)]
    return _figure(
        shape.name, "predicted by true value", line_plot(lines, across="true value"), legend(["predicted", "perfect"])
    )


def _floats(data: Mapping[str, Any], key: str) -> list[float]:
    return [float(value) for value in data[key]]


def _as_json(shape: Shape) -> Markup:
    text = json.dumps(shape.data, indent=1, ensure_ascii=False)
    return _figure(
        shape.name, shape.kind, element("pre.log", text[:_MAX_JSON] + ("..." if len(text) > _MAX_JSON else ""))
    )


def _figure(name: str, told: str, *content: Markup, wide: bool = False) -> Markup:
    caption = element("figcaption", element("b", name), " ", element("span", told))
    return element("figure.card.wide" if wide else "figure.card", caption, *content)


_DRAWN: Mapping[str, Callable[[Shape], Markup | None]] = {
    "confusion_matrix": _confusion_matrix,
    "accuracy_table": _accuracy_table,
    "residuals": _residuals,
    "predictions": _predictions,
}
