"""Lines of steps that are copied from somewhere, as drafts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Proposer
from zoo.decoders.sampling.proposers.choice import by_row

Step = tuple[int, ...]


def steps_of(tokens: Int[Tensor, "S Q"]) -> list[Step]:
    """Steps that can be compared and looked up."""
    return [tuple(step) for step in tokens.tolist()]


def drafted(
    ctx: Context, n: int, lines: Sequence[Sequence[Step]], wanted: Sequence[bool], fallback: Proposer | None
) -> Draft:
    """A line for each row, as a chain; rows without one that want one get the fallback's draft.

    Args:
        wanted: Rows that want more than one step.
    """
    count = torch.tensor([len(line) for line in lines])
    tokens = torch.zeros(ctx.rows, int(count.max()), ctx.tokens.shape[2], dtype=torch.int64)
    for row, line in enumerate(lines):
        if line:
            tokens[row, : len(line)] = torch.tensor(line)
    tokens, count = tokens.to(ctx.length.device), count.to(ctx.length.device)
    cards = torch.tensor(ctx.model.info.cards, device=tokens.device)
    draft = Draft(tokens.where(tokens < cards, 0), count)  # structure is not to be bet on
    if fallback is None or all(line or not asked for line, asked in zip(lines, wanted, strict=True)):
        return draft
    return by_row(count > 0, draft, fallback.propose(ctx, n), ctx.room)
