"""Figures of the paper and of public code, to stand beside ours. Nothing is computed from them."""

from __future__ import annotations

from typing import Literal, NamedTuple

ModelName = Literal["dws", "relation-transformer"]

MODEL_LABELS: dict[ModelName, str] = {"dws": "DWS", "relation-transformer": "Relation Transformer"}


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


def _table(
    dws: dict[str, tuple[float, float, float, float]], transformer: dict[str, tuple[float, float, float, float]]
) -> dict[tuple[str, ModelName, int], Accuracy]:
    return {
        (row, model, views): Accuracy(*figures[start : start + 2])
        for model, rows in (("dws", dws), ("relation-transformer", transformer))
        for row, figures in rows.items()
        for views, start in ((1, 0), (10, 2))
    }


# Table 1, columns "FMNIST": mean and deviation for 1 view, then for 10 views. By row, model and views. The paper
# calls the Relation Transformer "GNN".
FASHION_MNIST: dict[tuple[str, ModelName, int], Accuracy] = _table(
    {
        "none": (68.30, 0.62, 76.01, 1.20),
        "translate": (67.90, 0.24, 77.61, 0.36),
        "rotate": (68.55, 0.28, 77.04, 0.47),
        "scale": (67.99, 0.14, 75.77, 1.09),
        "noise": (68.53, 0.09, 77.60, 0.13),
        "siren_bias": (58.20, 0.01, 62.21, 0.55),
        "siren_negation": (71.40, 0.29, 77.71, 1.38),
        "dropout": (68.48, 0.14, 75.57, 1.91),
        "quantile_dropout": (68.72, 0.27, 76.22, 0.72),
        "mixup": (74.36, 1.17, 78.58, 0.20),
        "permuted_mixup": (73.89, 0.89, 78.04, 1.02),
        "aligned_mixup": (75.67, 0.36, 79.41, 0.56),
    },
    {
        "none": (68.84, 0.41, 79.58, 3.01),
        "translate": (70.17, 1.26, 83.83, 0.25),
        "rotate": (69.35, 2.18, 83.72, 1.14),
        "scale": (68.96, 1.46, 83.67, 0.19),
        "noise": (77.55, 0.33, 81.28, 0.50),
        "siren_bias": (68.09, 0.49, 77.20, 1.03),
        "siren_negation": (72.74, 4.29, 82.36, 3.66),
        "dropout": (68.55, 1.21, 79.72, 1.35),
        "quantile_dropout": (69.96, 2.08, 83.78, 0.76),
        "mixup": (80.18, 0.59, 82.20, 0.52),
        "permuted_mixup": (78.45, 2.29, 82.24, 0.68),
        "aligned_mixup": (78.80, 2.12, 82.94, 0.31),
    },
)

# Standard deviation of every tensor of the public INRs of Fashion-MNIST, as the configuration of the public code of
# neural graphs has them (fmnist.yaml), under the names that `WeightSpaceElement.named_tensors` gives.
INR_DEVIATIONS: dict[str, dict[str, float]] = {
    "fashion-mnist": {
        "layer0.weight": 0.0782,
        "layer0.bias": 0.0286,
        "layer1.weight": 0.0324,
        "layer1.bias": 0.0167,
        "layer2.weight": 0.1345,
        "layer2.bias": 0.0960,
    }
}
