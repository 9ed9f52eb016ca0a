"""Networks declared tensor by tensor: sets aligned jointly and to one, starts, and the distance, on real modules."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from tests.families import Depthwise, ResNet18, WildPark, exercised
from weightaug import GroupElement, HeadRotation, Permute, ReLUScale, SirenNegation, WeightSpaceElement, act, stack
from weightaug.adapters import from_modules
from weightaug.matching import align_to, distance, match, match_many, table
from weightaug.matching.table import _Work, neutral

MODULES = {
    "batch_norm": (lambda: WildPark(), (1, 9, 9)),
    "no_norm": (lambda: WildPark(norm=False), (1, 9, 9)),
    "tanh": (lambda: WildPark(nn.Tanh, norm=False), (1, 9, 9)),
    "grouped": (lambda: Depthwise(), (3, 6, 6)),
    "resnet18": (lambda: ResNet18(4, 3), (3, 32, 32)),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 3, 20, batch_first=True), (5, 12)),
}


@pytest.fixture(params=["one call", "visits"], autouse=True, scope="module")
def way(request):
    """Small networks are matched by one compiled call, others by visits; everything here holds with both."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "visits":
            patch.setattr(table, "tables_of", lambda *arguments: None)
        yield


every_module = pytest.mark.parametrize("name", MODULES)


@functools.cache
def trained_apart(name: str) -> tuple[WeightSpaceElement, Tensor]:
    """Four networks of one kind, and an input for them."""
    make, shape = MODULES[name]
    torch.manual_seed(0)
    x = torch.randn(2, *shape, dtype=torch.float64)
    element = from_modules([exercised(make()) for _ in range(4)], example_input=x)
    return moved(element, 11), x  # the same statistics and biases in all would hold them in place


def moved(element: WeightSpaceElement, seed: int, *, rotate: bool = True) -> WeightSpaceElement:
    """A random place in each orbit that matching can bring back."""
    result = Permute()(element, generator=torch.Generator().manual_seed(seed))
    if all("sign" in space.symmetries for space in element.architecture.hidden):
        result = SirenNegation()(result, generator=torch.Generator().manual_seed(seed + 2))
    if rotate and any(space.linear for space in element.architecture.hidden):
        result = HeadRotation()(result, generator=torch.Generator().manual_seed(seed + 1))
    return result


def gap(a: WeightSpaceElement, b: WeightSpaceElement) -> float:
    return max(float((s - t).abs().max()) for s, t in zip(a.tensors(), b.tensors(), strict=True))


def squares(a: WeightSpaceElement) -> Tensor:
    return a.flatten().square().sum(-1)


def spread(x: WeightSpaceElement) -> float:
    """The sum of squared distances to the mean of a set."""
    return float(squares(x.map(lambda t: t - t.mean(0))).sum())


@every_module
def test_align_to_finds_what_was_planted(name: str):
    networks, x = trained_apart(name)
    batch = moved(stack([networks[0]] * 3), 5)
    aligned = act(batch, align_to(batch, networks[0]))
    assert gap(aligned, stack([networks[0]] * 3)) < 1e-9
    assert gap(batch, aligned) > 0.1
    torch.testing.assert_close(aligned(x), batch(x), rtol=1e-9, atol=1e-9)
    assert float(distance(batch, stack([networks[0]] * 3)).max()) < 1e-6


@every_module
def test_match_many_finds_what_was_planted(name: str):
    networks, x = trained_apart(name)
    sets = moved(stack([stack([networks[i]] * 3) for i in (0, 1)]), 7)  # two sets of three
    group, centre = match_many(sets)
    aligned = act(sets, group)
    assert aligned.batch_shape == (2, 3)
    assert centre.batch_shape == (2,)
    for i in range(3):
        assert gap(aligned[:, i], sets[:, 0]) < 1e-9
    assert gap(centre, sets[:, 0]) < 1e-9
    torch.testing.assert_close(centre(x), networks[:2](x), rtol=1e-8, atol=1e-9)


@every_module
def test_match_many_brings_independent_networks_together_and_keeps_what_they_compute(name: str):
    networks, x = trained_apart(name)
    group, centre = match_many(networks)
    aligned = act(networks, group)
    torch.testing.assert_close(aligned(x), networks(x), rtol=1e-8, atol=1e-9)
    assert gap(aligned[0], networks[0]) < 1e-12  # all end in the frame of the first
    assert spread(aligned) < spread(networks)
    to_first = act(networks, align_to(networks, networks[0]))
    assert spread(aligned) <= spread(to_first) * (1 + 1e-9)
    assert gap(centre, aligned.map(lambda t: t.mean(0))) < 1e-12

    maps = [[group[i].inverse() @ group[j] for j in range(4)] for i in range(4)]
    around = maps[0][1] @ maps[1][2] @ maps[2][3] @ maps[3][0]
    assert gap(act(networks[0], around), networks[0]) < 1e-9

    other, _ = match_many(networks, starts=("identity",), symmetry="permutation")
    assert all(t is None for t in other.maps)
    assert spread(act(networks, other)) < spread(networks)


@every_module
def test_more_starts_never_end_farther_away(name: str):
    networks, x = trained_apart(name)
    a, b = networks[:2], networks[2:]
    apart = lambda g: squares(a.with_tensors([s - t for s, t in zip(a.tensors(), act(b, g).tensors(), strict=True)]))
    ends = {
        starts: apart(match(a, b, starts=starts)) for starts in (("identity",), ("forward",), ("identity", "forward"))
    }
    both = torch.minimum(ends["identity",], ends["forward",])
    torch.testing.assert_close(ends["identity", "forward"], both)
    assert bool((ends["identity",] < apart(GroupElement.identity(a.architecture))).all())
    found = match(a, b, starts=("identity", "forward"))
    torch.testing.assert_close(act(b, found)(x), b(x), rtol=1e-9, atol=1e-9)


@every_module
def test_a_pair_is_matched_as_it_is_alone(name: str):
    networks, _ = trained_apart(name)
    noise = torch.Generator().manual_seed(0)
    a = stack([networks] * 5)
    b = a.map(lambda t: t.flip(1) * torch.exp(0.5 * torch.randn(t.shape, dtype=t.dtype, generator=noise)))
    together = act(b, match(a, b))
    for i in range(5):
        for j in range(4):
            assert gap(act(b[i, j], match(a[i, j], b[i, j])), together[i, j]) < 1e-9


@every_module
def test_the_distance_sees_no_symmetry_that_it_takes_out(name: str):
    networks, _ = trained_apart(name)
    a, b = networks[:2], networks[2:]
    there = distance(a, b)
    torch.testing.assert_close(distance(moved(a, 1), moved(b, 2)), there, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(distance(b, a), there)
    apart = squares(a.with_tensors([s - t for s, t in zip(a.tensors(), b.tensors(), strict=True)])).sqrt()
    assert bool((there < apart).all())


@pytest.mark.parametrize("name", ["resnet18", "no_norm", "tanh", "grouped", "attention"])
@pytest.mark.parametrize("pairs", [1, 2])
def test_what_is_kept_of_a_pair_is_what_computing_it_anew_gives(name: str, pairs: int):
    networks, _ = trained_apart(name)
    a, b = networks[:pairs], networks[2 : 2 + pairs]
    work = _Work(a, b, maps=True, signs=True)
    work.walk()
    compared = 0
    few = torch.Generator().manual_seed(0)
    for _ in range(3):
        work.sweep()
        for slot in work.wiring.slots:  # two positions change places: a small part of a space of more than six
            size = a.architecture.hidden[slot].size
            if size < 4 or a.architecture.hidden[slot].linear:
                continue
            step = neutral(a.architecture, pairs, True, True, a.dtype)
            order = torch.arange(size)
            one, other = torch.randperm(size, generator=few)[:2].tolist()
            order[one], order[other] = other, one
            step.permutation[slot].copy_(order)
            for s in work.wiring.signed.get(slot, ()):  # and a third its sign
                step.scale[s][:, int(torch.randperm(size, generator=few)[0])] = -1.0
            work._move(slot, step)
            fresh = _Work(a, work.b, maps=True, signs=True)
            for i, m in work.known:
                compared += 1
                torch.testing.assert_close(work._products(i, m), fresh._products(i, m), rtol=1e-9, atol=1e-11)
    assert compared
    assert gap(act(b, work.group), work.b) < 1e-9


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_by_the_names_of_their_tensors(value: float):
    networks, _ = trained_apart("no_norm")
    name = [spec.name for spec in networks.architecture.tensors][-1]  # an output's: no score sees it
    broken = networks.map(torch.clone)
    broken.tensors()[-1][2].view(-1)[0] = value
    for role, call in (
        ("b", lambda: match(networks, broken)),
        ("a", lambda: match(broken, networks)),
        ("b", lambda: align_to(broken, networks[0])),
        ("b", lambda: distance(networks, broken)),
        ("x", lambda: match_many(broken)),
    ):
        with pytest.raises(ValueError, match=rf"^{role}, {name}: expected finite values, got 1 .* network \(2,\)"):
            call()


def test_one_network_a_set_of_one_and_empty_batches():
    networks, _ = trained_apart("batch_norm")
    alone, centre = match_many(networks[:1])
    assert gap(act(networks[:1], alone), networks[:1]) == 0
    assert gap(centre, networks[0]) == 0
    assert (
        gap(
            act(networks[1], match(networks[0], networks[1])), act(networks[1:2], match(networks[:1], networks[1:2]))[0]
        )
        == 0
    )
    none = networks[:0]
    assert act(none, match(none, none)).batch_shape == (0,)
    assert distance(none, none).shape == (0,)


def test_what_is_not_known_there_is_refused_with_what_to_do():
    networks, _ = trained_apart("batch_norm")
    for call in (
        lambda: match(networks[:2], networks[2:], starts=("anneal",)),
        lambda: distance(networks[:2], networks[2:], starts=("backward",)),
        lambda: match_many(networks, starts=("forward", "backward")),
    ):
        with pytest.raises(ValueError, match="leave it out"):
            call()
    with pytest.raises(ValueError, match="leave 'scale' out"):
        match_many(networks, symmetry=("permutation", "scale"))
    with pytest.raises(ValueError, match="no space of this architecture has it"):
        match(networks[:2], networks[2:], symmetry="maps")
    with pytest.raises(ValueError, match="got 'phase'"):
        match(networks[:2], networks[2:], symmetry=("permutation", "phase"))
    with pytest.raises(ValueError, match="kicks=3"):
        match(networks[:2], networks[2:], kicks=3)
    for function in (match, distance):
        with pytest.raises(ValueError, match="max_sweeps: expected at least 0, got -1"):
            function(networks[:2], networks[2:], max_sweeps=-1)
    with pytest.raises(ValueError, match="max_sweeps: expected at least 1, got 0"):
        match_many(networks, max_sweeps=0)
    scaled = ReLUScale(1.5)(networks, generator=torch.Generator().manual_seed(0))  # factors are not matched
    assert isinstance(match(networks, scaled), GroupElement)


@pytest.mark.parametrize("name", ["batch_norm", "no_norm", "resnet18"])
def test_scales_are_taken_out_where_they_are_asked_for(name: str):
    networks, x = trained_apart(name)
    networks = networks[:2]
    elsewhere = ReLUScale(max_scale=1.4)(moved(networks, 5), generator=torch.Generator().manual_seed(3))
    found = match(networks, elsewhere, symmetry=("permutation", "scale"))
    assert gap(act(elsewhere, found), networks) < 1e-8  # in the scales of the first
    assert gap(act(elsewhere, match(networks, elsewhere)), networks) > 1e-2  # which are left alone otherwise
    apart = distance(networks, elsewhere, symmetry=("permutation", "scale"))
    size = squares(networks).sqrt()
    assert bool((apart < 1e-8 * size).all())
    assert bool((distance(networks, elsewhere) > 1e-2 * size).all())
    torch.testing.assert_close(act(elsewhere, found)(x), networks(x), rtol=1e-9, atol=1e-9)


def test_signs_are_left_alone_where_permutations_alone_are_asked_for():
    networks, _ = trained_apart("tanh")
    elsewhere = moved(networks, 5)
    for symmetry, comes_back in (("permutation", False), (("permutation", "sign"), True)):
        found = match(networks, elsewhere, symmetry=symmetry)
        assert (gap(act(elsewhere, found), networks) < 1e-9) == comes_back
        assert all(s is None for s in found.scale) != comes_back


@functools.cache
def wide_convolutions() -> WeightSpaceElement:
    """One network whose positions are told apart by a part of their numbers."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 64, 5), nn.ReLU(), nn.Conv2d(64, 72, 3), nn.ReLU(), nn.Flatten())
    module = module.append(nn.Linear(4 * 72, 3)).double()
    return from_modules([module], example_input=torch.randn(1, 1, 8, 8, dtype=torch.float64))


def brief_and_whole(a: WeightSpaceElement, b: WeightSpaceElement) -> tuple[int, GroupElement, GroupElement]:
    """How many products of a walk are made of some numbers, what it finds, and what it finds by all numbers."""
    made, real = [], table._some
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table, "tables_of", lambda *arguments: None)
        patch.setattr(table, "_some", lambda t, move: made.append((t.numel(), (s := real(t, move)).numel())) or s)
        brief = match(a, b, symmetry="permutation", max_sweeps=0)
        patch.setattr(table, "_TELLING", 10**9)
        return sum(few < all_ for all_, few in made), brief, match(a, b, symmetry="permutation", max_sweeps=0)


def test_copies_are_found_by_some_numbers():
    a = wide_convolutions()
    b = Permute()(a, generator=torch.Generator().manual_seed(1))
    count, brief, _ = brief_and_whole(a, b)
    assert count == 2  # of a's and of b's kernels between both convolutions
    assert gap(a, act(b, brief)) == 0.0


@pytest.mark.parametrize("others", ["all", "read by one"])
def test_where_some_numbers_are_not_enough_all_are_looked_at(others: str):
    """What is left out at first differs from copies, or is all that tells two positions apart."""
    a = wide_convolutions().map(torch.clone)
    kernels = a.tensors()[2]
    assert kernels.shape == (1, 72, 64, 3, 3)
    if others == "all":
        b = a.map(torch.clone)
        noise = torch.randn(72, 32, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        b.tensors()[2][:, :, 1::2] += 0.5 * noise
    else:
        kernels[:, 3, ::2] = kernels[:, 5, ::2]
        bias, head = a.tensors()[3], a.tensors()[4].view(1, 3, 72, 4)
        bias[:, 3], head[:, :, 3] = bias[:, 5], head[:, :, 5]
        b = a
    for seed in range(4):
        moved_b = Permute()(b, generator=torch.Generator().manual_seed(seed))
        _, brief, whole = brief_and_whole(a, moved_b)
        for x, y in zip(brief.permutation, whole.permutation, strict=True):
            assert x is not None
            assert y is not None
            assert torch.equal(x, y)


def test_without_a_sweep_it_is_the_walk_alone():
    networks, _ = trained_apart("resnet18")
    a, b = networks[:2], networks[2:]
    walk, swept = (act(b, match(a, b, max_sweeps=most)) for most in (0, 100))

    def apart(y: WeightSpaceElement) -> Tensor:
        return (y.flatten() - a.flatten()).square().sum(-1)

    assert bool((apart(walk) <= apart(b)).all())
    assert float(apart(swept).sum()) < float(apart(walk).sum())
