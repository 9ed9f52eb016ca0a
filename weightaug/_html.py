"""What notebooks show of elements, architectures and data sets: small tables, every text escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weightaug.architecture import Activation, Architecture
    from weightaug.element import WeightSpaceElement
    from weightaug.io import WeightSpaceDataset

_MOST = 12  # rows of spaces


def of_architecture(architecture: Architecture) -> str:
    """Its spaces with their sizes, activations and symmetries, and how many parameters there are."""
    rows = [
        (space.name, str(space.size), _named(space.activation), ", ".join(space.symmetries))
        for space in architecture.spaces[:_MOST]
    ]
    if (left := len(architecture.spaces) - _MOST) > 0:
        rows.append((f"and {left} more", "", "", ""))
    tensors = len(architecture.tensors) if architecture.is_declared else 0
    facts = [f"{architecture.num_parameters:,} parameters", f"{len(architecture.hidden)} hidden spaces"]
    facts += [f"{tensors} tensors"] if tensors else [f"{len(architecture.layers)} layers"]
    facts += [f"convention {architecture.convention}"] if architecture.convention else []
    return _title("Architecture", facts) + _table(("space", "size", "activation", "symmetries"), rows)


def of_element(element: WeightSpaceElement) -> str:
    """Its batch and where it lies, above its architecture."""
    facts = [f"batch {tuple(element.batch_shape)}", str(element.dtype), str(element.device)]
    return _title("WeightSpaceElement", facts) + of_architecture(element.architecture)


def of_dataset(data: WeightSpaceDataset) -> str:
    """How many networks there are, what stands beside them, and their architecture."""
    columns = sorted(data.columns)
    facts = [f"{len(data):,} networks", "labels" if data.labels is not None else "no labels"]
    facts += [f"columns {', '.join(columns)}"] if columns else []
    facts += [f"transform {data.transform!r}"] if data.transform is not None else []
    where = "".join(f"<div>{escape(str(path))}</div>" for path in data.paths[:3])
    more = f"<div>and {len(data.paths) - 3} more folders</div>" if len(data.paths) > 3 else ""
    return _title("WeightSpaceDataset", facts) + where + more + of_architecture(data.architecture)


def _named(activation: Activation | None) -> str:
    if activation is None:
        return ""
    return activation.name + (f", omega {activation.omega:g}" if activation.omega != 1 else "")


def _title(name: str, facts: Iterable[str]) -> str:
    return f"<div><strong>{name}</strong>: {escape('; '.join(facts))}</div>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["<tr>" + "".join(f"<th>{escape(head)}</th>" for head in heads) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{escape(text)}</td>" for text in row) + "</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
