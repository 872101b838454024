"""Attention of grouped queries: over the past and the block, and over a condition."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from zoo.decoders.norm import RMSNorm
from zoo.decoders.rope import Turns, turn
from zoo.decoders.state import Block


class SelfAttention(nn.Module):
    """Queries, keys and values from one matrix; heads of queries share those of keys and values in equal groups.

    Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models" (arXiv 2305.13245).

    Args:
        width: D.
        heads, kv_heads: Heads of queries, and of keys and values.
        head_dim: E, features of a head.
        bias: Of the first matrix.
        out_bias: Of the last.
        norm: RMS norm, with weights, of each query and key before it is turned (as in Qwen 3), by this epsilon; None
            is no norm.

    Raises:
        ValueError: Query heads that don't divide into the others.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        bias: bool,
        out_bias: bool,
        norm: float | None = None,
    ):
        super().__init__()
        if heads % kv_heads:
            raise ValueError(f"{heads} query heads don't divide into groups for {kv_heads} key heads")
        self.sizes = heads, kv_heads, head_dim
        self.qkv = nn.Linear(width, (heads + 2 * kv_heads) * head_dim, bias=bias)
        self.out = nn.Linear(heads * head_dim, width, bias=out_bias)
        self.q_norm = RMSNorm(head_dim, norm) if norm is not None else None
        self.k_norm = RMSNorm(head_dim, norm) if norm is not None else None

    def forward(
        self, x: Float[Tensor, "R N D"], turns: Turns | None, block: Block, depth: int
    ) -> Float[Tensor, "R N D"]:
        heads, kv_heads, head_dim = self.sizes
        rows, slots, _ = x.shape
        parts = self.qkv(x).view(rows, slots, -1, head_dim).transpose(1, 2)
        qk, v = parts.split_with_sizes((heads + kv_heads, kv_heads), 1)
        if self.q_norm is not None:
            q, k = qk.split_with_sizes((heads, kv_heads), 1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 1)
        if turns is not None:
            qk = turn(qk, turns)
        q, k = qk.split_with_sizes((heads, kv_heads), 1)
        k, v = block.extend(depth, k, v)
        mixed = scaled_dot_product_attention(
            q, k, v, attn_mask=block.bias, is_causal=block.causal, enable_gqa=heads != kv_heads
        )
        return self.out(mixed.transpose(1, 2).reshape(rows, slots, -1))


class CrossAttention(nn.Module):
    """Attention over a condition, whose keys and values are computed once.

    Neither output nor values have a bias, so that a row without condition gets exactly nothing.

    Args:
        width: D.
        source: Features of the condition.
        heads, kv_heads, head_dim: As of `SelfAttention`.
    """

    def __init__(self, width: int, source: int, heads: int, kv_heads: int, head_dim: int):
        super().__init__()
        self.sizes = heads, kv_heads, head_dim
        self.q = nn.Linear(width, heads * head_dim, bias=False)
        self.kv = nn.Linear(source, 2 * kv_heads * head_dim, bias=False)
        self.out = nn.Linear(heads * head_dim, width, bias=False)

    def condition(
        self, source: Float[Tensor, "R M C"], present: Float[Tensor, "R 1 1"]
    ) -> tuple[Float[Tensor, "R H M E"], Float[Tensor, "R H M E"]]:
        """Keys and values; the values of rows whose `present` is 0 are 0."""
        _, kv_heads, head_dim = self.sizes
        parts = self.kv(source).unflatten(-1, (2, kv_heads, head_dim)).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1] * present[..., None]

    def forward(
        self,
        x: Float[Tensor, "R N D"],
        keys: Float[Tensor, "R H M E"],
        values: Float[Tensor, "R H M E"],
        bias: Float[Tensor, "R 1 1 M"],
    ) -> Float[Tensor, "R N D"]:
        heads, kv_heads, head_dim = self.sizes
        rows, slots, _ = x.shape
        q = self.q(x).view(rows, slots, heads, head_dim).transpose(1, 2)
        bias = bias.expand(-1, -1, slots, -1)
        mixed = scaled_dot_product_attention(q, keys, values, attn_mask=bias, enable_gqa=heads != kv_heads)
        return self.out(mixed.transpose(1, 2).reshape(rows, slots, -1))
