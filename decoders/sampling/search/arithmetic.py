"""Arithmetic sampling: samples of a row are read from evenly spaced code points, so that few of them are alike."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.search.candidates import Candidates
from zoo.decoders.sampling.search.paths import Paths
from zoo.decoders.sampling.search.sampled import noise_of

_POINT = 4  # name of the stream
FINEST = 2.0**-52  # digits of a code point end here


@torch.no_grad()
def arithmetic_samples(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    count: int = 16,
    law: Law | None = None,
    noise: Noise | None = None,
    **options: Any,
) -> Candidates:
    """Draw `count` continuations of each prompt that are spread evenly over all there could be.

    Vilnis et al., "Arithmetic Sampling: Parallel Diverse Decoding for Large Language Models" (arXiv 2210.15458). All
    continuations lie in [0, 1) in the order of their tokens, each as long as it is probable. One point of a row is
    drawn; the others lie 1 / count apart from it, round in a circle; and each sample is the continuation at its point.
    So of a continuation of probability p there come count x p, rounded up or down. A float has 52 digits, which some
    dozen steps use up: those that a step uses up are drawn anew, for each sample by itself.

    A step magnifies what rounding did to its point, by one over the probability of its token. So the same seed gives
    the same samples from the same batch alone: other rows beside a row can change all but its first few steps.

    Exactness: each sample by itself is drawn from the law (distribution); together they depend on each other.
    Cost: a forward pass of `count` rows a step and row.

    Args:
        options: `lengths`, `cond`, `stop`, `forced`, `positions`, as `decode` takes them.

    Raises:
        ValueError: As `decode`; a count below 1.
    """
    paths = Paths(model, prompt, steps, law, count, **options)
    noise = (noise or Noise(0)).derive(_POINT)
    spread = torch.arange(count, dtype=torch.float64, device=prompt.device) / count
    point = (noise.uniform(paths.at[:, None], 1)[:, 0] + spread) % 1
    digits = noise_of(noise.derive(1), paths)

    def pick(book: int, logp: Float[Tensor, "R K V"]) -> Int[Tensor, "R K"]:
        nonlocal point
        upper = logp.double().softmax(-1).cumsum(-1)
        upper = upper / upper[..., -1:]
        tokens = (upper <= point[..., None]).sum(-1)
        high = upper.gather(-1, tokens[..., None])[..., 0]
        low = torch.where(tokens > 0, upper.gather(-1, (tokens - 1).clamp(min=0)[..., None])[..., 0], 0.0)
        fresh = digits.uniform(paths.at.repeat_interleave(count)[:, None], paths.info.codebooks)[:, 0, book]
        point = (point - low + FINEST * (fresh.view_as(point) - 0.5)) / (high - low)
        point = point.clamp(0, 1 - FINEST)
        return tokens

    while paths.alive.any():
        paths.grow(*paths.drawn(pick))
    return paths.candidates(Exactness.DISTRIBUTION)
