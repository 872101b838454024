"""How a decoder learns to see through its own guesses, so that Jacobi decoding needs fewer passes."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.sampling import Law, Result, stream
from zoo.decoders.sampling.proposers import Jacobi, Outcome
from zoo.recipes.decoder import CHOICE, OPTIMIZATION, WRITING, DecoderRecipe, Objective
from zoo.recipes.divergence import divergence
from zoo.recipes.metrics import Score
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Pace, Preview
from zoo.recipes.tally import IGNORED
from zoo.recipes.teacher import Teacher
from zoo.recipes.writing import at_rest, continued, given_of, grid_of, stops

PREVIEW = Preview(batches=4, steps=64, temperature=0.0)


class Moment(NamedTuple):
    """What each row of a batch was at some moment of Jacobi decoding, and what it became.

    Attributes:
        tokens: int64, the fixed point: what decoding step by step gives.
        guessed: int64, the same with guesses for some steps.
        asked: bool, steps behind a guess.
        given: How many steps are the batch's.
    """

    tokens: Int[Tensor, "R N S"]
    guessed: Int[Tensor, "R N S"]
    asked: Bool[Tensor, "R N"]
    given: int


class ConsistencyRecipe(DecoderRecipe):
    """Goes on training a decoder so that guesses mislead it less; see `TokenRecipe` for what else there is.

    Kou et al., "CLLMs: Consistency Large Language Models" (arXiv 2403.00835). The decoder as it was goes on with the
    beginnings of a batch by `proposers.Jacobi`, under a law and noise that let nothing but the guesses change from
    round to round. Of each row one round is taken: with its guesses in place, the decoder in training is to say of the
    steps behind them what it says with the right steps there (consistency, Kullback-Leibler divergence), and it is to
    write what the decoder wrote that it was (cross-entropy).

    What the trained decoder writes is its own, under `proposers.Jacobi` as well as step by step. A batch takes as many
    passes of the target as Jacobi decoding does, then three of the decoder.

    Args:
        target: What to go on from, as `zoo.load` takes it, or the `last.ckpt` of its training run.
        steps, seed, optimization, condition_dropout: See `TokenRecipe`.
        window: Steps that are guessed at once, as in decoding later.
        temperature: Of the law that is decoded from; 0 as in the paper.
        prompt: Share of the steps that is given, at least the first one.
        writing: Weight of the cross-entropy beside the divergence.
        preview: Items of validation that the decoder goes on with by `proposers.Jacobi` of that window; how many steps
            a pass gives, validation tells, as `steps/forward`. None: nothing.

    Raises:
        UserError: The target is not causal, or the codes of its steps depend on each other; a window of no step, a
            share that is none.
    """

    def __init__(
        self,
        target: str,
        steps: int,
        window: int = 16,
        temperature: float = 0.0,
        prompt: float = 0.25,
        writing: float = 10.0,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.1,
        preview: Preview | None = PREVIEW,
    ):
        teacher = Teacher(target)
        if window < 1 or not 0 <= prompt <= 1 or not writing >= 0 or not temperature >= 0:
            raise UserError(
                f"a window of {window} steps, a prompt of {prompt}, weight {writing} and temperature {temperature}; "
                "expected 1 or more, a share in 0 .. 1, and 0 or more"
            )
        if teacher.decoder.info.depth:
            raise UserError(f"codes of a step of {target} depend on each other; take a decoder whose codes do not")
        decoder: TokenModel = deepcopy(teacher.decoder).requires_grad_(True).train()
        decoder.checked = True
        layout = teacher.decoder.tokens.layout
        super().__init__(decoder, layout, steps, seed, optimization, condition_dropout, preview=preview)
        self.teacher, self.law = teacher, Law(temperature=temperature)
        self.window, self.prompt, self.writing = window, prompt, writing
        self.pace = Pace()

    def setup(self, stage: str) -> None:
        """
        Raises:
            UserError: Data of other tokens than the target's.
        """
        super().setup(stage)
        self.teacher.check(self.facts)

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Divergence behind guesses from what is said without them, and cross-entropy of what was written."""
        moment = self.moment(batch, cond, number)
        logits, targets = self.predict(self.decoder, moment.tokens, batch, cond)
        misled, _ = self.predict(self.decoder, moment.guessed, batch, cond)
        targets[:, : max(moment.given - 1, 0)] = IGNORED
        behind = targets.where(moment.asked[:, 1:, None], IGNORED)
        with torch.autocast(self.device.type, enabled=False):
            written = cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORED)
            apart = divergence(misled, logits.detach(), behind, 1.0) if (behind != IGNORED).any() else written * 0
        right = (misled.argmax(-1) == behind)[behind != IGNORED].float()
        parts = {"consistency": apart, "cross_entropy": written, "seen_through": right.mean() if len(right) else apart}
        return Objective(apart + self.writing * written, parts, int((targets != IGNORED).sum()))

    @torch.no_grad()
    def moment(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Moment:
        """One round of each row, all of its rounds with guesses being equally likely."""
        target, tokens = self.teacher.decoder, self.pack(batch)
        given = given_of(tokens, self.prompt)
        with at_rest(target):
            rounds = stream(
                target, tokens[:, :given], tokens.shape[1] - given, self.law, self.noise_of(number, WRITING), Jacobi(),
                window=self.window, cond=cond, stop=stops(self.layout), **grid_of(target, self.layout, batch),
            )  # fmt: skip
            seen, result = _all(rounds)
        tokens = continued(self.layout, tokens, given, result.codes)
        drafts = [outcome.draft.tokens for outcome in seen]
        guesses = torch.stack([pad(draft, (0, 0, 0, self.window - draft.shape[1])) for draft in drafts])
        came = torch.stack([outcome.count for outcome in seen])
        counts = torch.stack([outcome.draft.count for outcome in seen]).where(came > 0, 0)
        row = torch.arange(len(tokens), device=tokens.device)
        share = self.noise_of(number, CHOICE).uniform(row[:, None] * 0, 1)[:, 0, 0]
        round = _pick(counts > 0, share)
        place = (given + came.cumsum(0) - came)[round, row][:, None] + torch.arange(self.window, device=row.device)
        there = (place < given + came.sum(0)[:, None]) & (place - place[:, :1] < counts[round, row][:, None])
        places = place.clamp(max=tokens.shape[1] - 1)
        guessed, asked = tokens.clone(), torch.zeros_like(tokens[..., 0], dtype=torch.bool)
        guessed[row[:, None], places] = torch.where(there[..., None], guesses[round, row], tokens[row[:, None], places])
        asked.scatter_(1, places, there)
        return Moment(tokens, guessed, pad(asked, (1, -1)), given)

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """How the decoder goes on with the beginning of the item, guessing."""
        media = self.preview.sample(
            decoder, self.layout, batch, cond, self.noise_of(0), Jacobi(), self.window
        )  # fmt: skip
        self.pace.count(media)
        return media

    def summary(self) -> dict[str, Score]:
        """What all decoders are asked, and how many steps a pass gives."""
        return super().summary() | self.pace.take()


def _all(rounds: Generator[Outcome, None, Result]) -> tuple[list[Outcome], Result]:
    """What each round gave, and the result."""
    seen = []
    while True:
        try:
            seen.append(next(rounds))
        except StopIteration as end:
            return seen, end.value


def _pick(there: Bool[Tensor, "T R"], share: Float[Tensor, "R"]) -> Int[Tensor, "R"]:
    """For each row, one of the rounds that are there, the first ones for a small share; 0 if none is."""
    wanted = (share * there.sum(0)).long()
    return (there & (there.cumsum(0) - 1 == wanted)).int().argmax(0)
