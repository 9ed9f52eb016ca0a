"""Fitting networks to signals, many at once: data sets of INRs, and views of networks that are given."""

from weightaug.fitting.collection import make_inrs
from weightaug.fitting.conventions import CONVENTIONS, Convention
from weightaug.fitting.descent import Adam, Fitted, fit
from weightaug.fitting.images import fit_inrs, pixel_grid
from weightaug.fitting.initial import initial_weights, seed_of

__all__ = [
    "CONVENTIONS",
    "Adam",
    "Convention",
    "Fitted",
    "fit",
    "fit_inrs",
    "initial_weights",
    "make_inrs",
    "pixel_grid",
    "seed_of",
]
