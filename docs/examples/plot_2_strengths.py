"""
How strong
==========

Growing strengths, with the median PSNR of 100 networks against themselves as they are.
"""

import torch

import weightaug as wa

networks = wa.datasets.digits().element[:100]


def sweep(make, strengths):
    """Transforms by what is written beside their row."""
    rows = {}
    for strength in strengths:
        changed = make(strength)(networks, generator=torch.Generator().manual_seed(0))
        psnr = float(wa.psnr(networks, changed, 24, peak=2.0).median())
        rows[f"{strength:g}: {psnr:.0f} dB"] = make(strength)
    return wa.plot.show_augmentations(networks, rows)


# %%
# Noise, in deviations of each tensor. The default of the paper's code is 0.32.

figure = sweep(wa.GaussianNoise, (0.005, 0.02, 0.08, 0.32))

# %%
# The smallest weights of each tensor set to 0.

figure = sweep(wa.QuantileDropout, (0.1, 0.3, 0.5, 0.8))

# %%
# Rotation by up to so many degrees. A decibel says little here: the digit is as good as before, at another place.

figure = sweep(wa.Rotate, (5.0, 15.0, 45.0, 90.0))

# %%
# What a strength is to be in dB can be asked for.

calibrated = {
    f"{psnr} dB: {noise.scale:.4f}": noise
    for psnr in (40, 30, 20, 10)
    for noise in [wa.calibrate(wa.GaussianNoise(), networks, points=24, psnr=float(psnr), peak=2.0)]
}
figure = wa.plot.show_augmentations(networks, calibrated)
