"""A whole matching of each pair in one call: what :mod:`weightaug.matching.descent` does visit by visit.

One pair of small networks is a dozen visits of some microseconds each, and the calls around them cost ten times that.
Networks come as flat vectors. An architecture is a table of integers: a row of ``layers`` has the places of the weight
and of the bias (-1: none) in the vector, the numbers of written and of read neurons, and the hidden spaces that are
written and read (-1: not hidden); a row of ``spaces`` has the number of neurons, the first place of theirs among all
hidden neurons, how scores follow from products (as in :mod:`weightaug._loops.matching`), and the layer whose bias
phases move (-1: none).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from weightaug._loops.compiling import compiled
from weightaug._loops.matching import (
    ABSOLUTE,
    ABSOLUTE_ROWS,
    PHASES,
    PHASES_AND_EVEN,
    PLAIN,
    add_moved_product,
    assign_one,
    score_of,
)

__all__ = ["match_pairs"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TOLERANCE = 1e-12  # as in descent
_SAME = 1e-5


@compiled("UniTuple(float64, 3)(int64, float64, float64, float64, float64, float64)")
def decide_one(rule: int, r: float, c: float, own: float, other: float, h: float) -> tuple[float, float, float]:
    """The best score of a neuron in its place, and the sign and the shift that reach it; see ``Pairs.decide``."""
    if rule == PLAIN:
        return r + c, 1.0, 0.0
    if rule == ABSOLUTE:
        return abs(r + c), -1.0 if r + c < 0 else 1.0, 0.0
    if rule == ABSOLUTE_ROWS:
        return abs(r) + c, -1.0 if r < 0 else 1.0, 0.0
    most, sign, parity = -np.inf, 1.0, 0.0
    half = 0.5 * h * h
    for s in (1.0, -1.0):
        if s < 0 and rule == PHASES:
            break
        d = (own - s * other) / h
        d = abs(d - 2 * np.rint(0.5 * d))
        base = s * r - half * d * d
        column = c if s > 0 or rule == PHASES_AND_EVEN else -c
        if base + column > most:
            most, sign, parity = base + column, s, 0.0
        odd = base + half * (2 * d - 1) - column
        if odd > most:
            most, sign, parity = odd, s, 1.0
    return most, sign, 2 * np.rint(((own - sign * other) / h - parity) / 2) + parity


@compiled("float64(int64, float64, float64, float64, float64, float64, float64, float64)")
def score_now(rule: int, r: float, c: float, own: float, other: float, h: float, sign: float, shift: float) -> float:
    """The score of a neuron in its place with a sign and a shift; see ``Pairs._present``."""
    r, c = r * sign, c if rule in (ABSOLUTE_ROWS, PHASES_AND_EVEN) else c * sign
    if rule >= PHASES:
        c *= 1 - 2 * (shift - 2 * np.floor(0.5 * shift))
        r -= 0.5 * (own - sign * other - shift * h) ** 2
    return r + c


_TABLES = "int64[:,::1], int64[:,::1]"
_NETWORKS = "float64[::1], float64[::1], float64[::1], float64[::1]"
_MOVES = "int64[::1], float64[::1], float64[::1]"


@compiled(f"void(int64, boolean[::1], {_TABLES}, {_NETWORKS}, {_MOVES}, float64[:,::1], float64[:,::1])")
def add_links(
    s: int,
    known: NDArray[np.bool_],
    layers: Integers,
    spaces: Integers,
    a: Floats,
    b: Floats,
    a_turned: Floats,
    b_turned: Floats,
    place: Integers,
    written: Floats,
    read: Floats,
    r: Floats,
    c: Floats,
) -> None:
    """Adds the products of the parameters between a hidden space and others that are known, as these moved."""
    for l in range(len(layers)):
        w, out, into = layers[l, 0], layers[l, 2], layers[l, 3]
        above, below, end = layers[l, 4], layers[l, 5], w + out * into
        if above == s and below >= 0 and known[below]:
            o = spaces[below, 1]
            mine, theirs = a[w:end].reshape(out, into), b_turned[w:end].reshape(into, out)
            add_moved_product(r, mine, theirs, place[o : o + into], read[o : o + into])
        if below == s and above >= 0 and known[above]:
            o = spaces[above, 1]
            mine, theirs = a_turned[w:end].reshape(into, out), b[w:end].reshape(out, into)
            add_moved_product(c, mine, theirs, place[o : o + out], written[o : o + out])


@compiled(f"void({_TABLES}, {_NETWORKS}, float64[::1], float64[::1])")
def fixed_products(
    layers: Integers,
    spaces: Integers,
    a: Floats,
    b: Floats,
    a_turned: Floats,
    b_turned: Floats,
    rows: Floats,
    columns: Floats,
) -> None:
    """Products that no move changes: of what reads inputs and of what writes outputs, and of biases."""
    rows[:] = 0.0
    columns[:] = 0.0
    start = 0
    for s in range(len(spaces)):
        n = spaces[s, 0]
        r, c = rows[start : start + n * n].reshape(n, n), columns[start : start + n * n].reshape(n, n)
        start += n * n
        for l in range(len(layers)):
            w, bias, out, into = layers[l, 0], layers[l, 1], layers[l, 2], layers[l, 3]
            above, below = layers[l, 4], layers[l, 5]
            if above == s and below < 0:
                for i in range(n):
                    for k in range(into):
                        x = a[w + i * into + k]
                        for j in range(n):
                            r[i, j] += x * b_turned[w + k * out + j]
            if above == s and bias >= 0 and spaces[s, 3] != l:
                for i in range(n):
                    for j in range(n):
                        r[i, j] += a[bias + i] * b[bias + j]
            if below == s and above < 0:
                for i in range(n):
                    for k in range(out):
                        x = a_turned[w + i * out + k]
                        for j in range(n):
                            c[i, j] += x * b[w + k * into + j]


@compiled(
    f"int64(float64[:,::1], float64[:,::1], {_TABLES}, float64[::1], boolean[:,::1], int64[::1], int64[:,::1], boolean,"
    " int64, int64[:,::1], float64[:,::1], float64[:,::1], float64[::1], boolean[::1])"
)
def match_pairs(
    all_a: Floats,
    all_b: Floats,
    layers: Integers,
    spaces: Integers,
    periods: Floats,
    near: NDArray[np.bool_],
    order: Integers,
    starts: Integers,
    keep_identity: bool,
    max_sweeps: int,
    best_place: Integers,
    best_sign: Floats,
    best_shift: Floats,
    reached: Floats,
    alike: NDArray[np.bool_],
) -> int:
    """Coordinate descent from several starts for each pair, the best result kept; see ``weight.solve``.

    Args:
        all_a: The networks to align to, ``(B, P)``, finite.
        all_b: The networks to align, likewise.
        layers: The layers, ``(L, 6)``; see above.
        spaces: The hidden spaces, ``(S, 4)``.
        periods: Half periods of the activations, ``(S,)``; 1 without phases.
        near: Whether two spaces share a layer, ``(S, S)``.
        order: The spaces in topological order, ``(S,)``.
        starts: For each start, whether it is a walk (or the identity), and whether it goes backward, ``(T, 2)``.
        keep_identity: Whether the identity counts where nothing better is found.
        max_sweeps: Limit on the visits per space and start.
        best_place: Becomes the permutations of all spaces in a row, ``(B, N)``.
        best_sign: Becomes the signs, ``(B, N)``.
        best_shift: Becomes the shifts in half periods, ``(B, N)``.
        reached: Becomes the objectives, ``(B,)``.
        alike: Becomes whether both networks have weights of the same norm, as copies do, ``(B,)``.

    Returns:
        0, or 1 if a bias is so large that single half periods are lost.
    """
    count, total, hidden = len(layers), best_place.shape[1], len(spaces)
    squares, widest = 0, 0
    begins = np.empty(hidden, np.int64)  # of each space's products among those of all
    for s in range(hidden):
        begins[s] = squares
        squares += spaces[s, 0] ** 2
        widest = max(widest, spaces[s, 0])
    size = all_a.shape[1]
    a, b, a_turned, b_turned = np.empty(size), np.empty(size), np.empty(size), np.empty(size)
    rows, columns = np.empty(squares), np.empty(squares)
    memory = np.empty((3, widest * widest))
    whole, real = np.empty(4 * widest, np.int64), np.empty(2 * widest)
    prices, h = np.empty(total), np.empty(hidden)
    place, found = np.empty(total, np.int64), np.empty(widest, np.int64)
    sign, shift, written, read = np.empty(total), np.empty(total), np.empty(total), np.empty(total)
    new_sign, new_shift = np.empty(widest), np.empty(widest)
    known, stale = np.empty(hidden, np.bool_), np.empty(hidden, np.bool_)
    everyone = np.ones(hidden, np.bool_)

    for pair in range(len(all_a)):
        largest = 0.0
        for i in range(size):
            largest = max(largest, abs(all_a[pair, i]), abs(all_b[pair, i]))
        scale = 1.0
        if largest > 0:
            scale = math.ldexp(1.0, min(max(math.frexp(largest)[1], -1000), 1000))
        for i in range(size):
            a[i], b[i] = all_a[pair, i] / scale, all_b[pair, i] / scale
        square_a, square_b, weights_a, weights_b = 0.0, 0.0, 0.0, 0.0
        for i in range(size):
            square_a += a[i] * a[i]
            square_b += b[i] * b[i]
        for l in range(count):
            w, out, into = layers[l, 0], layers[l, 2], layers[l, 3]
            for i in range(out):
                for j in range(into):
                    x, y = a[w + i * into + j], b[w + i * into + j]
                    a_turned[w + j * out + i], b_turned[w + j * out + i] = x, y
                    weights_a += x * x
                    weights_b += y * y
        alike[pair] = abs(weights_a - weights_b) <= _SAME * weights_a
        tolerance = _TOLERANCE * max(math.sqrt(square_a) * math.sqrt(square_b), 2.2250738585072014e-308)
        norm = max(math.sqrt(square_a), math.sqrt(square_b), 2.2250738585072014e-308)
        for s in range(hidden):
            h[s] = min(periods[s] / scale, 8 * norm)
            if spaces[s, 3] >= 0:
                o = layers[spaces[s, 3], 1]
                for i in range(spaces[s, 0]):
                    if max(abs(all_a[pair, o + i]), abs(all_b[pair, o + i])) >= periods[s] * 2.0**50:
                        return 1
        fixed_products(layers, spaces, a, b, a_turned, b_turned, rows, columns)
        prices[:] = np.inf
        reached[pair] = -np.inf

        # Turn -1 is the identity as it is, which only has its objective computed.
        for turn in range(-1, len(starts)):
            walk = turn >= 0 and starts[turn, 0] == 1
            backward = turn >= 0 and starts[turn, 1] == 1
            for s in range(hidden):
                for i in range(spaces[s, 0]):
                    place[spaces[s, 1] + i] = i
            sign[:] = 1.0
            shift[:] = 0.0
            written[:] = 1.0
            read[:] = 1.0
            stale[:] = True
            known[:] = False
            # A walk is a sweep that sees only the spaces before, and takes whatever it finds.
            sweeps = 0 if turn < 0 else max_sweeps + (1 if walk else 0)
            for sweep in range(sweeps):
                walking = walk and sweep == 0
                for step in range(hidden):
                    s = order[hidden - 1 - step] if backward else order[step]
                    if not walking and not stale[s]:
                        continue
                    stale[s] = False
                    n, first, rule = spaces[s, 0], spaces[s, 1], spaces[s, 2]
                    last = first + n
                    begin = begins[s]
                    r, c = memory[0, : n * n].reshape(n, n), memory[1, : n * n].reshape(n, n)
                    score = memory[2, : n * n].reshape(n, n)
                    memory[0, : n * n] = rows[begin : begin + n * n]
                    memory[1, : n * n] = columns[begin : begin + n * n]
                    seen = known if walking else everyone
                    add_links(s, seen, layers, spaces, a, b, a_turned, b_turned, place, written, read, r, c)
                    bias = layers[spaces[s, 3], 1] if spaces[s, 3] >= 0 else 0
                    # Without phases the biases are not read; a slice from 0 only stands in.
                    score_of(rule, h[s], a[bias : bias + n], b[bias : bias + n], r, c, score)
                    assign_one(
                        score, prices[first:last], found[:n], whole[: 4 * n].reshape(4, n), real[: 2 * n].reshape(2, n)
                    )
                    new, now = 0.0, 0.0
                    for i in range(n):
                        j, old = found[i], place[first + i]
                        value, new_sign[i], new_shift[i] = decide_one(
                            rule, r[i, j], c[i, j], a[bias + i], b[bias + j], h[s]
                        )
                        new += value
                        now += score_now(
                            rule,
                            r[i, old],
                            c[i, old],
                            a[bias + i],
                            b[bias + old],
                            h[s],
                            sign[first + i],
                            shift[first + i],
                        )
                    known[s] = True
                    if not walking and new - now <= tolerance:
                        continue
                    for i in range(n):
                        place[first + i], sign[first + i], shift[first + i] = found[i], new_sign[i], new_shift[i]
                        written[first + i] = new_sign[i]
                        parity = 1 - 2 * (new_shift[i] - 2 * np.floor(0.5 * new_shift[i]))
                        read[first + i] = parity if rule in (ABSOLUTE_ROWS, PHASES_AND_EVEN) else parity * new_sign[i]
                    if not walking:
                        for t in range(hidden):
                            if near[s, t]:
                                stale[t] = True
                if walking:
                    stale[:] = True  # but the last space, which saw all others
                    stale[order[0] if backward else order[hidden - 1]] = False
                waiting = False
                for s in range(hidden):
                    waiting |= stale[s]
                if not waiting:
                    break

            # The objective: each link counts once, with the later of its two spaces.
            value = 0.0
            for s in range(hidden):
                n, first, rule = spaces[s, 0], spaces[s, 1], spaces[s, 2]
                begin = begins[s]
                bias = layers[spaces[s, 3], 1] if spaces[s, 3] >= 0 else 0
                for i in range(n):
                    j = place[first + i]
                    x, y = rows[begin + i * n + j], columns[begin + i * n + j]
                    for l in range(count):
                        w, out, into = layers[l, 0], layers[l, 2], layers[l, 3]
                        above, below = layers[l, 4], layers[l, 5]
                        if above == s and 0 <= below < s:
                            o = spaces[below, 1]
                            for k in range(into):
                                x += a[w + i * into + k] * read[o + k] * b[w + j * into + place[o + k]]
                        if below == s and 0 <= above < s:
                            o = spaces[above, 1]
                            for k in range(out):
                                y += a_turned[w + i * out + k] * written[o + k] * b_turned[w + j * out + place[o + k]]
                    value += score_now(rule, x, y, a[bias + i], b[bias + j], h[s], sign[first + i], shift[first + i])
            if turn < 0 or value > reached[pair]:
                reached[pair] = value
                best_place[pair], best_sign[pair], best_shift[pair] = place, sign, shift
            if turn < 0 and not keep_identity:
                reached[pair] = -np.inf
    return 0
