"""The Relation Transformer: its size as published, its symmetry, its gradients, and the parts that save work."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.models.graph_embedding import Known, Widths
from benchmarks.models.recomputing import recompute
from benchmarks.models.relation_transformer import RelationalAttention, RelationLayer, RelationTransformer
from weightaug import Activation, Architecture, Permute, WeightSpaceElement, act

IMAGES = Architecture.siren((2, 32, 32, 1))
SHAPES = Architecture.siren((3, 32, 32, 32, 32, 1))
SMALL = Architecture.mlp((3, 5, 4, 2), ["relu", Activation("sine", 30.0)])
NO_BIAS = Architecture.mlp((2, 6, 2), "tanh", bias=False)
WIDTHS = Widths(node=12, edge=8, attention=16, heads=4, node_hidden=10, edge_hidden=14)


def networks(architecture: Architecture, count: int, dtype: torch.dtype = torch.float64, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(count, architecture.num_parameters, generator=generator, dtype=dtype)
    return WeightSpaceElement.unflatten(architecture, vector)


def model(architecture: Architecture, dtype: torch.dtype = torch.float64, **settings) -> RelationTransformer:
    torch.manual_seed(0)
    settings = {"layers": 3, "widths": WIDTHS, "frequencies": 6, "dropout": 0.0, **settings}
    result = RelationTransformer(architecture, 5, **settings).to(dtype)
    result.set_statistics(networks(architecture, 32, dtype, seed=1))
    return result.eval()


def permuted(element: WeightSpaceElement) -> tuple[WeightSpaceElement, Tensor]:
    """The networks with their hidden neurons in another order, and that order of all nodes."""
    group = Permute().sample(element, generator=torch.Generator().manual_seed(3))
    sizes, order, start = [s.size for s in element.architecture.spaces], [], 0
    hidden = iter(group.permutation)
    for space, size in enumerate(sizes):
        fixed = torch.arange(size).expand(len(element), -1)
        order.append(start + (next(hidden) if 0 < space < len(sizes) - 1 else fixed))
        start += size
    return act(element, group), torch.cat(order, dim=1)


# -- size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "classes", "probes", "published"),
    [
        (IMAGES, 10, 0, 376_586),
        (IMAGES, 10, 64, 393_866),
        (SHAPES, 40, 0, 380_648),
        (Architecture.siren((2, 32, 32, 3)), 10, 0, 393_098),
    ],
    ids=["Fashion-MNIST", "Fashion-MNIST, 64 probes", "ModelNet40", "CIFAR"],
)
def test_as_many_parameters_as_published(architecture, classes, probes, published):
    transformer = RelationTransformer(architecture, classes, probes=probes)
    assert sum(p.numel() for p in transformer.parameters()) == published


# -- symmetry ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", [IMAGES, SMALL, NO_BIAS], ids=["the paper's INR", "small", "no bias"])
@pytest.mark.parametrize("probes", [0, 7])
def test_scores_do_not_see_the_order_of_hidden_neurons(architecture, probes, dtype):
    tolerance = {torch.float32: 1e-4, torch.float64: 1e-9}[dtype]
    element, classifier = networks(architecture, 3, dtype), model(architecture, dtype, probes=probes)
    if probes:  # a network of omega 30 with weights of deviation 1 is noise that no float32 reproduces
        element = element.map(lambda t: t / 30)
    moved, _ = permuted(element)
    with torch.no_grad():
        scores, other = classifier(element), classifier(moved)
    assert (scores - other).abs().max() <= tolerance * scores.abs().max()
    # The test would be empty if all networks had one score, or nothing had moved.
    assert (scores[0] - scores[1]).abs().max() > 1e-3 * scores.abs().max()
    assert not torch.equal(element.weights[0], moved.weights[0])


def test_states_of_nodes_and_edges_move_with_the_neurons():
    element, classifier = networks(SMALL, 3), model(SMALL)
    moved, order = permuted(element)
    batch = torch.arange(3)[:, None]

    def check(states, others):
        (nodes, edges), (moved_nodes, moved_edges) = states, others
        torch.testing.assert_close(nodes[batch, order], moved_nodes)
        torch.testing.assert_close(edges[batch[..., None], order[:, :, None], order[:, None]], moved_edges)

    states, others = classifier.embed(element)[:2], classifier.embed(moved)[:2]
    check(states, others)
    for _ in range(2):
        layer = RelationLayer(WIDTHS, edge_rows=14).double()
        states, others = layer(*states), layer(*others)
        check(states, others)


def test_scores_see_the_order_of_input_and_output_neurons():
    element, classifier = networks(SMALL, 2), model(SMALL)
    weights, biases = element.weights, element.biases
    inputs = WeightSpaceElement(SMALL, (weights[0].flip(-1), *weights[1:]), biases)
    outputs = WeightSpaceElement(SMALL, (*weights[:-1], weights[-1].flip(-2)), (*biases[:-1], biases[-1].flip(-1)))
    for swapped in (inputs, outputs):
        assert (classifier(element) - classifier(swapped)).abs().max() > 1e-3


def test_scores_see_every_tensor():
    element, classifier = networks(SMALL, 2), model(SMALL)
    before = classifier(element)
    for i, tensor in enumerate(element.tensors()):
        changed = [t * 1.5 if t is tensor else t for t in element.tensors()]
        other = WeightSpaceElement(SMALL, tuple(changed[0::2]), tuple(changed[1::2]))
        assert (classifier(other) - before).abs().max() > 1e-6, f"tensor {i} has no influence"


# -- the shortcuts give what the definitions say -----------------------------------------------------


def test_attention_is_its_formula():
    torch.manual_seed(0)
    attention = RelationalAttention(WIDTHS).double()
    nodes, edges = torch.randn(2, 5, 12).double(), torch.randn(2, 5, 5, 8).double()
    q, k, v = attention.of_nodes(nodes).chunk(3, -1)
    q_edge, k_edge, factor, v_edge = attention.of_edges(edges).chunk(4, -1)
    query, key, value = q[:, :, None] + q_edge, k[:, None] + k_edge, factor * v[:, None] + v_edge
    heads = [t.unflatten(-1, (4, 4)) for t in (query, key, value)]
    scores = (heads[0] * heads[1]).sum(-1) / 16**0.5  # the width of all heads, as published
    expected = attention.out((scores.softmax(2).unsqueeze(-1) * heads[2]).sum(2).flatten(-2))
    torch.testing.assert_close(attention(nodes, edges), expected)
    # Of the last nodes alone.
    torch.testing.assert_close(attention(nodes, edges[:, 3:]), expected[:, 3:])


@pytest.mark.parametrize("architecture", [SMALL, NO_BIAS, Architecture.mlp((3, 2), "relu")], ids=["4", "3", "2"])
def test_attention_before_the_first_layer_is_that_to_all_pairs(architecture):
    torch.manual_seed(0)
    attention, embedding = RelationalAttention(WIDTHS).double(), model(architecture).embedding
    spaces, sizes = embedding.nodes_of_space, [space.size for space in architecture.spaces]
    layers = [torch.randn(3, i, j, 8).double().requires_grad_() for i, j in itertools.pairwise(sizes)]
    nodes, none = torch.randn(3, sum(sizes), 12).double().requires_grad_(), torch.randn(8).double().requires_grad_()
    known = Known(none, layers, spaces)
    edges = none.expand(3, sum(sizes), sum(sizes), 8).clone()
    for (read, written), layer in zip(itertools.pairwise(spaces), layers, strict=True):
        edges[:, read, written] = layer
    assert torch.equal(known.edges(), edges)
    results = []
    for summed in (attention.of_known(nodes, known), attention(nodes, known.edges()), attention(nodes, edges)):
        loss = (summed * torch.cos(torch.arange(summed.numel()).view_as(summed))).sum()
        results.append((summed, *torch.autograd.grad(loss, [nodes, none, *layers, *attention.parameters()])))
    for ours, of_function, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected)
        torch.testing.assert_close(of_function, expected)


def test_leaving_out_what_the_outputs_do_not_look_at_changes_nothing():
    element, classifier = networks(SMALL, 3), model(SMALL)
    nodes, edges, _ = classifier.embed(element)
    for layer in classifier.layers:
        full = RelationLayer(WIDTHS, edge_rows=14).double()
        full.load_state_dict(layer.state_dict(), strict=False)
        nodes, edges = full(nodes, edges)
    torch.testing.assert_close(classifier(element), classifier.head(nodes[:, -2:].flatten(1)))


def test_pieces_of_a_batch_change_nothing():
    element, classifier = networks(SMALL, 5), model(SMALL)
    whole = classifier(element)
    classifier.footprint = 2**30
    assert len(classifier._pieces(element)) == 5
    torch.testing.assert_close(classifier(element), whole)
    torch.testing.assert_close(torch.cat([classifier(element[i : i + 1]) for i in range(5)]), whole)
    assert classifier(element[:0]).shape == (0, 5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradients_do_not_depend_on_checkpointing_and_reach_every_parameter(dropout):
    element = networks(SMALL, 3)
    gradients = []
    for checkpoint in (True, False):
        classifier = model(SMALL, probes=3, dropout=dropout, checkpoint=checkpoint).train()
        torch.manual_seed(4)
        F.cross_entropy(classifier(element), torch.tensor([0, 1, 2])).backward()
        gradients.append({name: p.grad for name, p in classifier.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)
        assert gradient.abs().max() > 1e-12, f"no gradient reaches {name}"


def test_a_layer_keeps_only_its_inputs_and_parameters():
    layer = RelationLayer(WIDTHS, edge_rows=20)
    nodes, edges = torch.randn(2, 20, 12), torch.randn(2, 20, 20, 8, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    def numbers(call) -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            outputs = call()
        del outputs
        return sum(kept.values())

    parameters = sum(p.numel() for p in layer.parameters())
    assert numbers(lambda: recompute(layer, nodes, edges)) == nodes.numel() + edges.numel() + parameters
    # In blocks: the edges before and after, the weights of the attention, and what is as wide as a node.
    in_blocks = numbers(lambda: layer(nodes, edges, in_blocks=True))
    assert in_blocks < edges.numel() * (1 + WIDTHS.heads / WIDTHS.edge) + 30 * nodes.numel() + parameters
    assert numbers(lambda: layer(nodes, edges)) > 10 * edges.numel()  # the measure sees what there is


def test_recomputing_in_autocast_gives_the_gradients_of_autocast():
    layer = RelationLayer(WIDTHS, edge_rows=6)
    nodes, edges = torch.randn(2, 6, 12), torch.randn(2, 6, 6, 8)
    results = []
    for call in (layer, lambda *inputs: recompute(layer, *inputs)):
        layer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            updated, _ = call(nodes, edges)
        updated.float().square().sum().backward()
        results.append(layer.attention.of_edges.weight.grad)
    assert results[0].abs().max() > 0
    torch.testing.assert_close(*results, rtol=0, atol=0)


# -- training ----------------------------------------------------------------------------------------


def test_dropout_acts_in_training_only():
    element, classifier = networks(SMALL, 2), model(SMALL, dropout=0.5)
    assert torch.equal(classifier(element), classifier(element))
    classifier.train()
    assert not torch.equal(classifier(element), classifier(element))


def test_it_learns_to_tell_small_weights_from_large_ones():
    torch.manual_seed(0)
    labels = torch.arange(24) % 2
    element = networks(SMALL, 24, torch.float32).map(lambda t: t * (1 + labels.view(-1, *[1] * (t.ndim - 1))))
    classifier = RelationTransformer(SMALL, 2, layers=2, widths=WIDTHS, frequencies=8, sigma=0.2, dropout=0.1)
    classifier.set_statistics(element)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=1e-2)
    for _ in range(40):
        optimiser.zero_grad()
        F.cross_entropy(classifier(element), labels).backward()
        optimiser.step()
    unseen = networks(SMALL, 24, torch.float32, seed=9).map(lambda t: t * (1 + labels.view(-1, *[1] * (t.ndim - 1))))
    accuracy = (classifier.eval()(unseen).argmax(-1) == labels).double().mean()
    assert accuracy >= 0.8


@pytest.mark.parametrize("checkpoint", [True, False])
def test_stacked_seeds_give_the_gradients_of_each(checkpoint):
    element = networks(SMALL, 2)
    models = [model(SMALL, checkpoint=checkpoint, probes=2) for _ in range(2)]
    with torch.no_grad():
        for p in models[1].parameters():
            p.mul_(1.1)
    parameters, buffers = torch.func.stack_module_state(models)

    def loss(parameters, buffers):
        return torch.func.functional_call(models[0], (parameters, buffers), (element,)).square().mean()

    gradients = torch.func.vmap(torch.func.grad(loss))(parameters, buffers)
    torch.func.vmap(loss)(parameters, buffers).sum().backward()
    for i, each in enumerate(models):
        each(element).square().mean().backward()
        for name, p in each.named_parameters():
            torch.testing.assert_close(gradients[name][i], p.grad)
            torch.testing.assert_close(parameters[name].grad[i], p.grad)


# -- bad input ---------------------------------------------------------------------------------------


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="chains of linear layers"):
        RelationTransformer(branched(), 3)
    with pytest.raises(ValueError, match="at least one layer, got 0"):
        RelationTransformer(SMALL, 3, layers=0)
    with pytest.raises(ValueError, match=r"dropout must be in \[0, 1\), got 1"):
        RelationTransformer(SMALL, 3, dropout=1)
    with pytest.raises(ValueError, match="16 channels of attention cannot be divided among 3 heads"):
        RelationTransformer(SMALL, 3, widths=WIDTHS._replace(heads=3))
    with pytest.raises(ValueError, match="the model is for"):
        model(SMALL)(networks(NO_BIAS, 2))
    with pytest.raises(ValueError, match=r"batch shape \(batch,\), got \(\)"):
        model(SMALL)(networks(SMALL, 2)[0])


def branched() -> Architecture:
    from weightaug import Layer, Space

    relu = Activation("relu")
    spaces = (Space("in", 2, None), Space("a", 3, relu), Space("out", 1, None))
    layers = (Layer("l0", "in", "a"), Layer("l1", "a", "out"), Layer("skip", "in", "out"))
    return Architecture(spaces, layers)
