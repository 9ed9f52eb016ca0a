"""Matching two batches of networks, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import torch
from torch import Tensor

from weightaug._progress import bar
from weightaug.architecture import Architecture
from weightaug.element import WeightSpaceElement
from weightaug.group import GroupElement, act
from weightaug.matching.activation import check_points, match_activations
from weightaug.matching.annealing import anneal
from weightaug.matching.assignment import on_device_solver
from weightaug.matching.canonical import balance, canonicalize, flat64, to_representative, unflat
from weightaug.matching.compiled import Plan, match_compiled, plan_of
from weightaug.matching.descent import BLOCK, Pairs, Tell
from weightaug.matching.function import match_functions, or_nothing
from weightaug.matching.moves import Moves
from weightaug.matching.restarts import kick, random_moves
from weightaug.matching.rules import (
    Rule,
    Symmetry,
    check_count,
    check_finite,
    check_generator,
    check_pair,
    declared_names,
    resolve,
    topological_slots,
)
from weightaug.matching.surroundings import undisturbed
from weightaug.matching.table import match_table
from weightaug.matching.table_canonical import scales_of
from weightaug.matching.wide import WIDE

__all__ = [
    "DEFAULT_STARTS",
    "STARTS",
    "check_declared",
    "check_starts",
    "match",
    "match_declared",
    "solve",
    "working_device",
]

STARTS = ("identity", "reverse", "forward", "backward", "anneal", "canonical", "random")
DECLARED_STARTS = ("identity", "forward")  # of networks that are declared tensor by tensor
DEFAULT_STARTS = ("forward",)
_KICKS = (0.5, 1.0)  # parts of the neurons of a space that kicks move, in turns; fewer mostly fall back

_PIECE = 512  # pairs that are prepared at a time
_CHUNK = 256  # pairs that a thread works on at a time
_NUMBERS = 2**22  # in the products of all their neurons

Method = Literal["weight", "activation", "function"]
METHODS = ("weight", "activation", "function")


@undisturbed
def match(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    *,
    symmetry: Symmetry = "auto",
    method: Method = "weight",
    starts: Sequence[str] | None = None,
    kicks: int = 0,
    points: Tensor | None = None,
    max_sweeps: int = 100,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> GroupElement:
    """Aligns b to a: finds a symmetry g such that ``act(b, g)`` is close to ``a``, for each pair of a batch.

    The function of b is preserved: only its position in its orbit changes. Inputs are not modified, and no
    autograd graph is recorded.

    ``method="weight"`` minimises the squared distance of the parameters by coordinate descent over the
    hidden spaces. In each space the best permutation, signs and phases together come from one assignment
    problem, so the distance never grows, and it is never larger than before matching. Positive scales are
    taken out first: both networks are balanced (every neuron's incoming norm equals its outgoing norm), the
    distance is the one between the balanced networks, and b ends in the scales of a.

    Networks that are declared tensor by tensor (``Architecture.from_module``) are matched by a walk and a descent over
    permutations and signs, heads with the best orthogonal map of their inside. Factors stay as they are, unless
    ``"scale"`` is asked for by name: then both networks are brought into the scales of :func:`canonicalize` first, the
    distance is the one there, and b ends in the scales of a. They start from ``"forward"``, ``"identity"`` or both.

    ``method="activation"`` matches the values of the hidden neurons at ``points`` instead, one assignment
    per space.

    ``method="function"`` looks for the symmetry with which the mid-point of a and ``act(b, g)`` computes the mean
    of the two functions at ``points``, in the mean square: from the weight matching, 50 steps that follow the
    gradient of that error, each with a hard assignment. At the points, the error is never larger than that of the
    weight matching or of no matching; the distance usually is. Some 200 points do; more cost more.

    Args:
        a: The networks to align to, of any batch shape.
        b: The networks to align, of the same architecture and batch shape.
        symmetry: ``"auto"`` for every symmetry that the activations allow, ``"permutation"`` for the
            paper's, or several of ``"permutation"``, ``"sign"``, ``"phase"``, ``"scale"``; for networks that are
            declared tensor by tensor ``"auto"`` for ``("permutation", "sign", "maps")``, or several of these and
            ``"scale"``.
        method: ``"weight"``, ``"activation"`` or ``"function"``.
        starts: Where the weight matching starts; for each pair the best result is kept. ``"identity"``,
            ``"reverse"`` (the identity, spaces visited from last to first), ``"forward"`` (each space by its
            incoming weights, inputs first: finds a planted copy exactly), ``"backward"``, ``"anneal"`` (soft
            moves at a falling temperature: slower, and closer), ``"canonical"`` (both networks in canonical
            form), ``"random"``; a name may be repeated. None for ``("identity", "forward")``
            with ``symmetry="permutation"`` (Git Re-Basin has ``("identity",)``), and ``("forward",)`` otherwise.
        kicks: How often neurons of the best result, half of a space or all, change places, signs and phases at
            random, and the descent is repeated from there, to leave local optima. The closest alignments take
            ``starts=("identity", "forward", "anneal")`` and 100 kicks: some percent closer, and a hundred times
            slower, which no mid-point has been seen to gain by.
        points: Coordinates ``(n, in)`` for ``method="activation"`` and ``"function"``.
        max_sweeps: Limit on the visits per hidden space and start, at least 1. For networks that are declared tensor by
            tensor 0 as well, which leaves it at what the starts find, such as the walk: two ResNet-18 that share
            nothing take less than half of the time then, and end a little less close.
        generator: Source of random starts and kicks, on the CPU; None for torch's global one.
        progress: Whether to show a bar of the pairs, with rate and remaining time, and of networks wider than 320
            neurons, which take seconds, how many neurons still move; needs tqdm, the extra ``bench``. Networks that
            are declared tensor by tensor show none.

    Returns:
        The group element, with tensors ``(*batch, size)`` on the device of b, and factors in its dtype.

    Raises:
        ValueError: If the architectures, batch shapes or devices differ, a value is not finite, the
            symmetry does not exist in this architecture, a number is out of range, or an argument is not one of the
            above.
        TypeError: If an argument is of another type.

    Source: section 4 of the paper, and Ainsworth et al. (2022), Git Re-Basin, for permutations.
    """
    check_pair(a, b, values=False)
    if a.architecture.is_declared:
        if method != "weight" or kicks or points is not None:
            raise ValueError(
                "networks that are declared tensor by tensor are matched by method='weight' without kicks or points, "
                f"got method={method!r}, kicks={kicks}, points {'missing' if points is None else 'given'}"
            )
        check_count("max_sweeps", max_sweeps, 0)
        return match_declared(a, b, symmetry, max_sweeps, ("forward",) if starts is None else starts)
    rules = resolve(a.architecture, symmetry)
    if method not in METHODS:
        raise ValueError(f"method: expected one of {METHODS}, got {method!r}")
    if (points is not None) != (method != "weight"):
        raise ValueError(
            f"method={method!r}, points {'given' if points is not None else 'missing'}: 'activation' and 'function' "
            "need points=coordinates of shape (n, in), and 'weight' takes none"
        )
    check_count("kicks", kicks, 0)
    check_count("max_sweeps", max_sweeps, 1)
    check_generator(generator)
    if method != "weight" and (starts is not None or kicks):
        raise ValueError(f"method={method!r} takes no starts and no kicks; they belong to method='weight'")
    if starts is None:
        starts = ("identity", "forward") if symmetry == "permutation" else DEFAULT_STARTS
    check_starts(starts)
    if points is not None:
        check_points(points, a.architecture, whole=method == "function")
    if not rules:
        _check_values(a, b)
        return GroupElement.identity(a.architecture)
    if (
        method == "weight"
        and not kicks
        and not progress
        and (found := _match_at_once(a, b, rules, starts, max_sweeps)) is not None
    ):
        return found
    _check_values(a, b)
    device = working_device(a)
    precision = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)

    def align(a: WeightSpaceElement, b: WeightSpaceElement, tell: Tell | None = None) -> GroupElement:
        a, b = flat64(a, device), flat64(b, device)
        plain_a, plain_b = a, b
        balance_a, balance_b = balance(a, rules), balance(b, rules)
        a, b = act(a, balance_a), act(b, balance_b)
        if points is not None and method == "activation":
            moves = match_activations(a, b, rules, points)
        else:
            moves, _ = solve(a, b, rules, starts, kicks, max_sweeps=max_sweeps, generator=generator, tell=tell)
        if points is not None and method == "function":
            moves = match_functions(a, b, rules, points, moves, dtype=precision)
        group = balance_a.inverse() @ moves.group(a.architecture) @ balance_b
        return group if points is None or method != "function" else or_nothing(plain_a, plain_b, group, points)

    if not progress and a.batch_shape.numel() <= _PIECE:
        return unflat(align(a, b), b)
    # In pieces, because a pair takes some ten to twenty times its own memory while it is matched.
    piece, dims, draws = _PIECE, len(a.batch_shape), bool(kicks) or "random" in starts
    if progress and not draws and max(space.size for space in a.architecture.hidden) > WIDE:
        piece = 1  # each takes long enough to be seen
    x, y = (e.map(lambda t: t.flatten(0, dims - 1) if dims else t.unsqueeze(0)) for e in (a, b))
    groups = []
    with bar(len(x), unit="pair", name="matching", wanted=progress) as shown:
        for i in range(0, max(len(x), 1), piece):
            some = slice(i, i + piece)
            groups.append(unflat(align(x[some], y[some], shown.say if progress else None), y[some]))
            shown(len(x[some]))
    whole = GroupElement.cat(groups)
    return whole.map(lambda t: t.reshape(*b.batch_shape, *t.shape[1:]))


def _check_values(a: WeightSpaceElement, b: WeightSpaceElement) -> None:
    check_finite(a, "a")
    check_finite(b, "b")


def _match_at_once(
    a: WeightSpaceElement, b: WeightSpaceElement, rules: tuple[Rule, ...], starts: Sequence[str], max_sweeps: int
) -> GroupElement | None:
    """What :func:`match` does, with as few calls as possible around one compiled one; None where that cannot be."""
    arch, batch = a.architecture, a.batch_shape
    if a.device.type != "cpu" or any([rule.scale for rule in rules]) or batch.numel() > _PIECE:
        return None
    plan = plan_of(arch, rules, tuple(starts))
    if plan is None:
        return None
    x, y = (e.flatten().detach().to(torch.float64).reshape(batch.numel(), arch.num_parameters) for e in (a, b))
    if not (math.isfinite(float(x.sum())) and math.isfinite(float(y.sum()))):
        _check_values(a, b)  # no value need be infinite for a sum to be
    moves, _ = _solve_compiled(x, y, arch, plan, rules, starts, max_sweeps=max_sweeps)

    def back(part: Sequence[Tensor | None], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
        return tuple([None if t is None else t.to(dtype).reshape(*batch, t.shape[1]) for t in part])

    return GroupElement(
        arch, back(moves.permutation, torch.int64), back(moves.sign, b.dtype), back(moves.shift, torch.int64)
    )


def check_declared(architecture: Architecture, symmetry: Symmetry, starts: Sequence[str]) -> frozenset[str]:
    """Checks what is asked for in networks that are declared tensor by tensor.

    Returns:
        The symmetries.

    Raises:
        ValueError: If the symmetry or a start is not known there.
        TypeError: If the symmetry is no name and no collection of names.
    """
    check_starts(starts)
    names = declared_names(architecture, symmetry, auto=("permutation", "sign", "maps"))
    unknown = [name for name in starts if name not in DECLARED_STARTS]
    if unknown:
        raise ValueError(
            f"networks that are declared tensor by tensor are matched from {DECLARED_STARTS}, got the start "
            f"{unknown[0]!r}; leave it out"
        )
    return names


def match_declared(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    symmetry: Symmetry,
    max_sweeps: int,
    starts: Sequence[str],
    *,
    keep_identity: bool = True,
) -> GroupElement:
    """What :func:`match` does for networks that are declared tensor by tensor."""
    names = check_declared(a.architecture, symmetry, starts)
    check_finite(a, "a")
    check_finite(b, "b")
    dims = len(a.batch_shape)
    precision = torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)

    def flat(x: WeightSpaceElement) -> WeightSpaceElement:
        moved = x.map(lambda t: t.detach().to("cpu", precision))
        return moved.map(lambda t: t.flatten(0, dims - 1) if dims else t.unsqueeze(0))

    x, y = flat(a), flat(b)
    balanced = [scales_of(z, names) for z in (x, y)] if "scale" in names else None
    if balanced is not None:
        x, y = (act(z, g) for z, g in zip((x, y), balanced, strict=True))
    group = match_table(
        x,
        y,
        maps="maps" in names,
        signs="sign" in names,
        max_sweeps=max_sweeps,
        starts=starts,
        keep_identity=keep_identity,
    )
    if balanced is not None:  # b ends in the scales of a
        group = balanced[0].inverse() @ group @ balanced[1]

    def back(t: Tensor) -> Tensor:
        t = t.reshape(*a.batch_shape, *t.shape[1:]).to(a.device)
        return t.to(a.dtype) if t.is_floating_point() else t

    return group.map(back)


def check_starts(starts: Sequence[str]) -> None:
    """Checks names of starts.

    Raises:
        ValueError: If there are none, or one is unknown.
    """
    sequence = isinstance(starts, Sequence) and not isinstance(starts, str)
    if not sequence or not starts or any(name not in STARTS for name in starts):
        raise ValueError(f"starts: expected a sequence of one or several of {STARTS}, got {starts!r}")


def working_device(x: WeightSpaceElement) -> torch.device:
    """Where matching runs: on the GPU only if assignments can be solved there."""
    return x.device if x.device.type == "cuda" and on_device_solver() else torch.device("cpu")


def solve(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    starts: Sequence[str],
    kicks: int = 0,
    *,
    keep_identity: bool = True,
    max_sweeps: int = 100,
    generator: torch.Generator | None = None,
    tell: Tell | None = None,
) -> tuple[Moves, Tensor]:
    """Coordinate descent from several starts, the best result kept for each pair.

    Small networks are matched by compiled loops where these are installed.

    Args:
        a: The networks to align to, a flat float64 batch with balanced scales.
        b: The networks to align, likewise.
        rules: The symmetries in use.
        starts: Names of starts.
        kicks: Number of kicks.
        keep_identity: Whether to return the identity where nothing better is found.
        max_sweeps: Limit on the visits per hidden space and start.
        generator: Source of random starts and kicks.
        tell: Is told how the descent goes, in words; not by compiled loops, which take milliseconds.

    Returns:
        The moves, and the objective that they reach, ``(B,)``.
    """
    arch, rules = a.architecture, tuple(rules)
    plan = None if kicks or a.device.type != "cpu" else plan_of(arch, rules, tuple(starts))
    if plan is not None:
        flat = a.flatten(), b.flatten()
        return _solve_compiled(*flat, arch, plan, rules, starts, keep_identity=keep_identity, max_sweeps=max_sweeps)
    return _solve_by_visits(
        a, b, rules, starts, kicks, keep_identity=keep_identity, max_sweeps=max_sweeps, generator=generator, tell=tell
    )


def _workers(pairs: int, architecture: Architecture) -> int:
    """How many threads share the pairs: with less than two blocks each, they wait longer than they work."""
    largest = max([space.size for space in architecture.hidden])
    return min(torch.get_num_threads(), max(pairs * largest**2 // (2 * BLOCK), 1))


def _solve_compiled(
    a: Tensor,
    b: Tensor,
    architecture: Architecture,
    plan: Plan,
    rules: Sequence[Rule],
    starts: Sequence[str],
    *,
    keep_identity: bool = True,
    max_sweeps: int,
) -> tuple[Moves, Tensor]:
    """:func:`solve` for flat networks ``(B, P)``, by compiled loops."""
    workers = _workers(len(a), architecture)
    found = match_compiled(a, b, plan, rules, keep_identity=keep_identity, max_sweeps=max_sweeps, workers=workers)

    def visits(pairs: slice | Tensor) -> tuple[Moves, Tensor]:
        x, y = (WeightSpaceElement.unflatten(architecture, flat[pairs]) for flat in (a, b))
        return _solve_by_visits(x, y, rules, starts, keep_identity=keep_identity, max_sweeps=max_sweeps)

    if found is None:
        return visits(slice(None))
    if set(starts) & {"forward", "backward"} and bool(found.alike.any()):
        # Perhaps copies, whose ties are settled by canonical forms.
        where = found.alike.nonzero().squeeze(1)
        moves, reached = visits(where)
        found.moves.put(where, moves)
        found.reached[where] = reached
    return found.moves, found.reached


def _solve_by_visits(
    a: WeightSpaceElement,
    b: WeightSpaceElement,
    rules: Sequence[Rule],
    starts: Sequence[str],
    kicks: int = 0,
    *,
    keep_identity: bool,
    max_sweeps: int,
    generator: torch.Generator | None = None,
    tell: Tell | None = None,
) -> tuple[Moves, Tensor]:
    arch = a.architecture
    given = [random_moves(b, rules, generator) for name in starts if name == "random"]
    if "canonical" in starts:
        group = canonicalize(a).inverse() @ canonicalize(b)
        given.append(Moves.of(group, b, rules))
    # One part per thread, but none so large that torch would start OpenMP teams for a number per neuron.
    largest = max(space.size for space in arch.hidden)
    size = max(len(a), 1)
    if a.device.type == "cpu":
        size = max(min(math.ceil(len(a) / _workers(len(a), arch)), BLOCK // largest, _CHUNK, _NUMBERS // largest**2), 1)
    chunks = [slice(i, i + size) for i in range(0, max(len(a), 1), size)]
    forward = topological_slots(arch)

    @torch.no_grad()  # the grad mode belongs to the thread
    def work(chunk: slice, seed: int) -> tuple[Moves, Tensor]:
        pairs = Pairs(a[chunk], b[chunk], rules)
        best = pairs.identity()
        reached = pairs.objective(best)
        if not keep_identity:
            reached.fill_(-torch.inf)

        def consider(moves: Moves, order: Sequence[int] = forward, settled: int | None = None) -> None:
            nonlocal best, reached
            moves = pairs.descend(moves, order=order, settled=settled, max_sweeps=max_sweeps, tell=tell)
            value = pairs.objective(moves)
            best = moves.where(value > reached, best)
            reached = torch.maximum(value, reached)

        def consider_ties() -> None:
            # Copies with neurons that look alike have the same canonical form, which settles every tie alike.
            nonlocal best, reached
            where = pairs.tied_copies()
            if len(where) == 0:
                return
            x, y = (to_representative(e[chunk][where], rules, torch.float32) for e in (a, b))
            part = pairs.part(where)
            found = part.descend(Moves.of(x.inverse() @ y, part.b, rules), max_sweeps=max_sweeps)
            value = part.objective(found)
            best.put(where, found.where(value > reached[where], best[where]))
            reached[where] = torch.maximum(value, reached[where])

        for moves in given:
            consider(moves[chunk])
        for name in starts:
            if name == "identity":
                consider(pairs.identity())
            elif name == "reverse":
                consider(pairs.identity(), forward[::-1])
            elif name == "forward":
                consider(pairs.walk(forward), settled=forward[-1])  # which saw all others
            elif name == "backward":
                consider(pairs.walk(forward[::-1]), forward[::-1], settled=forward[0])
            elif name == "anneal":
                consider(anneal(pairs, forward))
        if set(starts) & {"forward", "backward"}:
            consider_ties()
        random = torch.Generator("cpu").manual_seed(seed)
        for k in range(kicks if len(forward) > 1 else 0):  # one space alone has no local optima
            slot = forward[k % len(forward)]
            # The others first: the kicked space would only go back.
            part = _KICKS[k // len(forward) % len(_KICKS)]
            consider(kick(best, slot, part, random), [*(s for s in forward if s != slot), slot])
        return best, reached

    # Each chunk draws from its own generator, whatever order the threads run in.
    seeds = [0] * len(chunks)
    if kicks:
        seeds = torch.randint(2**62, (len(chunks),), generator=generator, device="cpu").tolist()
    done = _in_threads(work, chunks, seeds)
    return Moves.cat([moves for moves, _ in done]), torch.cat([reached for _, reached in done])


def _in_threads(
    work: Callable[[slice, int], tuple[Moves, Tensor]], chunks: Sequence[slice], seeds: Sequence[int]
) -> list[tuple[Moves, Tensor]]:
    workers = min(len(chunks), torch.get_num_threads())
    if workers == 1:
        return [work(chunk, seed) for chunk, seed in zip(chunks, seeds, strict=True)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, chunks, seeds))
