"""``torch.nn`` modules: read them into an element, write them back as modules."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from weightaug._differences import difference
from weightaug.adapters._checks import require_chain
from weightaug.adapters._effective import check_materialised, copied, effective_state, refuse_parts, unwrapped
from weightaug.adapters._function import check_functions
from weightaug.adapters.state_dicts import from_state_dicts, to_state_dicts
from weightaug.adapters.traced import fill_module, read_modules
from weightaug.architecture import Activation, Architecture
from weightaug.element import WeightSpaceElement

__all__ = ["from_modules", "infer_architecture", "to_modules"]

# The modules that compute just what weightaug's activation of that name computes, and the arguments that they
# must have been made with: the slope, the approximation and so on are part of the function.
_MODULES: dict[type[nn.Module], tuple[str, dict[str, object]]] = {
    nn.ReLU: ("relu", {}),
    nn.LeakyReLU: ("leaky_relu", {"negative_slope": 0.01}),
    nn.Tanh: ("tanh", {}),
    nn.Sigmoid: ("sigmoid", {}),
    nn.GELU: ("gelu", {"approximate": "none"}),
    nn.SiLU: ("silu", {}),
    nn.ELU: ("elu", {"alpha": 1.0}),
    nn.SELU: ("selu", {}),
    nn.Mish: ("mish", {}),
    nn.Softplus: ("softplus", {"beta": 1.0, "threshold": 20.0}),
    nn.Softsign: ("softsign", {}),
}
_NORMALISATIONS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.LocalResponseNorm)
_TRANSPARENT = (nn.Identity, nn.Flatten, nn.Dropout)

_Activations = Activation | str | Sequence[Activation | str]


def _leaves(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    if type(module) is not nn.Sequential:
        yield prefix, module
        return
    for name, child in module._modules.items():  # named_children leaves out what stands there for a second time
        if child is None:
            continue
        yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def _linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by prefix: in order for a Sequential, in the order of registration otherwise.

    A layer that is registered twice is there twice, as in the state dict.
    """
    return {name: m for name, m in module.named_modules(remove_duplicate=False) if isinstance(m, nn.Linear)}


def _read_activation(name: str, module: nn.Module) -> str:
    found = _MODULES.get(type(module))
    if found is None and isinstance(module, _NORMALISATIONS):
        raise ValueError(
            f"module {name!r}: {type(module).__name__} is a normalisation, a part of the function for which a "
            "multi-layer perceptron has no place; a batch normalisation right after a linear layer can be folded into "
            "it: torch.nn.utils.fusion.fuse_linear_bn_eval(linear, norm)"
        )
    if found is None and next(iter(module.state_dict()), None) is not None:
        raise ValueError(
            f"module {name!r}: expected nn.Linear or one of {sorted(t.__name__ for t in _MODULES)}, got "
            f"{type(module).__name__}, which has parameters or buffers of its own, for which a multi-layer perceptron "
            f"has no place: {list(module.state_dict())}"
        )
    if found is None:
        raise ValueError(
            f"module {name!r}: expected nn.Linear or one of {sorted(t.__name__ for t in _MODULES)}, got "
            f"{type(module).__name__}; give activation=, for example activation=Activation('sine', omega=30.0)"
        )
    known, arguments = found
    for argument, value in arguments.items():
        if getattr(module, argument) != value:
            raise ValueError(
                f"module {name!r}: weightaug's {known!r} is {type(module).__name__}({argument}={value!r}), got "
                f"{argument}={getattr(module, argument)!r}, another function; give activation=, a name of your own "
                "for it keeps only the permutation symmetry"
            )
    return known


def _read_activations(module: nn.Module) -> list[str]:
    given: list[str] = []
    pending: str | None = None
    seen_linear = False
    for name, leaf in _leaves(module):
        if isinstance(leaf, _TRANSPARENT):
            continue
        if isinstance(leaf, nn.Linear):
            if seen_linear:
                given.append(pending or "identity")
            seen_linear, pending = True, None
            continue
        known = _read_activation(name, leaf)
        if not seen_linear or pending is not None:
            where = "before the first nn.Linear" if not seen_linear else f"right after another one ({pending!r})"
            raise ValueError(
                f"module {name!r}: expected one activation between two nn.Linear, got {known!r} {where}; "
                "an architecture has no place for it, so apply it outside the module"
            )
        pending = known
    if pending is not None:
        raise ValueError(
            f"expected nn.Linear as the last module, got the activation {pending!r}; outputs have no activation in an "
            "architecture, so apply it outside the module"
        )
    return given


def infer_architecture(
    module: nn.Module, activation: _Activations | None = None, *, output_offset: float = 0.0
) -> Architecture:
    """The architecture of a multi-layer perceptron, as :meth:`weightaug.Architecture.mlp` would make it.

    Args:
        module: A ``nn.Sequential`` of ``nn.Linear`` and activations; or, when the activation is given, any module
            that applies its ``nn.Linear`` layers in the order of their registration.
        activation: One for all hidden spaces or one for each; None reads them from the ``nn.Sequential``.
        output_offset: Constant that the module adds to its outputs.

    Raises:
        ValueError: If there is no linear layer, sizes do not chain, only some layers have a bias, or the
            activations cannot be told.
    """
    module = unwrapped(module)
    if activation is None and type(module) is not nn.Sequential:
        raise ValueError(
            f"cannot tell the activations of a {type(module).__name__}: only those of nn.Sequential can be read; "
            "give activation=, for example activation=Activation('sine', omega=30.0)"
        )
    activations = _read_activations(module) if activation is None else activation
    linears = _linears(module)
    if not linears:
        raise ValueError(f"expected a module with nn.Linear layers, got none in {type(module).__name__}")
    names, layers = list(linears), list(linears.values())
    for i in range(1, len(layers)):
        if layers[i].in_features != layers[i - 1].out_features:
            raise ValueError(
                f"layer {names[i]!r}: expected {layers[i - 1].out_features} inputs, the outputs of {names[i - 1]!r}, "
                f"got {layers[i].in_features}; the module is no chain of its layers, give architecture= and names="
            )
    biased = {name: layer.bias is not None for name, layer in linears.items()}
    if len(set(biased.values())) > 1:
        raise ValueError(
            f"expected a bias in every layer or in none, got {biased}; give architecture= with Layer(bias=...)"
        )
    sizes = (layers[0].in_features, *(layer.out_features for layer in layers))
    return Architecture.mlp(sizes, activations, bias=biased[names[0]], output_offset=output_offset)


def from_modules(
    modules: nn.Module | Sequence[nn.Module],
    activation: _Activations | None = None,
    *,
    output_offset: float = 0.0,
    architecture: Architecture | None = None,
    names: Mapping[str, str] | None = None,
    example_input: Any = None,
    ignore: Collection[str] = (),
    check_function: bool = True,
    check_values: bool = True,
) -> WeightSpaceElement:
    """Reads the weights of modules.

    One module gives one network, whose tensors share memory with its parameters (detached; use
    :func:`from_state_dicts` with ``dict(module.named_parameters())`` to keep the autograd graph). A sequence of
    modules of one kind gives a batch; an ``nn.Sequential`` is one module.

    Read are the weights that the modules compute with in eval mode: those under weight norm, spectral norm, pruning
    and other parametrisations are evaluated (and are copies then). A layer that stands in several places of an
    ``nn.Sequential`` is read once for each.

    Args:
        modules: One module or a sequence of them.
        activation: Of the hidden spaces; None reads it from an ``nn.Sequential``.
        output_offset: Constant that the modules add to their outputs.
        architecture: For modules that are no plain chain; replaces ``activation`` and ``output_offset``.
        names: Layer name -> parameter prefix; None takes the ``nn.Linear`` layers in order.
        example_input: What the modules take (a tensor, a tuple of arguments, a dict of named ones): derives the
            architecture with :meth:`Architecture.from_module`, for convolutions, norms, residual streams, attention.
            Then the element holds every floating tensor of the state dict, running statistics too.
        ignore: Keys of the state dict that are no weights and biases, and need not be read: buffers.
        check_function: Whether to evaluate every module on a few points (in a copy, in eval mode) and refuse
            it if the element computes something else: a forgotten omega, another order of the layers. Networks
            with convolutions or an unknown activation cannot be evaluated; their modules are compared with each
            other by their parts, and taken as they are described.
        check_values: Whether to refuse NaN and infinite values.

    Raises:
        ValueError: If a module does not fit the architecture, or computes another function.
        TypeError: If something else than modules is given.
    """
    single = isinstance(modules, nn.Module) and not isinstance(modules, nn.ModuleList)
    given = [modules] if isinstance(modules, nn.Module) and single else _listed(modules)
    if not given:
        raise ValueError("from_modules needs at least one module, got an empty sequence")
    for i, module in enumerate(given):
        if not isinstance(module, nn.Module):
            raise TypeError(f"module {i}: expected an nn.Module, got {type(module).__name__}; see from_state_dicts")
        check_materialised(module, "" if single else f"module {i}: ")
    if architecture is not None and (activation is not None or output_offset != 0.0):
        raise ValueError("give either architecture= or activation= and output_offset=, got both")
    if example_input is not None:
        if architecture is not None or activation is not None or names is not None:
            raise ValueError("example_input= derives the architecture; leave out architecture=, activation=, names=")
        architecture = Architecture.from_module(given[0], example_input)
    if architecture is not None and architecture.is_declared:
        element = read_modules(given, architecture, single=single)
        return element.validate() if check_values else element
    given = [unwrapped(module) for module in given]
    places = ["" if single else f"module {i}: " for i in range(len(given))]
    if architecture is None:
        inferred = [infer_architecture(module, activation, output_offset=output_offset) for module in given]
        architecture = inferred[0]
        for place, other in zip(places, inferred, strict=True):
            if other != architecture:
                raise ValueError(
                    f"{place}expected the architecture of module 0, got another one; they differ in "
                    f"{difference(architecture, other)}; read modules of another architecture on their own"
                )
    if names is None:
        names = _linear_names(given[0], architecture)
        for place, module in zip(places, given, strict=True):
            if (other_names := _linear_names(module, architecture)) != names:
                raise ValueError(f"{place}expected the layers of module 0, {names}, got {other_names}; give names=")
    dicts = [effective_state(module, place) for place, module in zip(places, given, strict=True)]
    element = from_state_dicts(
        dicts[0] if single else dicts, architecture, names=names, ignore=ignore, check_values=check_values
    )
    if check_function:
        check_functions(given, element.map(lambda t: t.unsqueeze(0)) if single else element)
    return element


def _listed(modules: object) -> list[nn.Module]:
    if isinstance(modules, (str, Mapping)) or not isinstance(modules, Iterable):
        raise TypeError(
            f"expected an nn.Module or a sequence of them, got {type(modules).__name__}; from_state_dicts reads state "
            "dicts"
        )
    return list(modules)


def _linear_names(module: nn.Module, architecture: Architecture) -> dict[str, str] | None:
    """Names by the order of the linear layers; None where from_state_dicts has to find its own."""
    prefixes = list(_linears(module))
    if not architecture.is_chain or len(prefixes) != len(architecture.layers):
        return None
    return {layer.name: prefix for layer, prefix in zip(architecture.layers, prefixes, strict=True)}


def to_modules(
    element: WeightSpaceElement,
    like: nn.Module | None = None,
    *,
    names: Mapping[str, str] | None = None,
    check_function: bool = True,
) -> nn.Module | list[nn.Module]:
    """Writes modules: inverse of :func:`from_modules`. Parameters are copies, so training them is safe.

    Args:
        element: One network, or a batch with one batch dimension.
        like: A module to copy for every network, with its buffers; None builds ``nn.Sequential`` modules, for a
            chain whose activations ``torch.nn`` has and without output offset.
        names: Layer name -> parameter prefix; None takes the ``nn.Linear`` layers in order.
        check_function: Whether to evaluate every module, and refuse ``like`` if one computes something else than
            its network.

    Returns:
        One module for one network, otherwise a list. Dtype and device are the element's.

    Raises:
        ValueError: If ``like`` is needed or does not fit, or computes another function.
    """
    if element.architecture.is_declared:
        like = element.architecture.module if like is None else like
        if like is None:
            raise ValueError("this architecture comes without a module; give like=, a module to copy")
        if len(element.batch_shape) > 1:
            raise ValueError(f"expected one batch dimension at most, got batch shape {tuple(element.batch_shape)}")
        if not element.batch_shape:
            return fill_module(like, element)
        return [fill_module(like, element[i]) for i in range(len(element))]
    if like is None:
        like = _build(element.architecture)
    like = unwrapped(like)
    refuse_parts((key for key, _ in like.named_parameters()), "like: ")
    if names is None:
        names = _linear_names(like, element.architecture)
    dicts = to_state_dicts(element, names=names)
    expected = {key: tuple(tensor.shape) for key, tensor in like.named_parameters(remove_duplicate=False)}
    first = dicts if isinstance(dicts, dict) else (dicts[0] if dicts else None)
    if first is not None and (got := {key: tuple(tensor.shape) for key, tensor in first.items()}) != expected:
        raise ValueError(f"like: expected a module with the parameters {got}, got {expected}; check like= and names=")
    modules = [_fill(like, state) for state in ([dicts] if isinstance(dicts, dict) else dicts)]
    if check_function and modules:
        check_functions(modules, element.map(lambda t: t.unsqueeze(0)) if isinstance(dicts, dict) else element)
    return modules[0] if isinstance(dicts, dict) else modules


def _fill(like: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    first = next(iter(state.values()))
    module = copied(like)
    own = {key: tensor.detach().clone() for key, tensor in state.items()}
    module.load_state_dict(own, assign=True, strict=False)  # its buffers stay
    return module.to(first.device, first.dtype)


def _build(architecture: Architecture) -> nn.Module:
    require_chain(architecture, "nn.Sequential")
    makers: dict[str, Callable[[], nn.Module]] = {name: kind for kind, (name, _) in _MODULES.items()}
    layers: list[nn.Module] = []
    if architecture.output_offset != 0.0:
        raise ValueError(
            f"an nn.Sequential has no place for output_offset={architecture.output_offset:g}; give like=, a module of "
            "your own that adds it"
        )
    for i, layer in enumerate(architecture.layers):
        if layer.kernel:
            raise ValueError(f"layer {layer.name!r}: only linear layers can be built, got a convolution; give like=")
        out, into = architecture.weight_shape(i)
        layers.append(nn.utils.skip_init(nn.Linear, into, out, bias=layer.bias))
        activation = architecture.spaces[architecture.wiring.writes[i]].activation
        if activation is None or activation == Activation("identity"):
            continue
        if activation.name not in makers or activation.omega != 1.0:
            raise ValueError(
                f"space {layer.writes!r}: torch.nn has no module for {activation.name}(omega={activation.omega:g}); "
                "give like=, a module of your own"
            )
        layers.append(makers[activation.name]())
    return nn.Sequential(*layers)
