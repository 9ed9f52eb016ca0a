"""The study: what augmentation, alignment and built-in symmetry are worth, in parts that each fit two cores.

Said before any run.

*Comparisons that count*: SIREN negation, MixUp, the paper's alignment with MixUp, and full-group alignment with MixUp,
each against no augmentation, on Fashion-MNIST with one view and DWS. Everything else is there to understand them.
*Baseline*: rate and epochs were chosen for no augmentation and for SIREN negation by their best validation accuracy
(seed 100, which no table has) among 2e-3, 5e-3, 1.5e-2 and 3e-2 with 30 epochs, and 60 at 1.5e-2.
*Rules*: the test accuracy is that of the epoch with the best validation accuracy; a row helps or harms where the paired
t-test is below 5 % after Holm's correction over the rows of its table, and is undecided otherwise.
*Budget*: 24 hours of one core for all parts; ``--steps plan`` tells what is left.

Networks: standard SIRENs, fitted at 3e-3 until they show 40 dB, 500 steps at most. That is 90 steps of the median
network and 25 milliseconds, where the recipe of the public networks takes 10,000 steps and 3 seconds. ``small`` and
``published`` hold the slower recipes, to compare the order of the rows.

Checked afterwards, on the same seed: DWS with signs built in keeps the rate of DWS, since 5e-3 and 2e-3 are worse with
MixUp, and within a point without.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.data.sdf import Sampling
from benchmarks.data.settings import ImageFitSettings, ShapeFitSettings
from benchmarks.models.settings import DWSSettings, ReaderSettings, TransformerSettings
from benchmarks.table.rows import PAPER_ROWS, ROWS
from benchmarks.table.settings import Settings, TrainSettings

# Rows that matter: where the other parts of the study look.
FEW = ("none", "siren_negation", "noise", "mixup", "aligned_mixup", "full_aligned_mixup")
BOTH = "negation_full_aligned_mixup"

MAIN = Settings(
    preset="study",
    datasets=("fashion-mnist",),
    rows=tuple(ROWS),
    seeds=tuple(range(10)),
    fitted_views=10,  # on the second of which classifiers are also tested: new views of known objects
    fit=ImageFitSettings(convention_name="siren", images=(3000, 500, 1000), steps=500, learning_rate=3e-3, batch=125),
    dws=DWSSettings(hidden=32, layers=2),
    train=TrainSettings(epochs=30, batch=64, learning_rate=1.5e-2),
)

# The sign symmetry built in instead of augmented, and the plain readers: "augment, align, or build it in?"
READERS = replace(
    MAIN,
    preset="study-readers",
    models=("dws-odd", "mlp", "mlp-member", "mlp-frame", "mlp-frames", "probe"),
    rows=("none", "mixup", "full_aligned_mixup"),
    seeds=(0, 1, 2, 3, 4),
    reader=ReaderSettings(hidden=256),
)

# Ten views: as many steps as three times the epochs of one view would be.
VIEWS = replace(
    MAIN,
    preset="study-views",
    rows=(*FEW, BOTH),
    views=(10,),
    seeds=(0, 1, 2, 3, 4),
    train=replace(MAIN.train, epochs_many_views=9),
)

# Every seed has images and fits of its own, so that the intervals cover them.
REDRAWN = replace(
    MAIN, preset="study-redrawn", rows=(*FEW, BOTH), seeds=(0, 1, 2, 3, 4), redraw=True, fitted_views=None
)

# Partners of mixing from all ten views, as the paper's code takes them even where one view is trained on.
LEAK = replace(
    MAIN,
    preset="study-leak",
    rows=("mixup", "aligned_mixup", "full_aligned_mixup"),
    seeds=(0, 1, 2, 3, 4),
    mixup_pool="all",
)

# Other numbers of training images, at about as many steps: --train.images N --train.epochs 90000/N for each N, and
# --views 10 --rows none --train.epochs-many-views 9000/N; 4,000 with --fit.images 4000 500 1000 besides.
CURVE = replace(
    MAIN,
    preset="study-curve",
    rows=("none", "siren_negation", "full_aligned_mixup"),
    seeds=(0, 1, 2),
    fitted_views=None,
    train=replace(MAIN.train, images=1000, epochs=90),
)

# Read off on validation: without dropout, slowly, learning by heart. Where it stays at chance it is no result.
TRANSFORMER = replace(
    MAIN,
    preset="study-transformer",
    models=("relation-transformer",),
    rows=(*PAPER_ROWS, "full_aligned_mixup"),
    seeds=(0, 1, 2, 3, 4),
    transformer=TransformerSettings(layers=2, node=32, edge=16, attention=32, heads=4, dropout=0.0),
    train=replace(MAIN.train, batch=32),
)

# Ten views at a third more steps than one view has.
TRANSFORMER_VIEWS = replace(
    TRANSFORMER,
    preset="study-transformer-views",
    rows=("none", "siren_negation", "aligned_mixup"),
    views=(10,),
    seeds=(0, 1, 2),
    train=replace(TRANSFORMER.train, epochs_many_views=4),
)

# All meshes of the archive, fitted as in ``small``: with the paper's 1,000 steps at 1e-4 twice as many signs are wrong.
SHAPES = replace(
    MAIN,
    preset="study-shapes",
    datasets=("modelnet10",),
    rows=(*FEW, BOTH),
    seeds=(0, 1, 2, 3, 4),
    fitted_views=None,
    shapes=ShapeFitSettings(steps=2000, learning_rate=1e-3, points_per_step=512, sampling=Sampling(points=32_768)),
)

PARTS = (MAIN, READERS, VIEWS, REDRAWN, LEAK, CURVE, TRANSFORMER, TRANSFORMER_VIEWS, SHAPES)
STUDY = {part.preset: part for part in PARTS}
