"""The rows of Table 1: the paper's twelve, and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import weightaug as wa

Special = Literal["canonical", "feature_mixup", "permuted_labels"]


class Row(NamedTuple):
    """A row of Table 1.

    Attributes:
        label: As the paper writes it.
        augmentation: Makes the augmentation; takes the pool of partners, None for those of the batch. None for no
            augmentation.
        special: What is done beside augmenting weights and targets: ``canonical`` brings the networks of training,
            validation and test into canonical form; ``feature_mixup`` mixes what enters the model's last layer;
            ``permuted_labels`` shuffles the labels of training and validation, so nothing can be learned.
    """

    label: str
    augmentation: Callable[..., wa.Transform] | None
    special: Special | None = None

    @property
    def mixes(self) -> bool:
        """Whether networks are mixed with partners."""
        return self.augmentation is not None and self.augmentation().mixes


# Strengths are the defaults of the paper's code; its text names none.
PAPER_ROWS: dict[str, Row] = {
    "none": Row("No augmentation", None),
    # Its code pushes the shift through a random number of layers, which is no translation; here the first only.
    "translate": Row("Translate", lambda pool=None: wa.Translate(amount=0.25)),
    "rotate": Row("Rotation", lambda pool=None: wa.Rotate(degrees=30.0)),
    "scale": Row("Scale", lambda pool=None: wa.Scale(amount=0.2)),
    "noise": Row("Gaussian noise", lambda pool=None: wa.GaussianNoise(scale=0.32)),
    # Its code draws k from {-4, ..., 3}; here the range is symmetric.
    "siren_bias": Row("SIREN bias", lambda pool=None: wa.SirenBias(k_max=4)),
    "siren_negation": Row("SIREN negation", lambda pool=None: wa.SirenNegation(p=0.5)),
    # Its code also multiplies the survivors by 1 / (1 - p); its text does not.
    "dropout": Row("Dropout", lambda pool=None: wa.Dropout(p=0.1)),
    # As its code: a random quantile below 0.1, over all tensors of a network.
    "quantile_dropout": Row("Quantile dropout", lambda pool=None: wa.QuantileDropout(q=0.1, pooled=True)),
    # Its code draws the partners of "1 view" from all ten views; here that is a setting, `mixup_pool`.
    "mixup": Row("MixUp", lambda pool=None: wa.Mixup(pool=pool)),
    "permuted_mixup": Row("MixUp + random perm.", lambda pool=None: wa.PermutedMixup(pool=pool)),
    # Its code matches from the networks as they come.
    "aligned_mixup": Row(
        "Alignment + MixUp",
        lambda pool=None: wa.AlignedMixup(symmetry="permutation", starts=("identity",), pool=pool),
    ),
}


def _aligned(symmetry: str, pool: wa.Pool | None) -> wa.Transform:
    return wa.AlignedMixup(symmetry=symmetry, pool=pool)


OWN_ROWS: dict[str, Row] = {
    "full_aligned_mixup": Row("Full-group alignment + MixUp", lambda pool=None: _aligned("auto", pool)),
    # As near as matching comes without random starts, at thirty times the time.
    "thorough_aligned_mixup": Row(
        "Full-group alignment, annealed + MixUp",
        lambda pool=None: wa.AlignedMixup(symmetry="auto", starts=("identity", "forward", "anneal"), pool=pool),
    ),
    # Partners from a pool are not negated; those of the batch are.
    "negation_aligned_mixup": Row(
        "SIREN negation, then Alignment + MixUp",
        lambda pool=None: wa.Compose((wa.SirenNegation(p=0.5), _aligned("permutation", pool))),
    ),
    "negation_full_aligned_mixup": Row(
        "SIREN negation, then full-group alignment + MixUp",
        lambda pool=None: wa.Compose((wa.SirenNegation(p=0.5), _aligned("auto", pool))),
    ),
    # The paper's range of k moves biases by up to 4 half periods, further than any fit does.
    "siren_bias_bounded": Row("SIREN bias, k from -1 to 1", lambda pool=None: wa.SirenBias(k_max=1)),
    # The paper's rotations leave the sampling grid; these do not.
    "dihedral": Row("Dihedral (right angles and flips)", lambda pool=None: wa.Dihedral()),
    "canonical": Row("Canonical form (train and test)", None, "canonical"),
    # Named in the paper's section 1, in which no figure follows.
    "feature_mixup": Row("Feature MixUp (penultimate layer)", None, "feature_mixup"),
    "label_smoothing": Row("Label smoothing", lambda pool=None: wa.LabelSmoothing(alpha=0.1)),
    "permuted_labels": Row("Control: permuted labels", None, "permuted_labels"),
}

ROWS: dict[str, Row] = PAPER_ROWS | OWN_ROWS

BASELINE = "none"  # the row that the others are compared with
