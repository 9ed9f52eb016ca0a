"""Matching: planted symmetries, monotone objective, starts, methods, errors."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.git_rebasin import weight_matching
from weightaug import Activation, Architecture, GroupElement, Layer, Space, WeightSpaceElement, _loops, act
from weightaug.matching import assign, canonicalize, distance, match, match_many, weight
from weightaug.matching.assignment import assign_again
from weightaug.matching.canonical import balance
from weightaug.matching.descent import Pairs
from weightaug.matching.rules import resolve
from weightaug.matching.weight import STARTS

SINE = Architecture.siren((2, 8, 8, 1))
RESIDUAL = Architecture(
    (
        Space("in", 2),
        Space("h", 6, Activation("tanh")),
        Space("k", 6, Activation("relu")),
        Space("out", 1),
    ),
    (
        Layer("first", "in", "h"),
        Layer("middle", "h", "k"),
        Layer("skip", "in", "k", bias=False),
        Layer("last", "k", "out"),
        Layer("shortcut", "h", "out", bias=False),
    ),
)
CONV = Architecture(
    (Space("in", 2), Space("h", 5, Activation("relu")), Space("k", 4, Activation("gelu")), Space("out", 3)),
    (
        Layer("conv1", "in", "h", kernel=(3, 3)),
        Layer("conv2", "h", "k", kernel=(3, 3)),
        Layer("head", "k", "out"),
    ),
)
ARCHITECTURES = [
    SINE,
    Architecture.siren((3, 6, 5, 4, 2), omega=7.0, first_omega=30.0),
    Architecture.mlp((2, 8, 7, 3), "relu"),
    Architecture.mlp((2, 6, 6, 6, 1), "leaky_relu"),
    Architecture.mlp((2, 8, 8, 1), "tanh"),
    Architecture.mlp((2, 8, 8, 1), "gaussian"),
    Architecture.mlp((2, 8, 8, 1), Activation("cosine", 5.0)),
    Architecture.mlp((2, 8, 8, 1), "abs"),
    Architecture.mlp((2, 8, 8, 1), "gelu"),
    Architecture.mlp((2, 8, 8, 1), "relu", bias=False),
    Architecture.mlp((2, 8, 6, 7, 1), ["tanh", "relu", Activation("sine", 30.0)]),
    Architecture.mlp((2, 1, 1), "tanh"),
    RESIDUAL,
    CONV,
]


@pytest.fixture(params=["numba", "scipy"], autouse=True, scope="module")
def solver(request):
    """Everything here holds with numba's loops and without."""
    if request.param == "numba":
        pytest.importorskip("numba", reason="needs the extra 'fast': pip install 'weightaug[fast]'")
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_loops, "load", lambda name: None)
        yield


NAMES = ["siren", "siren4", "relu", "leaky", "tanh", "gaussian", "cosine", "abs", "gelu", "nobias", "mixed", "one"]
each_architecture = pytest.mark.parametrize("arch", ARCHITECTURES, ids=[*NAMES, "residual", "conv"])


def networks(arch, *batch, seed=0, dtype=torch.float64, std=0.2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(*batch, arch.num_parameters, generator=generator, dtype=torch.float64)
    return WeightSpaceElement.unflatten(arch, (values * std).to(dtype))


def symmetry(arch, *batch, seed=0, dtype=torch.float64):
    """A random element of the whole group."""
    g = torch.Generator().manual_seed(seed + 1000)
    permutation, scale, shift = [], [], []
    for slot, space in enumerate(arch.hidden):
        names, shape = space.activation.symmetries, (*batch, space.size)
        permutation.append(torch.rand(shape, generator=g).argsort(-1))
        factor = torch.ones(shape, dtype=dtype)
        if "sign" in names:
            factor = factor * (1 - 2 * torch.randint(2, shape, generator=g))
        if "scale" in names:
            factor = factor * torch.exp((torch.rand(shape, generator=g, dtype=dtype) * 2 - 1) * 1.6)
        scale.append(factor if "sign" in names or "scale" in names else None)
        phases = "phase" in names and arch.wiring.bias_carriers[slot] is not None
        shift.append(torch.randint(-3, 4, shape, generator=g) if phases else None)
    return GroupElement.of(arch, permutation=tuple(permutation), scale=tuple(scale), shift=tuple(shift))


def squared(a, b):
    return (a.flatten() - b.flatten()).square().sum(-1)


def assert_same(a, b, tolerance=1e-9):
    torch.testing.assert_close(a.flatten(), b.flatten(), rtol=tolerance, atol=tolerance)


def same_function(a, b):
    if any(layer.kernel for layer in a.architecture.layers):
        return  # the action itself is tested elsewhere; convolutions cannot be evaluated
    x = torch.rand(7, a.architecture.spaces[0].size, dtype=a.dtype) * 2 - 1
    torch.testing.assert_close(a(x), b(x), rtol=1e-7, atol=1e-9)


# -- planted symmetries ----------------------------------------------------------------------------------


@each_architecture
def test_a_planted_copy_is_recovered(arch):
    a, planted = networks(arch, 6), symmetry(arch, 6)
    b = act(a, planted)
    found = match(a, b)
    assert_same(act(b, found), a)
    assert torch.all(distance(a, b) <= 1e-9 * a.flatten().norm(dim=-1))
    for p in (found @ planted).permutation:
        assert torch.equal(p, torch.arange(p.shape[-1]).expand_as(p))


def test_the_papers_matching_does_not_see_signs_and_phases():
    a = networks(SINE, 20)
    b = act(a, symmetry(SINE, 20))
    assert squared(a, act(b, match(a, b, symmetry="permutation"))).mean() > 0.1 * squared(a, b).mean()


@settings(max_examples=15, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.integers(0, 10**6))
def test_alignment_keeps_the_function_and_never_moves_away(arch, seed):
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    aligned = act(b, match(a, b))
    same_function(aligned, b)
    rules = resolve(arch, "auto")
    # With positive scales the distance is that of the balanced networks.
    x, y, z = (act(e, balance(e, rules)) for e in (a, b, aligned))
    assert torch.all(squared(x, z) <= squared(x, y) + 1e-12)


@settings(max_examples=12, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.integers(0, 10**6))
def test_distance_is_invariant_and_symmetric(arch, seed):
    a, b = networks(arch, 2, seed=seed), networks(arch, 2, seed=seed + 1)
    d = distance(a, b)
    assert torch.equal(d, distance(b, a))
    torch.testing.assert_close(
        distance(act(a, symmetry(arch, 2, seed=seed)), act(b, symmetry(arch, 2, seed=seed + 2))), d, rtol=1e-8, atol=0
    )
    assert torch.all(distance(a, a) == 0)


def test_match_moves_with_the_target():
    # Where b stands in its orbit, and where a stands in its own, changes nothing but the frame.
    a, b = networks(SINE, 5), networks(SINE, 5, seed=1)
    g, h = symmetry(SINE, 5), symmetry(SINE, 5, seed=1)
    starts = ("forward", "backward")
    expected = act(act(b, match(a, b, starts=starts)), g)
    assert_same(act(act(b, h), match(act(a, g), act(b, h), starts=starts)), expected)


# -- weight matching ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_same_start_and_order_as_git_rebasin(order):
    arch = Architecture.siren((2, 12, 12, 1))
    a, b = networks(arch, 40), networks(arch, 40, seed=1)
    start = "identity" if order == (0, 1) else "reverse"
    ours = match(a, b, symmetry="permutation", starts=(start,))
    for i in range(40):
        theirs, _ = weight_matching(a[i].weights, a[i].biases, b[i].weights, b[i].biases, order=order)
        for p, q in zip(ours.permutation, theirs, strict=True):
            assert torch.equal(p[i], q)


@given(st.integers(0, 999), st.integers(1, 12), st.sampled_from([0.0, 0.1, 100.0]))
def test_prices_change_no_assignment(seed, n, spread):
    generator = torch.Generator().manual_seed(seed)
    score = torch.randn(4, n, n, generator=generator, dtype=torch.float64)
    prices = spread * torch.randn(4, n, generator=generator, dtype=torch.float64)
    for _ in range(3):  # each call on a problem near the last one
        found, prices = assign_again(score, prices)
        assert torch.equal(found, assign(score))
        score = score + 0.1 * torch.randn(score.shape, generator=generator, dtype=torch.float64)


def test_both_orders_are_never_below_git_rebasin_in_random_order():
    arch = Architecture.siren((2, 12, 12, 1))
    a, b = networks(arch, 40), networks(arch, 40, seed=1)
    ours = squared(a, act(b, match(a, b, symmetry="permutation", starts=("identity", "reverse"))))
    generator = torch.Generator().manual_seed(0)
    for i in range(40):
        perms, _ = weight_matching(a[i].weights, a[i].biases, b[i].weights, b[i].biases, generator=generator)
        theirs = squared(a[i], act(b[i], GroupElement.of(arch, permutation=tuple(perms))))
        assert ours[i] <= theirs + 1e-12


@settings(max_examples=10, deadline=None)
@given(st.sampled_from([x for x in ARCHITECTURES if x.hidden]), st.integers(0, 10**6))
def test_the_objective_is_monotone_and_counts_the_distance(arch, seed):
    rules = resolve(arch, "auto")
    a, b = (networks(arch, 4, seed=s) for s in (seed, seed + 1))
    a, b = act(a, balance(a, rules)), act(b, balance(b, rules))
    pairs = Pairs(a, b, rules)
    record: list[torch.Tensor] = []
    moves = pairs.identity()
    before = pairs.objective(moves)
    pairs.descend(moves, record=record)
    gains = torch.stack(record)
    assert torch.all(gains >= 0)
    after = pairs.objective(moves)
    torch.testing.assert_close(after - before, gains.sum(0))
    gained = (squared(a, b) - squared(a, act(b, moves.group(arch)))) / pairs.scale.square()
    torch.testing.assert_close(gained / 2, gains.sum(0), rtol=1e-7, atol=1e-9)


def test_one_visit_is_exact_over_permutations_signs_and_phases():
    # Three neurons, one hidden layer: all 3! permutations, signs and shifts in reach, by brute force.
    from itertools import permutations, product

    arch = Architecture.siren((1, 3, 1), omega=3.0)
    a, b = networks(arch, 1, std=1.0), networks(arch, 1, seed=1, std=1.0)
    options = list(product((1.0, -1.0), range(-3, 4)))
    best = torch.inf
    for p in permutations(range(3)):
        total = squared(a, b) * 0
        for i, j in enumerate(p):  # neurons do not interact: the best option of each adds up
            costs = []
            for s, k in options:
                w = a.weights[0][0, i] - s * b.weights[0][0, j]
                v = a.biases[0][0, i] - s * b.biases[0][0, j] - k * torch.pi / 3
                c = a.weights[1][0, :, i] - s * (-1) ** k * b.weights[1][0, :, j]
                costs.append(w.square().sum() + v.square() + c.square().sum())
            total = total + torch.stack(costs).min()
        best = min(best, float(total + (a.biases[1] - b.biases[1]).square().sum()))
    assert float(squared(a, act(b, match(a, b)))) == pytest.approx(best, rel=1e-9)


def test_more_starts_and_kicks_never_hurt():
    a, b = networks(SINE, 8), networks(SINE, 8, seed=1)
    one = squared(a, act(b, match(a, b, starts=("identity",))))
    g = torch.Generator().manual_seed(0)
    many = squared(a, act(b, match(a, b, starts=[*STARTS, "random"], kicks=4, generator=g)))
    assert torch.all(many <= one + 1e-12)
    assert torch.any(many < one - 1e-6)


def test_random_starts_come_from_the_generator():
    a, b = networks(SINE, 8), networks(SINE, 8, seed=1)
    state = torch.get_rng_state()
    first, second = (
        match(a, b, starts=("random",), kicks=2, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    match(a, b)
    assert torch.equal(state, torch.get_rng_state())
    for p, q in zip(first.permutation, second.permutation, strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize("batch", [(), (0,), (1,), (2, 3)])
def test_batch_shapes(batch):
    a, b = networks(SINE, *batch, dtype=torch.float32), networks(SINE, *batch, seed=1, dtype=torch.float32)
    group = match(a, b)
    assert all(p.shape == (*batch, 8) and p.dtype == torch.int64 for p in group.permutation)
    assert all(s.dtype == torch.float32 for s in group.scale)
    assert act(b, group).batch_shape == batch
    assert distance(a, b).shape == batch
    assert act(a, canonicalize(a)).batch_shape == batch


def test_pairs_do_not_influence_each_other():
    a, b = networks(SINE, 700), networks(SINE, 700, seed=1)  # several chunks
    whole = match(a, b)
    part = match(a[650:653], b[650:653])
    for p, q in zip(whole.permutation, part.permutation, strict=True):
        assert torch.equal(p[650:653], q)


@pytest.mark.parametrize("architecture", [SINE, Architecture.mlp((2, 8, 7, 3), "relu")])
def test_pieces_of_a_large_batch_are_matched_alike(architecture, monkeypatch):
    a, b = networks(architecture, 7), networks(architecture, 7, seed=1)
    whole = match(a, b)
    monkeypatch.setattr(weight, "_PIECE", 3)
    for x, y in zip(match(a, b).permutation, whole.permutation, strict=True):
        assert torch.equal(x, y)


def test_inputs_stay_untouched_and_no_graph_is_recorded():
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    a = a.map(lambda t: t.requires_grad_())
    before = [t.clone() for t in (*a.tensors(), *b.tensors())]
    for group in (match(a, b), canonicalize(a)):
        assert not any(s.requires_grad for s in group.scale)
    assert all(torch.equal(x, y) for x, y in zip(before, (*a.tensors(), *b.tensors()), strict=True))


def test_networks_without_hidden_spaces():
    arch = Architecture.mlp((2, 1), "relu")
    a, b = networks(arch, 3), networks(arch, 3, seed=1)
    assert_same(act(b, match(a, b)), b)
    torch.testing.assert_close(distance(a, b), squared(a, b).sqrt())


# -- errors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": networks(Architecture.siren((2, 8, 9, 1)), 2)}, "different architectures"),
        ({"b": networks(SINE, 3)}, r"expected \(2,\) like a, got \(3,\)"),
        ({"symmetry": "scale"}, "no hidden space has it"),
        ({"symmetry": "rotation"}, "got 'rotation'"),
        ({"symmetry": ()}, "expected 'auto'"),
        ({"method": "magic"}, "'magic'"),
        ({"method": "activation"}, "need points"),
        ({"method": "function"}, "need points"),
        ({"points": torch.zeros(3, 2)}, "'weight' takes none"),
        ({"method": "activation", "points": torch.zeros(3, 5)}, r"\(n, 2\)"),
        ({"method": "activation", "points": torch.full((3, 2), torch.nan)}, "finite"),
        ({"starts": ("nowhere",)}, "nowhere"),
        ({"starts": ()}, "one or several"),
        ({"method": "activation", "points": torch.zeros(3, 2), "kicks": 3}, "takes no starts"),
        ({"method": "activation", "points": torch.zeros(4, 4, 2)}, r"points\.reshape\(-1, 2\)"),
        ({"method": "activation", "points": torch.zeros(0, 2)}, "n >= 1"),
        ({"starts": "forward"}, "a sequence of"),
        ({"starts": 3}, "a sequence of"),
        ({"kicks": -1}, "kicks: expected at least 0, got -1"),
        ({"max_sweeps": 0}, "max_sweeps: expected at least 1, got 0"),
    ],
)
def test_errors(change, message):
    arguments = {"a": networks(SINE, 2), "b": networks(SINE, 2, seed=1), **change}
    with pytest.raises(ValueError, match=message):
        match(**arguments)


def test_values_that_are_not_finite_are_named():
    a, b = networks(SINE, 3), networks(SINE, 3)
    b.weights[1][2, 0, 0] = torch.nan
    for call in (lambda: match(a, b), lambda: distance(a, b), lambda: canonicalize(b), lambda: match_many(b)):
        with pytest.raises(ValueError, match=r"layer1\.weight.*first in network \(2,\)"):
            call()


def test_phases_need_a_bias():
    arch = Architecture.mlp((2, 4, 1), Activation("sine", 30.0), bias=False)
    a, b = networks(arch, 2), networks(arch, 2, seed=1)
    assert match(a, b).shift == (None,)
    with pytest.raises(ValueError, match="a phase also needs a bias"):
        match(a, b, symmetry="phase")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kicks": 1.5}, "kicks: expected a whole number, got 1.5"),
        ({"kicks": True}, "kicks"),
        ({"max_sweeps": None}, "max_sweeps"),
        ({"generator": 0}, r"generator: .*manual_seed"),
        ({"symmetry": 3}, "symmetry"),
        ({"symmetry": (1, 2)}, "symmetry"),
        ({"b": torch.zeros(2)}, "b: expected a WeightSpaceElement, got Tensor"),
        ({"a": networks(SINE, 2).map(lambda t: t.to(torch.int64))}, "floating-point"),
        ({"method": "activation", "points": [[0.0, 0.0]]}, "torch.as_tensor"),
    ],
)
def test_wrong_types(change, message):
    with pytest.raises(TypeError, match=message):
        match(**{"a": networks(SINE, 2), "b": networks(SINE, 2, seed=1), **change})


# -- the surrounding mode ----------------------------------------------------------------------------------

MODES = {
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "gradients": torch.enable_grad,
}


@pytest.mark.parametrize("mode", MODES)
def test_modes_change_nothing(mode):
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    points = torch.rand(9, 2, dtype=torch.float64)
    calls = [
        {"starts": STARTS, "kicks": 2},
        {"symmetry": "permutation"},
        {"method": "activation", "points": points},
        {"method": "function", "points": points},
    ]
    for options in calls:
        expected = match(a, b, generator=torch.Generator().manual_seed(0), **options)
        with MODES[mode]():
            found = match(a, b, generator=torch.Generator().manual_seed(0), **options)
        for p, q in zip(found.permutation, expected.permutation, strict=True):
            assert torch.equal(p, q)
        for s in found.scale:
            assert s is None or not s.is_inference()


def test_a_default_dtype_changes_nothing(monkeypatch):
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    options = {"starts": STARTS, "kicks": 2}
    expected = match(a, b, generator=torch.Generator().manual_seed(0), **options)
    torch.set_default_dtype(torch.float16)
    try:
        found = match(a, b, generator=torch.Generator().manual_seed(0), **options)
    finally:
        torch.set_default_dtype(torch.float32)
    for p, q in zip((*found.permutation, *found.shift), (*expected.permutation, *expected.shift), strict=True):
        assert torch.equal(p, q)


def test_a_compiled_step_breaks_around_the_matching():
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    graphs = []

    def count(graph, inputs):
        graphs.append(len(graph.graph.nodes))
        return graph.forward

    def step(a, b):
        return act(b.map(lambda t: 2 * t), match(a, b.map(lambda t: 2 * t)))

    compiled = torch.compile(step, backend=count)
    assert_same(compiled(a, b), step(a, b))
    assert sum(graphs) < 200  # the doubling and the action, no visit
    torch._dynamo.reset()
