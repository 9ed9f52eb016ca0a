"""From a module to its architecture: export the graph, follow every operator, write the table."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from weightaug._tracing import rules, rules_layers, rules_others
from weightaug._tracing.calls import RULES, Call
from weightaug._tracing.check import check_symmetries
from weightaug._tracing.dims import fix, fresh
from weightaug._tracing.emit import emit
from weightaug._tracing.evaluation import arguments, skeleton
from weightaug._tracing.patterns import patterns_of
from weightaug._tracing.values import Refused, Value, constant, fixed
from weightaug.architecture import Architecture

__all__ = ["derive", "exported"]

# Imported for what they enter into the table of rules.
_ = (rules, rules_layers, rules_others)

_LOOKS_AT_STALE = {"select", "unbind", "transpose", "permute", "view", "reshape", "contiguous", "squeeze", "unsqueeze"}
_CONSTANTS = {
    f"{before}{name}{after}": "zero" if name == "zeros" else "other"
    for name in ("zeros", "ones", "full")
    for before, after in (("", ""), ("", "_like"), ("new_", ""))
}
_NO_RESULT = {"_assert_tensor_metadata", "sym_constrain_range_for_size", "_assert_scalar"}


def derive(module: nn.Module, example_input: Any, *, check: bool = True) -> Architecture:
    """The architecture of a module, from the operators that it calls on an example.

    Args:
        module: Any module whose operators are in the table.
        example_input: What it takes: a tensor, a tuple of arguments, or a dict of named ones.
        check: Whether to apply a random symmetry in double precision and compare what is computed.

    Raises:
        TypeError: If module is no module.
        ValueError: If the module cannot be exported, or an operator is not understood; the message names the module
            and the operator.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"from_module: expected an nn.Module, got {type(module).__name__}")
    canonical = _names(module)
    graph, signature = exported(module, example_input)
    tracer = _Tracer(module, canonical, graph)
    for spec in signature.input_specs:
        tracer.enter(spec)
    for node in graph.nodes:
        tracer.step(node)
    tracer.fix_unused()
    spaces, tensors = emit(tracer.params, tracer.seen, tracer.variances)
    if not any(space.activation is not None for space in spaces):
        raise ValueError(
            f"{type(module).__name__}: no symmetry was found, every tensor is fixed: {_what_fixed(tracer.params)}; is "
            "every width met by an operator, or a tensor that is no parameter and no buffer of the state dict, that "
            "treats its positions differently?"
        )
    architecture = Architecture(spaces, tensors=tensors)
    object.__setattr__(architecture, "module", skeleton(module))
    if check:
        check_symmetries(module, architecture, example_input, rounds=tracer.rounds)
    return architecture


def _what_fixed(params: dict[str, Value]) -> str:
    """For some tensors, the operators that made their positions distinct."""
    found = {
        name: sorted({term.dim.fixed_by for term in value.terms() if term.dim.fixed_by})
        for name, value in params.items()
    }
    named = [f"{name} by {', '.join(reasons)}" for name, reasons in found.items() if reasons]
    return "; ".join(named[:6]) or "each meets something whose positions are distinct"


def _names(module: nn.Module) -> dict[str, str]:
    """For every parameter and floating buffer that a state dict holds, the first name of that tensor."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    dtype: torch.dtype | None = None
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            raise ValueError(
                f"{name}: expected a tensor in the state dict, got {type(tensor).__name__}; quantised modules keep "
                "packed weights: take the module from before it was quantised"
            )
        if tensor.is_quantized or (isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()):
            raise ValueError(
                f"{name} is {tensor.dtype}: quantised weights have no exact symmetries; expected floating parameters; "
                "derive the architecture from the module before it is quantised"
            )
        if not tensor.is_floating_point():
            continue
        names[name] = first.setdefault(id(tensor), name)
        dtype = tensor.dtype if dtype is None else dtype
        if tensor.dtype != dtype:
            raise ValueError(
                f"{name} is {tensor.dtype}, the first tensor {dtype}; convert the module with .to({dtype})"
            )
    if not names:
        raise ValueError(f"{type(module).__name__} has no parameters")
    return names


@contextmanager
def _prepared(module: nn.Module) -> Iterator[None]:
    """Eval mode without fused kernels; afterwards everything is as it was."""
    training = {m: m.training for m in module.modules()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        module.eval()
        yield
    finally:
        for m, mode in training.items():
            m.training = mode
        torch.backends.mha.set_fastpath_enabled(fast)


def exported(module: nn.Module, example_input: Any) -> tuple[Any, Any]:
    args, kwargs = arguments(example_input)
    running: list[str] = []
    try:
        with (
            _prepared(module),
            _watched(module, running),
            warnings.catch_warnings(),
            torch.inference_mode(False),
            torch.enable_grad(),
        ):
            # Recurrent layers keep a second list of their weights.
            warnings.filterwarnings("ignore", message=r"The tensor attributes? .* assigned during export")
            program = torch.export.export(module, args, kwargs, strict=False)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise ValueError(
            f"{type(module).__name__} could not be exported on the example input{_inside(module, running)}: "
            f"{lines[0] if lines else repr(error)}; expected a module without control flow that depends on values "
            "(torch.where chooses between results) and without detours over numpy or Python numbers, and an "
            "example_input that it takes (a tensor, a tuple of arguments or a dict of named ones)"
        ) from error
    return program.graph, program.graph_signature


def _at_this_use(given: Any) -> Any:
    """A constant with axes of its own: what one use makes of them says nothing about another."""
    if isinstance(given, Value) and given.constant is not None:
        return constant(given.shape, given.constant)
    return given


@contextmanager
def _watched(module: nn.Module, running: list[str]) -> Iterator[None]:
    """Keeps the names of the modules that are being called, innermost last; what raises leaves its own there."""

    def enter(name: str) -> Any:
        return lambda *_: running.append(name)

    def leave(*_: Any) -> None:
        running.pop()

    hooks = []
    for name, inner in module.named_modules():
        if isinstance(inner, torch.jit.ScriptModule):
            continue
        hooks += [inner.register_forward_pre_hook(enter(name)), inner.register_forward_hook(leave)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _inside(module: nn.Module, running: Sequence[str]) -> str:
    name = running[-1] if running else ""
    return f", in module {name!r} ({type(module.get_submodule(name)).__name__})" if name else ""


class _Tracer:
    """Follows a graph operator by operator."""

    def __init__(self, module: nn.Module, canonical: dict[str, str], graph: torch.fx.Graph) -> None:
        self.canonical = canonical
        self.params: dict[str, Value] = {}
        self.variances: dict[str, float] = {}
        self.seen: list[Value] = []
        self.rounds = False
        self.used: set[str] = set()
        self.placeholders: dict[str, Value | None] = {}
        self.patterns = patterns_of(graph)
        self.waiting = {inner for pattern in self.patterns.values() for inner in pattern.inside}
        self.results: dict[Any, Any] = {}
        state = module.state_dict(keep_vars=True)
        self.buffers = {name: t for name, t in module.named_buffers() if name not in state and t.is_floating_point()}
        for name, first in canonical.items():
            if name == first:
                axes = [fresh(n, scaled=True) for n in state[name].shape]
                self.params[name] = Value(axes, name)
        self.types = {name: type(m).__name__ for name, m in module.named_modules()}

    def enter(self, spec: Any) -> None:
        """One input of the graph: a parameter, a buffer, or something that no symmetry changes."""
        name = spec.target if spec.target in self.canonical else None
        known = self.params[self.canonical[name]] if name else None
        if known is None and isinstance(tensor := self.buffers.get(spec.target), Tensor) and bool((tensor == 1).all()):
            known = constant(tensor.shape, "other")  # the gains of a norm that has none any more
        self.placeholders[getattr(spec.arg, "name", "")] = known

    def step(self, node: Any) -> None:
        """One node of the graph."""
        if node.op == "placeholder":
            known = self.placeholders.get(node.name)
            if known is not None and known.param is not None and len(node.users):
                self.used.add(known.param)
            shape = getattr(node.meta.get("val"), "shape", None)
            self.results[node] = known if known is not None else None if shape is None else fixed(tuple(shape))
        elif node.op == "get_attr":
            value = node.meta.get("val")
            self.results[node] = fixed(tuple(value.shape)) if isinstance(value, Tensor) else None
        elif node.op == "output":
            for value in self._values(node.args):
                for axis in value.axes:
                    fix(axis, "output")
                if any(term.dim.stale for term in value.terms()):
                    raise Refused("an output shows a tensor that is picked apart elsewhere; that is not followed")
        elif node.target is operator.getitem:
            self.results[node] = self.results[node.args[0]][node.args[1]]
        elif node not in self.waiting:
            whole = self._whole(node)
            self.results[node] = self._call(node) if whole is None else whole

    def fix_unused(self) -> None:
        """What no operator uses could be anything, so nothing can be said of its positions; they stay."""
        for name in self.params.keys() - self.used:
            for axis in self.params[name].axes:
                fix(axis, "nothing that uses it")

    def _whole(self, node: Any) -> Value | None:
        """The result of a pattern that ends here; None where there is none, or it does not apply."""
        pattern = self.patterns.get(node)
        if pattern is None:
            return None
        given = [self.results.get(node) for node in pattern.inputs]
        values = [value for value in given if isinstance(value, Value)]
        if len(values) == len(given) and not all(value.is_fixed for value in values):
            result = pattern.follow(*values)
            if result is not None:
                self.seen.append(result)
                return result
        for inner in sorted(pattern.inside):  # in the order of the graph
            self.waiting.remove(inner)
            self.step(inner)
        return None

    def _values(self, given: Any) -> list[Value]:
        leaves = pytree.tree_leaves(given, is_leaf=lambda leaf: isinstance(leaf, torch.fx.Node))
        found = [self.results.get(leaf) for leaf in leaves if isinstance(leaf, torch.fx.Node)]
        flat = [v for value in found for v in (value if isinstance(value, (list, tuple)) else [value])]
        return [value for value in flat if isinstance(value, Value)]

    def _call(self, node: Any) -> Any:
        schema = getattr(node.target, "_schema", None)
        name = str(node.target) if schema is None else schema.name.split("::")[-1]
        where = self._where(node)
        if name in _NO_RESULT:
            return None
        out = node.meta.get("val")
        outs = [v for v in (out if isinstance(out, (list, tuple)) else [out]) if isinstance(v, Tensor)]
        call = Call(name, where, self._arguments(node, schema), [tuple(v.shape) for v in outs], self.variances)
        tensors = call.tensors
        if not all(isinstance(size, int) for shape in call.shapes for size in shape):
            raise call.refusal("the shape of its result depends on values, which is not followed")
        if not outs:
            if all(value.is_fixed for value in tensors):
                return None
            raise call.refusal("a result that is no tensor depends on the weights")
        in_place = name.endswith("_") and not name.startswith("_")
        still = all(value.is_fixed for value in tensors)
        for value in tensors if still or in_place else ():
            value.constant = None  # from here on, it may be written into, through a view or itself
        if still:
            results = [fixed(shape) for shape in call.shapes]
            results[0].constant = _CONSTANTS.get(name)
            self.seen.extend(results)
            return results if isinstance(out, (list, tuple)) else results[0]
        if any(value.constant for value in tensors):
            call.args = pytree.tree_map(_at_this_use, call.args)
            tensors = call.tensors
        if name not in _LOOKS_AT_STALE and any(t.dim.stale for value in tensors for t in value.terms()):
            raise call.refusal("one weight's result is picked apart and used as a whole; that is not followed")
        follow = RULES.get(name) or (RULES.get(name[:-1]) if in_place else None)
        if follow is None:
            raise call.refusal(
                "is not in the table of operators whose symmetries are known; rewrite the module with operators that "
                "are, or declare the architecture by hand (Architecture(spaces, tensors=...))"
            )
        call.name = name[:-1] if name not in RULES else name
        self.rounds |= name in ("to", "_to_copy", "float")
        result = follow(call)
        results = [result] if isinstance(result, Value) else list(result)
        for value, shape in zip(results, call.shapes, strict=False):
            if value.shape != shape:
                raise call.refusal(f"came out as {value.shape}, expected {shape}; please report this")
        if in_place:
            self._write_in_place(call, tensors[0], results[0])
        self.seen.extend(results)
        return results if isinstance(out, (list, tuple)) else results[0]

    def _write_in_place(self, call: Call, target: Value, result: Value) -> None:
        views = any(value.base is target for value in self.seen)
        if target.base is not None or views or target.param is not None:
            raise call.refusal(
                "writes in place into a tensor that others share (a view, or a parameter); use the operator without "
                "the underscore (inplace=False)"
            )
        target.replace(result.axes)

    def _where(self, node: Any) -> str:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        path = path.removeprefix("L['self'].").removeprefix("L['self']")
        name = self.types.get(path, "root")
        return f"module {path!r} ({name})" if path else f"the module itself ({name})"

    def _arguments(self, node: Any, schema: Any) -> dict[str, Any]:
        def convert(given: Any) -> Any:
            if isinstance(given, torch.fx.Node):
                return self.results.get(given)
            if isinstance(given, (list, tuple)):
                return [convert(g) for g in given]
            return given

        bound: dict[str, Any] = {}
        names: Sequence[Any] = schema.arguments if schema is not None else ()
        for i, argument in enumerate(names):
            if i < len(node.args):
                bound[argument.name] = convert(node.args[i])
            elif argument.name in node.kwargs:
                bound[argument.name] = convert(node.kwargs[argument.name])
            elif argument.has_default_value():
                bound[argument.name] = argument.default_value
        return bound
