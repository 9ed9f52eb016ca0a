"""
Two CNNs, and the way between them
==================================

Two small convolutional networks learn to tell the digits of the bundled networks apart, as 12 by 12 pictures. On the
straight line between their weights accuracy breaks down; less so once the second is aligned to the first, and the
running statistics of BatchNorm are computed anew.
"""

import torch
from matplotlib.figure import Figure
from torch import nn

import weightaug as wa
from weightaug import matching
from weightaug.adapters import from_modules, recompute_statistics, to_modules

data = wa.datasets.digits()
pictures = wa.render(data.element, 12).reshape(-1, 1, 12, 12)
labels = data.labels
learned, tested = slice(0, len(pictures) * 4 // 5), slice(len(pictures) * 4 // 5, None)

# %%
# Each learns for some seconds, from initial weights and an order of its own.


def trained(seed):
    """A small CNN, trained."""
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    x, y = pictures[learned], labels[learned]
    for _ in range(12):
        for part in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model):
    """Percent of the test pictures."""
    with torch.no_grad():
        return 100 * float((model(pictures[tested]).argmax(1) == labels[tested]).float().mean())


models = [trained(seed) for seed in (0, 1)]
a, b = (from_modules(model, example_input=pictures[:2]) for model in models)
print(a.architecture.describe())

# %%
# Alignment: the channels of the second are put in the order of the first, and nothing that it computes changes.

aligned = wa.act(b, matching.match(a, b))
print(f"{accuracy(models[1]):.1f} % before, {accuracy(to_modules(aligned, like=models[1])):.1f} % after")

# %%
# The networks between them, in four ways.

steps = torch.linspace(0, 1, 13)


def curve(end, renew):
    """Accuracy along the way from the first network to the end."""
    found = []
    for step in steps.tolist():
        model = to_modules(wa.functional.mix(a, end, torch.tensor(1 - step)), like=models[0])
        if renew:
            model = recompute_statistics(model, pictures[learned].split(64))
        found.append(accuracy(model.eval()))
    return found


figure = Figure(figsize=(6, 3.6), layout="constrained")
panel = figure.subplots()
for name, end, renew in (
    ("as they are", b, False),
    ("aligned", aligned, False),
    ("as they are, statistics anew", b, True),
    ("aligned, statistics anew", aligned, True),
):
    panel.plot(steps, curve(end, renew), "o-", markersize=3, label=name)
panel.set_xlabel("way from the first network to the second")
panel.set_ylabel("test accuracy, %")
_ = figure.legend(loc="outside upper center", ncols=2, fontsize=8)
