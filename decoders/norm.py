"""RMS norm, with a short way on a CPU."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RMSNorm(nn.RMSNorm):
    """`nn.RMSNorm` of the last axis (Zhang and Sennrich, arXiv 1910.07467).

    On a CPU torch takes it apart into operations that cost more to call than to run when a block is one step; here they
    are half as many: the root of mean square plus epsilon is the hypotenuse of the norm and a constant.
    """

    def __init__(self, features: int, epsilon: float, elementwise_affine: bool = True):
        super().__init__(features, epsilon, elementwise_affine)
        self.floor: Tensor
        self.root: Tensor
        for name, number in {"floor": (features * epsilon) ** 0.5, "root": features**0.5}.items():
            self.register_buffer(name, torch.tensor(number), persistent=False)  # tensors: torch wraps numbers slowly

    def forward(self, x: Float[Tensor, "*axes D"]) -> Float[Tensor, "*axes D"]:
        if not x.is_cpu or x.dtype.itemsize < 4:
            return super().forward(x)
        scale = self.root / torch.linalg.vector_norm(x, 2, -1, True).hypot(self.floor)
        return x * scale if self.weight is None else x * scale * self.weight
