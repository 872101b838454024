"""Several samples of each row, drawn side by side."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.search.candidates import Candidates
from zoo.decoders.sampling.search.paths import Paths

SAMPLE = 1 << 48  # sample k of row r has the noise of row r + k * SAMPLE


@torch.no_grad()
def samples(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    count: int = 16,
    law: Law | None = None,
    noise: Noise | None = None,
    **options: Any,
) -> Candidates:
    """Draw `count` independent continuations of each prompt, which is read once.

    Exactness: identical; the first sample is what `decode` draws with this noise, and no sample depends on how many
    there are. Cost: a forward pass of `count` rows a step and row.

    Args:
        options: `lengths`, `cond`, `stop`, `forced`, `positions`, as `decode` takes them.

    Raises:
        ValueError: As `decode`; a count below 1.
    """
    law = law or Law()
    paths = Paths(model, prompt, steps, law, count, **options)
    drawing = noise_of(noise or Noise(0), paths)
    shape = (*paths.alive.shape, paths.info.codebooks, paths.info.vocabulary)
    gumbel = torch.zeros(shape, device=prompt.device)
    while paths.alive.any():
        if not law.certain:
            gumbel = drawing.gumbel(paths.at.repeat_interleave(count)[:, None], *shape[2:]).view(shape)
        paths.grow(*paths.drawn(partial(_pick, gumbel)))
    return paths.candidates(Exactness.IDENTICAL)


def _pick(gumbel: Float[Tensor, "R K Q V"], book: int, logp: Float[Tensor, "R K V"]) -> Int[Tensor, "R K"]:
    return draw(logp, gumbel[:, :, book])


def noise_of(noise: Noise, paths: Paths) -> Noise:
    """One row of noise for each path; that of the first is its row's."""
    rows = range(paths.rows) if noise.rows is None else noise.rows
    return replace(noise, rows=tuple(row + k * SAMPLE for row in rows for k in range(paths.count)))
