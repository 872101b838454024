"""Steps that a caller gives a proposer to draft from, held against the target that it is to draft for."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.base import DecoderInfo


def check_given(steps: Int[Tensor, "S Q"], name: str, target: DecoderInfo) -> None:
    """Input-only ids may be among them, as they are in prompts.

    Args:
        name: What they are, for the message.

    Raises:
        ValueError: They are no line of the target's steps.
    """
    books = target.codebooks
    if steps.ndim != 2 or steps.shape[1] != books or steps.is_floating_point():
        raise ValueError(
            f"{name} is {steps.dtype} {list(steps.shape)}; the target has {books} codebooks: give integers "
            f"[steps, {books}]"
        )
    limits = torch.tensor(target.cards, device=steps.device) + target.specials
    bad = ((steps < 0) | (steps >= limits)).nonzero()
    if len(bad):
        step, book = bad[0].tolist()
        raise ValueError(
            f"{name} has the token {steps[step, book].item()} (step {step}, codebook {book}), which is outside the "
            f"target's vocabulary; give ids in 0 .. {limits[book].item() - 1}"
        )
