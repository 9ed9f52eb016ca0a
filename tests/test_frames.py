"""Frames: fitting, aligning, files, and what may not follow an alignment."""

import pickle

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from tests.test_matching import ARCHITECTURES, SINE, assert_same, networks, same_function, symmetry
from weightaug import (
    AlignTo,
    Architecture,
    Compose,
    GaussianNoise,
    LabelSmoothing,
    Mixup,
    OneOf,
    Permute,
    PermutedMixup,
    RandomApply,
    Rotate,
    SirenBias,
    SirenNegation,
    Transform,
    WeightSpaceElement,
    act,
    io,
    stack,
)
from weightaug.matching import Frame, fit_frame, match
from weightaug.matching.canonical import balance
from weightaug.matching.rules import resolve

with_hidden = st.sampled_from([arch for arch in ARCHITECTURES if arch.hidden])
RELU = Architecture.mlp((2, 8, 7, 3), "relu")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# -- alignment ---------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(with_hidden, st.sampled_from(["mean", "member", "random"]), st.integers(1, 3), st.integers(0, 10**6))
def test_aligning_keeps_the_function_and_is_constant_on_orbits(arch, kind, references, seed):
    x = networks(arch, 5, seed=seed)
    frame = fit_frame(x, references, kind=kind, rounds=2, generator=generator(seed))
    y = frame.align(x)
    assert y.batch_shape == (5, references)
    same_function(y, x.map(lambda t: t.unsqueeze(1).expand(5, references, *t.shape[1:])))
    assert_same(frame.align(act(x, symmetry(arch, 5, seed=seed))), y, 1e-7)


@settings(max_examples=15, deadline=None)
@given(with_hidden, st.integers(0, 10**6))
def test_align_to_is_the_alignment_to_one_reference(arch, seed):
    x = networks(arch, 2, 3, seed=seed)
    frame = fit_frame(networks(arch, 4, seed=seed + 1), kind="member", generator=generator())
    transform = AlignTo(frame)
    y, label = transform(x, torch.arange(6.0).view(2, 3))
    assert label.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert_same(y, frame.align(x)[:, :, 0])
    assert_same(transform(x), y, 0)
    assert_same(transform(x[1, 2]), y[1, 2])
    same_function(y, x)


def test_alignment_brings_networks_nearer_to_the_reference_than_any_start():
    x = networks(SINE, 20)
    frame = fit_frame(x, kind="member", generator=generator())

    def far(y):
        return (y.flatten() - frame.element.flatten()).square().sum(-1)

    assert torch.all(far(AlignTo(frame)(x)) <= far(x) + 1e-9)
    everywhere = frame.element.map(lambda t: t.expand(20, *t.shape[1:]))
    assert far(AlignTo(frame)(x)).mean() <= far(act(x, match(everywhere, x, starts=("identity",)))).mean()


def test_a_member_returns_to_its_own_place():
    x = networks(SINE, 4, dtype=torch.float32)
    frame = Frame(x[[2]])
    assert_same(AlignTo(frame)(act(x[2], symmetry(SINE, dtype=torch.float32))), x[2], 1e-5)


def test_symmetries_of_choice():
    x = networks(SINE, 6)
    frame = fit_frame(x, kind="member", symmetry="permutation", generator=generator())
    group = frame.groups(x)
    assert group.scale == group.shift == (None, None)
    assert group.batch_shape == (6, 1)
    both = fit_frame(x, symmetry=["sign", "permutation"], generator=generator())
    assert both.symmetry == ("permutation", "sign")
    assert both.groups(x).shift == (None, None)


# -- fitting -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(with_hidden, st.integers(1, 3), st.integers(3, 8), st.integers(0, 10**6))
def test_the_objective_of_a_mean_never_grows(arch, references, count, seed):
    x = networks(arch, count, seed=seed)
    frame = fit_frame(x, references, rounds=6, generator=generator(seed))
    assert len(frame.objective) == 6
    assert all(
        after <= before * (1 + 1e-9) for before, after in zip(frame.objective, frame.objective[1:], strict=False)
    )
    assert len(fit_frame(x, references, rounds=2, generator=generator(seed)).objective) == 2


def test_the_objective_is_the_distance_of_the_balanced_networks_to_their_mean():
    one = networks(RELU, 1)
    x = act(one, symmetry(RELU, 7))
    frame = fit_frame(x, rounds=1, generator=generator())
    assert frame.objective[0] < 1e-12  # they are copies
    balanced = act(one, balance(one, resolve(RELU, "auto")))
    assert_same(AlignTo(frame)(x), frame.element.map(lambda t: t.expand(7, *t.shape[1:])), 1e-6)
    torch.testing.assert_close(frame.element.flatten().norm(), balanced.flatten().norm())


def test_several_means_find_clusters_of_orbits():
    two = networks(SINE, 2, std=0.3)
    x = act(two[[0, 1] * 6], symmetry(SINE, 12))
    for seed in range(20):  # which members are drawn first decides
        frame = fit_frame(x, 2, generator=generator(seed))
        if frame.objective[-1] < 1e-12:
            return
    raise AssertionError("no start found both")


def test_members_are_members_and_the_generator_decides():
    x = networks(SINE, 9)
    frame = fit_frame(x, 3, kind="member", generator=generator(1))
    assert [min((x.flatten() - row).abs().max(1).values.tolist()) for row in frame.element.flatten()] == [0, 0, 0]
    assert frame == fit_frame(x, 3, kind="member", generator=generator(1))
    assert frame != fit_frame(x, 3, kind="member", generator=generator(2))
    state = torch.random.get_rng_state()
    for kind in ("mean", "random", "member"):
        assert fit_frame(x, kind=kind, generator=generator(3)) == fit_frame(x, kind=kind, generator=generator(3))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_random_references_are_untrained_networks():
    frame = fit_frame(networks(SINE, 1), 2000, kind="random", generator=generator())
    first, second, last = (w.abs().amax().item() for w in frame.element.weights)
    hidden = (6 / 8) ** 0.5 / 30  # Sitzmann et al. (2020)
    assert (first, second, last) == pytest.approx((1 / 2, hidden, hidden), rel=1e-2)
    plain = fit_frame(networks(Architecture.mlp((4, 8, 8, 1), "gelu"), 1), 2000, kind="random", generator=generator())
    assert [w.abs().amax().item() for w in plain.element.weights] == pytest.approx(
        [4**-0.5, 8**-0.5, 8**-0.5], rel=1e-2
    )


def test_half_precision_gets_references_in_float32():
    x = networks(SINE, 5, dtype=torch.float16)
    frame = fit_frame(x, generator=generator())
    assert frame.element.dtype == torch.float32
    assert AlignTo(frame)(x).dtype == torch.float16


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"networks": networks(SINE)}, ValueError, r"batch shape \(n,\), got \(\)"),
        ({"networks": networks(SINE, 2, 3)}, ValueError, r"got \(2, 3\)"),
        ({"networks": torch.zeros(3)}, TypeError, "got Tensor"),
        ({"references": 9}, ValueError, "at most one for each of the 4 networks, got 9"),
        ({"references": 0}, ValueError, "references: expected at least 1, got 0"),
        ({"references": 2.0}, TypeError, r"references: expected a whole number, got 2\.0"),
        ({"rounds": 0}, ValueError, "rounds: expected at least 1, got 0"),
        ({"rounds": True}, TypeError, "rounds: expected a whole number"),
        ({"kind": "median"}, ValueError, r"kind: expected one of .*'median'"),
        ({"generator": 0}, TypeError, r"generator: expected a torch\.Generator"),
        ({"symmetry": "scale"}, ValueError, "no hidden space has it"),
        ({"networks": networks(SINE, 3).map(lambda t: t * torch.nan)}, ValueError, r"networks, layer0\.weight"),
    ],
)
def test_settings_are_checked(change, error, message):
    with pytest.raises(error, match=message):
        fit_frame(**{"networks": networks(SINE, 4), **change})


# -- frames as objects -------------------------------------------------------------------------------------


def test_frames_are_saved_and_loaded(tmp_path):
    frame = fit_frame(
        networks(SINE, 6, dtype=torch.float32), 2, symmetry=("permutation", "sign"), generator=generator()
    )
    frame.save(tmp_path / "frame")
    loaded = Frame.load(tmp_path / "frame")
    assert loaded == frame
    assert hash(loaded) == hash(frame)
    assert loaded.objective == frame.objective
    assert loaded.path == tmp_path / "frame"
    assert eval(repr(loaded)) == frame
    one = frame[1]
    one.save(tmp_path / "frame", overwrite=True)  # in place of the other
    assert Frame.load(tmp_path / "frame") == one
    assert not list(tmp_path.rglob("*.pkl"))
    io.save(tmp_path / "set", networks(SINE, 6))
    with pytest.raises(ValueError, match=r"expected a frame.*fit_frame makes"):
        Frame.load(tmp_path / "set")
    with pytest.raises(FileNotFoundError):
        Frame.load(tmp_path / "nowhere")


def test_frames_compare_by_value():
    x = networks(SINE, 3)
    assert Frame(x) == Frame(x.clone())
    assert pickle.loads(pickle.dumps(Frame(x))) == Frame(x)  # as worker processes receive it
    assert Frame(x) != Frame(x[:2])
    assert Frame(x) != Frame(x, "permutation")
    assert Frame(x) != Frame(x.to(torch.float32))
    assert Frame(x) != "a frame"
    assert "references=3" in repr(Frame(x))
    assert len(Frame(x)) == 3
    assert Frame(x)[-1] == Frame(x[[2]])
    with pytest.raises(IndexError, match="3 references, there is none at 3"):
        Frame(x)[3]


def test_what_is_no_frame_is_refused():
    with pytest.raises(ValueError, match=r"got \(\); weightaug.stack\(\[network\]\)"):
        Frame(networks(SINE))
    with pytest.raises(ValueError, match=r"k >= 1, got \(0,\)"):
        Frame(networks(SINE, 0))
    with pytest.raises(TypeError, match="got Tensor"):
        Frame(torch.zeros(3))
    with pytest.raises(ValueError, match=r"references, layer0.weight"):
        Frame(networks(SINE, 1).map(lambda t: t * torch.inf))
    with pytest.raises(ValueError, match="got 'rotation'"):
        Frame(networks(SINE, 1), "rotation")
    with pytest.raises(ValueError, match=r"differ in.*fit a frame on networks like these"):
        AlignTo(Frame(networks(SINE, 1)))(networks(RELU, 2))


# -- the transform -----------------------------------------------------------------------------------------


def test_a_configuration_names_the_folder_of_the_frame(tmp_path):
    frame = fit_frame(networks(SINE, 3), generator=generator())
    frame.save(tmp_path / "frame")
    transform = AlignTo(tmp_path / "frame")
    assert transform == AlignTo(frame)
    assert transform.asdict() == {"type": "AlignTo", "frame": str(tmp_path / "frame")}
    assert Transform.fromdict(transform.asdict()) == transform
    assert eval(repr(transform)) == transform
    pipeline = Compose((transform, GaussianNoise()))
    assert Transform.fromdict(pipeline.asdict()) == pipeline
    with pytest.raises(TypeError, match=r"frame.save\(folder\), then AlignTo\(folder\)"):
        AlignTo(frame).asdict()


def test_what_align_to_cannot_use_is_refused():
    x = networks(SINE, 3)
    with pytest.raises(ValueError, match=r"one reference, got 3.*AlignTo\(frame\[0\]\)"):
        AlignTo(Frame(x))
    with pytest.raises(TypeError, match=r"got WeightSpaceElement; weightaug.matching.fit_frame"):
        AlignTo(x)


@pytest.mark.parametrize(
    "later",
    [
        Permute(),
        SirenNegation(),
        SirenBias(),
        PermutedMixup(),
        RandomApply(Permute(), p=0.1),
        OneOf((GaussianNoise(), SirenNegation())),
        Compose((Rotate(), Compose((Permute(),)))),
    ],
    ids=repr,
)
def test_a_symmetry_after_a_frame_is_refused(later):
    align = AlignTo(Frame(networks(SINE, 1)))
    for first in (align, Compose((align,)), RandomApply(align)):
        with pytest.raises(ValueError, match=r"entry 2, .* must not come after entry 0.*Leave it out"):
            Compose((first, GaussianNoise(), later))
    Compose((later, align))  # of no use, and no harm


def test_what_may_follow_a_frame():
    align = AlignTo(Frame(networks(SINE, 1)))
    Compose((align, GaussianNoise(), Rotate(), Mixup(), LabelSmoothing(), align))


def test_pieces_of_a_large_batch_are_aligned_alike(monkeypatch):
    from weightaug.matching import frames

    x = networks(SINE, 11)
    frame = fit_frame(x, 2, generator=generator())
    whole = frame.align(x)
    monkeypatch.setattr(frames, "_PIECE", 4)
    assert_same(frame.align(x), whole, 0)
    assert fit_frame(x, 2, generator=generator()).objective == pytest.approx(frame.objective)
    empty = frame.align(x[:0])
    assert empty.batch_shape == (0, 2)


def test_one_network_and_nothing_hidden():
    x = networks(SINE, 3)
    frame = fit_frame(x, 2, generator=generator())
    assert_same(frame.align(x[1]), frame.align(x)[1])
    linear = Architecture.mlp((2, 3), [])
    y = networks(linear, 4)
    assert_same(fit_frame(y, generator=generator()).align(y), stack([y]).map(lambda t: t.transpose(0, 1)))
    assert isinstance(frame.align(x[1]), WeightSpaceElement)
