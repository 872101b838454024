"""What is being revised is the draft: it is copied on from where the output agrees with it."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Outcome, Proposer
from zoo.decoders.sampling.proposers.copies import Step, drafted, steps_of
from zoo.decoders.sampling.proposers.given import check_given


class InputCopy(Proposer):
    """Copies the source from its beginning; behind a step that differs, on from the one place where the end of the
    output stands in it.

    The input-guided method of Sun et al., "Instantaneous Grammatical Error Correction with Shallow Aggressive Decoding"
    (arXiv 2106.04970), and Ge et al., "Lossless Acceleration for Seq2seq Generation with Aggressive Decoding" (arXiv
    2205.10350): for outputs that are much like the input, as of correction, translation of codes and editing. As much
    of the end is compared as makes the place unique; while there is none, rows go one by one, or the fallback drafts.

    Output: identical under the rule `equal`; drafts are chains without laws, which all rules take.

    Cost: no forward pass; behind a difference, a search through the source in Python, and one look at the tokens a
    round, for which a GPU waits.

    Args:
        source: int64 `[S, Q]`, of the target's vocabulary, for all rows; None: each row revises its own prompt.
        fallback: Drafts in rows that agree with the source nowhere.

    Raises:
        ValueError: By `start`, a source that is none of the target's.
    """

    def __init__(self, source: Int[Tensor, "S Q"] | None = None, fallback: Proposer | None = None):
        self.source, self.fallback = source, fallback
        self._sources: list[list[Step]]
        self._next: list[int | None]  # the step of the source that comes next
        self._read: list[int]  # steps of each row that are known here
        self._begin: list[int]

    def start(self, ctx: Context) -> None:
        self._begin = ctx.length.tolist()
        self._read, self._next = list(self._begin), [0] * ctx.rows
        if self.source is None:
            self._sources = [steps_of(ctx.tokens[row, :length]) for row, length in enumerate(self._begin)]
        else:
            check_given(self.source, f"the source of {type(self).__name__}", ctx.model.info)
            self._sources = [steps_of(self.source)] * ctx.rows
        if self.fallback is not None:
            self.fallback.start(ctx)

    def propose(self, ctx: Context, n: int) -> Draft:
        for row, length in enumerate(ctx.length.tolist()):
            self._follow(row, steps_of(ctx.tokens[row, self._begin[row] : length]), length - self._read[row])
            self._read[row] = length
        wanted = (ctx.room > 1).tolist()
        lines = [
            source[at : at + n] if asked and at is not None else []
            for source, at, asked in zip(self._sources, self._next, wanted, strict=True)
        ]
        return drafted(ctx, n, lines, wanted, self.fallback)

    def observe(self, ctx: Context, outcome: Outcome) -> None:
        if self.fallback is not None:
            self.fallback.observe(ctx, outcome)

    def _follow(self, row: int, output: list[Step], came: int) -> None:
        """Move on in the source by the steps that came last."""
        source, at = self._sources[row], self._next[row]
        if at is not None and source[at : at + came] == output[len(output) - came :]:
            self._next[row] = at + came
        else:
            self._next[row] = _only_place(source, output)


def _only_place(source: list[Step], output: list[Step]) -> int | None:
    """Behind the one place in the source where the output's end stands, of as few steps as make it one."""
    places = [end for end in range(1, len(source) + 1) if output and source[end - 1] == output[-1]]
    length = 1
    while len(places) > 1 and length < len(output):
        length += 1
        places = [end for end in places if end >= length and source[end - length] == output[-length]]
    return places[0] if len(places) == 1 else None
