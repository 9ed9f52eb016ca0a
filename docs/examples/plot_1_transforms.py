"""
Every transform on real networks
================================

Eight of the networks that come with the package, each of which shows a digit.
"""

import weightaug as wa

networks = wa.datasets.digits().element[:200]

# %%
# Symmetries
# ----------
# All weights change and no pixel does.

figure = wa.plot.show_augmentations(networks, [wa.Permute(), wa.SirenNegation(), wa.SirenBias()])

# %%
# The exact symmetries of the square move pixels onto pixels. Only weights of the first layer change.

figure = wa.plot.show_augmentations(networks, [wa.Rotate90(), wa.Flip(), wa.Dihedral()])

# %%
# Geometry
# --------
# Any other map of the inputs. What comes in from outside of [-1, 1] was never fitted.

figure = wa.plot.show_augmentations(
    networks,
    {
        "Rotate(30)": wa.Rotate(30.0),
        "Translate(0.2)": wa.Translate(0.2),
        "Scale(0.3)": wa.Scale(0.3),
        "Reflect()": wa.Reflect(),
        "Affine()": wa.Affine(),
    },
)

# %%
# Noise
# -----

figure = wa.plot.show_augmentations(
    networks,
    {
        "GaussianNoise(0.02)": wa.GaussianNoise(0.02),
        "Dropout(0.01)": wa.Dropout(0.01),
        "QuantileDropout(0.3)": wa.QuantileDropout(0.3),
    },
)

# %%
# Mixing
# ------
# Each network with another one of the batch, in a ratio of its own.

figure = wa.plot.show_augmentations(
    networks,
    {
        "Mixup()": wa.Mixup(),
        "PermutedMixup()": wa.PermutedMixup(),
        "AlignedMixup()": wa.AlignedMixup(),
        "SelfMixup()": wa.SelfMixup(),
    },
)

# %%
# New networks of the same function
# ---------------------------------
# Strong noise, and then some steps that bring the function back.

figure = wa.plot.show_augmentations(
    networks[:8],
    {
        "GaussianNoise(0.4)": wa.GaussianNoise(0.4),
        "Refit of it": wa.Refit(wa.GaussianNoise(0.4), points=24, steps=80),
    },
)
