"""How losses are weighed against each other by the gradients that they have at the output, whatever their scales."""

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


class AdaptiveAdversary(nn.Module):
    """VQGAN's adaptive weight (Esser et al. 2021): the adversarial gradient is made as large as that of the distances.

    All losses but the adversarial one are added with their weights as they are. The gradient of the adversarial loss
    is brought to the norm of that sum, then multiplied by its weight. Norms are taken at the output rather than at the
    last layer, so that any architecture will do.

    Args:
        largest: Bound of the factor, for the first steps of a discriminator that has nothing to say yet.
    """

    def __init__(self, largest: float = 1e4):
        super().__init__()
        self.largest = largest

    def forward(
        self, losses: Mapping[str, Tensor], weights: Mapping[str, float], output: Float[Tensor, "batch *shape"]
    ) -> Float[Tensor, "batch *shape"]:
        """Gradient at `output` to go on with; see `Balancer.forward`."""
        distances = [weights[name] * loss for name, loss in losses.items() if name != "adversarial"]
        if not distances:
            raise ValueError("the adaptive weight compares the adversarial loss with others, and there are none")
        (gradient,) = torch.autograd.grad(sum(distances), [output], retain_graph=True)
        if "adversarial" not in losses:
            return gradient
        (pull,) = torch.autograd.grad(losses["adversarial"], [output], retain_graph=True)
        factor = (gradient.norm() / (pull.norm() + 1e-12)).clamp(max=self.largest)
        return gradient + weights["adversarial"] * factor * pull
