"""Low-rank adapters: reading, gauge, canonical form and distance, against products and real adapted modules."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weightaug import Architecture, LoRAGauge, Permute, WeightSpaceElement
from weightaug.adapters import from_lora, to_state_dicts
from weightaug.matching import canonicalize_lora, lora_distance, lora_products
from weightaug.testing import check_transform

SHAPES = {"q": (6, 5, 2), "v": (6, 5, 4), "wide": (3, 9, 5)}  # one rank is larger than a side
GAUGES = [LoRAGauge(), LoRAGauge("invertible", max_condition=20.0)]


def pairs(batch: tuple[int, ...] = (3,), seed: int = 0) -> WeightSpaceElement:
    arch = Architecture.lora(SHAPES)
    generator = torch.Generator().manual_seed(seed)
    tensors = [torch.randn(*batch, *s.shape, generator=generator, dtype=torch.float64) for s in arch.tensors]
    return WeightSpaceElement.from_tensors(arch, tensors, ())


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**30))
def test_products_stay_and_factors_move(gauge: LoRAGauge, seed: int):
    x = pairs(seed=seed)
    moved = gauge(x, generator=torch.Generator().manual_seed(seed))
    for a, b in zip(lora_products(x), lora_products(moved), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)
    assert all(not torch.allclose(a, b) for a, b in zip(x.tensors(), moved.tensors(), strict=True))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**30))
def test_one_canonical_form_for_an_orbit(seed: int):
    x = pairs(seed=seed)
    y = GAUGES[1](x, generator=torch.Generator().manual_seed(seed))
    forms = canonicalize_lora(x), canonicalize_lora(y)
    for a, b in zip(lora_products(x), lora_products(forms[0]), strict=True):
        torch.testing.assert_close(a, b)
    # The wide pair has more rank than rows: its last singular values are zero.
    for a, b in zip(forms[0].tensors(), forms[1].tensors(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for down, up in zip(forms[0].tensors()[::2], forms[0].tensors()[1::2], strict=True):
        torch.testing.assert_close(down.norm(dim=-1), up.norm(dim=-2))


def test_distance_is_that_of_the_products_and_sees_no_gauge():
    x, y = pairs(seed=1), pairs(seed=2)
    expected = torch.stack(
        [(a - b).square().sum((-1, -2)) for a, b in zip(lora_products(x), lora_products(y), strict=True)]
    ).sum(0)
    torch.testing.assert_close(lora_distance(x, y), expected.sqrt())
    moved = GAUGES[1](x, generator=torch.Generator().manual_seed(0))
    assert bool((lora_distance(x, moved) < 1e-12 * lora_distance(x, y)).all())
    other = Architecture.lora({"q": (6, 5, 1), "v": (6, 5, 2), "wide": (3, 9, 1)})
    fewer = WeightSpaceElement(other, tuple(torch.ones(3, *s.shape, dtype=torch.float64) for s in other.tensors), ())
    assert lora_distance(x, fewer).shape == (3,)
    with pytest.raises(ValueError, match="same weights"):
        lora_distance(x, pairs((2,)))


@pytest.mark.parametrize("gauge", GAUGES, ids=repr)
def test_the_laws_of_transforms(gauge: LoRAGauge):
    check_transform(gauge, pairs(), graph=False)
    for dtype in (torch.float32, torch.bfloat16):
        moved = gauge(pairs().to(dtype))
        assert {t.dtype for t in moved.tensors()} == {dtype}
    assert LoRAGauge(max_condition=3.0) == eval(repr(LoRAGauge(max_condition=3.0)))


def test_settings_are_checked():
    with pytest.raises(ValueError, match="group must be"):
        LoRAGauge("unitary")
    with pytest.raises(ValueError, match="max_condition"):
        LoRAGauge("invertible", max_condition=0.5)
    with pytest.raises(ValueError, match="low-rank"):
        LoRAGauge()(
            WeightSpaceElement(Architecture.siren((2, 3, 1)), (torch.ones(3, 2), torch.ones(1, 3)), (None, None))
        )


def test_state_dicts_with_the_names_of_peft():
    state = {
        "base.q.lora_A.default.weight": torch.randn(2, 5),
        "base.q.lora_B.default.weight": torch.randn(6, 2),
        "base.v.lora_A.weight": torch.randn(3, 5),
        "base.v.lora_B.weight": torch.randn(4, 3),
        "base.q.weight": torch.randn(6, 5),
    }
    x = from_lora(state)
    assert x.batch_shape == ()
    assert [s.size for s in x.architecture.hidden] == [2, 3]
    batch = from_lora([state, {n: t + 1 for n, t in state.items()}])
    back = to_state_dicts(batch)
    assert torch.equal(back[1]["base.v.lora_B.weight"], state["base.v.lora_B.weight"] + 1)
    assert len(back[0]) == 4
    torch.testing.assert_close(lora_products(Permute()(x)), lora_products(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("v.lora_B.weight"), "one of the two alone for"),
        (lambda s: s.update({"q.lora_magnitude_vector": torch.ones(6)}), "DoRA"),
        (lambda s: s.update({"q.lora_A.weight": torch.ones(3, 5)}), "one rank"),
        (lambda s: s.clear(), "expected entries named lora_A"),
        (lambda s: s.update({"q.lora_A.weight": torch.full((2, 5), torch.nan)}), "NaN"),
    ],
    ids=["half", "dora", "ranks", "none", "nan"],
)
def test_bad_adapters_are_refused(change, message: str):
    state = {n: t for n, t in to_state_dicts(pairs(())).items() if "wide" not in n}
    change(state)
    with pytest.raises(ValueError, match=message):
        from_lora(state)


def test_adapters_of_different_bases_are_no_batch():
    state = to_state_dicts(pairs(()))
    other = {n.replace("q.", "k."): t for n, t in state.items()}
    with pytest.raises(ValueError, match="another base"):
        from_lora([state, other])


def test_peft_on_a_real_module():
    peft = pytest.importorskip("peft", reason="peft is not installed (pip install weightaug[modules])")
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.GELU(), torch.nn.Linear(8, 3)).double()
    config = peft.LoraConfig(target_modules=["0", "2"], r=2, rank_pattern={"2": 3}, init_lora_weights=False)
    model = peft.get_peft_model(base, config).double().eval()
    inputs = torch.randn(4, 5, dtype=torch.float64)
    expected = model(inputs)
    x = from_lora(dict(model.named_parameters()))
    assert sorted(s.size for s in x.architecture.hidden) == [2, 3]
    moved = LoRAGauge("invertible")(x, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        got = torch.func.functional_call(model, to_state_dicts(moved), (inputs,))
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)
    canonical = torch.func.functional_call(model, to_state_dicts(canonicalize_lora(x)), (inputs,))
    torch.testing.assert_close(canonical, expected, rtol=1e-9, atol=1e-12)
