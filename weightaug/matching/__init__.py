"""Alignment: the symmetry that brings one network as close as possible to another.

``act(b, match(a, b))`` computes the same function as ``b``, with weights as close to those of ``a`` as the
matching could bring them.
"""

from weightaug.matching.assignment import assign
from weightaug.matching.canonical import canonicalize
from weightaug.matching.frames import Frame, fit_frame
from weightaug.matching.lora import canonicalize_lora, lora_distance, lora_products, mix_lora
from weightaug.matching.many import align_to, match_many
from weightaug.matching.orbits import distance
from weightaug.matching.weight import match

__all__ = [
    "Frame",
    "align_to",
    "assign",
    "canonicalize",
    "canonicalize_lora",
    "distance",
    "fit_frame",
    "lora_distance",
    "lora_products",
    "match",
    "match_many",
    "mix_lora",
]
