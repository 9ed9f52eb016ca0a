"""Figures of the paper and of public code, to stand beside ours. Nothing is computed from them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from benchmarks.models.settings import ModelName


class Accuracy(NamedTuple):
    """A figure of the paper's Table 1.

    Attributes:
        mean: Mean test accuracy over 3 seeds, in percent.
        deviation: Its standard deviation.
    """

    mean: float
    deviation: float

    def __str__(self) -> str:
        return f"{self.mean:.2f} ± {self.deviation:.2f}"


class Column(NamedTuple):
    """A column of Table 1.

    Attributes:
        dataset: "ModelNet40" or "FMNIST", as the paper writes them.
        model: Which model; the paper calls the Relation Transformer "GNN".
        views: Networks per object.
    """

    dataset: Literal["ModelNet40", "FMNIST"]
    model: ModelName
    views: int


_ORDER: tuple[tuple[Literal["ModelNet40", "FMNIST"], int], ...] = (
    ("ModelNet40", 1),
    ("ModelNet40", 10),
    ("FMNIST", 1),
    ("FMNIST", 10),
)

# Table 1: mean and deviation, in that order of columns; an empty pair where the paper has a dash.
_FIGURES: dict[ModelName, dict[str, tuple[tuple[float, ...], ...]]] = {
    "dws": {
        "none": ((16.17, 0.25), (30.25, 0.95), (68.30, 0.62), (76.01, 1.20)),
        "translate": ((18.18, 0.97), (31.17, 0.02), (67.90, 0.24), (77.61, 0.36)),
        "rotate": ((), (), (68.55, 0.28), (77.04, 0.47)),
        "scale": ((16.41, 0.57), (30.54, 0.72), (67.99, 0.14), (75.77, 1.09)),
        "noise": ((14.10, 0.71), (25.31, 1.78), (68.53, 0.09), (77.60, 0.13)),
        "siren_bias": ((4.69, 0.10), (4.90, 0.01), (58.20, 0.01), (62.21, 0.55)),
        "siren_negation": ((20.14, 0.98), (32.31, 0.70), (71.40, 0.29), (77.71, 1.38)),
        "dropout": ((11.43, 2.44), (14.71, 1.14), (68.48, 0.14), (75.57, 1.91)),
        "quantile_dropout": ((15.13, 2.45), (29.88, 0.62), (68.72, 0.27), (76.22, 0.72)),
        "mixup": ((26.96, 0.91), (31.92, 0.37), (74.36, 1.17), (78.58, 0.20)),
        "permuted_mixup": ((26.62, 0.18), (33.55, 1.40), (73.89, 0.89), (78.04, 1.02)),
        "aligned_mixup": ((27.40, 0.97), (33.33, 0.43), (75.67, 0.36), (79.41, 0.56)),
    },
    "relation-transformer": {
        "none": ((8.82, 1.08), (34.51, 1.24), (68.84, 0.41), (79.58, 3.01)),
        "translate": ((8.17, 0.81), (34.93, 1.31), (70.17, 1.26), (83.83, 0.25)),
        "rotate": ((), (), (69.35, 2.18), (83.72, 1.14)),
        "scale": ((8.58, 0.65), (34.70, 5.19), (68.96, 1.46), (83.67, 0.19)),
        "noise": ((9.06, 0.27), (32.82, 1.14), (77.55, 0.33), (81.28, 0.50)),
        "siren_bias": ((11.63, 2.48), (34.32, 1.57), (68.09, 0.49), (77.20, 1.03)),
        "siren_negation": ((11.41, 3.22), (37.93, 2.26), (72.74, 4.29), (82.36, 3.66)),
        "dropout": ((8.10, 0.43), (18.04, 1.24), (68.55, 1.21), (79.72, 1.35)),
        "quantile_dropout": ((8.12, 0.85), (34.36, 1.14), (69.96, 2.08), (83.78, 0.76)),
        "mixup": ((20.45, 3.82), (42.25, 3.83), (80.18, 0.59), (82.20, 0.52)),
        "permuted_mixup": ((24.46, 2.92), (41.67, 4.55), (78.45, 2.29), (82.24, 0.68)),
        "aligned_mixup": ((26.88, 1.75), (42.83, 4.18), (78.80, 2.12), (82.94, 0.31)),
    },
}

TABLE1: dict[tuple[str, Column], Accuracy] = {
    (row, Column(dataset, model, views)): Accuracy(*figure)
    for model, rows in _FIGURES.items()
    for row, figures in rows.items()
    for (dataset, views), figure in zip(_ORDER, figures, strict=True)
    if figure
}
