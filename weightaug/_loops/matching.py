"""The inner loops of matching: what :mod:`weightaug.matching.descent` does with torch and scipy, several times as fast.

What a visit makes of a pair stays in the first cache, prices of the last assignment start the next one, and one call
serves all pairs without Python's lock. Loops run over whole rows without branches, which become vector instructions.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightaug._loops.compiling import compiled

__all__ = ["NO_SEARCH", "SCORES", "add_moved_product", "assign_many", "assign_one", "score_of", "visit"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# How the score of a pair of neurons follows from the products of incoming (r) and outgoing (c) parameters:
NO_SEARCH = -1
PLAIN = 0  # r + c
ABSOLUTE = 1  # |r + c|: odd activations
ABSOLUTE_ROWS = 2  # |r| + c: even activations
PHASES = 3  # r + plus + |c + gap|: see descent._phase_table
PHASES_AND_ODD = 4  # the larger one of that and the same for the other sign
PHASES_AND_EVEN = 5
# By the rule of the sign, and whether there are phases.
SCORES = {
    (None, False): PLAIN,
    ("odd", False): ABSOLUTE,
    ("even", False): ABSOLUTE_ROWS,
    (None, True): PHASES,
    ("odd", True): PHASES_AND_ODD,
    ("even", True): PHASES_AND_EVEN,
}


@compiled("void(float64[:,::1], float64[::1], int64[::1], int64[:,::1], float64[:,::1])")
def assign_one(score: Floats, prices: Floats, column_of: Integers, whole: Integers, real: Floats) -> None:
    """Finds the assignment with the largest total score by shortest augmenting paths.

    With u_i the most that a row gains by any column at its price, ``score - price <= u`` everywhere, and a row that
    has the column which it likes best meets this with equality. First every row gets such a column if no other row
    has it. Then each row that is left looks for the cheapest chain of rows, each of which takes the next one's
    column, that ends at a free column (Dijkstra's algorithm on what each step would lose), and the prices of the
    columns on the way rise just so far that the equality holds on the chain.

    Args:
        score: ``(n, n)``, finite.
        prices: ``(n,)``, any, or infinite for unknown ones; becomes prices at which every row has a column that it
            likes best.
        column_of: ``(n,)``; becomes the assignment.
        whole: Memory, ``(4, n)``.
        real: Memory, ``(2, n)``.

    Source: Jonker and Volgenant (1987), A shortest augmenting path algorithm, less its heuristic phases.
    """
    n = len(prices)
    row_of = whole[0]  # -1 for a free column
    left = whole[1]  # rows without a column
    done = whole[2]  # columns whose loss is final
    before = whole[3]  # the row from which the chain comes to a column
    loss = real[0]  # of the best chain to each column; infinite where it is final
    final = real[1]  # the losses of the columns in `done`

    if prices[0] == np.inf:
        # A column that many rows like has to be dear. This guess, mean + deviation / 2, saves a third to a half.
        prices[:] = 0.0
        loss[:] = 0.0
        for i in range(n):
            for j in range(n):
                prices[j] += score[i, j] / n
        for i in range(n):
            for j in range(n):
                loss[j] += (score[i, j] - prices[j]) ** 2
        for j in range(n):
            prices[j] += 0.5 * np.sqrt(loss[j] / n)

    row_of[:] = -1
    rows_left = 0
    for i in range(n):
        most = -np.inf
        for j in range(n):
            loss[j] = score[i, j] - prices[j]
            most = max(most, loss[j])
        j = 0
        while j < n - 1 and loss[j] != most:
            j += 1
        if row_of[j] < 0:
            row_of[j], column_of[i] = i, j
        else:
            left[rows_left] = i
            rows_left += 1

    for k in range(rows_left):
        start = left[k]
        for j in range(n):
            loss[j] = prices[j] - score[start, j]
            before[j] = start
        count, end, least = 0, 0, 0.0
        for _ in range(n):
            least = np.inf
            for j in range(n):
                least = min(least, loss[j])
            end = 0
            while end < n - 1 and loss[end] != least:
                end += 1
            if row_of[end] < 0:
                break
            done[count], final[count] = end, least
            count += 1
            loss[end] = np.inf
            i = row_of[end]
            so_far = least + score[i, end] - prices[end]
            for j in range(n):
                further = so_far - score[i, j] + prices[j]
                better = (further < loss[j]) & (loss[j] < np.inf)
                loss[j] = further if better else loss[j]
                before[j] = i if better else before[j]
        for m in range(count):
            prices[done[m]] += least - final[m]
        # Back along the chain, each row takes the column that it came to.
        i = -1
        while i != start:
            i = before[end]
            row_of[end], column_of[i], end = i, end, column_of[i]


@compiled("void(float64[:,:,::1], float64[:,::1], int64[:,::1])")
def assign_many(score: Floats, prices: Floats, column_of: Integers) -> None:
    """:func:`assign_one` for a batch: scores ``(batch, n, n)``, prices and columns ``(batch, n)``."""
    n = prices.shape[1]
    whole, real = np.empty((4, n), np.int64), np.empty((2, n))
    for b in range(len(score)):
        assign_one(score[b], prices[b], column_of[b], whole, real)


_LINK = "float64[:,:,::1], float64[:,:,::1], int64[:,::1], float64[:,::1]"
_VISIT = (
    f"int64[::1], float64[:,:,::1], float64[:,:,::1], {_LINK}, {_LINK}, float64[::1], float64[:,::1], float64[:,::1]"
)


@compiled("void(float64[:,::1], float64[:,::1], float64[:,::1], int64[::1], float64[::1])")
def add_moved_product(total: Floats, a: Floats, b: Floats, index: Integers, factor: Floats) -> None:
    """Adds ``a @ (factor[:, None] * b[index])`` to ``(n, n)``; four rows of b at a time spare loads and stores."""
    n, others = a.shape
    k = 0
    while k + 4 <= others:
        f0, f1, f2, f3 = factor[k], factor[k + 1], factor[k + 2], factor[k + 3]
        b0, b1, b2, b3 = b[index[k]], b[index[k + 1]], b[index[k + 2]], b[index[k + 3]]
        for i in range(n):
            x0, x1, x2, x3 = a[i, k] * f0, a[i, k + 1] * f1, a[i, k + 2] * f2, a[i, k + 3] * f3
            for j in range(n):
                total[i, j] += x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]
        k += 4
    while k < others:
        b0 = b[index[k]]
        for i in range(n):
            x0 = a[i, k] * factor[k]
            for j in range(n):
                total[i, j] += x0 * b0[j]
        k += 1


@compiled("void(int64, float64, float64[::1], float64[::1], float64[:,::1], float64[:,::1], float64[:,::1])")
def score_of(rule: int, h: float, bias: Floats, other_bias: Floats, r: Floats, c: Floats, score: Floats) -> None:
    """Makes the scores of one pair and space from products of incoming and outgoing parameters, ``(n, n)`` each."""
    n = len(score)
    if rule == PLAIN:
        for i in range(n):
            for j in range(n):
                score[i, j] = r[i, j] + c[i, j]
    elif rule == ABSOLUTE:
        for i in range(n):
            for j in range(n):
                score[i, j] = abs(r[i, j] + c[i, j])
    elif rule == ABSOLUTE_ROWS:
        for i in range(n):
            for j in range(n):
                score[i, j] = abs(r[i, j]) + c[i, j]
    else:
        for i in range(n):
            for j in range(n):
                # d h is how far the biases are from an even number of half periods, 0 <= d <= 1.
                d = (bias[i] - other_bias[j]) / h
                d = abs(d - 2 * np.floor(0.5 * d + 0.5))
                even, odd = -0.5 * (h * d) ** 2, -0.5 * (h * (1 - d)) ** 2
                score[i, j] = abs(c[i, j] + 0.5 * (even - odd)) + 0.5 * (even + odd) + r[i, j]
        if rule in (PHASES_AND_ODD, PHASES_AND_EVEN):
            flip = 1 if rule == PHASES_AND_EVEN else -1
            for i in range(n):
                for j in range(n):
                    d = (bias[i] + other_bias[j]) / h
                    d = abs(d - 2 * np.floor(0.5 * d + 0.5))
                    even, odd = -0.5 * (h * d) ** 2, -0.5 * (h * (1 - d)) ** 2
                    other = abs(c[i, j] + 0.5 * flip * (even - odd)) + 0.5 * (even + odd) - r[i, j]
                    score[i, j] = max(score[i, j], other)


@compiled(f"void(int64, {_VISIT}, float64[:,::1], int64[:,::1], int64[:,::1], float64[:,:,::1])")
def visit(
    rule: int,
    pairs: Integers,
    rows: Floats,
    columns: Floats,
    in_a: Floats,
    in_b: Floats,
    in_index: Integers,
    in_factor: Floats,
    out_a: Floats,
    out_b: Floats,
    out_index: Integers,
    out_factor: Floats,
    half_period: Floats,
    bias: Floats,
    other_bias: Floats,
    prices: Floats,
    present: Integers,
    found: Integers,
    products: Floats,
) -> None:
    """Finds the best permutation of one hidden space, for some pairs.

    Args:
        rule: How scores follow from products: ``PLAIN`` and so on. ``NO_SEARCH`` for the present permutation.
        pairs: Which pairs, ``(T,)``.
        rows: Products of the incoming parameters that no move changes, ``(B, n, n)``.
        columns: Products of the outgoing parameters that no move changes, ``(B, n, n)``.
        in_a: Incoming parameters of a whose other end is hidden, ``(B, n, m)``.
        in_b: Those of b, ``(B, m, n)``.
        in_index: Which of these belongs to which of a after the moves of the other spaces, ``(B, m)``.
        in_factor: What these moves multiply them with, ``(B, m)``.
        out_a: The same for the outgoing parameters.
        out_b: The same for the outgoing parameters.
        out_index: The same for the outgoing parameters.
        out_factor: The same for the outgoing parameters.
        half_period: Of the activation in the scale of each pair, ``(B,)``; not read without phases.
        bias: Biases of a that phases move, ``(B, n)``; not read without phases.
        other_bias: Those of b.
        prices: As in :func:`assign_one`, ``(B, n)``; renewed for these pairs.
        present: The present permutations, ``(B, n)``.
        found: Becomes the best permutations, ``(T, n)``.
        products: Becomes the products of rows and of columns at the best and at the present permutation,
            ``(4, T, n)``.
    """
    n = rows.shape[1]
    r, c, score = np.empty((n, n)), np.empty((n, n)), np.empty((n, n))
    whole, real = np.empty((4, n), np.int64), np.empty((2, n))
    for t in range(len(pairs)):
        b = pairs[t]
        if rule == NO_SEARCH:
            for i in range(n):
                j = found[t, i] = present[b, i]
                x, y = rows[b, i, j], columns[b, i, j]
                for k in range(in_a.shape[2]):
                    x += in_a[b, i, k] * in_factor[b, k] * in_b[b, in_index[b, k], j]
                for k in range(out_a.shape[2]):
                    y += out_a[b, i, k] * out_factor[b, k] * out_b[b, out_index[b, k], j]
                products[0, t, i], products[1, t, i] = x, y
                products[2, t, i], products[3, t, i] = x, y
            continue
        for i in range(n):
            for j in range(n):
                r[i, j], c[i, j] = rows[b, i, j], columns[b, i, j]
        add_moved_product(r, in_a[b], in_b[b], in_index[b], in_factor[b])
        add_moved_product(c, out_a[b], out_b[b], out_index[b], out_factor[b])
        if rule >= PHASES:
            score_of(rule, half_period[b], bias[b], other_bias[b], r, c, score)
        else:
            score_of(rule, 1.0, real[0], real[0], r, c, score)  # biases are not read
        assign_one(score, prices[b], found[t], whole, real)
        for i in range(n):
            products[0, t, i], products[1, t, i] = r[i, found[t, i]], c[i, found[t, i]]
            products[2, t, i], products[3, t, i] = r[i, present[b, i]], c[i, present[b, i]]
