"""Beam search: the most probable continuations, as far as a few of them at a time can tell."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.result import Exactness
from zoo.decoders.sampling.search.candidates import Ranked, ranked
from zoo.decoders.sampling.search.paths import Paths, candidates_of


def beam_search(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    width: int = 4,
    law: Law | None = None,
    *,
    length_penalty: float = 1.0,
    patience: float | None = None,
    **options: Any,
) -> Ranked:
    """Keep the `width` most probable paths, step by step; return those that ended best.

    Lowerre, "The Harpy Speech Recognition System" (1976); the score of a path that ended is the sum of its steps'
    log-probabilities over (steps ** length_penalty), as Wu et al. (arXiv 1609.08144) have it without their offset of 5.
    A path ends with a stop token, if it is then among the `width` best, or with the last step. One behind which the law
    leaves no token possible is dropped. Nothing is random. Codes of several codebooks that don't depend on each other
    within a step are searched jointly, exactly.

    Exactness: approximate, as the most probable text is no draw from the law; width 1 and a law of one stream choose
    what temperature 0 does, and a width of all sequences finds the best of all.
    Cost: a forward pass of `width` rows a step and row, and one copy of the rows' memory.

    Args:
        model: Causal, in eval mode; the codes of a step must not depend on each other.
        width: Paths of each row, and candidates that come back.
        law: Gives the log-probabilities: temperature and truncations change what is searched for. Default: the model's.
        length_penalty: 0: sums are compared, which favours short ones; 1: means; more: long ones.
        patience: Stop when width x patience paths have ended (Kasai et al., arXiv 2204.05424); 1 is early stopping,
            first come, first served. None: when no path can become better than the worst of the `width` best that
            ended.
        options: `lengths`, `cond`, `stop`, `forced`, `positions`, as `decode` takes them.

    Raises:
        ValueError: A setting out of its range; codes that depend on each other; a law that leaves no token possible
            behind any path of a row of which none ended; as `decode`.
    """
    paths = Paths(one_at_a_time(model), prompt, steps, law, width, **options)
    return search(paths, Widest(), 1, length_penalty, patience)


class Choice(NamedTuple):
    """Paths, each with a step more.

    Attributes:
        score: float64, sum of log-probabilities; -inf: there are no more, and this is a copy of the first.
        parent: The path that each goes on from.
        tokens: Of the step.
        logp: Of each code of it.
    """

    score: Float[Tensor, "R B"]
    parent: Int[Tensor, "R B"]
    tokens: Int[Tensor, "R B Q"]
    logp: Float[Tensor, "R B Q"]


class Chooser(Protocol):
    """Which paths are kept. R counts groups here: G of each row, with B paths each, which are searched apart."""

    def choose(
        self,
        score: Float[Tensor, "R B"],
        logp: Float[Tensor, "R B Q V"],
        ending: Bool[Tensor, "R 1 V"],
    ) -> tuple[Choice, Choice]:
        """The best with one step more, and the best of those that go on, which then do.

        Args:
            score: Of the paths; -inf: dead.
            logp: Laws of their next step.
            ending: Which tokens of the first codebook end a path.
        """


class Widest:
    """The most probable ones."""

    def choose(self, score: Tensor, logp: Tensor, ending: Tensor) -> tuple[Choice, Choice]:
        return best_steps(score, logp), best_steps(score, going_on(logp, ending))


@torch.no_grad()
def search(paths: Paths, chooser: Chooser, groups: int, length_penalty: float, patience: float | None) -> Ranked:
    """The loop of all beam searches: look, choose, put aside what ended, and go on until nothing better can come.

    Raises:
        ValueError: A patience that is not positive; no path of a row can go on, and none ended.
    """
    width, parts = paths.count // groups, paths.rows * groups
    if patience is not None and not 0 < patience < math.inf:
        raise ValueError(
            f"patience is {patience}; expected more than 0, or None to go on while something can be better"
        )
    kept = Kept(parts, width, paths)
    score = torch.zeros(parts, width, dtype=torch.float64, device=paths.alive.device)
    score[:, 1:] = -math.inf  # all paths are the same prompt
    alive = torch.ones(parts, dtype=torch.bool, device=score.device)
    room = paths.room.repeat_interleave(groups)
    while alive.any():
        length, logp = paths.grown + 1, paths.laws().view(parts, width, *paths.logp.shape[3:], -1)
        ending, stuck = paths.ending().repeat_interleave(groups, 0), paths.stuck()
        best, going = chooser.choose(score.masked_fill(stuck.view(parts, width), -math.inf), logp, ending)
        ended = ending.expand(-1, width, -1).gather(2, best.tokens[..., :1])[..., 0] & alive[:, None]
        kept.add(best, ended, length, length_penalty)
        furthest = room if length_penalty > 0 else torch.full_like(room, length)
        hope = going.score.amax(1) / furthest.double() ** length_penalty
        over = hope <= kept.score[:, -1] if patience is None else kept.count >= width * patience
        alive = alive & ~over & torch.isfinite(hope)
        hopeless = ~(alive | torch.isfinite(kept.score[:, 0])).view(paths.rows, groups).any(1, keepdim=True)
        paths.refuse(stuck & hopeless)
        paths.alive = alive.view(paths.rows, groups).repeat_interleave(width, 1) & ~stuck
        paths.grow(*kept.whole(going))
        score = going.score.masked_fill(~alive[:, None], -math.inf)
    found = candidates_of(*kept.parts(), Exactness.APPROXIMATE, paths.recorder)
    return ranked(found, kept.score.reshape(paths.rows, paths.count))


class Kept:
    """The best paths that ended, of each group, best first.

    Attributes:
        score: Behind the length penalty; -inf: none yet.
        count: How many ended so far.
    """

    def __init__(self, parts: int, width: int, paths: Paths):
        self.paths = paths
        self.codes = paths.codes.new_zeros(parts, width, *paths.codes.shape[2:])
        self.logp = paths.logp.new_zeros(self.codes.shape)
        self.lengths = paths.lengths.new_zeros(parts, width)
        self.score = paths.logp.new_full((parts, width), -math.inf, dtype=torch.float64)
        self.count = paths.lengths.new_zeros(parts)

    def add(self, best: Choice, ended: Bool[Tensor, "R B"], length: int, penalty: float) -> None:
        """Those of `best` that ended, at this length."""
        ended = ended & torch.isfinite(best.score)
        if not ended.any():
            return
        score = (best.score / length**penalty).masked_fill(~ended, -math.inf)
        codes, logp = (part.view(self.codes.shape) for part in self.paths.extended(*self.whole(best)))
        self.score, order = torch.cat((self.score, score), 1).sort(dim=1, descending=True, stable=True)
        width, row = best.score.shape[1], torch.arange(len(order), device=order.device)[:, None]
        self.score, order = self.score[:, :width], order[:, :width]
        self.codes = torch.cat((self.codes, codes), 1)[row, order]
        self.logp = torch.cat((self.logp, logp), 1)[row, order]
        self.lengths = torch.cat((self.lengths, ended * length), 1)[row, order]
        self.count = self.count + ended.sum(1)

    def whole(self, choice: Choice) -> tuple[Int[Tensor, "R K Q"], Float[Tensor, "R K Q"], Int[Tensor, "R K"]]:
        """Tokens, log-probabilities and parents of all groups of a row side by side."""
        shape, (parts, width) = (self.paths.rows, self.paths.count), choice.parent.shape
        first = torch.arange(parts, device=choice.parent.device)[:, None] * width % self.paths.count
        tokens, logp = (part.reshape(*shape, -1) for part in (choice.tokens, choice.logp))
        return tokens, logp, (choice.parent + first).view(shape)

    def parts(self) -> tuple[Int[Tensor, "R K T Q"], Float[Tensor, "R K T Q"], Int[Tensor, "R K"]]:
        """Codes, log-probabilities and lengths, of all groups of a row side by side."""
        codes, logp = (part.view(self.paths.codes.shape) for part in (self.codes, self.logp))
        return codes, logp, self.lengths.view(self.paths.lengths.shape)


def best_steps(
    score: Float[Tensor, "R B"], logp: Float[Tensor, "R B Q V"], malus: Float[Tensor, "R Q V"] | None = None
) -> Choice:
    """The B best of all steps of all paths; of several codebooks jointly, from the best codes of each.

    Args:
        malus: Taken off each code's log-probability for the choice; scores don't have it.
    """
    width, row = score.shape[1], torch.arange(len(score), device=score.device)[:, None]
    ranks = logp if malus is None else logp - malus[:, None]
    total, tokens = score[..., None], torch.zeros(*score.shape, 1, 0, dtype=torch.int64, device=score.device)
    for book in ranks.unbind(2):
        found, token = book.topk(min(width, book.shape[-1]))
        both = (total[..., None] + found[:, :, None]).flatten(2)
        total, index = both.topk(min(width, both.shape[-1]))
        before = tokens.gather(2, (index // found.shape[-1])[..., None].expand(-1, -1, -1, tokens.shape[-1]))
        tokens = torch.cat((before, token.gather(2, index % found.shape[-1])[..., None]), -1)
    each = total.shape[-1]
    total, index = total.flatten(1).topk(width)
    index = index.where(torch.isfinite(total), index[:, :1])
    parent, tokens = index // each, tokens.flatten(1, 2)[row, index]
    logp = logp[row, parent].gather(-1, tokens[..., None])[..., 0]
    sums = score[row, parent] + logp.double().sum(-1)
    return Choice(sums.masked_fill(~torch.isfinite(total), -math.inf), parent, tokens, logp)


def going_on(logp: Float[Tensor, "R B Q V"], ending: Bool[Tensor, "R 1 V"]) -> Float[Tensor, "R B Q V"]:
    """The laws without the tokens that end a path."""
    first = logp[:, :, :1].masked_fill(ending[:, :, None], -math.inf)
    return torch.cat((first, logp[:, :, 1:]), 2)


def one_at_a_time(model: TokenModel) -> TokenModel:
    """The model, if the codes of a step can be chosen without each other.

    Raises:
        ValueError: They depend on each other.
    """
    if model.info.depth and model.info.codebooks > 1:
        raise ValueError(
            "the codes of a step depend on each other in this model, and a search chooses all of a step at once; draw"
            " samples of it and choose among them: `best_of` or `minimum_bayes_risk`"
        )
    return model
