"""Prompt lookup: what came last stood here before, so what followed then may follow again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Proposer


@dataclass(frozen=True)
class NGram(Proposer):
    """Copies what followed the longest earlier match of a row's last steps; of equal ones, the latest.

    Saxena, "Prompt Lookup Decoding" (2023). `CopySpec` finds matches of one length in constant time, `InputCopy`
    follows a text that is being revised.

    A match that overlaps the end is a period, and is copied on around it. All codebooks of a step must match.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: no forward pass; `longest` comparisons of the last step with all steps of the row, and two looks at the tokens
    a round, for which a GPU waits.

    Attributes:
        longest: Steps that are compared at most.
        shortest: Steps that must match.

    Raises:
        ValueError: Matches of no step, or a longest one below the shortest.
    """

    longest: int = 4
    shortest: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest:
            raise ValueError(f"matches of {self.shortest} to {self.longest} steps; expected 1 or more, in this order")

    def propose(self, ctx: Context, n: int) -> Draft:
        row = torch.arange(ctx.rows, device=ctx.length.device)[:, None]
        end = torch.arange(int(ctx.length.max()) - 1, device=ctx.length.device)  # last steps of possible matches
        match = torch.zeros(ctx.rows, len(end), dtype=torch.int64, device=end.device)
        unbroken = end < ctx.length[:, None] - 1
        for back in range(self.longest):
            suffix = ctx.tokens[row, (ctx.length[:, None] - 1 - back).clamp(min=0)]
            unbroken = unbroken & (end >= back) & (ctx.tokens[:, (end - back).clamp(min=0)] == suffix).all(-1)
            match = match + unbroken
        if not len(end):
            return Draft.empty(ctx.rows, ctx.tokens.shape[2], end.device)
        length, at = (match * len(end) + end).max(1)
        found = (length // len(end) >= self.shortest) & (ctx.room > 1)
        period = (ctx.length - 1 - at).clamp(min=1)[:, None]
        copied = at[:, None] + 1 + torch.arange(n if found.any() else 0, device=end.device) % period
        tokens = ctx.tokens[row, copied]
        known = tokens < torch.tensor(
            ctx.model.info.cards, device=end.device
        )  # else structure, which is not to be bet on
        return Draft(tokens.where(known, 0), torch.where(found, n, 0))
