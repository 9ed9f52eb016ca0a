"""Draws the figures of the page "Start in five minutes": ``python docs/start_figures.py``."""

from pathlib import Path

import torch

import weightaug as wa

OUT = Path(__file__).parent / "figures"
KINDS = {
    "SirenNegation": wa.SirenNegation(),
    "Rotate": wa.Rotate(30.0),
    "GaussianNoise": wa.GaussianNoise(0.02),
    "Mixup": wa.Mixup(),
    "AlignedMixup": wa.AlignedMixup(),
}


def main() -> None:
    """Draws all of them."""
    data = wa.datasets.digits()
    networks = data.element[:8]
    figures = {
        "digits": wa.plot.show(data.element[:16], labels=data.labels),
        "augmentations": wa.plot.show_augmentations(networks, KINDS, generator=torch.Generator().manual_seed(0)),
        "path": wa.plot.show_path(networks[0], networks[3]),
    }
    for name, figure in figures.items():
        figure.savefig(OUT / f"start-{name}.png", dpi=70, metadata={"Software": None})


if __name__ == "__main__":
    main()
