"""A whole matching of each pair of declared networks in one call: what :mod:`weightaug.matching.table` does by visits.

A visit of a small network is some ten thousand products, and the calls around it cost several times that. Networks come
as flat vectors. A row of ``spaces`` has the number of positions of a space, the first place of theirs among those of
all spaces, whether it has signs, and whether some piece follows it twice. A row of ``links`` says where the numbers
stand that one piece has for each position of a space: the space; the place of the first number and the step to the next
position; the first place of the other space that the piece follows (-1: none), how many positions that has, and the
step between them; the part of ``rest`` that has the places of all further numbers; whether the signs of the space and
of the other one multiply the piece; and where the products of the link and the moves that they are made for are kept.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from weightaug._loops.compiling import compiled
from weightaug._loops.matching import assign_one

__all__ = ["match_tables"]

Numbers = NDArray[np.float32] | NDArray[np.float64]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

# The columns of links.
SPACE, FIRST, STEP, OTHER, COUNT, JUMP, FROM, TO, ODD, OTHER_ODD, KEPT, SEEN = range(12)

_MOVES = "int64[::1], float64[::1]"


def _both(signature: str) -> tuple[str, str]:
    """A signature for networks in single and in double precision."""
    return signature.replace("number", "float32"), signature.replace("number", "float64")


@compiled("void(float64[:,::1], float64[:,:,::1])")
def add_four(total: Floats, memory: Floats) -> None:
    """Adds the products of four numbers of each position of a and of b, ``(2, 4, n)``, to ``(n, n)``."""
    n = len(total)
    b0, b1, b2, b3 = memory[1, 0], memory[1, 1], memory[1, 2], memory[1, 3]
    for i in range(n):
        x0, x1, x2, x3 = memory[0, 0, i], memory[0, 1, i], memory[0, 2, i], memory[0, 3, i]
        for j in range(n):
            total[i, j] += x0 * b0[j] + x1 * b1[j] + x2 * b2[j] + x3 * b3[j]


@compiled(f"Tuple((int64, float64))(int64[::1], int64, {_MOVES})")
def moved(link: Integers, q: int, place: Integers, sign: Floats) -> tuple[int, float]:
    """Which position of b stands at a position of the other space of a link, and its sign as the piece takes it."""
    if link[OTHER] < 0:
        return q, 1.0
    return place[link[OTHER] + q], sign[link[OTHER] + q] if link[OTHER_ODD] else 1.0


@compiled(
    *_both(
        f"void(float64[:,::1], number[::1], number[::1], int64[::1], int64[::1], {_MOVES}, {_MOVES}, float64[:,:,::1])"
    )
)
def renew(
    products: Floats,
    a: Numbers,
    b: Numbers,
    link: Integers,
    rest: Integers,
    place: Integers,
    sign: Floats,
    seen: Integers,
    seen_sign: Floats,
    memory: Floats,
) -> None:
    """Makes the inner products of all positions in a and b by one piece, ``(n, n)``, those for the present moves.

    What positions of the other space say that have not moved since is in them already.
    """
    n, step, filled = len(products), link[STEP], 0
    for q in range(link[COUNT]):
        there, factor = moved(link, q, place, sign)
        before, factor_before = seen[q], seen_sign[q]
        if before == there and factor_before == factor:
            continue
        seen[q], seen_sign[q] = there, factor
        for r in range(link[FROM], link[TO]):
            x = link[FIRST] + q * link[JUMP] + rest[r]
            y = link[FIRST] + there * link[JUMP] + rest[r]
            for i in range(n):
                memory[0, filled, i] = a[x + i * step]
                memory[1, filled, i] = factor * b[y + i * step]
            if before >= 0:
                y = link[FIRST] + before * link[JUMP] + rest[r]
                for i in range(n):
                    memory[1, filled, i] -= factor_before * b[y + i * step]
            filled += 1
            if filled == 4:
                add_four(products, memory)
                filled = 0
    if filled:
        memory[:, filled:] = 0.0
        add_four(products, memory)


@compiled(*_both(f"float64(number[::1], number[::1], int64[:,::1], int64[:,::1], boolean[::1], int64[::1], {_MOVES})"))
def value_of(
    a: Numbers,
    b: Numbers,
    spaces: Integers,
    links: Integers,
    whole: Flags,
    rest: Integers,
    place: Integers,
    sign: Floats,
) -> float:
    """The inner product of a and of b after moves, over all that follows a space; ``whole`` marks a link per piece."""
    total = 0.0
    for l in range(len(links)):
        if not whole[l]:
            continue
        link, own = links[l], spaces[links[l, SPACE], 1]
        for i in range(spaces[link[SPACE], 0]):
            part = 0.0
            for q in range(link[COUNT]):
                there, factor = moved(link, q, place, sign)
                x = link[FIRST] + i * link[STEP] + q * link[JUMP]
                y = link[FIRST] + place[own + i] * link[STEP] + there * link[JUMP]
                for r in range(link[FROM], link[TO]):
                    part += factor * a[x + rest[r]] * b[y + rest[r]]
            total += part * sign[own + i] if link[ODD] else part
    return total


@compiled(
    *_both(
        f"boolean(int64, boolean[::1], number[::1], number[::1], int64[:,::1], int64[:,::1], int64[::1], {_MOVES}, "
        f"float64[::1], float64[::1], {_MOVES}, float64[:,:,::1], int64[:,::1], float64[:,::1], float64[:,:,::1], "
        "float64, boolean[::1], float64, boolean)"
    )
)
def settle(
    s: int,
    used: Flags,
    a: Numbers,
    b: Numbers,
    spaces: Integers,
    links: Integers,
    rest: Integers,
    place: Integers,
    sign: Floats,
    prices: Floats,
    kept: Floats,
    seen: Integers,
    seen_sign: Floats,
    scores: Floats,
    integers: Integers,
    floats: Floats,
    memory: Floats,
    fixed: float,
    whole: Flags,
    tolerance: float,
    always: bool,
) -> bool:
    """Moves one space to the best place by the links in use, if that gains or it is to be done always; if it gained."""
    n, first, signed = spaces[s, 0], spaces[s, 1], spaces[s, 2] == 1
    size = n * n
    score = scores[0].ravel()[:size].reshape(n, n)
    odd = scores[1].ravel()[:size].reshape(n, n)
    known = prices[first : first + n]
    found = integers[4, :n]
    score[:] = 0.0
    odd[:] = 0.0
    for l in range(len(links)):
        if not used[l]:
            continue
        link = links[l]
        products = kept[link[KEPT] : link[KEPT] + size].reshape(n, n)
        made_for = slice(link[SEEN], link[SEEN] + link[COUNT])
        renew(products, a, b, link, rest, place, sign, seen[made_for], seen_sign[made_for], memory)
        total = odd if link[ODD] else score
        for i in range(n):
            for j in range(n):
                total[i, j] += products[i, j]
    now = 0.0
    for i in range(n):
        j = place[first + i]
        now += score[i, j] + sign[first + i] * odd[i, j]
    if signed:
        for i in range(n):
            for j in range(n):
                score[i, j] += abs(odd[i, j])
    some, real = integers[:4].ravel()[: 4 * n].reshape(4, n), floats[:2].ravel()[: 2 * n].reshape(2, n)
    assign_one(score, known, found, some, real)
    best, terms = 0.0, 0.0
    for i in range(n):
        best += score[i, found[i]]
        most = 0.0
        for j in range(n):
            most = max(most, abs(score[i, j]))
        terms += most
    old, old_sign = integers[5, :n], floats[2, :n]
    twice = spaces[s, 3] == 1 and not always
    if twice:  # scores by a piece that follows the space twice hold for the present place of its other end
        now = fixed + value_of(a, b, spaces, links, whole, rest, place, sign)
        terms = abs(now)
    elif not always and not best - now > tolerance * max(terms, 1e-30):
        return False
    for i in range(n):
        old[i], old_sign[i] = place[first + i], sign[first + i]
        place[first + i] = found[i]
        if signed:
            sign[first + i] = -1.0 if odd[i, found[i]] < 0 else 1.0
    if twice:
        best = fixed + value_of(a, b, spaces, links, whole, rest, place, sign)
        if not best - now > tolerance * max(terms, 1e-30):
            place[first : first + n] = old
            sign[first : first + n] = old_sign
            return False
    return True


@compiled(
    *_both(
        "void(number[:,::1], number[:,::1], int64[:,::1], int64[:,::1], int64[::1], boolean[::1], int64[::1], "
        "boolean[:,::1], boolean[:,::1], boolean[:,::1], boolean[::1], boolean, int64, float64, int64[:,::1], "
        "float64[:,::1])"
    )
)
def match_tables(
    a: Numbers,
    b: Numbers,
    spaces: Integers,
    links: Integers,
    rest: Integers,
    whole: Flags,
    stages: Integers,
    stage_links: Flags,
    space_links: Flags,
    near: Flags,
    walks: Flags,
    keep_identity: bool,
    max_sweeps: int,
    tolerance: float,
    places: Integers,
    signs: Floats,
) -> None:
    """Matches every pair from every start, and keeps the best.

    Args:
        a: The networks to align to, ``(B, P)``, finite.
        b: The networks to align, ``(B, P)``, finite.
        spaces: See the module.
        links: See the module.
        rest: See the module.
        whole: A link for each piece that follows a space, ``(links,)``.
        stages: The spaces as a walk settles them.
        stage_links: The links that tell something in each stage, ``(stages, links)``.
        space_links: All links of each space, ``(spaces, links)``.
        near: Which spaces say something of which, themselves too, ``(spaces, spaces)``.
        walks: For each start, whether the descent begins with a walk.
        keep_identity: Whether to keep the identity where nothing is closer.
        max_sweeps: Limit on the sweeps.
        tolerance: Smaller gains, relative to the scores, are rounding.
        places: Becomes the permutations, ``(B, positions)``.
        signs: Becomes the signs, ``(B, positions)``.
    """
    count, positions, widest = len(spaces), places.shape[1], 0
    for s in range(count):
        widest = max(widest, spaces[s, 0])
    scores = np.empty((2, widest, widest))
    integers, floats, memory = np.empty((6, widest), np.int64), np.empty((3, widest)), np.empty((2, 4 * widest))
    place, sign, prices = np.empty(positions, np.int64), np.empty(positions), np.empty(positions)
    kept, moves_kept = 0, 0
    for l in range(len(links)):
        kept, moves_kept = kept + spaces[links[l, SPACE], 0] ** 2, moves_kept + links[l, COUNT]
    products, seen, seen_sign = np.empty(kept), np.empty(moves_kept, np.int64), np.empty(moves_kept)
    last_move, visited = np.empty(count, np.int64), np.empty(count, np.int64)
    for p in range(len(a)):
        x, y = a[p], b[p]
        for s in range(count):
            for i in range(spaces[s, 0]):
                places[p, spaces[s, 1] + i] = i
        signs[p] = 1.0
        product, length, other_length = 0.0, 0.0, 0.0
        for k in range(len(x)):
            u, v = np.float64(x[k]), np.float64(y[k])
            product += u * v
            length += u * u
            other_length += v * v
        products[:] = 0.0
        seen[:] = -1
        seen_sign[:] = 1.0
        fixed = product - value_of(x, y, spaces, links, whole, rest, places[p], signs[p])
        reached = product if keep_identity else -np.inf
        for start in range(len(walks)):
            for s in range(count):
                for i in range(spaces[s, 0]):
                    place[spaces[s, 1] + i] = i
            sign[:] = 1.0
            prices[:] = np.inf
            if walks[start]:
                for t in range(len(stages)):
                    s, n = stages[t], spaces[stages[t], 0]
                    m = memory.ravel()[: 8 * n].reshape(2, 4, n)
                    settle(
                        s, stage_links[t], x, y, spaces, links, rest, place, sign, prices, products, seen, seen_sign,
                        scores, integers, floats, m,
                        fixed, whole, tolerance, True,
                    )  # fmt: skip
            value = fixed + value_of(x, y, spaces, links, whole, rest, place, sign)
            # The inner product can gain half the squared distance at most.
            sweeps = max_sweeps if length + other_length - 2 * value > 2 * tolerance * length else 0
            clock = 0
            last_move[:] = 0
            visited[:] = -1
            for _ in range(sweeps):
                gained = False
                for s in range(count):
                    last = 0
                    for other in range(count):
                        if near[s, other]:
                            last = max(last, last_move[other])
                    if visited[s] >= last:
                        continue
                    n = spaces[s, 0]
                    m = memory.ravel()[: 8 * n].reshape(2, 4, n)
                    moves = settle(
                        s, space_links[s], x, y, spaces, links, rest, place, sign, prices, products, seen, seen_sign,
                        scores, integers, floats, m,
                        fixed, whole, tolerance, False,
                    )  # fmt: skip
                    clock += 1
                    if moves:
                        gained = True
                        last_move[s] = clock
                    visited[s] = clock - 1 if spaces[s, 3] else clock
                if not gained:
                    break
            if sweeps:
                value = fixed + value_of(x, y, spaces, links, whole, rest, place, sign)
            if value >= reached:
                reached = value
                places[p] = place
                signs[p] = sign
