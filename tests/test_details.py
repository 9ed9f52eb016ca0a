"""Details that no other test looks at, found by changing the library a little (``benchmarks/trials/mutants.py``)."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path

import pytest
import torch

import weightaug as wa
from tests.networks import random_element
from tests.test_matching import SINE, networks
from tests.test_tracing_kinds import Looped
from weightaug import Activation, Architecture, GroupElement, Layer, Space, WeightSpaceElement, _loops, act, io
from weightaug.adapters import from_modules
from weightaug.io import conversion, files
from weightaug.io.manifest import digest
from weightaug.matching import Frame, canonicalize, fit_frame, function, match, weight
from weightaug.matching.many import _nearer_scales, _orders
from weightaug.matching.moves import Moves
from weightaug.matching.restarts import kick
from weightaug.matching.rules import resolve
from weightaug.transforms import draws

RELU = Architecture.mlp((2, 5, 4, 1), "relu")
SIREN = Architecture.siren((2, 5, 4, 1))


# -- values that stay as they are made ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [random_element(SIREN, (2,)), wa.LabelSmoothing(0.1), wa.SirenNegation(), Activation("relu"), SIREN, Space("a", 2)],
    ids=lambda value: type(value).__name__,
)
def test_values_are_frozen(value):
    name = dataclasses.fields(value)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(value, name, None)


def test_preserves_has_three_steps_from_the_least_to_the_most():
    assert [(step.name, step.value) for step in wa.Preserves] == [
        ("NOTHING", 0), ("FUNCTION_UP_TO_INPUT_MAP", 1), ("FUNCTION", 2),
    ]  # fmt: skip


def test_group_elements_tell_their_parts_and_no_numbers():
    group = GroupElement.of(SIREN, permutation=(torch.arange(5), None), scale=(torch.ones(5), None))
    assert repr(group) == "GroupElement(hidden1: permutation x scale; hidden2: identity; batch_shape=())"


def test_a_frame_keeps_its_objective_as_numbers_and_align_to_says_where_it_lies(tmp_path: Path):
    frame = Frame(random_element(SIREN, (1,)).double(), objective=torch.tensor([2.0, 1.0]))
    assert frame.objective == (2.0, 1.0)
    assert all(type(value) is float for value in frame.objective)
    frame.save(tmp_path / "frame")
    assert repr(wa.AlignTo(Frame.load(tmp_path / "frame"))) == f"AlignTo({str(tmp_path / 'frame')!r})"
    assert repr(wa.AlignTo(frame)) == f"AlignTo({frame!r})"
    assert wa.AlignTo.reads_values is True


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: wa.Rotate(10.0, center=("a", "b")), (TypeError, ValueError), "center"),
        (lambda: wa.SirenBias(p=1.5), ValueError, "p"),
        (lambda: wa.TestTime(wa.Permute(), seed=-1), ValueError, "seed"),
        (lambda: wa.TestTime(wa.Permute(), seed=2**63), ValueError, "seed"),
        (lambda: wa.Compose([wa.Permute]), TypeError, r"got Permute; write the call, e.g. Permute\(\)"),
        (lambda: wa.Compose([3]), TypeError, "got 3$"),
        (
            lambda: wa.functional.scale_neurons(random_element(RELU, (2,)), [-torch.ones(2, 5), None]),
            ValueError,
            "positive",
        ),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_neurons_are_scaled_by_what_is_given():
    x = random_element(RELU, (2,)).double()
    factors = torch.rand(2, 5, dtype=torch.float64) + 0.5
    scaled = wa.functional.scale_neurons(x, [factors, None])
    torch.testing.assert_close(scaled.weights[0], x.weights[0] * factors.unsqueeze(2))
    points = torch.rand(7, 2, dtype=torch.float64)
    torch.testing.assert_close(scaled(points), x(points))


def test_small_weights_of_a_choice_count_by_their_ratio():
    choice = wa.OneOf([wa.Permute(), wa.GaussianNoise(0.1)], weights=(0.3, 0.0))
    x = random_element(SIREN, (50,)).double()
    points = torch.rand(7, 2, dtype=torch.float64)
    torch.testing.assert_close(choice(x)(points), x(points))


def test_affine_moves_the_input_and_not_only_turns_it():
    """Of a layer without bias a shift cannot be made: then Affine does not apply."""
    bare = Architecture.mlp((2, 5, 1), "relu", bias=False)
    with pytest.raises(ValueError, match="bias"):
        wa.Affine().check(bare)
    wa.Reflect().check(bare)


@pytest.mark.parametrize("transform", [wa.Reflect(), wa.Standardize((0.0,), (1.0,))], ids=repr)
def test_architectures_that_do_not_fit_are_refused_by_the_call_too(transform):
    two = Architecture(
        (Space("a", 2), Space("b", 2), Space("h", 3, Activation("relu")), Space("out", 1)),
        (Layer("x", "a", "h"), Layer("y", "b", "h"), Layer("z", "h", "out")),
    )
    with pytest.raises(ValueError, match=type(transform).__name__):
        transform.sample(random_element(two, (2,)))


def test_means_are_taken_out_only_where_no_symmetry_acts():
    x = random_element(Architecture.mlp((2, 6, 1), "gelu"), (30,)).map(lambda t: t + 3.0)
    moved = random_element(RELU, (30,)).map(lambda t: t + 3.0)
    assert min(abs(m) for m in wa.Standardize.fit(x).mean) > 2.0
    assert wa.Standardize.fit(moved).mean[:4] == (0.0,) * 4


def test_some_networks_keep_their_target_only_if_its_form_stays():
    class Widened(wa.GaussianNoise):
        def apply_target(self, target, params):
            return target.double()

    some = wa.RandomApply(Widened(0.1), p=0.5)
    with pytest.raises(
        ValueError, match=r"it turned torch.float32 of shape \(8, 3\) into torch.float64 of shape \(8, 3\)"
    ):
        some(random_element(SIREN, (8,)), torch.rand(8, 3), generator=torch.Generator().manual_seed(0))


# -- files -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="modes are those of POSIX")
@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
def test_the_mode_of_a_file_is_the_umasks(mask: int):
    before = os.umask(mask)
    try:
        assert files.file_mode() == 0o666 & ~mask
    finally:
        os.umask(before)


def test_an_error_that_names_a_file_keeps_its_name(tmp_path: Path):
    for given, expected in (
        (OSError(28, "full"), "temporary"), (OSError(28, "full", "other"), "other"), (OSError("words"), None)
    ):  # fmt: skip
        with pytest.raises(OSError, match=r"full|words") as caught, files.temporary(tmp_path, "temporary"):
            raise given
        assert (caught.value.filename is None) == (expected is None)
        assert expected is None or expected in caught.value.filename


def test_a_manifest_with_tensors_of_another_kind_is_refused(tmp_path: Path):
    io.save(tmp_path / "set", random_element(SIREN, (2,)))
    manifest = tmp_path / "set" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["tensors"]["something"] = {"dtype": "float32", "shape": []}
    content["sha256"] = digest({key: value for key, value in content.items() if key != "sha256"})
    manifest.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="expected labels, columns and parameters, got 'something'"):
        io.load(tmp_path / "set")


def test_progress_of_a_conversion_follows_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A file counts when it has been read, not when the next one is: what is slow shows where it stands."""
    arch = Architecture.mlp((2, 3, 1), "tanh")
    (tmp_path / "nets").mkdir()
    for i in range(3):
        torch.save(
            {k: v.clone() for k, v in random_element(arch, (1,))[0].named_tensors()}, tmp_path / "nets" / f"{i}.pt"
        )
    seen: list[int] = []
    at: list[int] = []

    def label(path: Path) -> int:
        at.append(len(seen))
        return 0

    conversion.convert(tmp_path / "nets", arch, out=tmp_path / "set", labels=label, progress=seen.append)
    assert seen == [1, 2, 3]
    assert at == [0, 1, 2]


# -- matching ----------------------------------------------------------------------------------------------


def test_the_default_starts_are_those_that_are_told(monkeypatch: pytest.MonkeyPatch):
    told = []

    def at_once(a, b, rules, starts, max_sweeps):
        told.append(tuple(starts))

    monkeypatch.setattr(weight, "_match_at_once", at_once)
    a, b = networks(SINE, 2), networks(SINE, 2, seed=1)
    match(a, b, symmetry="permutation")
    match(a, b)
    assert told == [("identity", "forward"), ("forward",)]


@pytest.mark.parametrize("method", ["weight", "activation"])
def test_phases_alone_are_found(method: str):
    a = networks(SINE, 3)
    b = act(a, GroupElement.of(SINE, shift=tuple(torch.randint(-2, 3, (3, s.size)) for s in SINE.hidden)))
    points = {"points": torch.rand(50, SINE.inputs[0].size, dtype=torch.float64) * 2 - 1} if method != "weight" else {}
    found = match(a, b, symmetry="phase", method=method, **points)
    assert all(scale is None for scale in found.scale)
    torch.testing.assert_close(act(b, found).flatten(), a.flatten(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("symmetry", ["sign", "auto"])
def test_a_soft_start_ends_nearer_than_a_hard_one(symmetry: str):
    a, b = networks(SINE, 60), networks(SINE, 60, seed=1)

    def distance(starts):
        moved = act(b, match(a, b, symmetry=symmetry, starts=starts))
        return float((moved.flatten() - a.flatten()).square().sum(1).mean())

    assert distance(("anneal",)) < 0.9 * distance(("identity",))


def test_gradients_bring_the_functions_nearer_than_weights_do():
    a, b = networks(SINE, 30), networks(SINE, 30, seed=1)
    x = torch.rand(100, SINE.inputs[0].size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1

    def error(group):
        middle = wa.functional.mix(a, act(b, group), torch.full((30,), 0.5, dtype=torch.float64))
        return float((middle(x) - (a(x) + b(x)) / 2).square().mean())

    assert error(match(a, b, method="function", points=x)) < 0.9 * error(match(a, b))


def test_scales_that_bring_a_network_nearer_are_the_best_ones():
    a, b = networks(RELU, 4), networks(RELU, 4, seed=1)
    b = WeightSpaceElement.unflatten(RELU, a.flatten() * 0.8 + 0.3 * b.flatten())
    there = _nearer_scales(a, b, resolve(RELU, "auto"))

    def distance(group):
        return (act(b, group).flatten() - a.flatten()).square().sum(1)

    assert bool((distance(there) < distance(GroupElement.identity(RELU))).all())
    last = len(RELU.hidden) - 1  # the others were the best before it was their neighbours' turn
    for neuron in range(RELU.hidden[last].size):
        for factor in (0.98, 1.02):
            scale = there.scale[last].clone()
            scale[:, neuron] *= factor
            near = GroupElement.of(RELU, permutation=there.permutation, scale=(*there.scale[:last], scale))
            assert bool((distance(near) > distance(there)).all())


def test_sets_of_three_take_their_turns_in_four_orders():
    assert [len(_orders(k)) for k in (1, 2, 3, 4)] == [1, 1, 4, 4]


def test_a_kick_moves_what_it_hits_and_nothing_else():
    x = networks(SINE, 50)
    moves = Moves.identity(x, resolve(SINE, "auto"))
    moved = kick(moves, 0, 0.3, torch.Generator().manual_seed(0))
    still = moved.permutation[0] == torch.arange(SINE.hidden[0].size)
    shares = [float(t.float().mean()) for t in (~still, moved.sign[0] < 0, moved.shift[0] != 0)]
    assert 0.15 < shares[0] < 0.3  # a neuron may be drawn and stay
    assert all(0.1 < share < 0.2 for share in shares[1:])
    for before, after in zip(moves.permutation[1:], moved.permutation[1:], strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("kernel", [(3,), (3, 3)])
def test_convolutions_by_layers_have_a_canonical_form(kernel: tuple[int, ...]):
    spaces = (Space("in", 2), Space("a", 6, Activation("relu")), Space("b", 5, Activation("relu")), Space("out", 3))
    layers = tuple(Layer(n, r, w, kernel=kernel) for n, r, w in (("x", "in", "a"), ("y", "a", "b"), ("z", "b", "out")))
    arch = Architecture(spaces, layers)
    x = random_element(arch, (3,)).double()
    form = act(x, canonicalize(x))
    moved = wa.ReLUScale()(wa.Permute()(x))
    torch.testing.assert_close(act(moved, canonicalize(moved)).flatten(), form.flatten(), rtol=1e-9, atol=1e-9)
    incoming = form.weights[1].flatten(2).square().sum(-1) + form.biases[1].square()
    torch.testing.assert_close(incoming, form.weights[2].flatten(3).square().sum(-1).sum(1))


def test_a_reference_of_one_network_is_that_network():
    """Of two references, one of which a single network is near to."""
    near = networks(SINE, 1).map(lambda t: t.expand(6, *t.shape[1:]))
    near = near.map(
        lambda t: t + 0.01 * torch.randn(t.shape, generator=torch.Generator().manual_seed(1), dtype=t.dtype)
    )
    far = networks(SINE, 1, seed=7).map(lambda t: t * 3)
    everyone = wa.cat([near, far])
    frame = fit_frame(everyone, 2, kind="mean", symmetry="sign", generator=torch.Generator().manual_seed(0))
    sizes = frame.element.flatten().norm(dim=1)
    torch.testing.assert_close(sizes.max(), far.flatten().norm())


def test_a_layer_that_writes_what_it_reads_is_never_matched_farther_away():
    torch.manual_seed(0)
    inputs = torch.randn(6, 4, dtype=torch.float64)
    modules = [Looped().double() for _ in range(12)]
    with torch.no_grad():
        for module in modules:
            module.again.weight.mul_(8.0)  # the layer that follows the space twice counts most
    x = from_modules(modules, example_input=inputs)
    a, b = x[:6], x[6:]
    before = (a.flatten() - b.flatten()).norm(dim=1)
    for symmetry in ("permutation", "auto"):
        moved = act(b, match(a, b, symmetry=symmetry, starts=("identity",)))
        assert bool(((a.flatten() - moved.flatten()).norm(dim=1) <= before + 1e-12).all())
        torch.testing.assert_close(moved(inputs), b(inputs))


def test_draws_for_wide_spaces_stay_what_they_are():
    wide = random_element(Architecture.mlp((2, 40, 1), "tanh"), (2,))
    group = wa.Permute().sample(wide, generator=torch.Generator().manual_seed(0))
    assert group.permutation[0][:, :6].tolist() == [[23, 7, 1, 25, 0, 5], [4, 17, 12, 27, 10, 33]]


def test_a_probability_of_one_draws_nothing():
    x = random_element(SIREN, (3,))
    generator, alone = (torch.Generator().manual_seed(0) for _ in range(2))
    wa.SirenBias(p=1.0).sample(x, generator=generator)
    torch.empty(3, 9, dtype=torch.int64).random_(-1, 2, generator=alone)
    assert torch.equal(generator.get_state(), alone.get_state())


def test_a_pipeline_that_reads_no_values_is_not_applied_to_be_drawn():
    applied = []

    class Counted(wa.Permute):
        def apply(self, element, params):
            applied.append(self)
            return super().apply(element, params)

    pipeline = wa.Compose([Counted(), Counted()])
    pipeline.sample(random_element(SIREN, (3,)))
    assert applied == []
    pipeline(random_element(SIREN, (3,)))
    assert len(applied) == 2


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_mixing_weights_spread_as_their_distribution_says(alpha: float):
    lam = draws.beta(random_element(SIREN, (20_000,)), alpha, torch.Generator().manual_seed(0)).double()
    assert float(lam.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(lam.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.05)


@pytest.mark.parametrize("compiled", [True, False])
def test_phases_of_single_neurons_are_the_best_there_are(compiled: bool, monkeypatch: pytest.MonkeyPatch):
    if not compiled:
        monkeypatch.setattr(_loops, "load", lambda name: None)
    arch = Architecture.siren((1, 1, 1))
    a, b = (networks(arch, 40, seed=seed) for seed in (0, 1))
    a, b = (x.map(lambda t: t * 0.2) for x in (a, b))
    found = act(b, match(a, b, symmetry="phase"))
    every = [
        act(b, GroupElement.of(arch, shift=(torch.full((40, 1), k),))).flatten() for k in range(-6, 7)
    ]  # fmt: skip
    least = torch.stack([(y - a.flatten()).square().sum(1) for y in every]).amin(0)
    torch.testing.assert_close((found.flatten() - a.flatten()).square().sum(1), least)


def test_following_the_gradient_brings_functions_nearer():
    a, b = networks(SINE, 30), networks(SINE, 30, seed=1)
    x = torch.rand(100, SINE.inputs[0].size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    start = Moves.identity(b, resolve(SINE, "auto"))

    def error(steps):
        moves = function._match_part(a, b, resolve(SINE, "auto"), x, start, steps, 0.05)
        return float(function._error(a.flatten(), b, moves, x, (a(x) + b(x)) / 2)[0].mean())

    alone, led = error(1), error(30)
    assert led < 0.9 * alone
