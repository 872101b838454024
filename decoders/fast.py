"""Weights prepared for decoding: laid out, or stored in fewer bits, as products with a few rows read them fastest.

Such products wait for weights: each of these is read once a step and serves one number of each row. So the time of a
step is that of reading all matrices, and half the bits take half of it.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)


def for_decoding(model: Model, weights: torch.dtype | None = None) -> Model:
    """Prepare the matrices of linear layers in place, for decoding on a CPU; returns the model.

    Args:
        weights: None changes nothing but the order in memory: matrices of more outputs than inputs, as of heads, are
            stored by columns. Shapes, names and values stay, and products with a few rows become up to twice as fast,
            those of large batches no slower. An embedding that shares its matrix with a head looks its rows up in it
            all the same. `torch.float16` is for models that do nothing else any more: see `HalfLinear`.

    Raises:
        ValueError: Another type of weights, or a model that does not compute in float32.
    """
    if weights is None:
        for linear in _linears(model).values():
            if linear.out_features > linear.in_features:
                linear.weight.data = linear.weight.data.T.contiguous().T
        return model
    if weights != torch.float16:
        raise ValueError(f"weights of {weights} are not supported, only None, as they are, and torch.float16")
    for name, linear in _linears(model).items():
        model.set_submodule(name, HalfLinear(linear))
    return model


class HalfLinear(nn.Module):
    """A linear layer whose matrix lies in float16, packed by FBGEMM; inputs, sums and outputs are float32.

    It has no parameters: it neither trains nor is saved. Weights are rounded to 11 bits, those beyond 65504 to that.

    Args:
        linear: Whose weights, in float32 on a CPU, it takes over.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        if linear.weight.dtype != torch.float32 or linear.weight.device.type != "cpu":
            given = f"{linear.weight.dtype} on {linear.weight.device}"
            raise ValueError(f"only float32 on a CPU is packed, not {given}; call model.float().cpu() before")
        self.packed = torch.ops.quantized.linear_prepack_fp16(linear.weight.detach(), linear.bias)

    def forward(self, x: Float[Tensor, "*rows D"]) -> Float[Tensor, "*rows E"]:
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


def _linears(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
