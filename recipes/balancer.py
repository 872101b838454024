"""Loss weights that mean shares of the gradient: each loss's gradient at the output audio is brought to a set norm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, distributed, nn


class Balancer(nn.Module):
    """EnCodec's gradient balancer.

    The gradient of each loss with respect to the output is divided by a running mean of its norm and multiplied by its
    weight's share of all weights in use. The running means are buffers, so they are saved and resumed.

    Args:
        names: All losses that may ever come.
        decay: Of the running means of norms (bias-corrected).
        total: Norm of the sum if all gradients point the same way.
    """

    def __init__(self, names: tuple[str, ...], decay: float = 0.999, total: float = 1.0):
        super().__init__()
        self.names, self.decay, self.total = names, decay, total
        self.register_buffer("norms", torch.zeros(len(names)))
        self.register_buffer("fixes", torch.zeros(len(names)))

    def forward(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], output: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """Gradient at `output` to go on with: `output.backward(balancer(...))`.

        Args:
            losses: Scalars that depend on `output`.
            weights: Relative weight of each.
            output: What the losses were computed on.
        """
        everything = sum(weights[name] for name in losses)
        gradient = torch.zeros_like(output)
        for name, loss in losses.items():
            (own,) = torch.autograd.grad(loss, [output], retain_graph=True)
            share = self.total * weights[name] / everything
            gradient += own * (share / (self._running_norm(name, own) + 1e-12))
        return gradient

    def _running_norm(self, name: str, gradient: Tensor) -> Float[Tensor, ""]:
        norm = gradient.flatten(1).norm(dim=1).mean()
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(norm)
            norm = norm / distributed.get_world_size()
        index = self.names.index(name)
        self.norms[index] = self.decay * self.norms[index] + (1 - self.decay) * norm
        self.fixes[index] = self.decay * self.fixes[index] + (1 - self.decay)
        return self.norms[index] / self.fixes[index]
