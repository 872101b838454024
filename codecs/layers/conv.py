"""Convolutions over time as matrix products, whose whole state is passed in and out.

Tensors are `[batch, time, channel]`. In that layout a kernel's taps are matrices over shifted views of the input: no
unfolding, no copies. Every layer is called as `layer(x, carry, final) -> (y, carry)`: offline is one long final chunk
without a carry, and a stream of chunks gives the same outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Norm = Literal["weight", "group", "none"]
PadMode = Literal["reflect", "constant"]


class Normed(nn.Module):
    """What convolutions share: a weight, perhaps split into gain and direction (weight norm), or a group norm behind.

    The split is for training alone: `fuse()` multiplies it out. A state dict made after that loads into either form.

    Attributes:
        weight: Matrices; their direction alone while there is a gain.
        gain: Length that weight norm gives to each slice of `weight` along one axis; None without weight norm.
    """

    gain: nn.Parameter | None

    def __init__(self, shape: tuple[int, ...], outputs: int, fan: int, norm: Norm, gain_axis: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(fan)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.norm = nn.GroupNorm(1, outputs) if norm == "group" else None
        self.axes = tuple(axis for axis in range(len(shape)) if axis != gain_axis)
        self.gain = nn.Parameter(self._length(self.weight.detach())) if norm == "weight" else None

    def matrices(self) -> Tensor:
        """The weight that the convolution has."""
        return self.weight if self.gain is None else self.weight * (self.gain / self._length(self.weight))

    def fuse(self) -> None:
        """Multiply the gain into the weight: same outputs, less work."""
        if self.gain is not None:
            self.weight = nn.Parameter(self.matrices().detach())
            self.gain = None

    def _length(self, weight: Tensor) -> Tensor:
        return torch.linalg.vector_norm(weight, dim=self.axes, keepdim=True)

    def _group_norm(self, x: Float[Tensor, "batch time channel"]) -> Float[Tensor, "batch time channel"]:
        return x if self.norm is None else self.norm(x.transpose(1, 2)).transpose(1, 2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if self.gain is not None and prefix + "gain" not in state_dict and prefix + "weight" in state_dict:
            state_dict[prefix + "gain"] = self._length(state_dict[prefix + "weight"])
        super()._load_from_state_dict(state_dict, prefix, *args)


class ConvCarry(NamedTuple):
    """What a causal convolution remembers between chunks: inputs still needed, and whether its left padding is made."""

    buffer: Tensor
    started: bool


class Conv(Normed):
    """Convolution with padding such that `time` steps give `ceil(time / stride)`.

    Causal: all padding is on the left, and on the right only what completes the last stride. Reflected padding mirrors
    the first inputs, so the first chunk waits until there are enough of them.

    Attributes:
        weight: `[tap, in, out]`.
        past: Padding on the left.
        future: Padding on the right, beside what completes the last stride.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        *,
        causal: bool = True,
        norm: Norm = "weight",
        pad: PadMode = "reflect",
    ) -> None:
        if stride > 1 and (dilation > 1 or kernel % stride or kernel < 2 * stride):
            raise ValueError(
                f"a strided convolution needs a kernel of 2, 3, ... strides and no dilation, "
                f"got kernel {kernel}, stride {stride}, dilation {dilation}"
            )
        super().__init__((kernel, inputs, outputs), outputs, inputs * kernel, norm, gain_axis=2)
        self.kernel, self.stride, self.dilation, self.causal, self.pad = kernel, stride, dilation, causal, pad
        padding = (kernel - 1) * dilation + 1 - stride
        self.future = 0 if causal else padding // 2
        self.past = padding - self.future

    def forward(
        self, x: Float[Tensor, "batch time channel"], carry: ConvCarry | None = None, final: bool = True
    ) -> tuple[Float[Tensor, "batch step out"], ConvCarry | None]:
        """Outputs that `x` settles, and what the next chunk needs."""
        started = carry is not None and carry.started
        if carry is not None and carry.buffer.shape[1]:
            x = torch.cat([carry.buffer, x], dim=1)
        early = self.past if self.pad == "reflect" else -1
        if not started and (x.shape[1] == 0 or not final and x.shape[1] <= early):
            return x.new_zeros(x.shape[0], 0, self.bias.shape[0]), ConvCarry(x, False)
        left = 0 if started else self.past
        right = 0
        if final:
            right = self.future + -(x.shape[1] - (self.past if started else 0)) % self.stride
        x = pad_time(x, left, right, self.pad)
        steps = max(0, (x.shape[1] - self.past - self.future) // self.stride)
        y = self._taps(x, steps) if steps else x.new_zeros(x.shape[0], 0, self.bias.shape[0])
        rest = None if final else ConvCarry(x[:, steps * self.stride :].clone(), True)
        return self._group_norm(y), rest

    def _taps(self, x: Tensor, steps: int) -> Tensor:
        batch, _, channels = x.shape
        matrices = self.matrices()
        if self.dilation == 1 < self.kernel and channels * self.kernel <= 64:
            # Few inputs: one product with all taps side by side costs less than many thin ones.
            side_by_side = x.unfold(1, self.kernel, self.stride).transpose(2, 3).reshape(batch, steps, -1)
            return products(self.bias, [side_by_side], matrices.flatten(0, 1)[None])
        # `stride` neighbouring taps are one matrix over `stride` neighbouring steps side by side, which is a view.
        views = []
        for tap in range(0, self.kernel, self.stride):
            first = tap * self.dilation
            views.append(x[:, first : first + steps * self.stride].reshape(batch, steps, self.stride * channels))
        return products(self.bias, views, matrices.unflatten(0, (-1, self.stride)).flatten(1, 2))


class UpsampleCarry(NamedTuple):
    """What a transposed convolution remembers: its last inputs, and how many outputs are still to be cut off."""

    buffer: Tensor
    skip: int


class Upsample(Normed):
    """Transposed convolution that turns `time` steps into `time * stride`.

    Every output step is a matrix product with the current and the previous inputs: there is nothing to overlap and add.

    Attributes:
        weight: `[step back, in, stride, out]`.
        skip: Outputs cut off at the left; 0 is causal.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        *,
        causal: bool = True,
        trim_right: float = 1.0,
        norm: Norm = "weight",
    ) -> None:
        if kernel % stride:
            raise ValueError(f"the kernel must be a multiple of the stride, got kernel {kernel}, stride {stride}")
        back = kernel // stride - 1
        super().__init__((back + 1, inputs, stride, outputs), outputs, inputs * (back + 1), norm, gain_axis=1)
        self.stride, self.back = stride, back
        padding = kernel - stride
        self.skip = padding - (math.ceil(padding * trim_right) if causal else padding // 2)

    def forward(
        self, x: Float[Tensor, "batch time channel"], carry: UpsampleCarry | None = None, final: bool = True
    ) -> tuple[Float[Tensor, "batch step out"], UpsampleCarry | None]:
        """Outputs that `x` settles, and what the next chunk needs."""
        batch, _, channels = x.shape
        if carry is None:
            carry = UpsampleCarry(x.new_zeros(batch, self.back, channels), self.skip)
        # A group norm sees the whole tail, as the reference does; otherwise only what is given out is computed.
        tail = 0 if not final else self.back if self.norm is not None else -(-self.skip // self.stride)
        x = torch.cat([carry.buffer, x, x.new_zeros(batch, tail, channels)], dim=1)
        steps = x.shape[1] - self.back
        views = [x[:, self.back - step : self.back - step + steps] for step in range(self.back + 1)]
        y = products(self.bias.repeat(self.stride), views, self.matrices().flatten(2))
        y = y.reshape(batch, steps * self.stride, self.bias.shape[0])
        y = self._group_norm(y)
        skip = min(carry.skip, y.shape[1])
        y = y[:, skip : y.shape[1] - (tail * self.stride - self.skip if final else 0)]
        return y, None if final else UpsampleCarry(x[:, steps:].clone(), carry.skip - skip)


def products(bias: Tensor, views: list[Tensor], matrices: Sequence[Tensor] | Tensor) -> Tensor:
    """Sum of `views[i] [batch, time, in] @ matrices[i] [in, out]` plus `bias`, accumulated in place."""
    batch, time, _ = views[0].shape
    out = bias.shape[0]
    if torch.is_autocast_enabled(views[0].device.type):  # in-place products would bypass the cast
        return sum((view @ matrix for view, matrix in zip(views, matrices, strict=True)), bias.expand(batch, time, out))
    if batch == 1:
        y = torch.addmm(bias, views[0][0], matrices[0])
        for view, matrix in zip(views[1:], matrices[1:], strict=True):
            y = y.addmm_(view[0], matrix)
        return y[None]
    y = torch.baddbmm(bias.expand(batch, 1, out), views[0], matrices[0].expand(batch, -1, -1))
    for view, matrix in zip(views[1:], matrices[1:], strict=True):
        y = y.baddbmm_(view, matrix.expand(batch, -1, -1))
    return y


def pad_time(x: Float[Tensor, "batch time channel"], left: int, right: int, mode: PadMode) -> Tensor:
    """Pad with zeros or mirror images; what is too short to be mirrored is continued by zeros first."""
    if left == 0 and right == 0:
        return x
    if mode == "constant":
        return F.pad(x, (0, 0, left, right))
    time = x.shape[1]
    size = max(time, max(left, right) + 1)
    mirror = F.pad(x, (0, 0, 0, size - time)) if size > time else x
    before = mirror[:, 1 : left + 1].flip(1)
    after = torch.cat([mirror[:, time:], mirror[:, size - 1 - right : size - 1].flip(1)], dim=1)[:, :right]
    return torch.cat([before, x, after], dim=1)
