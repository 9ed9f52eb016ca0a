"""Several models of one form trained at once: their parameters are stacked, and one step serves all of them.

Small models leave a machine waiting: a step is hundreds of operations on a few numbers each. The seeds of one
cell of the benchmark differ in their initial weights and in the order of their data, and in nothing else, so
they can take every step together. The results are those of training them one at a time, up to rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from benchmarks.running.commands import at_least, distinct, positive
from weightaug import WeightSpaceElement

Loss = Callable[[Tensor, Tensor], Tensor]


class Stacked:
    """Models of one form, with a leading dimension for the model in every parameter.

    AdamW works entry by entry, so one optimiser over the stacked parameters does what one for each would do.

    Args:
        models: At least one model, all of one form, without batch normalisation. They are not changed.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW.
        clip: Largest norm of the gradient of each model, or None.

    Raises:
        ValueError: If there is no model, one is given twice, a setting is out of range, or a model keeps running
            statistics, which cannot be written under ``torch.func.vmap``.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        clip: float | None = None,
    ) -> None:
        distinct("models", [id(model) for model in models])
        positive("learning_rate", learning_rate)
        at_least("weight_decay", weight_decay, 0)
        positive("clip", clip)
        for module in models[0].modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise ValueError(
                    f"stacked models cannot keep running statistics, got {module!r}; use batch_norm=False, or train "
                    "them one at a time"
                )
        parameters, buffers = torch.func.stack_module_state(list(models))
        self.parameters = {name: nn.Parameter(value.detach()) for name, value in parameters.items()}
        self.buffers = buffers
        self.count, self.clip = len(models), clip
        self._form = copy.deepcopy(models[0])
        self.optimiser = torch.optim.AdamW(
            self.parameters.values(), lr=learning_rate, weight_decay=weight_decay, fused=True
        )

    def __call__(self, networks: WeightSpaceElement) -> Tensor:
        """Class scores ``(models, batch, classes)`` of networks ``(models, batch)``: each model has its own batch."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], batch: WeightSpaceElement) -> Tensor:
            scores: Tensor = torch.func.functional_call(self._form, (parameters, buffers), (batch,))
            return scores

        # Dropout draws for every model anew.
        return torch.func.vmap(one, randomness="different")(dict(self.parameters), self.buffers, networks)

    def step(self, networks: WeightSpaceElement, labels: Tensor, loss: Loss) -> Tensor:
        """One training step of every model.

        Args:
            networks: ``(models, batch)``.
            labels: ``(models, batch, ...)``.
            loss: Of one model, from ``(batch, classes)`` and ``(batch, ...)`` to ``()``.

        Returns:
            The losses before the step, ``(models,)``.
        """
        losses = torch.func.vmap(loss)(self(networks), labels)
        self.optimiser.zero_grad(set_to_none=True)
        losses.sum().backward()  # no parameter belongs to two models, so the sum mixes nothing
        if self.clip is not None:
            self._clip(self.clip)
        self.optimiser.step()
        return losses.detach()

    def _clip(self, limit: float) -> None:
        """What ``clip_grad_norm_`` does, for each model."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        factor = (limit / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *(1,) * (gradient.dim() - 1)))

    def unstack(self) -> list[nn.Module]:
        """The models, one by one."""
        models = []
        for i in range(self.count):
            model = copy.deepcopy(self._form)
            values = self.parameters | self.buffers
            model.load_state_dict({name: values[name][i].detach().clone() for name in model.state_dict()})
            models.append(model)
        return models
