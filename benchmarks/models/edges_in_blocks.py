"""The two parts of a relation layer that work on edges, written out for a CPU: block by block, forward and backward.

What they have to compute is said by ``RelationalAttention.weigh`` and ``RelationLayer.update_edges``; here some rows of
edges at a time go through all steps, in memory that stays in the cache, and nothing but the inputs (and the weights of
the attention) is kept for the backward pass.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Pairs of nodes in a block: half a network 2-32-32-1. Temporary tensors of a block are up to 3 x attention channels
# wide. Blocks of half that size take longer, of twice that about as long.
PAIRS = 34 * 67


def _blocks(networks: int, rows: int, seen: int) -> list[tuple[slice, slice]]:
    """Divides rows of edges (a row is all that one node looks at) into blocks: some of a network, or all of some."""
    most = max(PAIRS // max(seen, 1), 1)
    some_networks = max(1, most // max(rows, 1))
    some_rows = max(1, math.ceil(rows / math.ceil(rows / most))) if rows else 1  # of even size
    return [
        (slice(first, min(first + some_networks, networks)), slice(start, min(start + some_rows, rows)))
        for first in range(0, networks, some_networks)
        for start in range(0, rows, some_rows)
    ]


def _largest(blocks: list[tuple[slice, slice]]) -> int:
    """Rows of the largest block."""
    return max((n.stop - n.start) * (r.stop - r.start) for n, r in blocks) if blocks else 0


class AttentionInBlocks(torch.autograd.Function):
    """:meth:`RelationalAttention.weigh`, keeping its inputs and the weights of the attention only.

    Channels come last here, so that queries, keys and values are added in long runs. Sums over the channels of
    a head are products with ``shared``, ``(heads, channels)``: 1 where a channel belongs to a head.

    With ``joined``, it also returns the logarithms of the sums of the exponential scores, ``(batch, looking, heads)``,
    with which this attention and one to other nodes can be joined.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, edges: Tensor, weight: Tensor, heads: int, joined: bool
    ) -> tuple[Tensor, Tensor | None]:
        networks, rows, seen, width = *edges.shape[:3], query.shape[-1]
        of_pair, to_value = weight[: 3 * width], weight[3 * width :].unflatten(0, (heads, -1))
        shared = torch.eye(heads).to(edges).repeat_interleave(width // heads, 1)
        sums = shared * width**-0.5
        result = torch.empty_like(query)
        attention = edges.new_empty(networks, rows, heads, seen)
        # The widest tensors of all blocks share memory, which then stays in the cache.
        blocks = _blocks(networks, rows, seen)
        memory = edges.new_empty(_largest(blocks) * seen, 3 * width)
        total = edges.new_empty(networks, rows, heads) if joined else None
        for block in blocks:
            of_block = edges[block].flatten(0, 1)
            q, k, m = AttentionInBlocks.project(query, key, edges, of_pair, block, memory)
            products = q.mul_(k).flatten(0, 1)
            scores = sums.expand(len(products), -1, -1) @ products.mT
            weights = scores.softmax(-1)
            if total is not None:
                total[block] = scores.logsumexp(-1).unflatten(0, q.shape[:2])
            m.mul_(value[block[0], None])
            # Every head's weights times the values of all heads; each head's own are on the diagonal.
            of_heads = (weights @ m.flatten(0, 1)).unflatten(-1, (heads, -1)).diagonal(dim1=1, dim2=2).mT
            summed = (weights @ of_block).transpose(0, 1)
            of_heads = of_heads + (summed @ to_value.mT).transpose(0, 1)
            result[block] = of_heads.reshape(q.shape[:2] + (width,))
            attention[block] = weights.unflatten(0, q.shape[:2])
        ctx.heads = heads
        ctx.save_for_backward(query, key, value, edges, weight, attention, shared)
        return result, total

    @staticmethod
    def project(
        query: Tensor, key: Tensor, edges: Tensor, of_pair: Tensor, block: tuple[slice, slice], memory: Tensor
    ) -> tuple[Tensor, ...]:
        """Queries, keys and factors of the pairs of a block, as slices of one tensor."""
        pairs = edges[block]
        of_pairs = pairs.flatten(0, 2)
        projected = torch.mm(of_pairs, of_pair.mT, out=memory[: len(of_pairs)])
        q, k, m = projected.view(*pairs.shape[:3], -1).chunk(3, -1)
        return q.add_(query[block].unsqueeze(2)), k.add_(key[block[0], None]), m

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, d_total: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, edges, weight, attention, shared = ctx.saved_tensors
        heads, width = ctx.heads, query.shape[-1]
        sums = shared * width**-0.5
        of_pair, to_value = weight[: 3 * width], weight[3 * width :].unflatten(0, (heads, -1))
        d_query, d_edges = torch.empty_like(query), torch.empty_like(edges)
        d_key, d_value = torch.zeros_like(key), torch.zeros_like(value)
        d_pair, d_to_value = weight.new_zeros(weight.shape[1], 3 * width), torch.zeros_like(to_value)
        blocks = _blocks(edges.shape[0], edges.shape[1], edges.shape[2])
        memory, memory_of_d = edges.new_empty(2, _largest(blocks) * edges.shape[2], 3 * width)
        for block in blocks:
            pairs, v = edges[block], value[block[0], None]
            of_block, weights = pairs.flatten(0, 1), attention[block].flatten(0, 1)
            g = gradient[block].flatten(0, 1)
            q, k, m = AttentionInBlocks.project(query, key, edges, of_pair, block, memory)
            d = memory_of_d[: pairs.shape[:3].numel()].view(*pairs.shape[:3], -1)
            d_q, d_k, d_m = d.chunk(3, -1)

            # Through the sums over nodes, of values and, per head, of edges.
            by_head = g.unsqueeze(1) * shared
            of_head = g.unflatten(-1, (heads, -1)).transpose(0, 1)
            d_summed = (of_head @ to_value).transpose(0, 1)
            d_to_value += of_head.mT @ (weights @ of_block).transpose(0, 1)
            d_values = (weights.mT @ by_head).view_as(d_m)
            d_weights = torch.baddbmm(by_head @ (m * v).flatten(0, 1).mT, d_summed, of_block.mT)
            torch.mul(d_values, v, out=d_m)
            d_value[block[0]] += d_values.mul_(m).sum(1)

            # Through the softmax and the scores.
            d_scores = torch.ops.aten._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            if d_total is not None:
                d_scores.addcmul_(weights, d_total[block].flatten(0, 1).unsqueeze(-1))
            d_products = (d_scores.mT @ sums.expand(len(g), -1, -1)).view_as(d_m)
            torch.mul(d_products, k, out=d_q)
            torch.mul(d_products, q, out=d_k)
            d_query[block] = d_q.sum(2)
            d_key[block[0]] += d_k.sum(1)

            # Through the projections.
            d = d.flatten(0, 2)
            d_pair.addmm_(pairs.flatten(0, 2).mT, d)  # MKL is faster with the wide matrix last
            # Straight into the result, which is contiguous for a block.
            of_edges = torch.mm(d, of_pair, out=d_edges[block].view(len(d), -1)).view_as(of_block)
            of_edges.baddbmm_(weights.mT, d_summed)
        d_weight = torch.cat([d_pair.mT, d_to_value.flatten(0, 1)])
        return d_query, d_key, d_value, d_edges, d_weight, None, None


class EdgeUpdateInBlocks(torch.autograd.Function):
    """:meth:`RelationLayer.update_edges`, keeping its inputs only."""

    @staticmethod
    def forward(ctx: Any, first: Tensor, second: Tensor, edges: Tensor, share: float, *others: Any) -> Tensor:
        relation_kept, update_kept, *parameters = others
        kept = first, second, edges, relation_kept, update_kept, *parameters
        ctx.share = share
        ctx.save_for_backward(*kept)
        result = torch.empty_like(edges[:, edges.shape[1] - first.shape[1] :])
        networks, rows, seen = result.shape[:3]
        for block in _blocks(networks, rows, seen):
            updated = EdgeUpdateInBlocks.steps(*kept, share=share, block=block)[-1]
            result[block] = updated.view_as(result[block])
        return result

    @staticmethod
    def steps(
        first: Tensor,
        second: Tensor,
        edges: Tensor,
        relation_kept: Tensor | None,
        update_kept: Tensor | None,
        *parameters: Tensor,
        share: float,
        block: tuple[slice, slice],
    ) -> tuple[Any, ...]:
        """What is computed on the way to the edges of a block, each ``(pairs, channels)``."""
        from_edges, out, out_bias, norm, norm_bias, inner, outer, outer_bias, norm2, norm2_bias = parameters
        networks, rows = block
        channels = edges.shape[-1:]
        skipped = edges.shape[1] - first.shape[1]
        absolute = slice(rows.start + skipped, rows.stop + skipped)
        pairs = edges[networks, absolute].flatten(0, 2)
        reverse = edges[networks, :, absolute].transpose(1, 2).flatten(0, 2)
        to_hidden, reverse_to_hidden = from_edges.chunk(2, 1)

        def branch(values: Tensor, kept: Tensor | None) -> Tensor:
            return values if kept is None else values.mul_(kept[block].flatten(0, 2)).div_(1 - share)

        hidden = (first[block].unsqueeze(2) + second[networks, None]).flatten(0, 2)
        hidden.addmm_(pairs, to_hidden.mT).addmm_(reverse, reverse_to_hidden.mT)
        active = F.gelu(hidden)
        related = branch(torch.addmm(out_bias, active, out.mT), relation_kept).add_(pairs)
        middle, *moments = torch.native_layer_norm(related, channels, norm, norm_bias, 1e-5)
        hidden2 = middle @ inner.mT
        active2 = F.gelu(hidden2)
        summed = branch(torch.addmm(outer_bias, active2, outer.mT), update_kept).add_(middle)
        updated, *moments2 = torch.native_layer_norm(summed, channels, norm2, norm2_bias, 1e-5)
        return (
            (pairs, reverse, hidden, active, related, moments),
            (middle, hidden2, active2, summed, moments2),
            updated,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        first, second, edges, relation_kept, update_kept, *parameters = ctx.saved_tensors
        from_edges, out, _, norm, norm_bias, inner, outer, _, norm2, norm2_bias = parameters
        sums = [torch.zeros_like(p) for p in parameters]
        d_first, d_second, d_edges = torch.empty_like(first), torch.zeros_like(second), torch.zeros_like(edges)
        skipped, channels, width = edges.shape[1] - first.shape[1], edges.shape[-1:], edges.shape[-1]
        backward_of_norm = torch.ops.aten.native_layer_norm_backward

        def of_branch(values: Tensor, kept: Tensor | None) -> Tensor:
            return values if kept is None else (values * kept[block].flatten(0, 2)).div_(1 - ctx.share)

        for block in _blocks(first.shape[0], first.shape[1], edges.shape[2]):
            lower, upper, _ = EdgeUpdateInBlocks.steps(*ctx.saved_tensors, share=ctx.share, block=block)
            pairs, reverse, hidden, active, related, moments = lower
            middle, hidden2, active2, summed, moments2 = upper
            networks, rows = block
            absolute = slice(rows.start + skipped, rows.stop + skipped)

            g = gradient[block].flatten(0, 2)
            d, *of_norm2 = backward_of_norm(g, summed, channels, *moments2, norm2, norm2_bias, [True] * 3)
            d_branch = of_branch(d, update_kept)
            d_hidden2 = torch.ops.aten.gelu_backward(d_branch @ outer, hidden2)
            of_upper = (d_hidden2.mT @ middle, d_branch.mT @ active2, d_branch.sum(0), *of_norm2)
            d = torch.addmm(d, d_hidden2, inner)
            d, *of_norm = backward_of_norm(d, related, channels, *moments, norm, norm_bias, [True] * 3)
            d_branch = of_branch(d, relation_kept)
            d_hidden = torch.ops.aten.gelu_backward(d_branch @ out, hidden)
            of_lower = (d_branch.mT @ active, d_branch.sum(0), *of_norm)
            sums[0][:, :width].addmm_(d_hidden.mT, pairs)
            sums[0][:, width:].addmm_(d_hidden.mT, reverse)
            for total, part in zip(sums[1:], of_lower + of_upper, strict=True):
                total += part

            of_block = edges[networks, absolute]
            d_edges[networks, absolute] += torch.addmm(d, d_hidden, from_edges[:, :width]).view_as(of_block)
            d_reverse = (d_hidden @ from_edges[:, width:]).view_as(of_block)
            d_edges[networks, :, absolute] += d_reverse.transpose(1, 2)
            d_hidden = d_hidden.unflatten(0, of_block.shape[:3])
            d_first[block] = d_hidden.sum(2)
            d_second[networks] += d_hidden.sum(1)
        return d_first, d_second, d_edges, None, None, None, *sums
