"""How the gradient of a codeword reaches the vector that chose it: straight through, or rotated and scaled."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Gradient = Literal["straight-through", "rotation"]

FLOOR = 1e-6  # shorter vectors have no direction to rotate from


def known(gradient: Gradient) -> Gradient:
    """`gradient` itself; raises ValueError if there is no such."""
    if gradient not in get_args(Gradient):
        raise ValueError(f"gradient must be one of {', '.join(get_args(Gradient))}, got {gradient!r}")
    return gradient


def carry(
    x: Float[Tensor, "vector dim"], q: Float[Tensor, "vector dim"], gradient: Gradient = "straight-through"
) -> Float[Tensor, "vector dim"]:
    """Exactly `q`, with a gradient for `x` alone.

    "straight-through" hands the gradient of `q` to `x` as it is; "rotation" as if `q` were `rotate(x, q)`.
    """
    if gradient == "rotation":
        x = rotate(x, q)
    return q.detach() + (x - x.detach())


def rotate(x: Float[Tensor, "vector dim"], q: Float[Tensor, "vector dim"]) -> Float[Tensor, "vector dim"]:
    """`x` times the constant matrix that turns it into the direction of `q` and stretches it to the length of `q`.

    The angle between gradient and codeword becomes that between gradient and `x` (Fifty et al. 2024, "Restructuring
    Vector Quantization with the Rotation Trick"). The rotation in the plane of both is `1 - 2 w w' + 2 b a'` for the
    unit vectors `a` of `x`, `b` of `q` and `w` of `a + b`, so no matrix is ever built. Vectors without direction stay
    as they are, which passes their gradient straight through.
    """
    length = x.detach().norm(dim=1, keepdim=True)
    stretch = q.detach().norm(dim=1, keepdim=True) / length.clamp(min=FLOOR)
    a, b = functional.normalize(x.detach()), functional.normalize(q.detach())
    w = functional.normalize(a + b)
    turned = x - 2 * w * (w * x).sum(dim=1, keepdim=True) + 2 * b * (a * x).sum(dim=1, keepdim=True)
    return torch.where(length > FLOOR, stretch * turned, x)
