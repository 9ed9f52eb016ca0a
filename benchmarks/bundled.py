"""Makes the networks that come with the package, ``weightaug.datasets.digits``: ``python benchmarks/bundled.py``.

Minutes on one core. The images of 8 x 8 pixels are drawn larger before the fit, so that networks are smooth between the
pixels. The fits are seeded; another processor may round otherwise and so give slightly other weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # so that `benchmarks` is a package

from tqdm import tqdm

from benchmarks.data.images import digits
from weightaug import io
from weightaug.fitting import Adam, fit_inrs

COUNT, HIDDEN, SIZE = 600, (16, 16), 36
SETTINGS = Adam(3000, 3e-3, schedule="cosine", target_psnr=36.0)


def main() -> None:
    """Fits the networks and writes them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = Path(__file__).resolve().parents[1] / "weightaug" / "datasets" / "digits"
    parser.add_argument("--out", type=Path, default=folder)
    args = parser.parse_args()
    images = digits()
    small = images.values[:COUNT, None]
    large = torch.nn.functional.interpolate(small, (SIZE, SIZE), mode="bicubic").clamp(0, 1)[:, 0]
    with tqdm(total=COUNT, unit="network", dynamic_ncols=True) as bar:
        fitted = fit_inrs(large, hidden=HIDDEN, settings=SETTINGS, progress=bar.update)
    metadata = {
        "source": f"scikit-learn, load_digits, drawn at {SIZE} x {SIZE}",
        "fitted": "weightaug.fitting",
    }
    io.save(
        args.out,
        fitted.element,
        images.labels[:COUNT],
        columns={"psnr": fitted.psnr},
        metadata=metadata,
        overwrite=True,
    )
    print(f"{args.out}: {COUNT} networks, PSNR {float(fitted.psnr.min()):.1f} to {float(fitted.psnr.max()):.1f} dB")


if __name__ == "__main__":
    main()
