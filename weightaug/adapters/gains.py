"""Norms without gains: what a norm multiplies its positions with, put into the layers that read it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Node

from weightaug._tracing.check import check_same
from weightaug._tracing.derive import exported
from weightaug._tracing.patterns import operator, patterns_of, users_of

__all__ = ["absorb_gains"]

_THROUGH = {"to", "_to_copy", "alias", "contiguous", "clone", "dropout", "type_as", "detach"}


class _Gain(NamedTuple):
    """What a norm multiplies with.

    Attributes:
        parameter: The gain itself.
        product: The norm's output.
        added: What is added to the parameter before, which is 1 in Gemma's norms.
    """

    parameter: Node
    product: Node
    added: float


def absorb_gains(module: nn.Module, example_input: Any, *, leave: Sequence[str] = ()) -> nn.Module:
    """A copy of a module that computes the same without gains of RMSNorms: what reads them takes them in.

    Between norms with gains, a stream's neurons can be reordered and change their signs; without, it can be turned
    (:class:`~weightaug.StreamRotation`). The gains are no parameters of the copy any more, so networks of a collection
    are all to be made that way, and new ones have to be trained without gains.

    Args:
        module: A module with RMSNorms, ``nn.RMSNorm`` or written out, that multiply with a gain, or with 1 + gain as
            Gemma's do; it stays as it is.
        example_input: What it takes, as for :meth:`Architecture.from_module`.
        leave: Names of gains that stay, or patterns of names, such as ``("*.q_norm.weight", "*.k_norm.weight")``:
            norms of queries and keys stand apart from the stream.

    Returns:
        The copy, in eval mode.

    Raises:
        TypeError: If module is no module, or ``leave`` is no sequence of names.
        ValueError: If there is no such gain, something else than linear layers with weights of their own reads one,
            or a name in ``leave`` is none of a gain.

    Source: Ashkboos et al. (2024), SliceGPT, section 3.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"absorb_gains: expected an nn.Module, got {type(module).__name__}")
    if isinstance(leave, str) or not all(isinstance(pattern, str) for pattern in leave):
        raise TypeError(f"absorb_gains: leave: expected a sequence of names, got {leave!r}; write leave=[...]")
    graph, signature = exported(module, example_input)
    named = {spec.arg.name: spec.target for spec in signature.input_specs if spec.target is not None}
    state = module.state_dict(keep_vars=True)
    shared = {id(t): [n for n, other in state.items() if other is t] for t in state.values()}
    found: dict[str, tuple[list[str], float]] = {}
    gains = [(str(named.get(gain.parameter.name)), gain) for gain in _gains(graph)]
    gains = [(name, gain) for name, gain in gains if name in state]
    for pattern in leave:
        if not any(fnmatchcase(name, pattern) for name, _ in gains):
            names = ", ".join(name for name, _ in gains) or "none"
            raise ValueError(f"absorb_gains: leave: no gain of a norm is called {pattern!r}; there are: {names}")
    for name, gain in gains:
        if any(fnmatchcase(name, pattern) for pattern in leave):
            continue
        if len(users_of(gain.parameter)) > 1:
            raise ValueError(f"absorb_gains: the gain {name} is used elsewhere, too; expected one use, by its norm")
        if len(shared[id(state[name])]) > 1:
            raise ValueError(f"absorb_gains: several norms have the gain {name}; each needs one of its own")
        found[name] = ([], gain.added)
        for reader in _readers(gain.product, name):
            weight = str(named.get(reader.name))
            if len(users_of(reader)) > 1 or (weight in state and len(shared[id(state[weight])]) > 1):
                raise ValueError(
                    f"absorb_gains: a weight that reads what {name} multiplies is used several times (a tied weight?); "
                    "expected a weight of its own: untie it, for example tie_word_embeddings=False"
                )
            if weight not in state:
                raise ValueError(
                    f"absorb_gains: a weight that reads what {name} multiplies is no parameter but computed (a "
                    "parametrisation, a cast?); expected linear layers with weights of their own"
                )
            if state[name].shape not in (state[weight].shape[1:], ()):
                raise ValueError(
                    f"absorb_gains: {name}: expected one gain for each of the {state[weight].shape[1]} inputs of "
                    f"{weight}, got shape {tuple(state[name].shape)}"
                )
            found[name][0].append(weight)
    if not found and gains:
        raise ValueError(
            f"absorb_gains: leave={list(leave)!r} leaves all gains where they are; expected one to take in"
        )
    if not found:
        raise ValueError(
            f"absorb_gains: {type(module).__name__} has no RMSNorm with a gain; expected nn.RMSNorm, or x * rsqrt("
            "x.pow(2).mean(-1, keepdim=True) + eps) times a parameter. A LayerNorm is another norm"
        )
    exact = copy.deepcopy(module).eval().to(torch.float64)
    check_same(exact, _without(exact, found), example_input)
    return _without(module, found)


def _without(module: nn.Module, found: dict[str, tuple[list[str], float]]) -> nn.Module:
    """A copy without gains: for each its readers, and what is added to it."""
    changed = copy.deepcopy(module).eval()
    tensors = changed.state_dict(keep_vars=True)
    with torch.no_grad():
        for name, (readers, added) in found.items():
            for weight in readers:
                tensors[weight].copy_(tensors[weight].double() * (added + tensors[name].double()))
            _remove(changed, name, 1.0 - added)
    return changed


def _gains(graph: torch.fx.Graph) -> Iterator[_Gain]:
    """All gains of norms."""
    for node, pattern in patterns_of(graph).items():
        if len(pattern.inputs) != 1:
            continue
        last = node
        while len(users := users_of(last)) == 1 and operator(users[0]) in _THROUGH:
            last = users[0]
        for user in users:
            others = [given for given in user.args if isinstance(given, Node) and given is not last]
            if operator(user) == "mul" and len(users) == 1 and len(others) == 1:
                gain, first = _parameter(others[0])
                if gain is not None:
                    yield _Gain(gain, user, first)
    for node in graph.nodes:
        weight = node.args[2] if operator(node) == "rms_norm" and len(node.args) > 2 else None
        if isinstance(weight, Node) and weight.op == "placeholder":
            yield _Gain(weight, node, 0.0)


def _parameter(factor: Node) -> tuple[Node | None, float]:
    """The parameter that a factor is, and the number that is added to it: some norms multiply with ``1 + gain``."""
    first = 0.0
    while factor.op != "placeholder" and len(users_of(factor)) == 1:
        if operator(factor) == "add" and not first and len(factor.args) == 2 and not factor.kwargs:
            numbers = [given for given in factor.args if isinstance(given, (int, float))]
            nodes = [given for given in factor.args if isinstance(given, Node)]
            if len(numbers) != 1 or len(nodes) != 1:
                break
            factor, first = nodes[0], float(numbers[0])
        elif operator(factor) in _THROUGH and isinstance(factor.args[0], Node):
            factor = factor.args[0]
        else:
            break
    return (factor, first) if factor.op == "placeholder" else (None, 0.0)


def _readers(product: Node, gain: str) -> Iterator[Node]:
    """The weights of the linear layers that read a normalised stream."""
    for user in users_of(product):
        if operator(user) in _THROUGH:
            yield from _readers(user, gain)
        elif operator(user) == "linear" and user.args[0] is product and isinstance(user.args[1], Node):
            yield user.args[1]
        else:
            raise ValueError(
                f"absorb_gains: what {gain} multiplies is read by the operator {operator(user) or user.op!r}; expected "
                f"linear layers alone, which can take it in; leave=[{gain!r}] leaves it where it is"
            )


def _remove(module: nn.Module, name: str, neutral: float) -> None:
    """Takes a gain out of a norm; a constant stands in its place where the norm's own forward reads it."""
    path, _, attribute = name.rpartition(".")
    owner = module.get_submodule(path)
    gain: Tensor = getattr(owner, attribute)
    delattr(owner, attribute)
    if type(owner) is nn.RMSNorm:
        owner.register_parameter(attribute, None)
        owner.elementwise_affine = False
    else:
        # One number where something is added to it, which then stands against no position.
        constant = torch.ones_like(gain) if neutral == 1 else gain.new_tensor(neutral).detach()
        owner.register_buffer(attribute, constant, persistent=False)
