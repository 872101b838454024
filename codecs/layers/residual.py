"""Layers of SEANet networks beside the convolutions, and the loop that runs a list of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.codecs.layers.conv import Conv, ConvCarry, Norm, PadMode, products


def run(
    layers: Iterable[nn.Module], x: Float[Tensor, "batch time channel"], carries: list[Any] | None, final: bool
) -> tuple[Float[Tensor, "batch step out"], list[Any]]:
    """Pass `x` through the layers; `carries` is what this returned for the chunk before, None for the first."""
    layers = list(layers)
    rest = []
    for layer, carry in zip(layers, carries or [None] * len(layers), strict=True):
        x, carry = layer(x, carry, final)
        rest.append(carry)
    return x, rest


def run_in_blocks(
    layers: Iterable[nn.Module], x: Float[Tensor, "batch time channel"], steps: int
) -> Float[Tensor, "batch step out"]:
    """Pass `x` through causal layers, `steps` of it at a time: activations then stay in the processor's cache."""
    carries, parts = None, []
    for start in range(0, x.shape[1], steps):
        y, carries = run(layers, x[:, start : start + steps], carries, final=start + steps >= x.shape[1])
        parts.append(y)
    return torch.cat(parts, dim=1)


class ELU(nn.Module):
    """Exponential linear unit; overwrites its input where no gradient is wanted."""

    def forward(self, x: Tensor, carry: None = None, final: bool = True) -> tuple[Tensor, None]:
        """Called like the convolutions; there is nothing to carry."""
        return F.elu(x, inplace=not torch.is_grad_enabled()), None


class ResidualBlock(nn.Module):
    """`shortcut(x) + narrow(elu(wide(elu(x))))`, where the first convolution looks back and the second does not."""

    def __init__(
        self,
        channels: int,
        hidden: int,
        kernel: int,
        dilation: int,
        *,
        causal: bool,
        norm: Norm,
        pad: PadMode,
        shortcut: bool,
    ) -> None:
        super().__init__()
        shared = {"causal": causal, "norm": norm, "pad": pad}
        self.wide = Conv(channels, hidden, kernel, dilation=dilation, **shared)
        self.narrow = Conv(hidden, channels, 1, **shared)
        self.shortcut = Conv(channels, channels, 1, **shared) if shortcut else None

    def forward(
        self,
        x: Float[Tensor, "batch time channel"],
        carry: tuple[ConvCarry | None, Tensor] | None = None,
        final: bool = True,
    ) -> tuple[Float[Tensor, "batch time channel"], tuple[ConvCarry | None, Tensor] | None]:
        """Outputs that `x` settles; inputs wait for the shortcut until the convolution beside it has started."""
        wide, waiting = carry or (None, x[:, :0])
        h, wide = self.wide(F.elu(x), wide, final)
        h = F.elu(h, inplace=not torch.is_grad_enabled())
        x = torch.cat([waiting, x], dim=1) if waiting.shape[1] else x
        settled = x[:, : h.shape[1]]
        if self.shortcut is None:
            y = settled + self.narrow(h)[0]
        elif self.shortcut.norm is None:  # one accumulation for both ways
            pointwise = [self.shortcut.matrices()[0], self.narrow.matrices()[0]]
            y = products(self.shortcut.bias + self.narrow.bias, [settled, h], pointwise)
        else:
            y = self.shortcut(settled)[0] + self.narrow(h)[0]
        return y, None if final else (wide, x[:, h.shape[1] :].clone())
