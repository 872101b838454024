"""Hinge losses of discriminator and generator, feature matching, and a regularisation for few data."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from zoo.recipes.losses.discriminators import Verdict


def hinge_discriminator(real: list[Verdict], fake: list[Verdict]) -> Float[Tensor, ""]:
    """Loss of the discriminators: real logits above 1 and fake ones below -1 cost nothing."""
    pairs = zip(real, fake, strict=True)
    return torch.stack([(1 - r.logits).relu().mean() + (1 + f.logits).relu().mean() for r, f in pairs]).mean()


def hinge_generator(fake: list[Verdict]) -> Float[Tensor, ""]:
    """Loss of the generator: the further above 1 the logits of its output, the better, up to 1."""
    return torch.stack([(1 - f.logits).relu().mean() for f in fake]).mean()


def feature_matching(real: list[Verdict], fake: list[Verdict]) -> Float[Tensor, ""]:
    """Mean absolute difference of all inner features, relative to the size of the real ones."""
    layers = [pair for r, f in zip(real, fake, strict=True) for pair in zip(r.features, f.features, strict=True)]
    return torch.stack(
        [(f - r.detach()).abs().mean() / r.detach().abs().mean().clamp(min=1e-6) for r, f in layers]
    ).mean()


class LeCam(nn.Module):
    """Holds the logits of discriminators back where data are few (Tseng et al. 2021, "Regularizing GANs under Limited
    Training Data").

    Squared distance of the logits of real media to a running mean of those of reconstructions, and the other way
    round: what is called real most surely is pulled down, what is called false most surely is pulled up. The running
    means over all discriminators are buffers, so they are saved and resumed.

    Args:
        decay: Of the running means.
    """

    def __init__(self, decay: float = 0.999):
        super().__init__()
        self.decay = decay
        self.register_buffer("real", torch.zeros(()))
        self.register_buffer("fake", torch.zeros(()))

    def forward(self, real: list[Verdict], fake: list[Verdict]) -> Float[Tensor, ""]:
        """Loss to add to that of the discriminators; moves the running means first."""
        with torch.no_grad():
            self.real.lerp_(torch.stack([r.logits.mean() for r in real]).mean(), 1 - self.decay)
            self.fake.lerp_(torch.stack([f.logits.mean() for f in fake]).mean(), 1 - self.decay)
        pulls = [(r.logits - self.fake).square().mean() + (f.logits - self.real).square().mean()
                 for r, f in zip(real, fake, strict=True)]  # fmt: skip
        return torch.stack(pulls).mean()
