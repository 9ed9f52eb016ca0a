"""How the spaces and layers of an architecture refer to each other."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Wiring"]


class Wiring(NamedTuple):
    """How spaces and layers refer to each other, as positions instead of names.

    Attributes:
        reads: For each layer, the space that it reads.
        writes: For each layer, the space that it writes.
        hidden: The spaces with an activation; their order is the order in every ``GroupElement``.
        inputs: The spaces that no layer writes.
        outputs: The spaces that no layer reads.
        order: Spaces in an order in which they can be evaluated.
        read_slots: For each layer, the position of the space that it reads in ``hidden``, or None.
        write_slots: For each layer, the position of the space that it writes in ``hidden``, or None.
        bias_carriers: For each hidden space, the layer whose bias takes a shift of the pre-activation (the
            first one with a bias), or None.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    hidden: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    order: tuple[int, ...]
    read_slots: tuple[int | None, ...]
    write_slots: tuple[int | None, ...]
    bias_carriers: tuple[int | None, ...]
