"""Self-speculation: some layers of the target draft for all of them, on the target's own keys."""

from __future__ import annotations

from collections.abc import Iterable

from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.autoregressive import PartialDecoder, core_of
from zoo.decoders.base import TokenModel
from zoo.decoders.one_code import OneCode
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.proposers.base import Context, Proposer
from zoo.decoders.sampling.proposers.chain import draw_chain


class EarlyExit(Proposer):
    """Drafts a chain from the target run through some depths only, on a fork of its state.

    The first few: Elhoushi et al., "LayerSkip" (arXiv 2404.16710), for decoders trained with losses on early exits.
    With layers left out in between: Zhang et al., "Draft & Verify" (arXiv 2309.08168); `Swift` finds out which. With
    `confident`, and an exit that was trained: Liu et al., "Kangaroo" (arXiv 2404.18911). It reads what the target
    reads, all streams of a law among it.

    Output: identical under the rule `equal`; other rules get the laws that it drew from.

    Cost: as many layers for each drafted step; no memory. The target computes these layers again when it verifies.

    Args:
        depths: What runs, in order; `range(2)` exits behind the second layer.
        confident: Where drafts end early; see `draw_chain`.
    """

    def __init__(self, depths: Iterable[int], confident: float = 0.0):
        self.depths, self.confident = tuple(depths), confident
        self._part: TokenModel

    def start(self, ctx: Context) -> None:
        self._part = self.part(ctx, self.depths)

    def propose(self, ctx: Context, n: int) -> Draft:
        return self.chain(ctx, n, self._part)

    def part(self, ctx: Context, depths: Iterable[int]) -> TokenModel:
        """The target, without what encodes its conditions: that is done once, and the state carries it.

        Raises:
            ValueError: One whose layers cannot be left out.
        """
        seen = ctx.model
        whole = seen.model if isinstance(seen, OneCode) else seen
        target = core_of(whole)
        if target is None:
            raise ValueError(f"{type(whole).__name__} exits nowhere early; give an AutoregressiveDecoder")
        part = PartialDecoder(target, depths)
        return OneCode(part, seen.layout) if isinstance(seen, OneCode) else part

    def chain(self, ctx: Context, n: int, part: TokenModel) -> Draft:
        """Drafted by that part of the target."""
        state = ctx.state.fork()
        streams = state.rows // ctx.rows

        def behind(last: Int[Tensor, "R 1 Q"]) -> Float[Tensor, "R 1 Q V"]:
            positions = ctx.places(state.length[:, None], part)
            logits = part(last.repeat(streams, 1, 1), positions, state).logits
            state.commit(None, 1)
            return ctx.law.combine(logits)

        return draw_chain(ctx, n, behind(ctx.last[:, None]), behind, self.confident)
