"""Alignment: the symmetry that brings one network as close as possible to another.

``act(b, match(a, b))`` computes the same function as ``b``, with weights as close to those of ``a`` as the
matching could bring them.
"""

from weightaug.matching.weight import match

__all__ = ["match"]
