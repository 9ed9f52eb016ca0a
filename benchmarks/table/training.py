"""Training and evaluating one classifier of networks, under one row of the table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import weightaug as wa
from benchmarks.data.store import NetworkReader, Networks
from benchmarks.models.classifier import NetworkClassifier
from benchmarks.models.dws import DWS
from benchmarks.models.graph_embedding import Widths
from benchmarks.models.perceptron import PerceptronReader, Reads
from benchmarks.models.relation_transformer import RelationTransformer
from benchmarks.models.settings import DWSSettings, ModelName, ModelSettings, ReaderSettings
from benchmarks.models.sign_invariant import SignInvariantDWS
from benchmarks.table.rows import ROWS
from benchmarks.table.settings import TrainSettings
from weightaug.matching import canonicalize


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained, whatever the networks are of.

    Args:
        model: Name of the model.
        row: Key of ``ROWS``.
        views: Networks per image to train on; validation and test use the first view.
        seed: Of the initial weights, the order of the networks and the augmentation.
        model_settings: The model's settings.
        train: How it is trained.
        fresh_view: A view of the training images on which nothing is trained: the trained classifier is tested on it,
            too; None for none.
        pool_views: Mixing takes partners from the training images' networks of that many views; None for the
            networks that are augmented at once.
        device: Where it is trained.
    """

    model: ModelName
    row: str
    views: int
    seed: int
    model_settings: ModelSettings
    train: TrainSettings
    pool_views: int | None = None
    fresh_view: int | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class Split:
    """Indices of images for training, validation and test."""

    train: Tensor
    validation: Tensor
    test: Tensor


def split_images(networks: Networks, settings: TrainSettings) -> Split:
    """The same split for every cell: all views of an image are on one side."""
    count = len(networks.labels)
    if networks.splits is not None:
        train, validation, test = torch.arange(count).split(list(networks.splits))
        return Split(train[: settings.images], validation, test)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(settings.split_seed))
    _, validation, test = split_sizes(count, settings)
    return Split(order[test + validation :][: settings.images], order[test : test + validation], order[:test])


def split_sizes(count: int, settings: TrainSettings) -> tuple[int, int, int]:
    """How many of some images train, validate and test."""
    test, validation = round(count * settings.test), round(count * settings.validation)
    return count - test - validation, validation, test


def build_model(cell: Training, architecture: wa.Architecture, classes: int) -> NetworkClassifier:
    """The model of a cell, with initial weights that depend on the seed alone."""
    settings = cell.model_settings
    with torch.random.fork_rng():
        torch.manual_seed(cell.seed)
        if isinstance(settings, ReaderSettings):
            reads: dict[str, Reads] = {
                "mlp": "weights",
                "mlp-member": "member",
                "mlp-frame": "frame",
                "mlp-frames": "frames",
                "probe": "values",
            }
            of_reader = asdict(settings)
            del of_reader["learning_rate"]
            return PerceptronReader(architecture, classes, reads=reads[cell.model], **of_reader)
        if isinstance(settings, DWSSettings):
            of_dws = settings.arguments
            if cell.model == "dws-odd":
                kept = ("hidden", "layers", "reduction", "batch_norm")
                return SignInvariantDWS(architecture, classes, **{name: of_dws[name] for name in kept})
            return DWS(architecture, classes, **of_dws)
        widths = Widths(settings.node, settings.edge, settings.attention, settings.heads)
        return RelationTransformer(
            architecture,
            classes,
            layers=settings.layers,
            widths=widths,
            probes=settings.probes,
            dropout=settings.dropout,
        )


# Networks of the training set, at most, from which models take the mean and deviation of each tensor.
STATISTICS_OF = 20_000

# Training images, at most, on whose fresh view a classifier is tested.
FRESH = 1000


def _spread(count: int, most: int) -> Tensor:
    """Indices of at most so many of some, evenly spread."""
    return torch.arange(count) if count <= most else torch.linspace(0, count - 1, most).long()


class _Diverged(Exception):
    """The loss is no number any more."""


class Prepared(NamedTuple):
    """What a cell trains and is evaluated on.

    Attributes:
        networks: All networks, and the labels that are trained, selected and tested on.
        split: Which images are for what.
        trained: The networks to train on.
        targets: Their one-hot targets.
        transform: The augmentation.
    """

    networks: Networks
    split: Split
    trained: Tensor
    targets: Tensor
    transform: wa.Transform | None


def prepare(cell: Training, networks: Networks) -> Prepared:
    """Applies what a row does before the training, and takes what it trains on."""
    row = ROWS[cell.row]
    split = split_images(networks, cell.train)
    if row.special == "canonical":
        networks = replace(
            networks, element=_in_pieces(networks.element, lambda piece: wa.act(piece, canonicalize(piece)))
        )
    if row.special == "permuted_labels":
        networks = replace(networks, labels=_shuffled(networks.labels, (split.train, split.validation), cell.seed))
    labels = networks.labels.to(cell.device)
    # On a CPU, networks are read from the files batch by batch; on a GPU they move there once.
    element = networks.element if cell.device == "cpu" else networks.element[:].to(cell.device)
    networks = replace(networks, element=element, labels=labels)
    one_hot = F.one_hot(networks.labels, networks.classes).float()

    def of_views(views: int) -> Tensor:
        # View v of image i is network v * images + i.
        return torch.cat([split.train + view * len(networks.labels) for view in range(views)])

    pool = None
    if row.mixes and cell.pool_views is not None:
        pool = wa.Pool(networks.element[of_views(cell.pool_views)], one_hot[split.train].repeat(cell.pool_views, 1))
    transform = row.augmentation(pool) if row.augmentation else None
    return Prepared(networks, split, of_views(cell.views), one_hot[split.train].repeat(cell.views, 1), transform)


def _in_pieces(
    element: wa.WeightSpaceElement | NetworkReader, function: Callable[[wa.WeightSpaceElement], wa.WeightSpaceElement]
) -> wa.WeightSpaceElement:
    # Since searches work in double precision.
    return wa.cat([function(element[start : start + 4096]) for start in range(0, len(element), 4096)])


@torch.no_grad()
def flops_per_network(model: NetworkClassifier, networks: wa.WeightSpaceElement) -> int:
    """Floating point operations of the products in the scores of one network, once it is prepared."""
    prepared = model.prepare(networks)
    recomputes = getattr(model, "checkpoint", None)
    model.eval()
    if recomputes is not None:
        model.checkpoint = False  # type: ignore[assignment]  # the plain form, whose products are counted
    try:
        with FlopCounterMode(display=False) as counter:
            model(prepared)
    finally:
        if recomputes is not None:
            model.checkpoint = recomputes
        model.train()
    return int(counter.get_total_flops()) // len(networks)


def _shuffled(labels: Tensor, parts: tuple[Tensor, ...], seed: int) -> Tensor:
    """The labels, exchanged at random within each part."""
    generator = torch.Generator().manual_seed(seed)
    labels = labels.clone()
    for part in parts:
        labels[part] = labels[part][torch.randperm(len(part), generator=generator)]
    return labels


def train(cell: Training, networks: Networks, progress: Callable[[int], None]) -> dict[str, Any]:
    """Trains a classifier; its test accuracy is that of the epoch with the best validation accuracy.

    Args:
        cell: What to train.
        networks: What to train it on.
        progress: Called with 1 after every epoch.

    Returns:
        ``status`` ("finished" or "diverged"), the accuracies in percent (None if diverged), the best epoch,
        the curves, and what was trained on; with a fresh view also the accuracies, after the last epoch, on that
        view of up to 1,000 training images and on the networks of them that were trained on.

    Raises:
        ValueError: If there are fewer networks than fill a batch.
    """
    with torch.random.fork_rng():  # dropout draws from torch's global source
        torch.manual_seed(cell.seed)
        return _train(cell, prepare(cell, networks), progress)


def _train(cell: Training, prepared: Prepared, progress: Callable[[int], None]) -> dict[str, Any]:
    settings, (networks, split, index, targets, transform) = cell.train, prepared
    steps = settings.epochs * (len(index) // settings.batch)
    if not steps:
        raise ValueError(f"{len(index)} networks do not fill one batch of {settings.batch}; take a smaller batch")
    model = build_model(cell, networks.element.architecture, networks.classes).to(cell.device)
    if isinstance(cell.model_settings, ReaderSettings) or cell.model_settings.statistics:
        model.set_statistics(networks.element[index[_spread(len(index), STATISTICS_OF)]])
    flops = flops_per_network(model, networks.element[:2])
    source = networks.element
    if model.prepares:  # of networks that stay as they are, once
        networks = replace(networks, element=_in_pieces(source, model.prepare))
        source = networks.element if transform is None else source
    optimiser = torch.optim.AdamW(
        model.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
        amsgrad=settings.amsgrad,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: rate(step, steps, settings))
    mixes_features = ROWS[cell.row].special == "feature_mixup"
    # Two sources, so that the order of the networks is the same in all rows: differences are paired.
    ordering = torch.Generator().manual_seed(cell.seed)
    augmenting = torch.Generator().manual_seed(cell.seed)

    curves: dict[str, list[float]] = {
        f"{part}_{what}": [] for part in ("validation", "test") for what in ("loss", "accuracy")
    }
    curves["train_loss"] = []
    best_accuracy, best_epoch, best_test = -1.0, -1, -1.0
    try:
        for epoch in range(settings.epochs):
            model.train()
            losses = []
            for batch, wanted in _batches(source, index, targets, transform, settings, ordering, augmenting):
                mixed = FeatureMixup.draw(len(wanted), augmenting) if mixes_features else None
                if transform is not None:
                    batch = model.prepare(batch)
                with mixed.inside(model) if mixed else nullcontext():
                    scores = model(batch)
                loss = F.cross_entropy(scores, mixed(wanted) if mixed else wanted)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                if settings.clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
                optimiser.step()
                schedule.step()
                losses.append(loss.detach())
            mean_loss = float(torch.stack(losses).mean())
            if not math.isfinite(mean_loss):
                raise _Diverged
            curves["train_loss"].append(mean_loss)
            # The test curves are for figures; nothing is chosen by them.
            for part, images in (("validation", split.validation), ("test", split.test)):
                accuracy, mean_loss = evaluate(model, networks, images, settings.batch)
                if not math.isfinite(mean_loss):
                    raise _Diverged
                curves[f"{part}_accuracy"].append(accuracy)
                curves[f"{part}_loss"].append(mean_loss)
            if curves["validation_accuracy"][-1] >= best_accuracy:  # ties take the latest, as the paper's code does
                best_accuracy, best_epoch = curves["validation_accuracy"][-1], epoch
                best_test = curves["test_accuracy"][-1]
            progress(1)
    except _Diverged:
        progress(settings.epochs - epoch)
        return {"status": "diverged", "test_accuracy": None, "validation_accuracy": None, "curves": _finite(curves)}
    fresh = {}
    if cell.fresh_view is not None:
        some = split.train[:FRESH]
        fresh["fresh_accuracy"], _ = evaluate(model, networks, some, settings.batch, cell.fresh_view)
        fresh["trained_accuracy"], _ = evaluate(model, networks, some, settings.batch)
    return {
        "status": "finished",
        "test_accuracy": best_test,
        "validation_accuracy": best_accuracy,
        "best_epoch": best_epoch,
        "curves": curves,
        "last_accuracy": curves["test_accuracy"][-1],
        **fresh,
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops": flops,
        "classes": networks.classes,
        "networks": {"train": len(index), "validation": len(split.validation), "test": len(split.test)},
    }


def _finite(curves: dict[str, list[float]]) -> dict[str, list[float]]:
    """The curves up to the last epoch that all of them have."""
    epochs = min(map(len, curves.values()))
    return {name: values[:epochs] for name, values in curves.items()}


class FeatureMixup(NamedTuple):
    """Mixes what enters a model's last layer among the networks of a batch, and their targets alike.

    Attributes:
        partner: Index of each network's partner, ``(batch,)``.
        lam: Weight of the network itself, ``(batch,)``.
    """

    partner: Tensor
    lam: Tensor

    @classmethod
    def draw(cls, batch: int, generator: torch.Generator) -> FeatureMixup:
        """Draws partners, nobody its own, and uniform weights, as Mixup of weights does."""
        cycle = torch.randperm(batch, generator=generator)
        partner = torch.empty_like(cycle).scatter_(0, cycle, cycle.roll(1))
        return cls(partner, torch.rand(batch, generator=generator))

    def __call__(self, values: Tensor) -> Tensor:
        """Mixes ``(batch, channels)``."""
        partner = values[self.partner.to(values.device)]
        return partner.lerp(values, self.lam.to(values).unsqueeze(1))

    @contextmanager
    def inside(self, model: nn.Module) -> Iterator[None]:
        """Mixes the input of the last linear layer of a model that is called in this context."""
        last = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        handle = last.register_forward_pre_hook(lambda _, inputs: (self(inputs[0]),))
        try:
            yield
        finally:
            handle.remove()


def rate(step: int, steps: int, settings: TrainSettings) -> float:
    """The learning rate at a step, as a share of the largest."""
    rising = settings.warmup * steps
    if settings.warmup_steps is not None:
        rising = min(settings.warmup_steps, steps / 5)
    if step < rising:
        return (step + 1) / (rising + 1)
    if settings.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


def _batches(
    element: wa.WeightSpaceElement | NetworkReader,
    index: Tensor,
    targets: Tensor,
    transform: wa.Transform | None,
    settings: TrainSettings,
    ordering: torch.Generator,
    augmenting: torch.Generator,
) -> Any:
    """One epoch of augmented batches; networks that do not fill the last one wait for the next epoch."""
    order = torch.randperm(len(targets), generator=ordering)
    order = order[: len(order) // settings.batch * settings.batch]
    # Many at once: a transform costs a few tensor operations however large its batch is.
    for chunk in order.split(max(settings.augment_batch // settings.batch, 1) * settings.batch):
        networks, wanted = element[index[chunk]], targets[chunk]
        if transform is not None:
            networks, wanted = transform(networks, wanted, generator=augmenting)
        for start in range(0, len(chunk), settings.batch):
            some = slice(start, start + settings.batch)
            yield networks[some], wanted[some]


@torch.no_grad()
def evaluate(model: nn.Module, networks: Networks, images: Tensor, batch: int, view: int = 0) -> tuple[float, float]:
    """Accuracy in percent and mean loss on one view of some images."""
    model.eval()
    hits, losses = [], []
    for some in images.split(2 * batch):
        scores, labels = model(networks.element[some + view * len(networks.labels)]), networks.labels[some]
        hits.append((scores.argmax(-1) == labels).sum())
        losses.append(F.cross_entropy(scores, labels, reduction="sum"))
    count = len(images)
    return 100 * float(torch.stack(hits).sum()) / count, float(torch.stack(losses).sum()) / count
