"""A running mean of a model's weights: what is validated and shipped."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage(nn.Module):
    """Exponential moving average of a module's parameters and floating buffers; other buffers are copied.

    Codebooks learned by EMA are floating buffers, so they are averaged as the weights are. The decay begins low
    (1/10 at the first update) and rises to its final value, so that the start of training is soon forgotten.
    The copy is always in eval mode and needs no gradient; its state travels with the checkpoint.

    Args:
        module: What to follow.
        decay: Final decay of an update.
    """

    def __init__(self, module: nn.Module, decay: float):
        super().__init__()
        self.decay = decay
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move towards `module`."""
        updates = int(self.updates)
        self._blend(module, min(self.decay, (1 + updates) / (10 + updates)))
        self.updates += 1

    @torch.no_grad()
    def restart(self, module: nn.Module) -> None:
        """Forget the past: equal `module` from now on."""
        self._blend(module, 0.0)
        self.updates.zero_()

    def train(self, mode: bool = True) -> WeightAverage:
        """Stays in eval mode, whatever `mode` says."""
        return super().train(False)

    def _blend(self, module: nn.Module, decay: float) -> None:
        mean, live = self.module.state_dict(keep_vars=True), module.state_dict(keep_vars=True)
        alike = [name for name, value in live.items() if value.is_floating_point() and value.shape == mean[name].shape]
        once = {id(mean[name]): name for name in alike}.values()  # tied weights have several names
        torch._foreach_lerp_([mean[name] for name in once], [live[name] for name in once], 1 - decay)
        for name in live.keys() - set(alike):
            if live[name].shape == mean[name].shape:
                mean[name].copy_(live[name])
            else:  # a buffer that grows, such as the vectors that k-means waits for
                owner, _, leaf = name.rpartition(".")
                setattr(self.module.get_submodule(owner), leaf, live[name].detach().clone())
