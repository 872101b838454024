"""Hinge losses of discriminator and generator, and feature matching."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

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
