"""Deriving an architecture from a module: every axis of every tensor is followed through the operators.

``dims``: axes as products of dimensions, united and split as operators ask for. ``scales``: by which factors tensors
may be multiplied, as equations. ``values``: tensors in the graph. ``rules*``: what each operator asks for.
``emit``: the spaces and tensors that come out. ``derive``: the way from a module to an architecture.
"""

from weightaug._tracing.derive import derive

__all__ = ["derive"]
