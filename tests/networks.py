"""Networks that several test modules use: hypothesis strategies, and one architecture that is no chain."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from weightaug import Activation, Architecture, Layer, Space, WeightSpaceElement

ACTIVATIONS = ("sine", "relu", "tanh", "gelu", "leaky_relu", "sigmoid", "identity")

SIREN = Architecture.siren((2, 5, 4, 3), omega=30.0, first_omega=20.0, output_offset=0.5)

RESIDUAL = Architecture(
    (
        Space("x", 2),
        Space("a", 4, Activation("tanh")),
        Space("b", 4, Activation("sine", omega=3.0)),
        Space("y", 3),
    ),
    (
        Layer("first", "x", "a"),
        Layer("second", "a", "b"),
        Layer("skip", "x", "b", bias=False),
        Layer("last", "b", "y"),
        Layer("short", "a", "y", bias=False),
    ),
    output_offset=0.25,
)


def random_element(
    architecture: Architecture, batch: tuple[int, ...] = (), seed: int = 0, dtype: torch.dtype = torch.float64
) -> WeightSpaceElement:
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(*batch, architecture.num_parameters, generator=generator, dtype=dtype)
    return WeightSpaceElement.unflatten(architecture, 0.3 * vector)


@st.composite
def mlps(draw: st.DrawFn, *, bias: bool | None = None) -> Architecture:
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=5))
    names = st.sampled_from(ACTIVATIONS)
    activations = [Activation(draw(names), draw(st.sampled_from((1.0, 30.0)))) for _ in sizes[2:]]
    has_bias = draw(st.booleans()) if bias is None else bias
    return Architecture.mlp(sizes, activations, bias=has_bias, output_offset=draw(st.sampled_from((0.0, 0.5))))


BATCHES = st.sampled_from([(), (1,), (3,), (0,), (2, 3)])


@st.composite
def elements(
    draw: st.DrawFn, *, bias: bool | None = None, batches: st.SearchStrategy[tuple[int, ...]] = BATCHES
) -> WeightSpaceElement:
    return random_element(draw(mlps(bias=bias)), draw(batches), draw(st.integers(0, 99)))


def assert_same(a: WeightSpaceElement, b: WeightSpaceElement) -> None:
    assert a.architecture == b.architecture
    assert [n for n, _ in a.named_tensors()] == [n for n, _ in b.named_tensors()]
    for (name, x), (_, y) in zip(a.named_tensors(), b.named_tensors(), strict=True):
        assert x.dtype == y.dtype, name
        assert x.shape == y.shape, name
        assert torch.equal(x, y), name


def share_memory(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr()
