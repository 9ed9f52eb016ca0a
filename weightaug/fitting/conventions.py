"""The conventions by which published implicit representations of images are built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from weightaug.architecture import Architecture

__all__ = ["CONVENTIONS", "Convention", "ConventionName", "convention_of"]

ConventionName = Literal["authors", "siren", "nfn"]


@dataclass(frozen=True)
class Convention:
    """How an INR is built and what it is trained to show.

    Args:
        omega: Frequency of the hidden sines.
        first_omega: Frequency of the first sine, None for the same.
        first_layer_special: Whether the first weights start in U(+-1/inputs), as in SIREN, instead of the
            bound of the hidden layers.
        last_layer_torch: Whether the last weights start like a torch.nn.Linear.
        zero_hidden_bias: Whether the biases before the last start at zero (otherwise like nn.Linear).
        output_offset: Constant added to the output.
        target_range: Values of black and white.
        coordinates: What the inputs are: (x, y), or "ij" for (row, column).
    """

    omega: float = 30.0
    first_omega: float | None = None
    first_layer_special: bool = False
    last_layer_torch: bool = True
    zero_hidden_bias: bool = True
    output_offset: float = 0.5
    target_range: tuple[float, float] = (0.0, 1.0)
    coordinates: Literal["xy", "ij"] = "xy"

    @property
    def peak(self) -> float:
        """From black to white, the peak of the signal-to-noise ratio."""
        low, high = self.target_range
        return high - low

    def architecture(self, sizes: Sequence[int]) -> Architecture:
        """The architecture of this convention's networks.

        Args:
            sizes: Numbers of inputs, of neurons of each hidden space, and of outputs.
        """
        return Architecture.siren(
            sizes, omega=self.omega, first_omega=self.first_omega, output_offset=self.output_offset
        )


CONVENTIONS: dict[ConventionName, Convention] = {
    # What the authors' INRs are made with (DWSNets, issues 6 and 7): SIREN's "is_first" is never set.
    "authors": Convention(),
    # Sitzmann et al. 2020, as their code fits images.
    "siren": Convention(
        first_layer_special=True,
        last_layer_torch=False,
        zero_hidden_bias=False,
        output_offset=0.0,
        target_range=(-1.0, 1.0),
    ),
    # Zhou et al. 2023 (NFN): a standard SIREN on (row, column).
    "nfn": Convention(
        first_layer_special=True,
        last_layer_torch=False,
        zero_hidden_bias=False,
        output_offset=0.0,
        target_range=(-1.0, 1.0),
        coordinates="ij",
    ),
}


def convention_of(convention: Convention | ConventionName) -> Convention:
    """The convention of a name, or the convention itself.

    Raises:
        ValueError: If there is none of that name.
    """
    if isinstance(convention, Convention):
        return convention
    if convention not in CONVENTIONS:
        raise ValueError(f"unknown convention {convention!r}; expected one of {list(CONVENTIONS)}, or a Convention")
    return CONVENTIONS[convention]
