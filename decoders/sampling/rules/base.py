"""What a verification rule is: a pure function from a draft and the target's law to what stands of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Num
from torch import Tensor

from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.noise import Noise
from zoo.decoders.sampling.result import Exactness

_DRAFT, _TEST, _DRAW = 1, 2, 3  # names of streams


class Streams(NamedTuple):
    """Where the random numbers of one round come from.

    Attributes:
        draft: What proposers draw from.
        test: Of acceptance tests.
        draw: Of the tokens that the rule draws itself.
    """

    draft: Noise
    test: Noise
    draw: Noise


class Scores(NamedTuple):
    """What the target says about a block: the last known step of each row, then the nodes of the draft.

    Attributes:
        logp: float32 `[R, N + 1, Q, V]`, for each slot the law of what comes behind it. Where the codes of a step
            depend on each other, those of codebook q hold for the codes before q that the draft has behind that slot.
        steps: int64 `[R, N + 1]`, the absolute step that each of them is the law of.
        hidden: `[R, N + 1, D]`, the target's hidden states, of its first stream.
        chained: The codes of a step depend on each other.
    """

    logp: Float[Tensor, "R S Q V"]
    steps: Int[Tensor, "R S"]
    hidden: Float[Tensor, "R S D"]
    chained: bool = False


class Verified(NamedTuple):
    """What stands.

    Attributes:
        n: int64 `[R]`, accepted nodes.
        path: int64 `[R, K]`, which, from the root on; what lies behind `n` is ignored. None, for chains: the first
            ones.
        next: int64 `[R, Q]`, the step behind them. -1 for codes that need logits which are not there yet, because they
            depend on codes of their step that changed: the loop draws these, from the stream `draw`.
        undecided: bool `[R]`, rows that give no step behind the accepted nodes in this round, because their rule has
            yet to see it as a node; they must have accepted one. None: no row.
        redrawn: int64 `[R, N + 1, Q]`, for each slot of a chain a step drawn from its law in `Scores`; nothing comes
            out of it, it is what the next round may bet on behind `next`. None: the rule redraws nothing.
    """

    n: Int[Tensor, "R"]
    path: Int[Tensor, "R K"] | None
    next: Int[Tensor, "R Q"]
    undecided: Bool[Tensor, "R"] | None = None
    redrawn: Int[Tensor, "R S Q"] | None = None


class Rule(ABC):
    """Base class of rules.

    Attributes:
        exactness: What the rule does to the output, whatever was drafted.
        trees: It takes trees; else chains only.
        densities: It makes use of the law that drafts were drawn from.
        needs_draft: It decides among nodes only, so that the last step needs a draft, too.
    """

    exactness: ClassVar[Exactness]
    trees: ClassVar[bool] = False
    densities: ClassVar[bool] = True
    needs_draft: ClassVar[bool] = False

    def streams(self, noise: Noise, round: int) -> Streams:
        """The rule names the streams, because a draft that shares noise with its judge can ruin the law, or save it.

        By default they are independent of each other and of every other round. A rule may judge a step again that it
        has judged in an earlier round, and what was drafted there then may be known to the drafter now.
        """
        return Streams(*(noise.derive(name, round) for name in (_DRAFT, _TEST, _DRAW)))

    @abstractmethod
    def verify(self, draft: Draft, scores: Scores, noise: Streams) -> Verified:
        """What stands of a draft. No model, no state, no question to the device; each row on its own."""


def leading(stands: Bool[Tensor, "R N"]) -> Int[Tensor, "R"]:
    """How many stand before the first that doesn't."""
    return stands.long().cumprod(1).sum(1)


def known_codes(accepted: Bool[Tensor, "R Q"], drafted: Bool[Tensor, "R"]) -> Bool[Tensor, "R Q"]:
    """Which codes of the first step that doesn't stand have logits that hold, if codes depend on those before them.

    Those before the first rejected one, and that one itself; where nothing was drafted, the first code alone.

    Args:
        accepted: Which codes of the drafted step stand by themselves.
        drafted: Rows in which the step was drafted.
    """
    before = torch.cat((torch.ones_like(accepted[:, :1]), accepted[:, :-1] & drafted[:, None]), 1)
    return before.long().cumprod(1).bool()


def slot_of(verified: Verified) -> Int[Tensor, "R"]:
    """The slot of the block behind which the next step comes: that of the last accepted node, or the root."""
    if verified.path is None or not verified.path.shape[1]:
        return verified.n
    row = torch.arange(len(verified.n), device=verified.n.device)
    return torch.where(verified.n > 0, verified.path[row, (verified.n - 1).clamp(min=0)] + 1, 0)


def in_line(
    verified: Verified, nodes: Num[Tensor, "R N *rest"], next: Num[Tensor, "R *rest"]
) -> Num[Tensor, "R K *rest"]:
    """What belongs to the accepted nodes, in order, then what belongs to the next step; anything behind."""
    row = torch.arange(len(nodes), device=nodes.device)
    line = nodes if verified.path is None else nodes[row[:, None], verified.path]
    line = torch.cat((line, next[:, None]), 1)
    line[row, verified.n] = next
    return line
