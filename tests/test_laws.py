"""The laws of the design, over every transform of the case table."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightaug
from tests.cases import CASES, DECLARED, Case
from weightaug import Activation, Architecture, Transform
from weightaug.testing import architectures, assert_close, assert_equal, check_transform, elements, random_element
from weightaug.testing.laws import tensors_of

every_case = pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)


def fitting(case: Case) -> st.SearchStrategy[Architecture]:
    if case.architecture is not None:
        return st.just(case.architecture)
    return architectures(symmetry=case.symmetry, inputs=case.inputs, bias=case.bias)


def example_architecture(case: Case) -> Architecture:
    if case.architecture is not None:
        return case.architecture
    first = {"sign": "tanh", "phase": "sine", "scale": "relu"}.get(case.symmetry or "", "sine")
    hidden = [Activation(first, 5.0), Activation("gelu"), Activation("sine", 30.0)]
    return Architecture.mlp((case.inputs[-1], 5, 4, 6, 2), hidden, output_offset=0.5)


def targets_for(batch: torch.Size) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    soft = torch.rand(*batch, 3, generator=generator).softmax(-1)
    return [soft, torch.rand(*batch, 2, 2, generator=generator, dtype=torch.float64)]


def test_no_public_transform_is_missing_from_the_table():
    tested = {type(case.transform) for case in CASES} | set(DECLARED)
    public = {
        value
        for value in vars(weightaug).values()
        if isinstance(value, type) and issubclass(value, Transform) and value is not Transform
    }
    assert public, "no transform is public"
    assert public - tested == set()


@every_case
@given(data=st.data())
def test_laws(case: Case, data: st.DataObject):
    shapes = [(1,), (3,), (0,), (2, 2)] if case.transform.mixes else [(), (1,), (3,), (0,), (2, 2)]
    element = data.draw(elements(fitting(case), batch_shapes=shapes))
    check_transform(
        case.transform,
        element,
        targets_for(element.batch_shape),
        seed=data.draw(st.integers(0, 99)),
        graph=False,
        modes=False,
    )


@every_case
@pytest.mark.parametrize("graph", [True, False], ids=["graph", "modes"])
def test_graph_and_modes(case: Case, graph: bool):
    element = random_element(example_architecture(case), (4,))
    check_transform(case.transform, element, targets_for(element.batch_shape), graph=graph, modes=not graph)


@every_case
@pytest.mark.parametrize("batch", [(1,), (5,), (2, 3)])
def test_networks_without_hidden_spaces_are_refused_or_obey_the_laws(case: Case, batch: tuple[int, ...]):
    architecture = Architecture.mlp((case.inputs[-1], 2), [])
    try:
        case.transform.check(architecture)
    except ValueError:
        return
    element = random_element(architecture, batch)
    check_transform(case.transform, element, targets_for(element.batch_shape), graph=False)


@every_case
def test_a_whole_call_compiles_for_batches_of_any_size(case: Case):
    torch._dynamo.reset()
    compiled = torch.compile(case.transform, backend="eager")
    for batch in (6, 4, 5):
        element = random_element(example_architecture(case), (batch,), dtype=torch.float32)
        result, target = compiled(element, torch.rand(batch, 3))
        assert result.batch_shape == element.batch_shape
        assert target.shape == (batch, 3)
        assert result.flatten().isfinite().all()
    torch._dynamo.reset()


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_dtype_is_kept(case: Case, dtype: torch.dtype):
    element = random_element(example_architecture(case), (3,), dtype=dtype)
    result = case.transform(element, generator=torch.Generator().manual_seed(0))
    assert {t.dtype for t in result.tensors()} == {dtype}
    assert result.flatten().isfinite().all()


@pytest.mark.parametrize("case", [c for c in CASES if c.neutral], ids=lambda c: repr(c.neutral))
@given(data=st.data())
def test_neutral_settings_are_the_identity(case: Case, data: st.DataObject):
    element = data.draw(elements(fitting(case), batch_shapes=[(1,), (3,)]))
    y = targets_for(element.batch_shape)[0]
    result, target = case.neutral(element, y, generator=torch.Generator().manual_seed(1))
    assert_close(result, element, "neutral", rtol=1e-14, atol=1e-15)
    assert_close(target, y, "neutral", rtol=1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.draws], ids=lambda c: c.name)
def test_every_element_of_a_batch_gets_its_own_draw(case: Case):
    one = random_element(example_architecture(case), ())
    # Mixing identical networks gives the same network, so mixing is told apart by its parameters.
    params = case.transform.sample(
        one.map(lambda t: t.expand(64, *t.shape)), generator=torch.Generator().manual_seed(0)
    )
    leaves = [p for p in torch.utils._pytree.tree_leaves(params) if p[0].numel()]
    assert any(not torch.equal(leaf[0], leaf[i]) for leaf in leaves for i in (1, 2, 3))


@pytest.mark.parametrize("case", [c for c in CASES if c.draws], ids=lambda c: c.name)
def test_seeds_decide(case: Case):
    element = random_element(example_architecture(case), (16,))

    def run(seed: int):
        return case.transform(element, generator=torch.Generator().manual_seed(seed)).flatten()

    assert torch.equal(run(0), run(0))
    assert not torch.equal(run(0), run(1))


@every_case
def test_a_batch_of_one_and_none(case: Case):
    arch = example_architecture(case)
    for batch in [(0,), (1,)]:
        element = random_element(arch, batch)
        result, y = case.transform(element, torch.rand(*batch, 3))
        assert result.batch_shape == element.batch_shape
        assert y.shape == (*batch, 3)


@pytest.mark.parametrize("case", [c for c in CASES if not tensors_of(c.transform)], ids=lambda c: c.name)
def test_repr_is_an_expression_in_public_names(case: Case):
    assert eval(repr(case.transform), vars(weightaug)) == case.transform


def test_skipped_elements_are_bitwise_unchanged():
    element = random_element(Architecture.siren((2, 8, 8, 1)), (256,), dtype=torch.float32)
    transform = weightaug.RandomApply(weightaug.GaussianNoise(), p=0.5)
    params = transform.sample(element, generator=torch.Generator().manual_seed(0))
    result = transform.apply(element, params)
    chosen = params[0]
    assert 80 < int(chosen.sum()) < 176
    assert_equal(result[~chosen], element[~chosen])
    assert not torch.equal(result[chosen].flatten(), element[chosen].flatten())
