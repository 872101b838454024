"""Minimum Bayes risk: of several samples, the one that is most like the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.search.best_of import Sampler
from zoo.decoders.sampling.search.candidates import Ranked, ranked
from zoo.decoders.sampling.search.sampled import samples

Utility = Callable[[Int[Tensor, "S Q"], Int[Tensor, "T Q"]], float]
"""How good a candidate is, if the second argument is what should have come; more is better."""


def minimum_bayes_risk(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    count: int = 16,
    utility: Utility | None = None,
    law: Law | None = None,
    noise: Noise | None = None,
    *,
    sampler: Sampler = samples,
    **options: Any,
) -> Ranked:
    """Draw `count` continuations of each prompt and rank them by their mean utility, with each as the reference.

    Eikema and Aziz, "Is MAP Decoding All You Need?" (arXiv 2005.10283) and "Sampling-Based Approximations to Minimum
    Bayes Risk Decoding" (arXiv 2108.04718). The samples stand for the law, so truncations bias it. A candidate is one
    of its references, which adds the same to all whose likeness to themselves is the same.

    Exactness: approximate. Cost: that of the samples, and count ** 2 utilities a row.

    Args:
        utility: Default: `ngram_f`.
        sampler: `samples`, or `arithmetic_samples`, whose samples cover the law with fewer of them.
        options: As the sampler takes them.

    Raises:
        ValueError: As the sampler.
    """
    found = sampler(model, prompt, steps, count, law, noise, **options)
    scores = [expected([codes for codes, _ in found.each(row)], utility or ngram_f) for row in range(len(found.codes))]
    return ranked(found, torch.stack(scores).to(prompt.device))


def expected(candidates: list[Int[Tensor, "S Q"]], utility: Utility) -> Float[Tensor, "K"]:
    """float64, the mean utility of each with all of them as references."""
    rows = [[utility(candidate, reference) for reference in candidates] for candidate in candidates]
    return torch.tensor(rows, dtype=torch.float64).mean(1)


def ngram_f(candidate: Int[Tensor, "S Q"], reference: Int[Tensor, "T Q"], order: int = 6, beta: float = 2.0) -> float:
    """F score of n-grams of steps, in [0, 1]: chrF (Popovic, WMT 2015) of tokens; of bytes, it is that of bytes.

    Precision and recall are means over the n for which both have n-grams; recall counts `beta` ** 2 times as much. 1
    where both are empty, 0 where one is.

    Args:
        order: Longest n-gram.
    """
    ours, theirs = ([tuple(step) for step in codes.tolist()] for codes in (candidate, reference))
    orders = range(1, min(order, len(ours), len(theirs)) + 1)
    if not orders:
        return float(ours == theirs)
    precision = recall = 0.0
    for n in orders:
        found, wanted = _ngrams(ours, n), _ngrams(theirs, n)
        both = (found & wanted).total()
        precision += both / found.total() / len(orders)
        recall += both / wanted.total() / len(orders)
    weighted = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / weighted if weighted else 0.0


def _ngrams(steps: list[tuple[int, ...]], n: int) -> Counter[tuple[tuple[int, ...], ...]]:
    return Counter(zip(*(steps[first:] for first in range(n)), strict=False))
