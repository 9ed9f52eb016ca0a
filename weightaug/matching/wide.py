"""Visits of wide hidden spaces: products by BLAS, and only as much of them as changed since the last visit.

From some 200 neurons on, a visit is its products: n^3 multiplications each, where an assignment that starts from the
last prices takes a third of the time. After the first visits few neurons of a neighbouring space still move, and the
products follow from those alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from weightaug.matching.assignment import assign_again
from weightaug.matching.views import Link, Made

if TYPE_CHECKING:
    from weightaug.matching.descent import Pairs
    from weightaug.matching.moves import Moves

__all__ = ["WIDE", "visit_wide"]

WIDE = 320  # neurons; the crossover of products by BLAS and by the compiled loops


def visit_wide(
    pairs: Pairs, slot: int, moves: Moves, todo: Tensor | None, known: frozenset[int] | None
) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """What ``Pairs._visit`` finds, pair by pair."""
    view, parts = pairs.view(slot), []
    # New memory of this size would come from the system, page by page, in every visit.
    own = [torch.empty_like(view.rows[0]) for _ in range(2)] if pairs.size else []
    for pair in range(pairs.size) if todo is None else todo.tolist():
        rows, columns = view.rows[pair], view.columns[pair]
        for link in view.links:
            if known is not None and link.other not in known:
                continue
            product = _product(link, pair, moves.permutation[link.other][pair], pairs.factor(moves, link, pair))
            if link.incoming:
                rows = torch.add(rows, product, out=own[0])
            else:
                columns = torch.add(columns, product, out=own[1])
        score = _score(pairs, slot, pair, rows, columns)
        prices = view.prices[pair : pair + 1]
        if pairs.loops is None:
            found, prices[:] = assign_again(score.unsqueeze(0), prices)
        else:  # without its checks: pairs are finite, and scaled
            found = torch.empty(1, len(score), dtype=torch.int64)
            pairs.loops.assign_many(score.unsqueeze(0).numpy(), prices.numpy(), found.numpy())
        best, present = (index.unsqueeze(1) for index in (found[0], moves.permutation[slot][pair]))
        parts.append((found[0], *(t.gather(1, i).squeeze(1) for i in (best, present) for t in (rows, columns))))
    if not parts:
        empty = view.rows.new_empty(0, view.rows.shape[1])
        return empty.to(torch.int64), (empty, empty), (empty, empty)
    places, r, c, r_now, c_now = (torch.stack(part) for part in zip(*parts, strict=True))
    return places, (r, c), (r_now, c_now)


def _score(pairs: Pairs, slot: int, pair: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The score of one pair; without a table of what phases gain, where the loops are compiled."""
    view, loops = pairs.view(slot), pairs.loops
    if loops is None or view.bias is None:
        return pairs.score(slot, rows.unsqueeze(0), columns.unsqueeze(0), lambda t: t[pair : pair + 1])[0]
    score: Any = torch.empty_like(rows)
    own, other = (bias[pair].numpy() for bias in view.bias)
    code = loops.SCORES[pairs.rules[slot].sign, True]
    assert view.half_period is not None
    given = (t.contiguous().numpy() for t in (rows, columns))
    loops.score_of(code, float(view.half_period[pair]), own, other, *given, score.numpy())
    return score  # type: ignore[no-any-return]


def _product(link: Link, pair: int, index: Tensor, factor: Tensor | None) -> Tensor:
    """The product of one layer's parameters of a and of moved b, from the last one where little has changed."""
    factor = torch.ones(len(index), dtype=link.a.dtype) if factor is None else factor
    count, kernel, n = len(index), *link.b.shape[1:]
    theirs = link.b.view(-1, count, kernel, n)[pair]
    last = link.made.get(pair)
    if last is not None:
        changed = ((index != last.places) | (factor != last.factor)).nonzero().squeeze(1)
        if 2 * len(changed) < count:
            now = _moved(theirs, index[changed], factor[changed])
            gap = now - _moved(theirs, last.places[changed], last.factor[changed])
            mine = link.a[pair].view(n, count, kernel)[:, changed].flatten(1)
            product = last.product.addmm_(mine, gap) if len(changed) else last.product
            link.made[pair] = Made(index.clone(), factor.clone(), product)
            return product
    product = link.a[pair] @ _moved(theirs, index, factor)
    link.made[pair] = Made(index.clone(), factor.clone(), product)
    return product


def _moved(theirs: Tensor, index: Tensor, factor: Tensor) -> Tensor:
    return (theirs[index] * factor.view(-1, 1, 1)).flatten(0, 1)
