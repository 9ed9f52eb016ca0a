"""The DWS classifier: equivariant layers, an invariant score, and a model that is not trivially so."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring.plain_dws import Block, PlainDWS, PlainLayer, blocks_of, values_of
from benchmarks.models.dws import DWS, Counts, EquivariantLayer, Features, Reduce, _Maximum, features_of
from weightaug import Architecture, Permute, WeightSpaceElement, act

ARCHITECTURES = {
    "the paper's 2-D INR": Architecture.siren((2, 32, 32, 1)),
    "one hidden space": Architecture.siren((2, 8, 3)),
    "deeper, and two outputs": Architecture.siren((3, 8, 5, 7, 2)),
    "the paper's 3-D INR": Architecture.siren((3, 32, 32, 32, 32, 1)),
}
OPTIONS = {
    "ds, mean": {"reduction": "mean"},
    "ds, sum": {"reduction": "sum"},
    "ds, max": {"reduction": "max"},
    "ds, attn": {"reduction": "attn"},
    "sab, max": {"reduction": "max", "set_layer": "sab", "heads": 2},
    "sab, attn": {"reduction": "attn", "set_layer": "sab", "heads": 4},
}


def networks(architecture: Architecture, count: int, dtype: torch.dtype, seed: int = 0) -> WeightSpaceElement:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(count, architecture.num_parameters, generator=generator, dtype=dtype)
    return WeightSpaceElement.unflatten(architecture, vector)


def model(architecture: Architecture, dtype: torch.dtype, **settings) -> DWS:
    torch.manual_seed(0)
    result = DWS(architecture, 10, hidden=8, layers=3, **settings).to(dtype)
    with torch.no_grad():
        for name, parameter in result.named_parameters():
            if name.endswith("queries"):  # which start at zero, as the mean
                parameter.normal_()
        result(networks(architecture, 64, dtype, seed=1))  # running statistics of the batch norm that are not 0 and 1
    result.set_statistics(networks(architecture, 64, dtype, seed=1))
    return result.eval()


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_scores_do_not_see_the_order_of_hidden_neurons(architecture, settings, dtype):
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    element, classifier = networks(architecture, 6, dtype), model(architecture, dtype, **settings)
    group = Permute().sample(element, generator=torch.Generator().manual_seed(3))
    scores, permuted = classifier(element), classifier(act(element, group))
    assert (scores - permuted).abs().max() <= tolerance * scores.abs().max()
    # The test would be empty if all networks had one score.
    assert (scores[0] - scores[1]).abs().max() > 1e-3 * scores.abs().max()


def test_scores_do_see_the_order_of_input_neurons():
    # Inputs have a meaning (x and y), so swapping them must not be invisible.
    architecture = ARCHITECTURES["the paper's 2-D INR"]
    element, classifier = networks(architecture, 2, torch.float64), model(architecture, torch.float64)
    swapped = WeightSpaceElement(architecture, (element.weights[0].flip(-1), *element.weights[1:]), element.biases)
    assert (classifier(element) - classifier(swapped)).abs().max() > 1e-3


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_scores_see_every_tensor(settings):
    architecture = ARCHITECTURES["deeper, and two outputs"]
    classifier, element = model(architecture, torch.float64, **settings), networks(architecture, 2, torch.float64)
    before = classifier(element)
    for i, tensor in enumerate(element.tensors()):
        changed = [t * 1.5 if t is tensor else t for t in element.tensors()]
        other = WeightSpaceElement(architecture, tuple(changed[0::2]), tuple(changed[1::2]))
        assert (classifier(other) - before).abs().max() > 1e-6, f"tensor {i} has no influence"


def layer_of(architecture: Architecture, inputs: int, outputs: int, dtype: torch.dtype, **settings) -> EquivariantLayer:
    torch.manual_seed(0)
    settings = {"heads": 1, **settings}
    layer = EquivariantLayer(Counts.of(architecture), inputs, outputs, batch_norm=False, **settings).to(dtype)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=0.5)
    return layer


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_commutes_with_permutations(architecture, settings, dtype):
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    layer = layer_of(architecture, 1, 4, dtype, **settings)
    element = networks(architecture, 3, dtype)
    group = Permute().sample(element, generator=torch.Generator().manual_seed(3))
    plain, moved = layer(features_of(element)), layer(features_of(act(element, group)))
    order = [p[:, :, None] for p in group.permutation if p is not None]

    def close(a: Tensor, b: Tensor) -> None:
        assert (a - b).abs().max() <= tolerance * a.abs().max()

    for space, (a, b) in enumerate(zip(plain.neurons, moved.neurons, strict=True)):
        close(a.gather(1, order[space].expand(a.shape)), b)
        assert (a - b).abs().max() > 0.01 * a.abs().max()  # it is the order that agrees, not all neurons
    for i, (a, b) in enumerate(zip(plain.pairs, moved.pairs, strict=True)):
        rows = a.gather(1, order[i + 1][..., None].expand(a.shape))
        close(rows.gather(2, order[i][:, None].expand(a.shape)), b)
    close(plain.network, moved.network)


@pytest.mark.parametrize("sizes", [(2, 4, 5, 1), (2, 6, 3), (3, 4, 5, 3, 6, 2)])
@pytest.mark.parametrize("reduction", ["max", "mean", "sum"])
@pytest.mark.parametrize(("set_layer", "heads"), [("ds", 1), ("sab", 1), ("sab", 2)])
def test_a_layer_is_the_sum_of_the_published_blocks(sizes, reduction, set_layer, heads):
    ins, outs = 2, 4
    architecture, features = Architecture.siren(sizes), random_features(sizes, ins)
    settings = {"reduction": reduction, "set_layer": set_layer, "heads": heads}
    layer = layer_of(architecture, ins, outs, torch.float64, **settings)
    got = values_of(layer(features), blocks_of(sizes), outs)
    expected = PlainLayer(layer, sizes, ins, outs, reduction)(values_of(features, blocks_of(sizes), ins))
    assert got.keys() == expected.keys()
    for name, values in got.items():
        torch.testing.assert_close(values, expected[name].expand_as(values), msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("reduction", ["max", "mean", "sum"])
@pytest.mark.parametrize("set_layer", ["ds", "sab"])
def test_the_model_and_its_gradient_are_those_of_the_published_blocks(reduction, set_layer):
    sizes = (2, 6, 5, 2)
    element = networks(Architecture.siren(sizes), 3, torch.float64)
    torch.manual_seed(0)
    ours = DWS(
        element.architecture,
        4,
        hidden=8,
        layers=3,
        reduction=reduction,
        set_layer=set_layer,
        batch_norm=False,
        heads=2,
        init="published" if set_layer == "ds" else "default",
    ).double()
    ours.set_statistics(element)
    plain = PlainDWS(ours, sizes, reduction, 8).double()
    scores, expected = ours(element), plain(element)
    torch.testing.assert_close(scores, expected)
    scores.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(ours.head.weight.grad, plain.head.weight.grad)
    sides = [sum(float(p.grad.square().sum()) for p in m.parameters() if p.grad is not None) for m in (ours, plain)]
    assert sides[0] == pytest.approx(sides[1])


def random_features(sizes: tuple[int, ...], channels: int) -> Features:
    generator = torch.Generator().manual_seed(5)

    def draw(*shape: int) -> Tensor:
        return torch.randn(2, *shape, generator=generator, dtype=torch.float64)

    blocks, hidden = blocks_of(sizes), sizes[1:-1]
    own = [sum(b.number for b in blocks if b.spaces == (s,)) for s in range(len(hidden))]
    return Features(
        tuple(draw(written, read, channels) for read, written in itertools.pairwise(hidden)),
        tuple(draw(size, n * channels) for size, n in zip(hidden, own, strict=True)),
        draw(sizes[-1] * channels),
    )


@pytest.mark.parametrize("dims", [(1,), (2,), (1, 2)])
@pytest.mark.parametrize("channels", [6, 2**16])  # so many that networks come one by one
def test_the_fast_maximum_has_the_gradient_of_amax(dims, channels):
    values = torch.randn(3, 4, 5, channels, dtype=torch.float64, requires_grad=True)
    weights = [torch.randn(values.amax(dim).shape, dtype=torch.float64) for dim in dims]
    expected = sum((values.amax(dim) * w).sum() for dim, w in zip(dims, weights, strict=True))
    got = sum((m * w).sum() for m, w in zip(_Maximum.apply(values, *dims), weights, strict=True))
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, values)[0] for value in (got, expected)))


PUBLISHED = {  # of DWS with 5 layers of 128, by sizes, classes and set layer: as counted in the published code
    ((2, 32, 32, 1), 10, "ds"): 4_962_570,
    ((2, 32, 32, 1), 10, "sab"): 8_557_322,
    ((3, 32, 32, 32, 32, 1), 40, "ds"): 13_211_176,
    ((3, 32, 32, 32, 32, 1), 40, "sab"): 20_724_520,
    ((2, 32, 32, 3), 10, "sab"): 16_197_386,
}
# What the published code has more: biases that are added to other biases of the same tensor.
BIASES = {"ds": {3: 24_320, 5: 74_880}, "sab": {3: 12_160, 5: 51_840}}


def published_block(source: Block, target: Block, sizes: tuple[int, ...], ins: int, outs: int, set_layer: str):
    """Parameters of a published block without its bias as a linear map, and this bias."""
    last_space = len(sizes) - 3
    # Two of the published blocks give the weights of all outputs the same: from the matrix before, and from the
    # biases further before.
    alike = target.name == "last" and (
        source.spaces == (last_space, last_space - 1) or (source.name[:5] == "bias " and source.spaces != (last_space,))
    )
    m = source.number * ins
    n = (1 if alike else target.number) * outs
    if source == target and len(source.spaces) == 2:
        return 4 * m * n, 4 * n
    if not set(source.spaces) & set(target.spaces):
        return m * n, n
    if set_layer == "ds":
        return 2 * m * n, n
    return 3 * (m * n + n) + n * n + n, 0  # queries, keys and values, and the last map


def published_parameters(sizes: tuple[int, ...], classes: int, set_layer: str) -> tuple[int, int]:
    """All parameters of the published model, and those of them that are biases of linear blocks."""
    blocks, channels = blocks_of(sizes), [1, *[128] * 5]
    counted = [
        published_block(source, target, sizes, ins, outs, set_layer)
        for ins, outs in itertools.pairwise(channels)
        for source in blocks
        for target in blocks
    ]
    biases = sum(bias for _, bias in counted)
    head = sum(b.number for b in blocks) * 128 * classes + classes
    return sum(weights for weights, _ in counted) + biases + head, biases


@pytest.mark.parametrize(("sizes", "classes", "set_layer"), PUBLISHED)
def test_parameters_beside_the_published_ones(sizes, classes, set_layer):
    classifier = DWS(
        Architecture.siren(sizes), classes, hidden=128, layers=5, batch_norm=False, set_layer=set_layer, reduction="max"
    )
    ours = sum(p.numel() for p in classifier.parameters())
    published, biases = published_parameters(sizes, classes, set_layer)
    assert published == PUBLISHED[sizes, classes, set_layer]
    # Of all biases of linear blocks that are added up in a tensor, one remains.
    remain = 5 * 128 * sum(b.number for b in blocks_of(sizes))
    if sizes[-1] == 1:
        assert published - ours == biases - remain == BIASES[set_layer][len(sizes) - 1]
    else:  # and the weights of several outputs have maps of their own
        c, outputs = 128, sizes[-1]
        widened = 4 * (3 * c * c + 3 * c) + (3 * c + 3 * c) + 5 * c  # 1 -> outputs: queries, keys, values, bias
        widened = (outputs - 1) * widened + (outputs**2 - 1) * 5 * c * c + (outputs - 1) * (4 * c * c + c)
        assert published - ours == biases - remain - widened


@pytest.mark.parametrize("settings", OPTIONS.values(), ids=OPTIONS)
def test_several_seeds_at_once_have_the_gradients_of_each(settings):
    architecture = ARCHITECTURES["deeper, and two outputs"]
    settings = {"hidden": 8, "layers": 3, "batch_norm": False, **settings}
    element, labels = networks(architecture, 5, torch.float64), torch.arange(5)
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(DWS(architecture, 10, **settings).double())
    parameters, buffers = torch.func.stack_module_state(models)

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(models[0], (parameters, buffers), (element,)), labels)

    together = torch.func.vmap(torch.func.grad(loss))(parameters, buffers)
    for seed, classifier in enumerate(models):
        alone = torch.autograd.grad(F.cross_entropy(classifier(element), labels), classifier.parameters())
        for (name, _), gradient in zip(classifier.named_parameters(), alone, strict=True):
            torch.testing.assert_close(together[name][seed], gradient, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("set_layer", ["ds", "sab"])
def test_bfloat16_autocast_is_close_to_float32(set_layer):
    architecture = ARCHITECTURES["the paper's 2-D INR"]
    element = networks(architecture, 16, torch.float32)
    classifier = model(architecture, torch.float32, reduction="max", set_layer=set_layer)
    scores = classifier(element)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = classifier(element)
    assert rounded.dtype == torch.bfloat16
    assert 0 < (rounded - scores).abs().max() < 0.05 * scores.abs().max()


def test_pooling_with_attention_starts_as_the_mean_and_learns():
    pool, values = Reduce("attn", 4, (2,)), torch.randn(3, 5, 6, 4)
    torch.testing.assert_close(pool(values)[0], values.mean(2))
    (gradient,) = torch.autograd.grad(pool(values)[0][..., 0].sum(), pool.queries)
    assert gradient[0, 0] > 0
    pool.queries.data = torch.tensor([[1000.0, 0, 0, 0]])
    largest = values[..., 0].argmax(2)[:, :, None, None].expand(-1, -1, 1, 4)
    torch.testing.assert_close(pool(values)[0], values.gather(2, largest).squeeze(2), rtol=0.01, atol=0.01)


def test_normalisation_uses_one_number_per_tensor_of_the_training_set():
    architecture = ARCHITECTURES["the paper's 2-D INR"]
    element = networks(architecture, 50, torch.float32).map(lambda t: 3 * t + 1)
    classifier = model(architecture, torch.float32)
    classifier.set_statistics(element)
    assert classifier.mean.shape == classifier.deviation.shape == (6,)
    for tensor in classifier.normalised(element):
        assert abs(float(tensor.mean())) < 1e-4
        assert abs(float(tensor.std()) - 1) < 1e-3


def test_networks_that_it_cannot_read_are_refused():
    with pytest.raises(ValueError, match=r"linear layers with biases.*got.*give layers without bias a bias of zeros"):
        DWS(Architecture.mlp((2, 4, 1), "relu", bias=False), 10)
    with pytest.raises(ValueError, match="and a hidden space"):
        DWS(Architecture.mlp((2, 1), "relu"), 10)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reduction": "min"}, "reduction must be one of mean, sum, max, attn, got 'min'"),
        ({"set_layer": "mlp"}, "set_layer must be one of ds, sab, got 'mlp'"),
        ({"set_layer": "sab", "hidden": 12}, "heads must divide hidden, got 8 heads for 12 channels"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"hidden": 0}, "hidden must be at least 1, got 0"),
        ({"set_layer": "sab", "heads": 0}, "heads must be at least 1, got 0"),
    ],
)
def test_options_that_do_not_exist_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DWS(ARCHITECTURES["one hidden space"], 10, **settings)
