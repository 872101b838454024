"""Beam search for continuations in which given phrases occur."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.law import Law
from zoo.decoders.sampling.search.beam import Choice, search
from zoo.decoders.sampling.search.candidates import Ranked
from zoo.decoders.sampling.search.paths import Paths


def constrained_beam_search(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P 1"],
    steps: int | Int[Tensor, "R"],
    phrases: Sequence[Sequence[int]],
    width: int = 8,
    law: Law | None = None,
    *,
    length_penalty: float = 1.0,
    patience: float | None = None,
    stop: int | Collection[int] = (),
    forced: Int[Tensor, "#R T 1"] | None = None,
    **options: Any,
) -> Ranked:
    """As `beam_search`, for continuations in which every phrase stands somewhere, in any order; they may overlap.

    Post and Vilar, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation" (arXiv 1804.06609): paths that
    have come equally far with the phrases form a bank, the best of each bank are found as in grid beam search (Hokamp
    and Liu, arXiv 1704.07138), and the width is dealt out to the banks in turns, the furthest first. How far each
    phrase is, says its automaton (Knuth, Morris and Pratt, 1977), so that a phrase that is broken off resumes where it
    can. No token ends a path before all phrases stand. The best path of the furthest bank is always kept, and a token
    that leads it further is among all tokens: so the phrases stand after as many steps as they have tokens.

    Exactness: approximate; that the phrases stand is certain.
    Cost: that of `beam_search`, and a sorting of all tokens for each token of the phrases.

    Args:
        model: Of one codebook.
        phrases: Tokens of each, at least one.
        law: It must not forbid the phrases; so let it have no truncations.
        options: As `beam_search`; so are the other arguments. The layout must fix nothing behind the prompt.

    Raises:
        ValueError: Several codebooks; an empty phrase, one outside the vocabulary or with a stop token in it; no room
            for the phrases; tokens that are forced; a law that forbids all ways to the phrases; as `beam_search`.
    """
    if model.info.codebooks > 1:
        raise ValueError(f"phrases are for models of one codebook; this one has {model.info.codebooks}")
    stops = {stop} if isinstance(stop, int) else set(stop)
    for phrase in phrases:
        if not phrase or not all(0 <= token < model.info.vocabulary and token not in stops for token in phrase):
            raise ValueError(
                f"the phrase {list(phrase)} is empty, or has tokens outside 0 .. {model.info.vocabulary - 1} or that"
                f" stop ({sorted(stops)})"
            )
    paths = Paths(model, prompt, steps, law, width, stop=stops, forced=forced, **options)
    first = int(paths.at.min())
    if forced is not None and (forced[:, first:] >= 0).any():
        raise ValueError("the layout fixes tokens behind the prompt, which may part phrases; search without them")
    banks = _Banks(phrases, model.info.vocabulary, paths)
    if banks.length > int(paths.room.min()):
        raise ValueError(f"the phrases have {banks.length} tokens, and there is room for {int(paths.room.min())} steps")
    found = search(paths, banks, 1, length_penalty, patience)
    lost = found.scores[:, 0].isneginf()
    if lost.any():
        raise ValueError(
            f"the law forbids every way to the phrases in row {int(lost.int().argmax())}; leave truncations and"
            " grammars out, or ask for other phrases"
        )
    return found


class _Banks:
    """The best ones of each bank; remembers how far each path is with each phrase.

    Attributes:
        length: Tokens of all phrases.
        state: int64 `[R, B, J]`, tokens of each phrase that the path ends with; all of them once it stands.
    """

    def __init__(self, phrases: Sequence[Sequence[int]], vocabulary: int, paths: Paths):
        device = paths.codes.device
        self.tables = [_automaton(phrase, vocabulary).to(device) for phrase in phrases]
        self.sizes = torch.tensor([len(phrase) for phrase in phrases], dtype=torch.int64, device=device)
        self.length = int(self.sizes.sum())
        self.state = paths.codes.new_zeros(paths.rows, paths.count, len(phrases))

    def choose(self, score: Tensor, logp: Tensor, ending: Tensor) -> tuple[Choice, Choice]:
        next = [table[self.state[..., phrase]] for phrase, table in enumerate(self.tables)]
        states = torch.stack(next, -1) if next else self.state[:, :, None].expand(-1, -1, logp.shape[-1], -1)
        missing = self._missing(states)
        total = (score[..., None] + logp[:, :, 0]).masked_fill(ending & (missing > 0), -math.inf)
        best, going = (
            self._dealt(found, missing, logp) for found in (total, total.masked_fill(ending, -math.inf))
        )  # fmt: skip
        row = torch.arange(len(score), device=score.device)[:, None]
        self.state = states[row, going.parent, going.tokens[..., 0]]
        return best, going

    def _missing(self, states: Int[Tensor, "*paths J"]) -> Int[Tensor, "*paths"]:
        """Tokens that surely complete all phrases: of the one that is furthest its rest, then of the others all."""
        whole = states == self.sizes
        rest = self.sizes.expand_as(states).masked_fill(whole, 0).sum(-1)
        return rest - states.masked_fill(whole, 0).amax(-1) if len(self.tables) else rest

    def _dealt(
        self, total: Float[Tensor, "R B V"], missing: Int[Tensor, "R B V"], logp: Float[Tensor, "R B 1 V"]
    ) -> Choice:
        """The best of each bank, then the second best of each, and so on."""
        rows, width, vocabulary = total.shape
        total, missing = total.flatten(1), missing.flatten(1)
        found = [
            total.masked_fill(missing != bank, -math.inf).topk(min(width, total.shape[1]))
            for bank in range(self.length + 1)
        ]
        scores, index = (torch.stack(parts, -1).flatten(1) for parts in zip(*found, strict=True))
        order = (~torch.isfinite(scores)).int().argsort(dim=1, stable=True)[:, :width]
        scores, index = scores.gather(1, order), index.gather(1, order)
        index = index.where(torch.isfinite(scores), index[:, :1])
        parent, token = index // vocabulary, index % vocabulary
        row = torch.arange(rows, device=total.device)[:, None]
        return Choice(scores, parent, token[..., None], logp[row, parent, :, token])


def _automaton(phrase: Sequence[int], vocabulary: int) -> Int[Tensor, "states V"]:
    """For each number of tokens of the phrase that a text ends with, the number behind each token; all of it stays."""
    table = torch.zeros(len(phrase) + 1, vocabulary, dtype=torch.int64)
    back = 0  # what the text would end with, had it not had its first token
    for state, token in enumerate(phrase):
        table[state] = table[back] if state else 0
        table[state, token] = state + 1
        back = int(table[back, token]) if state else 0
    table[-1] = len(phrase)
    return table
