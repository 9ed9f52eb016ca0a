"""
A solid, rotated
================

A network that gives the signed distance of a solid, and the same network after a rotation of its inputs. Its surface is
where the distance is 0; marching cubes (scikit-image) finds it.
"""

import torch
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection

import weightaug as wa
from weightaug.fitting import CONVENTIONS, Adam, fit, initial_weights

# %%
# A ring with a block at one side, fitted in some seconds.


def distance(x):
    """Signed distance to a ring joined with a block."""
    ring = torch.stack([x[:, :2].norm(dim=1) - 0.5, x[:, 2]]).norm(dim=0) - 0.16
    outside = (x - torch.tensor([0.55, 0.0, 0.0])).abs() - torch.tensor([0.25, 0.2, 0.3])
    block = outside.clamp(min=0).norm(dim=1) + outside.amax(1).clamp(max=0)
    return torch.minimum(ring, block).unsqueeze(1)


points = torch.rand(4096, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
convention = CONVENTIONS["siren"]
start = initial_weights(convention, wa.Architecture.siren((3, 32, 32, 1), omega=10.0), [0])
settings = Adam(steps=1000, learning_rate=2e-3, target_psnr=45.0)
fitted = fit(points, distance(points).unsqueeze(0), start, settings, peak=1.0)
network = fitted.element[0]
print(f"PSNR {float(fitted.psnr[0]):.0f} dB")

# %%
# One transform makes all of these: `Rotate` draws the axis, too.

turned = [wa.Rotate(180.0)(network, generator=torch.Generator().manual_seed(i)) for i in range(3)]
line = torch.linspace(-1.2, 1.2, 48)
grid = torch.cartesian_prod(line, line, line)

try:
    from skimage.measure import marching_cubes
except ImportError:  # no pictures, then
    marching_cubes = None


def draw(panel, network):
    """The surface of one network."""
    values = network(grid).reshape(48, 48, 48).numpy()
    corners, faces, _, _ = marching_cubes(values, 0.0)
    corners = corners * 2.4 / 47 - 1.2
    panel.add_collection3d(Poly3DCollection(corners[faces], facecolors="#4c78a8", shade=True))
    panel.set(xlim=(-0.8, 0.8), ylim=(-0.8, 0.8), zlim=(-0.8, 0.8), box_aspect=(1, 1, 1))
    panel.set_axis_off()


if marching_cubes is not None:
    figure = Figure(figsize=(10, 3), layout="constrained")
    panels = figure.subplots(1, 4, subplot_kw={"projection": "3d"})
    for panel, shown, title in zip(panels, [network, *turned], ["fitted", *["rotated"] * 3], strict=True):
        draw(panel, shown)
        panel.set_title(title)
