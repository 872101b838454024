"""Random draws that a resumed training repeats: each is a pure function of a seed and a step, never of global state."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from zoo.codecs.quantizers.distributed import rank


def generator(seed: int, step: int, stream: int = 0, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one step; different `stream`s are independent of each other, and kinds of device differ."""
    state = np.random.SeedSequence((seed, step, stream)).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))


def draw_counts(batch: int, codebooks: int, dropout: float, seed: int, step: int) -> Int[Tensor, "batch"]:
    """How many codebooks each row uses: a share `dropout` of the rows a uniform 1..`codebooks`, the others all."""
    source = generator(seed, step, stream=1 + rank())
    counts = torch.randint(1, codebooks + 1, (batch,), generator=source)
    full = torch.rand(batch, generator=source) >= dropout
    return counts.masked_fill(full, codebooks)
