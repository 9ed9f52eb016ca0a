"""Matching: planted symmetries, monotone objective, starts, methods, errors."""

import math
import sys
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from scipy.optimize import linear_sum_assignment

from tests.git_rebasin import weight_matching
from weightaug import Activation, Architecture, GroupElement, Layer, Space, WeightSpaceElement, _loops, act, stack
from weightaug.matching import align_to, assign, canonicalize, distance, function, match, match_many, restarts, weight
from weightaug.matching.assignment import assign_again, unknown_prices
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


# -- other methods ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ARCHITECTURES[:12], ids=NAMES)
def test_activation_matching_recovers_a_planted_copy(arch):
    a = networks(arch, 4)
    b = act(a, symmetry(arch, 4))
    points = torch.rand(64, arch.spaces[0].size, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3
    aligned = act(b, match(a, b, method="activation", points=points))
    same_function(aligned, b)
    # Dead ReLU neurons and neurons that agree at all inputs cannot be told apart this way.
    assert squared(aligned, a).median() < (1e-12 if "relu" not in str(arch) else 0.5 * squared(a, b).median())


def midpoint_error(a, b, points):
    middle = WeightSpaceElement.unflatten(a.architecture, (a.flatten() + b.flatten()) / 2)
    return (middle(points) - (a(points) + b(points)) / 2).square().mean((-1, -2))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from([x for x in ARCHITECTURES[:13] if x.hidden]), st.integers(0, 10**6), st.booleans())
def test_function_matching_never_makes_the_midpoint_worse(arch, seed, plain):
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    points = torch.rand(20, arch.spaces[0].size, dtype=torch.float64) * 2 - 1
    symmetry = "permutation" if plain else "auto"
    moved = act(b, match(a, b, method="function", points=points, symmetry=symmetry))
    same_function(moved, b)
    error = midpoint_error(a, moved, points)
    for other in (b, act(b, match(a, b, symmetry=symmetry))):
        assert torch.all(error <= midpoint_error(a, other, points) * (1 + 1e-9) + 1e-18)


def test_function_matching_beats_the_weights_at_the_midpoint_and_finds_copies():
    a, b = networks(SINE, 12), networks(SINE, 12, seed=1)
    points = torch.rand(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    by_function = midpoint_error(a, act(b, match(a, b, method="function", points=points)), points)
    by_weight = midpoint_error(a, act(b, match(a, b)), points)
    assert by_function.mean() < 0.8 * by_weight.mean()
    copy = act(a, symmetry(SINE, 12))
    assert_same(act(copy, match(a, copy, method="function", points=points)), a)


@pytest.mark.parametrize("arch", ARCHITECTURES[:12], ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_function_matching_in_other_dtypes(arch, dtype):
    a, b = networks(arch, 2, dtype=dtype), networks(arch, 2, seed=1, dtype=dtype)
    group = match(a, b, method="function", points=torch.rand(9, arch.spaces[0].size))
    assert all(s is None or s.dtype == dtype for s in group.scale)
    assert all(torch.equal(p.sort(-1).values, torch.arange(p.shape[-1]).expand_as(p)) for p in group.permutation)


def test_function_matching_pair_by_pair_and_in_pieces(monkeypatch):
    a, b = networks(SINE, 7), networks(SINE, 7, seed=1)
    points = torch.rand(30, 2, dtype=torch.float64)
    whole = match(a, b, method="function", points=points)
    monkeypatch.setattr(function, "_ENTRIES", 3 * 30 * 8)
    pieces = match(a, b, method="function", points=points)
    alone = [match(x, y, method="function", points=points) for x, y in zip(a, b, strict=True)]
    for s, (p, q) in enumerate(zip(whole.permutation, pieces.permutation, strict=True)):
        assert torch.equal(p, q)
        assert torch.equal(p, torch.stack([g.permutation[s] for g in alone]))
    for batch in ((), (0,), (2, 3)):
        x, y = networks(SINE, *batch), networks(SINE, *batch, seed=1)
        assert match(x, y, method="function", points=points).permutation[0].shape == (*batch, 8)


def test_function_matching_needs_networks_that_can_be_evaluated():
    two = Architecture(
        (Space("in", 2), Space("h", 4, Activation("tanh")), Space("u", 1), Space("v", 1)),
        (Layer("first", "in", "h"), Layer("left", "h", "u"), Layer("right", "h", "v")),
    )
    for arch in (CONV, two):
        with pytest.raises(ValueError, match=r"one output space and linear layers.*method='weight'"):
            match(networks(arch, 2), networks(arch, 2), method="function", points=torch.zeros(3, 2))
    with pytest.warns(UserWarning, match="unknown"):
        strange = Architecture.mlp((2, 4, 1), Activation("swishy"))
    for method in ("activation", "function"):
        with pytest.raises(ValueError, match="evaluated, got 'swishy'"):
            match(networks(strange, 2), networks(strange, 2), method=method, points=torch.zeros(3, 2))


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["relu", "leaky_relu", "abs"]), st.integers(0, 10**6), st.floats(0, 1))
def test_mixing_is_mixing_in_the_balanced_frame(activation, seed, lam):
    # Scales are linear in the weights, so what was matched is what is mixed, wherever a stands.
    arch = Architecture.mlp((2, 8, 8, 1), activation)
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    a = act(a, symmetry(arch, 3, seed=seed))
    moved, points = act(b, match(a, b)), torch.rand(9, 2, dtype=torch.float64) - 0.5
    rules = resolve(arch, "auto")
    x, y = act(a, balance(a, rules)), act(moved, balance(moved, rules))

    def mixed(p, q):
        return WeightSpaceElement.unflatten(arch, lam * p.flatten() + (1 - lam) * q.flatten())(points)

    torch.testing.assert_close(mixed(a, moved), mixed(x, y), rtol=1e-7, atol=1e-9)


# -- many networks ---------------------------------------------------------------------------------------


def test_align_to_one_reference():
    reference, planted = networks(SINE), symmetry(SINE, 4)
    batch = act(reference, planted)
    assert_same(act(batch, align_to(batch, reference)), reference.map(lambda t: t.expand(4, *t.shape)))
    with pytest.raises(ValueError, match="broadcasts"):
        align_to(batch, networks(SINE, 3))


@pytest.mark.parametrize("arch", [SINE, ARCHITECTURES[2]], ids=["siren", "relu"])
def test_match_many(arch):
    x = networks(arch, 2, 1).map(lambda t: t.expand(2, 4, *t.shape[2:]).clone())
    x = act(x, symmetry(arch, 2, 4))
    group, center = match_many(x)
    aligned = act(x, group)
    assert_same(aligned[:, 3], aligned[:, 0])
    assert_same(aligned[:, 0], x[:, 0])
    assert_same(center, x[:, 0])


def test_match_many_is_cycle_consistent_and_no_worse_than_one_reference():
    x = networks(SINE, 5)
    group, center = match_many(x)
    assert center.batch_shape == ()
    around = (group[0].inverse() @ group[1]) @ (group[1].inverse() @ group[2]) @ (group[2].inverse() @ group[0])
    assert_same(act(x[0], around), x[0])

    def inertia(y):
        return squared(y, y.map(lambda t: t.mean(0, keepdim=True))).sum()

    assert inertia(act(x, group)) <= inertia(act(x, align_to(x, x[0]))) + 1e-9
    with pytest.raises(ValueError, match="sets of networks"):
        match_many(x[0])


def spread(y):
    """The sum of squared distances to the mean, of sets of networks."""
    return (y.flatten() - y.flatten().mean(-2, keepdim=True)).square().sum((-1, -2))


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ARCHITECTURES), st.integers(1, 4), st.sampled_from([0.1, 0.5, 5.0]), st.integers(0, 10**6))
def test_match_many_never_ends_farther_apart_than_it_began(arch, count, std, seed):
    x = networks(arch, 2, count, seed=seed, std=std)
    group, center = match_many(x)
    y = act(x, group)
    same_function(y, x)
    assert torch.all(spread(y) <= spread(x) * (1 + 1e-9) + 1e-12)
    assert_same(y[:, 0], x[:, 0])
    assert_same(center, y.map(lambda t: t.mean(1)))


def merge_many(x, generator, **options):
    """MergeMany of Git Re-Basin for a set of networks: each is aligned to the mean of the others until nothing changes.

    Ainsworth et al. (2022), algorithm 3, with any alignment of pairs. Returns them in the frame of the first one.
    """
    placed = [x[i] for i in range(len(x))]
    first = GroupElement.identity(x.architecture)
    while True:
        changed = False
        for i in torch.randperm(len(x), generator=generator).tolist():
            others = stack(placed[:i] + placed[i + 1 :]).map(lambda t: t.mean(0))
            group = match(others, placed[i], **options)
            new = act(placed[i], group)
            if squared(others, new) < squared(others, placed[i]) * (1 - 1e-9):
                placed[i], changed = new, True
                first = group @ first if i == 0 else first
        if not changed:
            return act(stack(placed), first.inverse())


@pytest.mark.parametrize("name", ["sine", "tanh", "gelu", "relu"])
@pytest.mark.parametrize("symmetry", ["permutation", "auto"])
def test_match_many_is_never_worse_than_merge_many(name, symmetry):
    arch = Architecture.mlp((2, 8, 8, 1), Activation(name, 30.0 if name == "sine" else 1.0))
    x = networks(arch, 6, 5, seed=2)
    options = {"symmetry": symmetry} | ({"starts": ("identity",)} if symmetry == "permutation" else {})
    ours = spread(act(x, match_many(x, symmetry=symmetry)[0]))
    for i in range(len(x)):
        theirs = merge_many(x[i], torch.Generator().manual_seed(i), **options)
        assert ours[i] <= spread(theirs) * (1 + 1e-9)


# -- the assignment solver -------------------------------------------------------------------------------


@given(st.integers(0, 999), st.integers(1, 12), st.sampled_from([0, 1, 3, 1000]))
def test_assignments_are_the_best_ones_and_come_with_prices(seed, n, values):
    # Few different values mean many ties; zero means that all are equal.
    generator = torch.Generator().manual_seed(seed)
    score = torch.randint(values + 1, (5, n, n), generator=generator).double()
    found, prices = assign_again(score, unknown_prices(score))
    assert torch.equal(found.sort(1).values, torch.arange(n).expand(5, n))
    reached = score.gather(2, found.unsqueeze(2)).squeeze(2)
    for i in range(5):
        rows, columns = linear_sum_assignment(score[i].numpy(), maximize=True)
        assert reached[i].sum() == pytest.approx(score[i, rows, columns].sum().item())
    if _loops.load("matching") is not None:  # then these are exact: no row would like another column better
        gain = (score - prices.unsqueeze(1)) - (reached - prices.gather(1, found)).unsqueeze(2)
        assert gain.max() <= 1e-9 * (values + 1)


def test_no_networks_no_assignments():
    score = torch.empty(0, 3, 3, dtype=torch.float64)
    assert assign(score).shape == assign_again(score, unknown_prices(score))[0].shape == (0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_refused(value):
    score = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    score[1, 2, 3] = value
    with pytest.raises(ValueError, match=r"4 x 4 scores that are finite.* 1 that"):
        assign(score)


@pytest.mark.parametrize("size", [1e-300, 1.0, 1e100, 1e160, 1.7e308])
@pytest.mark.parametrize("again", [False, True])
def test_scores_of_any_size_are_assigned(size, again):
    score = (torch.rand(4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 - 1) * size
    score[3] /= size  # each matrix has a size of its own
    for _ in range(2):
        found = assign_again(score, unknown_prices(score))[0] if again else assign(score)
        expected = [linear_sum_assignment(s.numpy() / s.abs().max().item(), maximize=True)[1] for s in score]
        assert found.tolist() == [e.tolist() for e in expected]


@pytest.mark.parametrize(
    "score",
    [
        torch.tensor([[[1, 5], [2, 3]]]),
        torch.tensor([[[False, True], [False, False]]]),
        torch.tensor([[[-60000.0, 60000.0], [0.0, -60000.0]]], dtype=torch.float16),
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]], dtype=torch.bfloat16),
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]], requires_grad=True),
        torch.tensor([[[1.0, 2.0], [5.0, 3.0]]]).mT,
        torch.tensor([[[1.0, 5.0], [2.0, 3.0]]]).expand(3, 2, 2),
    ],
    ids=["int", "bool", "half", "bfloat16", "grad", "transposed", "expanded"],
)
def test_scores_of_any_form_are_assigned(score):
    found, prices = assign_again(score, unknown_prices(score))
    for result in (assign(score), found, assign_again(score, prices)[0]):
        assert result.tolist() == [[1, 0]] * len(score)
        assert result.dtype == torch.int64
        assert not result.requires_grad


def test_assignments_of_nothing():
    for shape in ((0, 3, 3), (2, 0, 0), (0, 0, 0)):
        assert assign(torch.zeros(shape)).shape == shape[:2]
        assert assign_again(torch.zeros(shape), unknown_prices(torch.zeros(shape)))[0].shape == shape[:2]


@pytest.mark.parametrize(
    ("score", "error", "message"),
    [
        (torch.zeros(1, 6, 4), ValueError, r"\(batch, n, n\), got shape \(1, 6, 4\).*fill up the smaller side"),
        (torch.zeros(4, 4), ValueError, r"got shape \(4, 4\).*unsqueeze\(0\)"),
        (torch.zeros(1, 2, 2, dtype=torch.complex64), TypeError, "real numbers, got a tensor of torch.complex64"),
        ([[[1.0]]], TypeError, "got list; torch.as_tensor"),
        (torch.eye(2).numpy()[None], TypeError, "got ndarray; torch.as_tensor"),
    ],
)
def test_what_are_no_scores_is_refused(score, error, message):
    with pytest.raises(error, match=message):
        assign(score)


@settings(deadline=None)
@given(st.sampled_from([x for x in ARCHITECTURES if x.hidden]), st.integers(0, 10**6), st.integers(0, 6))
def test_a_compiled_visit_finds_what_the_readable_one_finds(arch, seed, count):
    loops = _loops.load("matching")
    if loops is None:
        pytest.skip("compares numba's loops with the others: once is enough")
    rules = resolve(arch, "auto")
    a, b = (networks(arch, 5, seed=s) for s in (seed, seed + 1))
    compiled, readable = Pairs(a, b, rules), Pairs(a, b, rules)
    readable.loops = None
    moves = readable.descend(restarts.random_moves(b, rules, torch.Generator().manual_seed(seed)), max_sweeps=1)
    todo = None if count > 5 else torch.randperm(5, generator=torch.Generator().manual_seed(seed))[:count]
    for slot in range(len(rules)):
        for known in (None, frozenset(), frozenset([0])):
            for search in (True, False):
                pairs = torch.arange(5) if todo is None else todo
                if not len(pairs):
                    continue
                ours = compiled._visit(slot, moves, todo, known, search=search)
                theirs = readable._visit(slot, moves, todo, known, search=search)
                score, *_ = compiled.decide(slot, *ours[:2], todo)
                expected, *_ = readable.decide(slot, *theirs[:2], todo)
                torch.testing.assert_close(score, expected)  # ties may be broken differently
                torch.testing.assert_close(ours[2], theirs[2])


def test_assignments_stay_on_the_gpu_if_they_can(monkeypatch):
    # No GPU here: a stand-in for the solver, and for the flag of a tensor that says that it is on one.
    calls = []

    def solver(cost):
        calls.append(cost.shape)
        return torch.stack([cost[i].argmin(-1) for i in range(len(cost))])

    class OnGPU(torch.Tensor):
        is_cuda = True

    fake = torch.eye(4).repeat(3, 1, 1).as_subclass(OnGPU)
    from weightaug.matching import assignment

    monkeypatch.setattr(assignment, "on_device_solver", lambda: True)
    monkeypatch.setitem(sys.modules, "torch_linear_assignment", SimpleNamespace(batch_linear_assignment=solver))
    assert torch.equal(torch.as_tensor(assignment.assign(fake)), torch.arange(4).expand(3, 4))
    assert calls == [(3, 4, 4)]
    assignment.assign(torch.eye(4).repeat(3, 1, 1))
    assert len(calls) == 1  # host tensors go to the host's solver


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


# -- large, small, and alike -------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from([x for x in ARCHITECTURES if x.hidden]),
    st.integers(0, 10**6),
    st.sampled_from([1e-200, 1e-100, 1e77, 1e120, 1e160, 1e250]),
)
def test_the_size_of_weights_changes_no_assignment(arch, seed, size):
    # Powers of two move no digit, so that the answer is the same one. Biases of half periods have a size of their own,
    # and scales are balanced before.
    factor = 2.0 ** round(math.log2(size))
    rule = tuple({"permutation", "sign"} & {n for s in arch.hidden for n in s.activation.symmetries})
    a, b = networks(arch, 3, seed=seed), networks(arch, 3, seed=seed + 1)
    expected = match(a, b, symmetry=rule)
    found = match(a.map(lambda t: t * factor), b.map(lambda t: t * factor), symmetry=rule)
    for p, q in zip(found.permutation, expected.permutation, strict=True):
        assert torch.equal(p, q)


def test_pairs_of_very_different_sizes_in_one_batch():
    a, b = networks(SINE, 3), networks(SINE, 3, seed=1)
    size = torch.tensor([2.0**-600, 1.0, 2.0**600], dtype=torch.float64)

    def sized(x):
        return x.map(lambda t: t * size.view(-1, *(1,) * (t.dim() - 1)))

    alone = match(a, b, symmetry="sign")
    for p, q in zip(match(sized(a), sized(b), symmetry="sign").permutation, alone.permutation, strict=True):
        assert torch.equal(p, q)


def test_phases_of_small_weights_are_found_and_lost_ones_refused():
    small = networks(SINE, 6).map(lambda t: t * 1e-160)  # far below a half period
    copy = act(small, symmetry(SINE, 6)).map(lambda t: t.clone())
    permuted = match(small, copy).permutation
    assert all(torch.equal(p.sort(1).values, torch.arange(8).expand(6, 8)) for p in permuted)
    with pytest.raises(ValueError, match=r"layer0\.bias.*2\^50 half periods.*symmetry=\('permutation', 'sign'\)"):
        match(small, small.map(lambda t: t + 1e77))


def alike(arch, kind, seed, batch=4):
    """Networks with neurons that look alike: by what they read, by what they read and write, or mostly zero."""
    x = networks(arch, batch, seed=seed).map(lambda t: t.clone())
    if kind == "pruned":
        generator = torch.Generator().manual_seed(seed)
        return x.map(lambda t: t * (torch.rand(t.shape, generator=generator) < 0.4))
    for l in range(len(arch.layers) - 1):
        for t in (x.weights[l], x.biases[l]):
            t[:, 1], t[:, 2] = t[:, 0], t[:, 3]
    if kind == "rows and columns":
        for w in x.weights[1:]:
            w[:, :, 4] = w[:, :, 0]
    return x


@pytest.mark.parametrize("kind", ["rows", "rows and columns", "pruned"])
@pytest.mark.parametrize(
    "activation", ["tanh", "gelu", "gaussian", Activation("sine", 30.0), Activation("cosine", 5.0)]
)
def test_copies_whose_neurons_look_alike_are_found(activation, kind):
    for sizes in ((2, 8, 8, 1), (2, 8, 8, 8, 1)):
        a = alike(Architecture.mlp(sizes, activation), kind, seed=len(sizes))
        b = act(a, symmetry(a.architecture, len(a), seed=1))
        found = act(b, match(a, b))
        assert squared(a, found).max() < 1e-18
        assert distance(a, b).max() < 1e-9


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
