"""
Orbits and frames
=================

Four networks, each in 150 versions that differ by permutations and signs of neurons, in a plane: the two first
principal components of their weights.
"""

import torch
from matplotlib.figure import Figure

import weightaug as wa

data = wa.datasets.digits()
four = data.element[:4]
move = wa.Compose([wa.Permute(), wa.SirenNegation()])
orbits = [move(wa.stack([network] * 150), generator=torch.Generator().manual_seed(i)) for i, network in enumerate(four)]


def scatter(panel, batches, title):
    """Batches of networks in their common plane, one colour each."""
    vectors = torch.cat([networks.flatten() for networks in batches])
    centred = vectors - vectors.mean(0)
    _, values, axes = torch.linalg.svd(centred, full_matrices=False)
    plane = (centred @ axes[:2].T).split([len(networks) for networks in batches])
    for number, places in enumerate(plane):
        panel.scatter(*places.T.numpy(), s=8, alpha=0.6, label=f"network {number}")
    share = float(values[:2].square().sum() / values.square().sum())
    panel.set_title(f"{title}\n{share:.0%} of the variance", fontsize=9)
    panel.set(xticks=[], yticks=[])


# %%
# As they are, the orbits lie upon each other: nothing near to a network need be a version of it. Aligned to a
# reference, a *frame*, the versions of a network fall together again.

frame = wa.matching.fit_frame(data.element[100:200])
aligned = [wa.AlignTo(frame)(networks) for networks in orbits]
figure = Figure(figsize=(9, 4), layout="constrained")
panels = figure.subplots(1, 2)
scatter(panels[0], orbits, "orbits")
scatter(panels[1], aligned, "in a frame")
_ = panels[1].legend(fontsize=8)

# %%
# How often the versions of a network come to the same place:

for number, networks in enumerate(aligned):
    apart = (networks.flatten() - networks.flatten()[0]).norm(dim=1)
    print(f"network {number}: {float((apart < 1e-3).float().mean()):.0%}")
