"""Stacked training: several seeds at once end where they end one at a time."""

import pytest
import torch
import torch.nn.functional as F

from benchmarks.measuring.stacked import Stacked
from benchmarks.models.dws import DWS
from benchmarks.models.graph_embedding import Widths
from benchmarks.models.relation_transformer import RelationTransformer
from weightaug import Architecture
from weightaug.testing import random_element

ARCH = Architecture.siren((2, 6, 6, 1))
SMALL = Widths(node=8, edge=8, attention=8, heads=2, node_hidden=8, edge_hidden=8)


def dws():
    return DWS(ARCH, 3, hidden=4, layers=2, reduction="mean", batch_norm=False)


def transformer():
    return RelationTransformer(ARCH, 3, layers=2, widths=SMALL, head=8, frequencies=4, dropout=0.0)


@pytest.mark.parametrize("make", [dws, transformer])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_stacked_models_end_where_they_end_alone(make, clip):
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(make())
    networks = random_element(ARCH, (3, 5), dtype=torch.float32)
    labels = torch.arange(15).view(3, 5) % 3
    stacked = Stacked(models, learning_rate=1e-2, weight_decay=0.1, clip=clip)
    optimisers = [torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1, fused=True) for m in models]
    for _ in range(3):
        losses = stacked.step(networks, labels, F.cross_entropy)
        for i, (model, optimiser) in enumerate(zip(models, optimisers, strict=True)):
            loss = F.cross_entropy(model(networks[i]), labels[i])
            torch.testing.assert_close(losses[i], loss.detach(), rtol=1e-4, atol=1e-5)
            optimiser.zero_grad()
            loss.backward()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimiser.step()
    for alone, together in zip(models, stacked.unstack(), strict=True):
        for i in range(3):
            torch.testing.assert_close(together(networks[i]), alone(networks[i]), rtol=1e-2, atol=1e-3)


def test_running_statistics_are_refused():
    model = DWS(ARCH, 3, hidden=4, layers=1, batch_norm=True)
    with pytest.raises(ValueError, match=r"running statistics.*batch_norm=False"):
        Stacked([model])
