"""Transformers over the patches of a picture: every token sees every other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention


@dataclass(frozen=True)
class TransformerShape:
    """Size of a transformer.

    Attributes:
        width: Features of a token.
        blocks: Number of blocks.
        heads, head_dim: Attention heads of a block, and features of each.
        expansion: Features between the two products of a block, in units of `width`.
    """

    width: int
    blocks: int
    heads: int
    head_dim: int = 64
    expansion: int = 4


SMALL, BASE, LARGE = TransformerShape(512, 8, 8), TransformerShape(768, 12, 12), TransformerShape(1024, 24, 16)


class Attention(nn.Module):
    """Attention of several heads, without a mask."""

    def __init__(self, shape: TransformerShape, qkv_bias: bool):
        super().__init__()
        inner = shape.heads * shape.head_dim
        self.heads = shape.heads
        self.in_proj = nn.Linear(shape.width, 3 * inner, bias=qkv_bias)
        self.out_proj = nn.Linear(inner, shape.width)

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        q, k, v = rearrange(self.in_proj(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        return self.out_proj(rearrange(scaled_dot_product_attention(q, k, v), "b h n d -> b n (h d)"))


class Block(nn.Module):
    """Attention, then a network of two products, each behind a layer norm and beside the identity.

    Args:
        shape: Of the transformer.
        activation: Between the two products.
        qkv_bias: Whether queries, keys and values have a bias.
    """

    def __init__(self, shape: TransformerShape, activation: Literal["gelu", "tanh"] = "gelu", qkv_bias: bool = True):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(shape.width), nn.LayerNorm(shape.width)
        self.attn = Attention(shape, qkv_bias)
        self.c_fc = nn.Linear(shape.width, shape.expansion * shape.width)
        self.c_proj = nn.Linear(shape.expansion * shape.width, shape.width)
        self.activation = gelu if activation == "gelu" else torch.tanh

    def forward(self, x: Float[Tensor, "batch token width"]) -> Float[Tensor, "batch token width"]:
        x = x + self.attn(self.ln_1(x))
        return x + self.c_proj(self.activation(self.c_fc(self.ln_2(x))))


def sinusoids(height: int, width: int, dim: int) -> Float[Tensor, "cell dim"]:
    """Positions of the cells of a grid of any size, row by row: one half says the column, the other the row.

    Each half is the sines, then the cosines of the coordinate times frequencies that fall from 1 to about 1/10000.
    """
    if dim % 4:
        raise ValueError(f"sines and cosines of two axes need a dim that is a multiple of 4, got {dim}")
    frequencies = 10000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim // 4))
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in (across, down)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def initialize(network: nn.Module) -> None:
    """Begin with Xavier-uniform matrices without bias, which keep the size of what passes through."""
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.xavier_uniform_(layer.weight.view(len(layer.weight), -1))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
