"""Best of n: draw several samples and keep the one of the best score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.search.candidates import Candidates, Ranked, ranked
from zoo.decoders.sampling.search.sampled import samples

Score = Callable[[Int[Tensor, "S Q"], Float[Tensor, "S Q"]], float]
"""How good a candidate is, by its codes and their log-probabilities; more is better."""

Sampler = Callable[..., Candidates]
"""What draws candidates, as `samples` does."""


def mean_log_probability(codes: Int[Tensor, "S Q"], logp: Float[Tensor, "S Q"]) -> float:
    """Of a code, under the law that it was drawn from."""
    return float(logp.double().mean())


def best_of(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    count: int = 8,
    score: Score = mean_log_probability,
    law: Law | None = None,
    noise: Noise | None = None,
    *,
    sampler: Sampler = samples,
    **options: Any,
) -> Ranked:
    """Draw `count` continuations of each prompt and rank them, as Stiennon et al. (arXiv 2009.01325) do by a reward.

    Exactness: approximate, as choosing changes the law; a count of 1 is plain drawing.
    Cost: that of the samples, and a score for each.

    Args:
        score: Of a candidate; more is better.
        sampler: `samples` or `arithmetic_samples`.
        options: As the sampler takes them.

    Raises:
        ValueError: As the sampler.
    """
    found = sampler(model, prompt, steps, count, law, noise, **options)
    scores = [[score(codes, logp) for codes, logp in found.each(row)] for row in range(len(found.codes))]
    return ranked(found, torch.tensor(scores, dtype=torch.float64, device=prompt.device))
