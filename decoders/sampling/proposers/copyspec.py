"""Blocks that follow where the last few steps stood before, found by their hash."""

from __future__ import annotations

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.copies import Step, drafted, steps_of


class CopySpec(Proposer):
    """Copies what followed the last place where the same `gamma` steps stood.

    Dumitru et al., "CopySpec" (arXiv 2502.08923). Unlike `NGram` it neither looks for longer matches nor through the
    row: a table holds where each run of `gamma` steps ended last. All codebooks of a step must match.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: no forward pass; one look-up in a table for each step that comes, in constant time and memory, and one look at
    the tokens a round, for which a GPU waits.

    Args:
        gamma: Steps that must match; with few, much is copied in vain.
        fallback: Drafts in rows where nothing matches, as the authors have a draft model do.

    Raises:
        ValueError: Matches of no step.
    """

    def __init__(self, gamma: int = 3, fallback: Proposer | None = None):
        if gamma < 1:
            raise ValueError(f"matches of {gamma} steps; expected 1 or more")
        self.gamma, self.fallback = gamma, fallback
        self._steps: list[list[Step]]
        self._ends: list[dict[tuple[Step, ...], int]]  # where each run of steps ended last, but for the run at the end
        self._from: list[int | None]  # what is to be copied begins there

    def start(self, ctx: Context) -> None:
        self._steps, self._ends = [[] for _ in range(ctx.rows)], [{} for _ in range(ctx.rows)]
        self._from = [None] * ctx.rows
        if self.fallback is not None:
            self.fallback.start(ctx)

    def propose(self, ctx: Context, n: int) -> Draft:
        for row, length in enumerate(ctx.length.tolist()):
            self._read(row, steps_of(ctx.tokens[row, len(self._steps[row]) : length]))
        wanted = (ctx.room > 1).tolist()
        lines = [self._copied(row, n) if wanted[row] else [] for row in range(ctx.rows)]
        return drafted(ctx, n, lines, wanted, self.fallback)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        if self.fallback is not None:
            self.fallback.observe(ctx, outcome)

    def _read(self, row: int, came: list[Step]) -> None:
        steps, ends = self._steps[row], self._ends[row]
        for step in came:
            steps.append(step)
            if len(steps) >= self.gamma:
                run = tuple(steps[-self.gamma :])
                self._from[row] = ends.get(run)
                ends[run] = len(steps)

    def _copied(self, row: int, n: int) -> list[Step]:
        begin, steps = self._from[row], self._steps[row]
        if begin is None:
            return []
        return [steps[begin + i % (len(steps) - begin)] for i in range(n)]  # an overlapping match is a period
