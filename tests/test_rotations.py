"""Maps that pass in part: turns of pairs under rotary positions, rotations of streams without gains."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.families import FAMILIES, exercised
from tests.test_tracing_kinds import INSIDE, Attention, error, made, run
from weightaug import (
    Activation,
    Architecture,
    GroupElement,
    HeadRotation,
    LoRAGauge,
    Permute,
    Space,
    StreamRotation,
    TensorSpec,
    WeightSpaceElement,
    act,
    matching,
)
from weightaug.adapters import absorb_gains, from_modules
from weightaug.testing import check_transform


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def difference(a: WeightSpaceElement, b: WeightSpaceElement) -> float:
    return max(float((s - t).abs().max() / s.abs().max()) for s, t in zip(a.tensors(), b.tensors(), strict=True))


# -- pairs under rotary positions ------------------------------------------------------------------------


def pairs_of(architecture: Architecture) -> list[Space]:
    return [space for space in architecture.hidden if space.maps == "rotary"]


@pytest.mark.parametrize("kind", ["rotary", "rotary_grouped_queries"])
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**30), group=st.sampled_from(["orthogonal", "invertible"]))
def test_pairs_turn_and_the_function_stays(kind: str, seed: int, group: str):
    module, x, element = made(kind)
    (space,) = pairs_of(element.architecture)
    assert space.size == INSIDE
    assert space.symmetries == ("maps",)
    turned = HeadRotation(group)(element, generator=seeded(seed))
    before, after = dict(element.named_tensors()), dict(turned.named_tensors())
    for name in ("q.weight", "k.weight", "q.bias", "k.bias", "v.weight", "o.weight"):
        assert not torch.equal(before[name], after[name])
    assert error(run(module, x, element)[0], run(module, x, turned)[0]) < 1e-9
    moved = Permute()(element, generator=seeded(seed))
    assert error(run(module, x, element)[0], run(module, x, moved)[0]) < 1e-9


@pytest.mark.parametrize("what", ["any rotation", "a permutation"])
def test_what_does_not_commute_changes_the_function_and_is_refused(what: str):
    module, x, element = made("rotary")
    architecture = element.architecture
    slot = next(s for s, space in enumerate(architecture.hidden) if space.maps == "rotary")
    none: list[Tensor | None] = [None] * len(architecture.hidden)
    shape = architecture.slot_shapes[slot]
    if what == "any rotation":
        drawn = torch.randn(*shape, shape[-1], dtype=torch.float64, generator=seeded(0))
        maps = [torch.linalg.qr(drawn).Q if s == slot else t for s, t in enumerate(none)]
        with pytest.raises(ValueError, match=r"neurons i and i \+ size / 2 together"):
            GroupElement.of(architecture, maps=tuple(maps))
        wrong = GroupElement(architecture, tuple(none), tuple(none), tuple(none), tuple(maps))
    else:
        order = torch.arange(shape[-1]).roll(1).expand(shape)
        with pytest.raises(ValueError, match="not interchangeable"):
            GroupElement.of(architecture, permutation=tuple(order if s == slot else t for s, t in enumerate(none)))
        moved = tuple(order if s == slot else t for s, t in enumerate(none))
        wrong = GroupElement(architecture, moved, tuple(none), tuple(none))
    assert error(run(module, x, element)[0], run(module, x, act(element, wrong))[0]) > 1e-3


class Turned(Attention):
    """Positions that are turned in another way, or after something else."""

    def __init__(self, how: str) -> None:
        super().__init__(rotary=True)
        self.how = how
        self.norm = nn.RMSNorm(INSIDE)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], -1, INSIDE)
        half = INSIDE // 2
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(INSIDE, dtype=x.dtype)
        if self.how == "other angles in both halves":
            cos, sin = angle.cos(), angle.sin()
        else:
            cos, sin = (torch.cat([f[:, :half], f[:, :half]], -1) for f in (angle.cos(), angle.sin()))
        if self.how == "normalised before":
            q, k = self.norm(q), self.norm(k)
        if self.how == "neighbours":
            q, k = (t * cos + torch.stack([-t[..., 1::2], t[..., ::2]], -1).flatten(-2) * sin for t in (q, k))
        elif self.how == "halves the other way round":
            q, k = (t * cos + torch.cat([t[..., half:], -t[..., :half]], -1) * sin for t in (q, k))
        else:
            q, k = (t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin for t in (q, k))
        if self.how == "looked at between":
            q = q + 1
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.o(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "how",
    [
        "other angles in both halves", "neighbours", "normalised before", "halves the other way round",
        "looked at between",
    ],
)  # fmt: skip
def test_pairs_that_are_not_understood_are_left_alone(how: str):
    torch.manual_seed(0)
    module, x = Turned(how).double().eval(), torch.randn(2, 5, 12, dtype=torch.float64)
    element = from_modules(module, example_input=x)  # which holds what was found against the module
    assert not pairs_of(element.architecture)
    moved = HeadRotation()(element, generator=seeded(0))  # of values and outputs
    before, after = dict(element.named_tensors()), dict(moved.named_tensors())
    assert torch.equal(before["q.weight"], after["q.weight"])
    assert not torch.equal(before["v.weight"], after["v.weight"])


class Odd(Attention):
    """Rotary positions beside norms without gains, fused and picked apart, or with angles that are written into."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.all = nn.Linear(12, 3 * INSIDE)
        self.last = nn.Linear(INSIDE, 3)

    def forward(self, x: Tensor) -> Tensor:
        half = INSIDE // 2
        angle = torch.arange(x.shape[1], dtype=x.dtype)[:, None] / 10.0 ** torch.arange(half, dtype=x.dtype)
        cos, sin = (torch.cat([f, f], -1) for f in (angle.cos(), angle.sin()))
        if self.how == "written":
            cos[..., :1] = 0.3

        def rope(t: Tensor) -> Tensor:
            return t * cos + torch.cat([-t[..., half:], t[..., :half]], -1) * sin

        def free(t: Tensor) -> Tensor:
            return nn.functional.rms_norm(t, (INSIDE,))

        if self.how == "fused":
            fused = self.all(x).view(*x.shape[:2], 3, INSIDE).transpose(1, 2)
            q, k, v = rope(fused).unbind(1)
            return self.last(nn.functional.scaled_dot_product_attention(q, k, v))
        if self.how == "heads fastest":
            v = self.v(x).view(*x.shape[:2], INSIDE, -1).permute(0, 3, 1, 2)
            return self.o(rope(v).permute(0, 2, 3, 1).flatten(2))
        q, k, v = (layer(x).view(*x.shape[:2], -1, INSIDE).transpose(1, 2) for layer in (self.q, self.k, self.v))
        if self.how == "norm before":
            q, k = rope(free(q)), rope(free(k))
        elif self.how == "norm after":
            q, k = free(rope(q)), free(rope(k))
        elif self.how == "values":
            q, k, v = rope(q), rope(k), free(v)
        else:
            q, k = rope(q), rope(k)
        return self.o(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("how", ["norm before", "norm after", "values", "fused", "written", "heads fastest"])
def test_nothing_that_does_not_pass_is_done(how: str):
    torch.manual_seed(0)
    module, x = Odd(how).double().eval(), torch.randn(2, 5, 12, dtype=torch.float64)
    if how == "fused":
        with pytest.raises(ValueError, match="no symmetry was found, every tensor is fixed"):
            from_modules(module, example_input=x)
        return
    element = from_modules(module, example_input=x)
    attends = how in ("norm before", "norm after", "values", "written")
    for transform in [Permute(), *([HeadRotation("invertible")] if attends else [])]:
        for seed in range(3):
            moved = transform(element, generator=seeded(seed))
            assert error(run(module, x, element)[0], run(module, x, moved)[0]) < 1e-9
    if attends:
        form = act(element, matching.canonicalize(element, symmetry=("permutation", "maps")))
        assert error(run(module, x, element)[0], run(module, x, form)[0]) < 1e-9


CONFIGURATIONS = {
    "Llama": {"num_key_value_heads": 2},
    "Mistral": {"num_key_value_heads": 2, "head_dim": 8},
    "Qwen2": {"num_key_value_heads": 2},
    "Phi3": {"num_key_value_heads": 2},  # one weight for queries, keys and values
    "Gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "GPTNeoX": {"rotary_pct": 1.0},  # queries, keys and values of each head side by side
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},  # normalised queries
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_models_of_transformers(name: str):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=24, vocab_size=20,
        use_cache=False, bos_token_id=0, eos_token_id=1, pad_token_id=0, **CONFIGURATIONS[name],
    )  # fmt: skip
    torch.manual_seed(0)
    module = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    inputs = {"input_ids": torch.arange(10).view(2, 5)}
    architecture = Architecture.from_module(module, inputs)  # which is held against the module
    found = [space.size for space in pairs_of(architecture)]
    assert found == ([] if name in ("GPTNeoX", "Qwen3") else [8])
    if found:
        element = from_modules(module, architecture=architecture)
        moved = HeadRotation()(element, generator=seeded(0))
        with torch.no_grad():
            expected, got = module(**inputs).logits, moved(inputs).logits
        assert float((expected - got).abs().max() / expected.abs().max()) < 1e-4


def test_the_best_turn_of_pairs_is_found():
    """Against a search over angles: the closed form gains as much as the best of many."""
    from weightaug.matching.procrustes import best_inner, best_map

    cross = torch.randn(3, 4, 4, dtype=torch.float64, generator=seeded(0))
    found, gained = best_map("rotary", cross)
    assert torch.allclose((found * cross).sum((-1, -2)), best_inner("rotary", cross))
    assert torch.allclose(gained, best_inner("rotary", cross))
    for first in torch.linspace(0, 6.28, 60, dtype=torch.float64):
        for second in torch.linspace(0, 6.28, 60, dtype=torch.float64):
            angles = torch.stack([first, second])
            a, b = torch.diag(angles.cos()), torch.diag(angles.sin())
            other = torch.cat([torch.cat([a, -b], 1), torch.cat([b, a], 1)])
            assert ((other * cross).sum((-1, -2)) <= best_inner("rotary", cross) + 1e-9).all()
    assert torch.equal(best_map("rotary", torch.zeros(1, 4, 4))[0], torch.eye(4).unsqueeze(0))


@pytest.mark.parametrize("family", ["llama", "llama_without_gains"])
def test_a_planted_place_in_the_orbit_comes_back(family: str):
    pytest.importorskip("transformers")
    from tests.test_tracing import traced

    _, _, element = traced(family)
    for seed in range(4):
        planted = element
        for transform in (Permute(), HeadRotation(), *([StreamRotation()] if "without" in family else [])):
            planted = transform(planted, generator=seeded(seed))
        assert float(matching.distance(element, planted)) < 1e-10
        if family == "llama":  # without maps, the pairs stand still, and the rest is found
            moved = Permute()(element, generator=seeded(seed))
            assert float(matching.distance(element, moved, symmetry="permutation")) < 1e-10


def test_a_space_under_rotary_positions_is_declared_with_care():
    def declared(size: int = 4, *, linear: bool = True) -> Architecture:
        spaces = (Space("x", 3), Space("pairs", size, Activation("rotary"), linear=linear))
        sizes = {"x": 3, "pairs": size}
        tensors = tuple(TensorSpec.parse(n, f"{d}pairs -x", sizes) for n, d in (("q", "+"), ("k", "-")))
        return Architecture(spaces, tensors=tensors)

    architecture = declared()
    assert Architecture.from_json(architecture.to_json()) == architecture
    assert architecture.movers == ()
    x = WeightSpaceElement(architecture, tuple(torch.randn(5, 4, 3, dtype=torch.float64) for _ in range(2)), ())
    check_transform(HeadRotation("invertible"), x, graph=False)
    moved = HeadRotation()(x)
    with pytest.raises(ValueError, match="LoRAGauge needs linear spaces"):
        LoRAGauge()(x)

    def score(element: WeightSpaceElement) -> Tensor:
        q, k = (torch.complex(*t.chunk(2, 1)) for t in element.weights)
        return (q.conj().mT @ k).real

    torch.testing.assert_close(score(moved), score(x))
    for wrong in ({"size": 3}, {"linear": False}):
        with pytest.raises(ValueError, match="an even size, linear=True"):
            declared(**wrong)


# -- streams without gains -------------------------------------------------------------------------------


class Stream(nn.Module):
    """A residual stream between RMSNorms."""

    def __init__(self, *, tied: bool = False, reader: str = "linear") -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.first, self.last = nn.RMSNorm(8), nn.RMSNorm(8)
        self.mlp = nn.Sequential(nn.Linear(8, 12), nn.GELU(), nn.Linear(12, 8, bias=False))
        self.head = nn.Linear(8, 11, bias=False)
        self.reader = reader
        if tied:
            self.head.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        h = self.first(x)
        x = x + self.mlp(h.tanh() if self.reader == "tanh" else h)
        return self.head(self.last(x))


TOKENS = torch.arange(22).view(2, 11) % 11


def trained(**options) -> Stream:
    torch.manual_seed(0)
    module = Stream(**options).double()
    with torch.no_grad():
        for norm in (module.first, module.last):
            norm.weight.copy_(torch.rand(8) + 0.5)
    return module.eval()


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 2**30))
def test_a_stream_turns_once_its_gains_are_absorbed(seed: int):
    module = trained()
    with pytest.raises(ValueError, match="absorb_gains"):
        StreamRotation()(from_modules(module, example_input=TOKENS))
    free = absorb_gains(module, TOKENS)
    expected = module(TOKENS)
    torch.testing.assert_close(free(TOKENS), expected, rtol=1e-12, atol=1e-12)
    assert module.first.weight is not None
    assert all("first" not in name and "last" not in name for name in free.state_dict())
    element = from_modules(free, example_input=TOKENS)
    moved = StreamRotation()(element, generator=seeded(seed))
    assert all(
        torch.equal(a, b) == (n in ("mlp.0.bias",))
        for (n, a), b in zip(element.named_tensors(), moved.tensors(), strict=True)
    )
    torch.testing.assert_close(moved(TOKENS), expected, rtol=1e-10, atol=1e-10)
    slot = next(s for s, space in enumerate(element.architecture.hidden) if space.maps == "orthogonal")
    maps: list[Tensor | None] = [None] * len(element.architecture.hidden)
    maps[slot] = 2 * torch.eye(8, dtype=torch.float64)
    with pytest.raises(ValueError, match="orthogonal maps, which keep the norm"):
        GroupElement.of(element.architecture, maps=tuple(maps))


def test_turned_streams_have_one_canonical_form():
    element = from_modules(absorb_gains(trained(), TOKENS), example_input=TOKENS)
    form = act(element, matching.canonicalize(element))
    for seed in range(4):
        place = StreamRotation()(Permute()(element, generator=seeded(seed)), generator=seeded(seed + 50))
        assert difference(form, act(place, matching.canonicalize(place))) < 1e-9


def test_the_laws_hold():
    element = from_modules(absorb_gains(trained(), TOKENS), example_input=TOKENS)
    check_transform(StreamRotation(), element, graph=False)


def test_what_cannot_take_a_gain_is_refused_by_name():
    with pytest.raises(ValueError, match=r"last\.weight multiplies is used several times .*untie"):
        absorb_gains(trained(tied=True), TOKENS)
    with pytest.raises(ValueError, match=r"first\.weight multiplies is read by the operator 'tanh'"):
        absorb_gains(trained(reader="tanh"), TOKENS)
    with pytest.raises(ValueError, match="has no RMSNorm with a gain"):
        absorb_gains(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)), torch.randn(2, 4))
    with pytest.raises(TypeError, match=r"expected an nn\.Module"):
        absorb_gains({}, TOKENS)  # type: ignore[arg-type]
    shared = trained()
    shared.last.weight = shared.first.weight
    with pytest.raises(ValueError, match=r"the gain last\.weight is used elsewhere, too"):
        absorb_gains(shared, TOKENS)


class Written(nn.Module):
    """A norm written out, whose gain may be used elsewhere, or have another shape."""

    def __init__(self, shape: tuple[int, ...] = (6,), how: str = "") -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.rand(shape, generator=seeded(0)) + 0.5)
        self.read, self.how = nn.Linear(6, 4), how

    def forward(self, x: Tensor) -> Tensor:
        factor = {"one more": lambda: 1.0 + self.gain.to(x.dtype), "twice": lambda: self.gain + self.gain}
        gain = factor.get(self.how, lambda: self.gain)()
        h = self.read(gain * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)))
        return h + self.gain.sum() if self.how == "used" else h


class OwnNorm(nn.RMSNorm):
    """A subclass that multiplies by itself."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


def test_gains_that_are_more_than_a_gain_are_refused_and_others_absorbed():
    x = torch.randn(2, 4, 6, generator=seeded(1))
    for shape in ((4, 1), (4, 6), (1, 1, 6)):
        with pytest.raises(ValueError, match="gain: expected one gain for each of the 6 inputs"):
            absorb_gains(Written(shape), x)
    with pytest.raises(ValueError, match="expected one gain for each of the 6 inputs"):
        absorb_gains(nn.Sequential(nn.Linear(6, 6), nn.RMSNorm((4, 6)), nn.Linear(6, 4)), x)
    with pytest.raises(ValueError, match="the gain gain is used elsewhere, too"):
        absorb_gains(Written(how="used"), x)
    reader = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    with pytest.raises(ValueError, match="is no parameter but computed"):
        absorb_gains(nn.Sequential(nn.Linear(6, 6), nn.RMSNorm(6), reader), x)
    with pytest.raises(ValueError, match="has no RMSNorm with a gain"):
        absorb_gains(Written(how="twice"), x)
    own = nn.Sequential(nn.Linear(6, 6), OwnNorm(6), nn.Linear(6, 4))
    for module in (Written(), Written(how="one more"), Written((), how="one more"), own):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1)
            torch.testing.assert_close(absorb_gains(module, x)(x), module(x))


class NormalisedQueries(nn.Module):
    """A stream whose block normalises what it reads, as queries are in Qwen3."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.norm, self.query = nn.Linear(3, 6), nn.RMSNorm(6), nn.Linear(6, 8)
        self.q_norm, self.back, self.last, self.out = nn.RMSNorm(8), nn.Linear(8, 6), nn.RMSNorm(6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enter(x)
        h = h + self.back(torch.tanh(self.q_norm(self.query(self.norm(h)))))
        return self.out(self.last(h))


def test_gains_that_no_linear_layer_reads_are_left_by_name():
    module, x = exercised(NormalisedQueries()), torch.randn(4, 3, dtype=torch.float64, generator=seeded(2))
    with pytest.raises(ValueError, match=r"operator 'tanh'.*leave=\['q_norm.weight'\] leaves it where it is"):
        absorb_gains(module, x)
    free = absorb_gains(module, x, leave=["q_*.weight"])
    assert {name for name, p in free.named_parameters() if p.dim() == 1 and "norm" in name} == {"q_norm.weight"}
    torch.testing.assert_close(free(x), module(x))
    element = from_modules(free, example_input=x)
    turned = StreamRotation()(element, generator=seeded(3))
    torch.testing.assert_close(turned(x), element(x))
    assert float((turned.flatten() - element.flatten()).abs().max()) > 0.1
    with pytest.raises(ValueError, match=r"no gain of a norm is called 'k_norm.*'; there are: .*q_norm.weight"):
        absorb_gains(module, x, leave=["k_norm.*"])
    with pytest.raises(ValueError, match="leaves all gains where they are"):
        absorb_gains(module, x, leave=["*"])
    for wrong in ("q_norm.weight", [3]):
        with pytest.raises(TypeError, match="expected a sequence of names"):
            absorb_gains(module, x, leave=wrong)  # type: ignore[arg-type]


def test_gains_that_one_is_added_to_are_absorbed():
    transformers = pytest.importorskip("transformers")
    config = transformers.GemmaConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=20, intermediate_size=24, use_cache=False, bos_token_id=0, eos_token_id=1, pad_token_id=0,
        tie_word_embeddings=False,
    )  # fmt: skip
    module = exercised(transformers.GemmaForCausalLM(config)).float()
    inputs = {"input_ids": torch.arange(10).view(2, 5)}
    free = absorb_gains(module, inputs)
    assert not any("norm" in name for name in free.state_dict())
    element = from_modules(free, example_input=inputs)
    turned = StreamRotation()(element, generator=seeded(0))
    assert float((turned.flatten() - element.flatten()).abs().max()) > 0.1
    with torch.no_grad():
        expected = module(**inputs).logits
        for other in (free(**inputs).logits, turned(inputs).logits):
            assert float((expected - other).abs().max() / expected.abs().max()) < 1e-4


def test_norms_that_are_written_out_take_part():
    pytest.importorskip("transformers")
    module, inputs = FAMILIES["llama_without_gains"]()
    assert not any("norm" in name for name in module.state_dict())
    architecture = Architecture.from_module(module, inputs)
    assert [space.size for space in architecture.hidden if space.maps == "orthogonal"] == [32]


def test_what_the_forward_never_uses_stays():
    module = Stream().double().eval()
    module.pool = nn.Linear(8, 8).double()
    element = from_modules(module, example_input=TOKENS)
    moved = Permute()(element, generator=seeded(0))
    assert float(matching.distance(element, moved)) < 1e-10
    for (name, before), after in zip(element.named_tensors(), moved.tensors(), strict=True):
        assert not name.startswith("pool") or torch.equal(before, after)
    form, other = (act(x, matching.canonicalize(x)) for x in (element, moved))
    assert difference(form, other) < 1e-9
