"""Git Re-Basin's weight matching, one pair at a time: the yardstick for ``weightaug.matching``.

Written from the description in Ainsworth et al. (2022), algorithm 1: in every sweep, the hidden spaces are
visited in random order; each takes the permutation that maximises the inner product of all tensors that
touch it, the other permutations held fixed; it ends with the first sweep that improves no space.
"""

import torch
from scipy.optimize import linear_sum_assignment


def weight_matching(weights_a, biases_a, weights_b, biases_b, *, order=None, generator=None, max_sweeps=100):
    """Matches one MLP to another.

    Args:
        weights_a: The weights ``(out, in)`` of the MLP to align to.
        biases_a: Its biases.
        weights_b: The weights of the MLP to align.
        biases_b: Its biases.
        order: A fixed order of the hidden spaces; None for a random one in each sweep.
        generator: For the random order.
        max_sweeps: Limit on the sweeps.

    Returns:
        The permutations, and the number of assignment problems solved.
    """
    sizes = [len(b) for b in biases_a[:-1]]
    perms = [torch.arange(n) for n in sizes]
    solved = 0

    def permuted(layer, skip):
        weight, bias = weights_b[layer], biases_b[layer]
        if layer < len(sizes) and skip != layer:
            weight, bias = weight[perms[layer]], bias[perms[layer]]
        if layer > 0 and skip != layer - 1:
            weight = weight[:, perms[layer - 1]]
        return weight, bias

    for _ in range(max_sweeps):
        progress = False
        spaces = torch.randperm(len(sizes), generator=generator).tolist() if order is None else order
        for s in spaces:
            n = sizes[s]
            score = torch.zeros(n, n, dtype=weights_a[0].dtype)
            weight, bias = permuted(s, s)
            score += weights_a[s] @ weight.T
            score += torch.outer(biases_a[s], bias)
            weight, _ = permuted(s + 1, s)
            score += weights_a[s + 1].T @ weight
            _, columns = linear_sum_assignment(score.numpy(), maximize=True)
            solved += 1
            old = torch.einsum("ij,ij->", score, torch.eye(n, dtype=score.dtype)[perms[s]])
            new = torch.einsum("ij,ij->", score, torch.eye(n, dtype=score.dtype)[columns])
            progress = progress or bool(new > old + 1e-12)
            perms[s] = torch.from_numpy(columns)
        if not progress:
            break
    return perms, solved
