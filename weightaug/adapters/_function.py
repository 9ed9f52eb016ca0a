"""Comparing what modules compute with what their elements compute."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from weightaug._modes import autocast_off
from weightaug.adapters._effective import copied
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["check_functions"]

_POINTS = 7


def check_functions(modules: Sequence[nn.Module], element: WeightSpaceElement) -> None:
    """Evaluates every module on a few points, in a copy and in eval mode, and compares it with its network.

    Networks with convolutions or an unknown activation cannot be evaluated; of them the modules are compared with
    one another, by the types and settings of their parts.

    Args:
        modules: One for each network.
        element: Their networks, ``(len(modules), ...)``.

    Raises:
        ValueError: If a module computes another function, or cannot be evaluated.
    """
    arch = element.architecture
    if any(layer.kernel for layer in arch.layers) or not all(
        s.activation is None or s.activation.is_known for s in arch.spaces
    ):
        _check_alike(modules)
        return
    if len(arch.inputs) != 1 or len(arch.outputs) != 1:
        _check_alike(modules)
        return
    size = arch.inputs[0].size
    # Fixed points: drawing them would advance the caller's random numbers.
    x = torch.linspace(-1, 1, _POINTS * size, dtype=torch.float64, device="cpu").reshape(_POINTS, size).sin()
    # In double precision, where rounding is no excuse; mps has none.
    double = element.dtype if element.device.type == "mps" else torch.float64
    expected = element.detach().to(double)(x.to(element.device, double))
    for i, module in enumerate(modules):
        place = f"module {i}: " if len(modules) > 1 else ""
        given, dtype, calls = _evaluate(module, x.to(element.device), double, element.dtype, place)
        if not isinstance(given, Tensor) or given.shape != expected[i].shape:
            shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise ValueError(
                f"{place}the module gives {shape} for {tuple(x.shape)} coordinates, the architecture "
                f"{tuple(expected[i].shape)}; give an architecture that fits, or check_function=False"
            )
        difference = (given.to(double) - expected[i]).abs().max().item()
        # Far above what deep SIRENs make of rounding, far below what another convention or order of layers does.
        tolerance = max(1e-5, torch.finfo(dtype).eps ** 0.5) * (1.0 + given.abs().max().item())
        if not difference <= tolerance:
            raise ValueError(_other_function(place, arch, difference, tolerance, calls))


def _evaluate(
    module: nn.Module, x: Tensor, double: torch.dtype, own: torch.dtype, place: str
) -> tuple[object, torch.dtype, list[str]]:
    """The output, the dtype that it was computed in, and the linear layers in the order of their calls."""
    calls: list[str] = []
    errors: list[Exception] = []
    # A forward that casts its input works in the module's own dtype only.
    for dtype in dict.fromkeys((double, own)):
        calls.clear()
        with ExitStack() as stack:
            # Forwards may differentiate, and make tensors of their own.
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.device(x.device))
            stack.enter_context(autocast_off())
            copy = copied(module).eval().to(dtype)
            for name, part in copy.named_modules():
                if isinstance(part, nn.Linear):
                    part.register_forward_pre_hook(lambda _part, _args, name=name: calls.append(name))
            try:
                output = copy(x.to(dtype, copy=True))
            except Exception as error:
                errors.append(error)
                continue
        return output.detach() if isinstance(output, Tensor) else output, dtype, calls
    raise ValueError(
        f"{place}the module could not be evaluated on {tuple(x.shape)} coordinates of {double} or {own}, to compare it "
        f"with its weights: {errors[0]}; check its input size, or switch the comparison off with check_function=False"
    ) from errors[0]


def _other_function(place: str, arch: Architecture, difference: float, tolerance: float, calls: Sequence[str]) -> str:
    hidden = [f"{s.activation.name}(omega={s.activation.omega:g})" for s in arch.hidden if s.activation]
    repeated = [f"{name!r} {calls.count(name)} times" for name in dict.fromkeys(calls) if calls.count(name) > 1]
    order = f"; it calls its layers in the order {list(calls[:12])}" if calls else ""
    shared = (
        f"; it calls {', '.join(repeated)}, and an architecture has a layer of its own for every call, so give "
        "from_state_dicts a state dict in which the shared layer stands once for each"
        if repeated
        else ""
    )
    return (
        f"{place}the module computes another function than its weights under this architecture: largest difference "
        f"{difference:.3g}, expected at most {tolerance:.3g}, with activations {_few(hidden)} and output_offset "
        f"{arch.output_offset:g}{order}{shared}; check activation= (a SIREN's omega), output_offset= and the order of "
        "the layers in names=, or switch the check off with check_function=False"
    )


def _few(names: Sequence[str]) -> str:
    return str(list(names[:6])) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def _check_alike(modules: Sequence[nn.Module]) -> None:
    first = _form(modules[0])
    for i, module in enumerate(modules[1:], start=1):
        form = _form(module)
        if form != first:
            mine, theirs = next((a, b) for a, b in zip([*first, None], [*form, None], strict=False) if a != b)
            raise ValueError(
                f"module {i}: expected the parts of module 0, which has {mine}, got {theirs}; read modules of another "
                "kind on their own"
            )


def _form(module: nn.Module) -> list[str]:
    # Dropout does nothing in eval mode, and inplace never changes a value.
    return [
        f"{name!r}: {type(part).__name__}({part.extra_repr().replace('inplace=True', '')})"
        for name, part in module.named_modules(remove_duplicate=False)
        if not isinstance(part, (nn.Dropout, nn.Identity))
    ]
