"""The spaces and tensors of an architecture, from what tracing has found out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from weightaug._axes import Axis, Factor, Section, TensorSpec
from weightaug._tracing.dims import Dim, Sum, Term, Terms, expand, fix, leaves
from weightaug._tracing.scales import Monomial, Var, resolve
from weightaug._tracing.values import Value, leaf_dims
from weightaug.architecture import Activation, Space

__all__ = ["emit"]


@dataclass
class _Found:
    """What is known of one dimension that moves."""

    scales: list[Var] = field(default_factory=list)
    name: str = ""
    outer: Dim | None = None
    linear: bool = False


def emit(
    params: Mapping[str, Value], values: Sequence[Value], variances: Mapping[str, float]
) -> tuple[tuple[Space, ...], tuple[TensorSpec, ...]]:
    """The table.

    Args:
        params: Every parameter and buffer by name.
        values: All tensors of the graph.
        variances: Eps of every running variance.
    """
    for value in params.values():
        for axis in value.axes:
            _flatten_sums(axis)
    everything = [*params.values(), *values]
    while True:
        found = _collect(params)
        _choose_outer(found, _demote(everything))
        _drop_redundant(found, params)
        _find_linear(found, params, variances)
        if not _fix_turned(found, everything):
            break
    _name(found, params)
    spaces, roles = _spaces(found)
    tensors = tuple(
        TensorSpec(name, tuple(_axis(axis, found, roles) for axis in value.axes), variances.get(name))
        for name, value in params.items()
    )
    # A running variance has twice the degree of its mean.
    return spaces, tuple([spec if spec.eps is None else _doubled(spec) for spec in tensors])


def _flatten_sums(axis: Terms) -> None:
    """A table has sums of products, no products of sums: halves of every head, say, are made plain sizes."""
    for term in axis:
        if isinstance(term, Sum):
            if len(axis) > 1:
                fix([term], "slice")
            else:
                for section in term.sections:
                    _flatten_sums(section)


def _fix_turned(found: Mapping[Dim, _Found], values: Sequence[Value]) -> bool:
    """Positions that rotary positions turn in pairs are distinct where anything else acts on single ones.

    Returns:
        Whether there were any.
    """
    wrong = [dim for dim, entry in found.items() if dim.turned and not entry.linear]
    for value in values if wrong else ():
        for term in value.terms():
            if term.dim in wrong:
                fix([term], "rotary positions")
    return bool(wrong)


def _doubled(spec: TensorSpec) -> TensorSpec:
    (axis,) = spec.axes
    double = tuple(tuple(Factor(f.size, tuple((s, 2 * d) for s, d in f.roles)) for f in section) for section in axis)
    return TensorSpec(spec.name, (double,), spec.eps)


def _sections(axes: Sequence[Terms]) -> list[list[Term]]:
    """The terms that meet in one entry: one list for every choice of sections."""
    plain = [t for axis in axes for t in axis if isinstance(t, Term)]
    sums = [t for axis in axes for t in axis if isinstance(t, Sum)]
    if not sums:
        return [plain]
    return [plain + inner for whole in sums for section in whole.sections for inner in _sections([section])]


def _demote(values: Sequence[Value]) -> dict[Dim, set[Dim]]:
    """Within which dimensions each one moves independently: those that are in every tensor that has it."""
    present: dict[Dim, list[set[Dim]]] = {}
    for value in values:
        for terms in _sections(value.axes):
            dims = {t.dim for t in terms}
            for dim in dims:
                if dim.within:
                    present.setdefault(dim, []).append(dims)
    within = {}
    for dim, seen in present.items():
        allowed = [{leaf for outer in s for leaf in leaf_dims(outer)} for s in dim.within]
        within[dim] = set.intersection(*allowed, *seen) - {dim}
    return within


def _collect(params: Mapping[str, Value]) -> dict[Dim, _Found]:
    found: dict[Dim, _Found] = {}
    for value in params.values():
        for term in value.terms():
            if not term.dim.fixed:
                entry = found.setdefault(term.dim, _Found())
                entry.scales += [var for var in term.scale if var not in entry.scales]
    return found


def _choose_outer(found: dict[Dim, _Found], within: Mapping[Dim, set[Dim]]) -> None:
    for dim, entry in found.items():
        # In the order in which they were found, those that move first.
        choices = sorted(within.get(dim, set()), key=lambda d: list(found).index(d) if d in found else len(found))
        outermost = [d for d in choices if not within.get(d, set()) & set(choices)]
        entry.outer = outermost[0] if outermost else None
    for entry in found.values():  # one level
        while entry.outer in found and found[entry.outer].outer is not None:
            entry.outer = found[entry.outer].outer


def _occurrences(params: Mapping[str, Value]) -> list[dict[Dim, list[Monomial]]]:
    """For every tensor and choice of sections, the scales along each dimension."""
    result = []
    for value in params.values():
        for terms in _sections(value.axes):
            entry: dict[Dim, list[Monomial]] = {}
            for term in terms:
                entry.setdefault(term.dim, []).append(resolve(term.scale))
            result.append(entry)
    return result


def _drop_redundant(found: dict[Dim, _Found], params: Mapping[str, Value]) -> None:
    """Factors of an outer space say nothing where those of a space within it go with them everywhere."""
    seen = _occurrences(params)
    for entry in found.values():
        outer = found.get(entry.outer) if entry.outer is not None else None
        for var in entry.scales if outer is not None else ():
            assert outer is not None
            for other in list(outer.scales):
                if _follows(other, var, seen):
                    other.kind, other.reason = "one", "identity"
                    outer.scales.remove(other)


def _follows(outer: Var, inner: Var, seen: Sequence[dict[Dim, list[Monomial]]]) -> bool:
    def degree(entry: dict[Dim, list[Monomial]], var: Var) -> int:
        return sum(m.get(var, 0) for m in entry.get(var.dim.find(), []))

    return inner.kind == outer.kind and all(degree(e, outer) == degree(e, inner) for e in seen)


def _find_linear(found: dict[Dim, _Found], params: Mapping[str, Value], variances: Mapping[str, float]) -> None:
    scales: dict[Dim, list[Monomial]] = {}
    for name, value in params.items():
        for term in value.terms():
            scales.setdefault(term.dim, []).append({} if name in variances else resolve(term.scale))
    for dim, entry in found.items():
        alone = len(entry.scales) == 1 and not dim.pointwise
        # Between norms without gains, orthogonal maps pass; turns that such a norm meets are left alone.
        alone = alone and (entry.scales[0].kind == "all" or (entry.scales[0].reason == "rms_norm" and not dim.turned))
        entry.linear = alone and all(m in ({entry.scales[0]: 1}, {entry.scales[0]: -1}) for m in scales[dim])


def _name(found: dict[Dim, _Found], params: Mapping[str, Value]) -> None:
    """Names by the first tensor that writes a space, else by the first that follows it."""
    outers = {entry.outer for entry in found.values()}
    heads = {entry.outer for entry in found.values() if entry.linear}
    taken: set[str] = set()
    for wanted in (True, False):
        for name, value in params.items():
            for axis in value.axes:
                terms = list(leaves(axis))
                for term in terms:
                    entry = found.get(term.dim)
                    if entry is None or entry.name or (wanted and not any(e > 0 for e in term.scale.values())):
                        continue
                    prefix = name.rpartition(".")[0] or name
                    if term.dim in outers:
                        prefix += ".heads" if term.dim in heads else ".groups"
                    entry.name = _unique(prefix, taken)


def _unique(name: str, taken: set[str]) -> str:
    count = 1
    candidate = name
    while candidate in taken:
        count += 1
        candidate = f"{name}.{count}"
    taken.add(candidate)
    return candidate


def _spaces(found: dict[Dim, _Found]) -> tuple[tuple[Space, ...], dict[Var | Dim, str]]:
    spaces: list[Space] = []
    roles: dict[Var | Dim, str] = {}
    taken = {entry.name for entry in found.values()}
    for dim, entry in found.items():
        roles[dim] = entry.name
    fixed = {e.outer: "" for e in found.values() if e.outer is not None and e.outer not in found}
    for i, dim in enumerate(fixed):
        roles[dim] = _unique(f"fixed{i}", taken)
        spaces.append(Space(roles[dim], dim.size))
    for dim, entry in found.items():
        within = None if entry.outer is None else roles[entry.outer]
        scales: list[Var | None] = [*entry.scales] or [None]
        for i, var in enumerate(scales):
            name = entry.name if i == 0 else _unique(f"{entry.name}.scale", taken)
            if var is not None:
                roles[var] = name
            master = None if i == 0 else entry.name
            spaces.append(Space(name, dim.size, _activation(dim, var), master, within, entry.linear))
    return tuple(spaces), roles


def _activation(dim: Dim, var: Var | None) -> Activation:
    """The non-linearity (or norm) that decides what passes, by name where weightaug has it."""
    if dim.turned:
        return Activation("rotary")
    if var is None:
        reason = dim.reason or "shared"
        names = ("gelu", "silu", "sigmoid", "elu", "selu", "mish", "softplus", "layer_norm", "group_norm", "softmax")
        return Activation(reason if reason in names else "shared")
    if var.kind == "all":
        return Activation("identity")
    fallback = "positive" if var.kind == "positive" else "sign"
    allowed = {
        "positive": ("relu", "leaky_relu", "batch_norm"),
        "sign": ("tanh", "sine", "erf", "arctan", "rms_norm"),
    }
    return Activation(var.reason if var.reason in allowed[var.kind] else fallback)


def _axis(axis: Terms, found: dict[Dim, _Found], roles: Mapping[Var | Dim, str]) -> Axis:
    axis = expand(axis)
    if len(axis) == 1 and isinstance(axis[0], Sum):
        return tuple([s for section in axis[0].sections for s in _nested(section, found, roles)])
    return (_section(axis, found, roles),)


def _nested(section: Terms, found: dict[Dim, _Found], roles: Mapping[Var | Dim, str]) -> Axis:
    return _axis(section, found, roles) if len(section) == 1 else (_section(section, found, roles),)


def _section(section: Terms, found: dict[Dim, _Found], roles: Mapping[Var | Dim, str]) -> Section:
    factors = []
    for term in section:
        if isinstance(term, Sum):  # fixed, see _flatten_sums
            factors.append(Factor(term.size))
            continue
        entry = found.get(term.dim)
        if entry is None:
            factors.append(Factor(term.size, ((roles[term.dim], 0),) if term.dim in roles else ()))
            continue
        scale = {roles[var]: e for var, e in resolve(term.scale).items()}
        factors.append(Factor(term.size, tuple(scale.items()) or ((entry.name, 0),)))
    return tuple(factors) or (Factor(1),)
