"""What only a GPU can show: nothing in ``apply`` waits for the host, and a pipeline is one graph."""

from __future__ import annotations

import pytest
import torch

import weightaug as wa
from tests.cases import CASES, Case
from weightaug.testing import assert_close, random_element

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device; torch finds none"),
]

ARCH = wa.Architecture.siren((2, 32, 32, 1))
PIPELINE = wa.Compose(
    (wa.Permute(), wa.SirenNegation(), wa.SirenBias(), wa.Rotate(), wa.Translate(), wa.GaussianNoise(), wa.Mixup())
)


def networks(case: Case, dtype: torch.dtype) -> wa.WeightSpaceElement:
    """Networks on the host that a transform is for."""
    activation = "relu" if case.symmetry == "scale" else "sine"
    inputs = 2 if 2 in case.inputs else case.inputs[0]
    return random_element(wa.Architecture.mlp((inputs, 8, 8, 1), activation), (8,), dtype=dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_apply_does_not_wait_for_the_device(case):
    element = networks(case, torch.float32).to("cuda")
    params = case.transform.sample(element, generator=torch.Generator().manual_seed(0))
    case.transform.apply(element, params)  # what is loaded once may wait
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.transform.apply(element, params)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_generator_on_the_host_gives_the_same_on_both_devices(case):
    element = networks(case, torch.float64)
    there, here = (
        case.transform(element.to(device), generator=torch.Generator().manual_seed(0)) for device in ("cuda", "cpu")
    )
    assert_close(there.to("cpu"), here)


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of torch's own import of Inductor
def test_a_pipeline_is_one_graph():
    element = random_element(ARCH, (64,), dtype=torch.float32).to("cuda")
    params = PIPELINE.sample(element)
    compiled = torch.compile(PIPELINE.apply, fullgraph=True)  # refuses to break the graph
    assert_close(compiled(element, params), PIPELINE.apply(element, params), rtol=1e-4, atol=1e-5)
