"""How a decoder learns to see through all guesses of a row at once, which stand beside the row itself."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from zoo.codecs.errors import UserError
from zoo.decoders.base import TokenModel
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Layout
from zoo.decoders.parallel import inside
from zoo.decoders.sampling import Law, Noise, decode, guidance
from zoo.decoders.sampling.law import combined, draw
from zoo.decoders.sampling.noise import Quiet
from zoo.decoders.sampling.proposers import Jacobi
from zoo.decoders.sampling.rules import Typical
from zoo.decoders.two_stage import TwoStageDecoder, of_streams
from zoo.generation_weights import fewest_bits, packed
from zoo.recipes.decoder import OPTIMIZATION, WRITING, Objective, TokenRecipe
from zoo.recipes.divergence import divergence
from zoo.recipes.fitting import check_lengths
from zoo.recipes.masked import TRAINING
from zoo.recipes.metrics import Score
from zoo.recipes.optimization import Optimization
from zoo.recipes.preview import Pace, Preview
from zoo.recipes.reading import came_behind, places, read
from zoo.recipes.start import start_as_part
from zoo.recipes.tally import IGNORED, Foretold, Tally
from zoo.recipes.teacher import Teacher
from zoo.recipes.writing import at_rest, continued, grid_of, stops

PREVIEW = Preview(batches=4, prompt=0.0, steps=64, temperature=0.0)
ROUNDS = 3  # what the number of rounds and the borders of windows are drawn for; beside `CHOICE` and `WRITING`


class Windows(NamedTuple):
    """How the slots of a row are parted into windows of guesses.

    Attributes:
        first: Where the window of each slot begins.
        seen: What each slot sees, of the row itself and then of the guesses beside it: the row before its window, and
            of its window the guesses up to itself.
    """

    first: Int[Tensor, "M"]
    seen: Bool[Tensor, "1 M_times_2 M_times_2"]

    @staticmethod
    def of(slots: int, window: int, shift: int, device: torch.device) -> Windows:
        """Windows of that size, of which the first one lacks its first `shift` slots."""
        slot = torch.arange(slots, device=device)
        first = ((slot + shift) // window * window - shift).clamp(min=0)
        before = slot <= slot[:, None]
        row = torch.cat((before, torch.zeros_like(before)), 1)
        guess = torch.cat((slot < first[:, None], before & (slot >= first[:, None])), 1)
        return Windows(first, torch.cat((row, guess))[None])


class JacobiForcingRecipe(TokenRecipe):
    """Goes on training a decoder so that guesses mislead it less, in all windows of a row at once.

    Hu et al., "Fast and Accurate Causal Parallel Decoding using Jacobi Forcing" (arXiv 2512.14681), after Kou et al.,
    "CLLMs" (arXiv 2403.00835): the row and, beside it, guesses for all of it go through the decoder in one pass, in
    which a guess sees the row up to where its window begins, and the guesses of its window up to itself. There the
    decoder is to say what it says behind the row itself (consistency, Kullback-Leibler divergence); and behind the
    row, what comes next (cross-entropy). `ConsistencyRecipe` learns from one window of a row at a time.

    Rows are written by the decoder as it was, under guidance if wanted: so one stream learns to say what two said (Meng
    et al., arXiv 2210.03142), and drawing takes half of the work. Guesses are those of the decoder in training, after
    some rounds of `proposers.Jacobi`: the further back a slot lies in its window the later it came into it, as when
    the window slides on. (The paper takes them from runs of the decoder as it was, and begins with few of them.)

    Of a two-stage decoder the first stage learns this; the second one may learn to do without guidance meanwhile.

    Args:
        target: What to go on from, as `zoo.load` takes it, or the `last.ckpt` of its training run.
        steps, seed, optimization, condition_dropout: See `TokenRecipe`.
        decoder: What to train, which begins with the target's weights of the same names: it may have fewer layers.
            None: the target itself.
        window: Steps that are guessed at once, as in decoding later.
        rounds: Most rounds that guesses have behind them.
        temperature, scale: Of the law that rows are drawn from, and of its guidance; 1 is none.
        foresight: Rows are written by Jacobi decoding, in which a guess stands that is typical (`rules.Typical`) of the
            law of this temperature, though it may not be the likeliest: of steps that will do, rows have those that
            could be foreseen, and who learns from them has less to guess. 0: no guess stands but the likeliest token.
        learn_from: What a guess is to be followed by: what is said behind the row itself, or what was written.
        fine_scale: The second stage of a two-stage decoder learns to say with one stream what the target's says with
            two, under guidance of this scale; 1: it stays as it is, and with it an encoder that both stages share.
        writing: Weight of the cross-entropy beside the divergence.
        preview: Items of validation that the decoder goes on with by `proposers.Jacobi` of that window; how many steps
            a pass gives, validation tells, as `steps/forward`. None: nothing.

    Raises:
        UserError: The target is not causal, or the codes of its steps depend on each other; a decoder of another kind,
            or that is no part of it; a setting out of its range.
    """

    def __init__(
        self,
        target: str,
        steps: int,
        decoder: TokenModel | None = None,
        window: int = 16,
        rounds: int = 4,
        temperature: float = 0.0,
        scale: float = 1.0,
        foresight: float = 0.0,
        learn_from: Literal["law", "written"] = "law",
        fine_scale: float = 1.0,
        writing: float = 1.0,
        seed: int = 0,
        optimization: Optimization = OPTIMIZATION,
        condition_dropout: float = 0.0,
        preview: Preview | None = PREVIEW,
    ):
        teacher = Teacher(target)
        if window < 1 or rounds < 0 or not writing >= 0:
            raise UserError(
                f"a window of {window} steps, {rounds} rounds and weight {writing}; expected 1 or more, and twice 0 or"
                " more"
            )
        if not temperature >= 0 or not foresight >= 0 or not scale > 0 or not fine_scale > 0:
            raise UserError(
                f"temperature {temperature} and foresight {foresight}, guidance {scale} and {fine_scale}; expected 0 or"
                " more, and more than 0"
            )
        if foresight and temperature:
            raise UserError(f"foresight {foresight} writes for temperature 0, not {temperature}; leave one of them out")
        if decoder is None:
            decoder = deepcopy(teacher.decoder).requires_grad_(True).train()
        elif type(decoder) is not type(teacher.decoder):
            raise UserError(f"{target} is a {type(teacher.decoder).__name__}, no {type(decoder).__name__}")
        else:
            start_as_part(decoder, teacher.decoder, target)
            decoder.tokens = teacher.decoder.tokens
        if isinstance(decoder, TwoStageDecoder):
            decoder.fine.requires_grad_(fine_scale != 1)
        elif fine_scale != 1:
            raise UserError(f"fine_scale {fine_scale} is for a second stage, and {target} has none; leave it out")
        stage, layout = stepwise(decoder)
        if not stage.info.causal or stage.info.depth:
            raise UserError(
                f"{target} doesn't go step by step, or the codes of its steps depend on each other; take another one"
            )
        stage.checked = True
        whole = teacher.decoder.tokens.layout
        super().__init__(decoder, whole, steps, seed, optimization, condition_dropout, preview, start_from=None)
        self.teacher, self.line, self.tally = teacher, layout, Tally(layout)
        self.law = Law(temperature=temperature, streams=guidance(scale))
        self.window, self.rounds, self.writing = window, rounds, writing
        self.foresight, self.fine_scale, self.learn_from = foresight, fine_scale, learn_from
        self.pace = Pace()

    def setup(self, stage: str) -> None:
        """
        Raises:
            UserError: Data of other tokens than the target's, or longer than its context.
        """
        super().setup(stage)
        self.teacher.check(self.facts)
        check_lengths(self.decoder, self.layout, getattr(self.trainer, "datamodule", None))

    def configure_model(self) -> None:
        """
        Raises:
            UserError: The strategy parts weights, which are gathered for a decoder as a whole and not for a stage.
        """
        if self.device_mesh is not None and isinstance(self.decoder, TwoStageDecoder):
            raise UserError("stages are learned on whole weights; take --trainer.strategy=ddp")
        super().configure_model()

    def on_fit_start(self) -> None:
        """Make the target ready to write, which is half of the work of a step."""
        self.teacher.to(self.device)
        decoder = self.teacher.decoder
        if isinstance(decoder, TwoStageDecoder):
            decoder.fine = deepcopy(decoder.fine)  # teaches as it is, with an encoder of its own if both share one
        stage, _ = stepwise(decoder)
        packed(stage, fewest_bits(stage))

    def objective(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Objective:
        """Divergence behind guesses from what is said without them, and cross-entropy of what was written."""
        told, tokens, noise = told_of(self.decoder, cond), self.written(batch, cond, number), self.noise_of(number)
        shift, rounds = (int(share * most) for share, most in zip(
            noise.derive(ROUNDS).uniform(torch.zeros(1, 1, dtype=torch.int64), 2).flatten().tolist(),
            (self.window, self.rounds + 1), strict=True,
        ))  # fmt: skip
        windows = Windows.of(tokens.shape[1] - 1, self.window, shift, tokens.device)
        with torch.no_grad():
            guessed = self.guess(tokens, windows, rounds, batch, told, self.noise_of(number, WRITING))
        logits, misled = self.both(tokens, guessed, windows, batch, told)
        targets = came_behind(self.line, tokens)
        behind = targets.clone()
        behind[:, :1] = IGNORED  # behind the first step, which is never guessed
        asked = behind != IGNORED  # of rows that end at once, nothing
        with torch.autocast(self.device.type, enabled=False):
            written = cross_entropy(logits.flatten(0, 2), targets.flatten(), ignore_index=IGNORED)
            if not asked.any():
                apart = written * 0
            elif self.learn_from == "law":
                apart = divergence(misled, logits.detach(), behind, 1.0)
            else:
                apart = cross_entropy(misled.flatten(0, 2), behind.flatten(), ignore_index=IGNORED)
        right = (misled.argmax(-1) == behind)[asked].float()
        parts = {"consistency": apart, "cross_entropy": written, "seen_through": right.mean() if len(right) else apart}
        loss, count = apart + self.writing * written, int((targets != IGNORED).sum())
        if self.fine_scale != 1:
            parts["fine"] = self.of_one_stream(batch, cond, number)
            loss = loss + parts["fine"]
        return Objective(loss, parts, count)

    def of_one_stream(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Float[Tensor, ""]:
        """How far the second stage is from what the target's says under guidance; of half of the rows, in turn."""
        rows = slice(number % 2, None, 2) if len(batch["codes"]) > 1 else slice(None)
        codes, lengths = batch["codes"][rows].mT, batch["lengths"][rows]
        codes = codes.where(inside(lengths, codes.shape[1])[..., None], -1)
        seed = np.random.SeedSequence((self.seed, TRAINING, number)).generate_state(1, np.uint64)
        hidden = self.decoder.masking.mask_for_training(codes, torch.Generator().manual_seed(int(seed[0])))
        told = None if cond is None else cond.rows(rows)

        def said(decoder: TwoStageDecoder, cond: Conditions | None) -> Float[Tensor, "R T Q V"]:
            state = decoder.fine.init_state(len(codes), 0, decoder.conditions(cond)[1])
            return decoder.fine(hidden.inputs, state=state, block_mask=hidden.visible).logits

        weights = guidance(self.fine_scale)
        with torch.no_grad():
            streams = [said(self.teacher.decoder, each) for each in (told, None)[: len(weights)]]
            law = combined(torch.cat(streams), weights)
        own = said(self.decoder, told)
        with torch.autocast(self.device.type, enabled=False):
            return divergence(own, law, hidden.targets.where(hidden.targets >= 0, IGNORED), 1.0)

    def written(self, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Int[Tensor, "R N S"]:
        """What the target writes instead of a batch; a row is as long as that of the batch, or ends before it."""
        target, line = stepwise(self.teacher.decoder)
        tokens, told = self.pack_line(batch), of_streams(told_of(self.teacher.decoder, cond), self.law)
        with at_rest(target):
            begin = tokens[:, :1].repeat(len(self.law.streams), 1, 1)
            result = decode(
                target, begin, tokens.shape[1] - 1, cond=told, stop=stops(line), **self.manner(number),
                **grid_of(target, line, batch),
            )  # fmt: skip
        return continued(line, tokens, 1, result.codes)

    def manner(self, number: int) -> dict[str, Any]:
        """How the target writes batch `number`."""
        if not self.foresight:
            return {"law": self.law, "noise": self.noise_of(number, WRITING)}
        law = replace(self.law, temperature=self.foresight)
        return {"law": law, "noise": Quiet(), "proposer": Jacobi(), "rule": Typical(), "window": self.window}

    def guess(
        self,
        tokens: Int[Tensor, "R N S"],
        windows: Windows,
        rounds: int,
        batch: Mapping[str, Any],
        told: Conditions | None,
        noise: Noise,
    ) -> Int[Tensor, "R N S"]:
        """Guesses for all steps but the first and the last, after so many rounds; what the layout fixes is right."""
        slots, law = tokens.shape[1] - 1, Law(temperature=self.law.temperature)
        cards = torch.tensor(self.line.cards, device=tokens.device)
        shape = tuple(batch["codes"].shape[2:])
        free = (tokens < cards) & (self.line.forced(shape)[: tokens.shape[1]].to(tokens.device) < 0)
        free[:, [0, -1]] = False
        slot = torch.arange(slots, device=tokens.device)
        entered = (slot - windows.first) * (rounds + 1) // self.window  # the round behind which a slot is in the window
        vocabulary = stepwise(self.decoder)[0].info.vocabulary
        gumbel = noise.gumbel(slot.expand(len(tokens), -1), len(cards), vocabulary)
        every = torch.zeros(vocabulary, device=tokens.device).masked_fill(
            torch.arange(vocabulary, device=tokens.device) >= cards[:, None], -torch.inf
        )
        guessed = tokens.clone()
        guessed[:, :-1] = torch.where(free[:, :-1], draw(law.of(every), gumbel), tokens[:, :-1])
        at_first = (slot == windows.first)[:, None]
        for round in range(rounds):
            logits, misled = self.both(tokens, guessed, windows, batch, told)
            said = torch.where(at_first[1:, :, None], logits[:, :-1], misled[:, :-1])
            new = free[:, 1:-1] & (entered[1:, None] <= round)
            guessed[:, 1:-1] = torch.where(new, draw(law.of(said), gumbel[:, 1:]), guessed[:, 1:-1])
        return guessed

    def both(
        self,
        tokens: Int[Tensor, "R N S"],
        guessed: Int[Tensor, "R N S"],
        windows: Windows,
        batch: Mapping[str, Any],
        told: Conditions | None,
    ) -> tuple[Float[Tensor, "R M S V"], Float[Tensor, "R M S V"]]:
        """Logits behind each step but the last, and behind each guess."""
        stage, line = stepwise(self.decoder)
        slots = torch.cat((tokens[:, :-1], guessed[:, :-1]), 1)
        where = places(stage, line, tokens, batch)
        if where is None:
            where = torch.arange(tokens.shape[1] - 1, device=tokens.device).expand(len(tokens), -1)
        state = None if told is None else stage.init_state(len(tokens), 0, told)
        said = stage(slots, torch.cat((where, where), 1), state, windows.seen).logits.chunk(2, 1)
        return said[0], said[1]

    def pack_line(self, batch: Mapping[str, Any]) -> Int[Tensor, "R N S"]:
        """The steps of a batch that are drawn one by one."""
        if isinstance(self.decoder, TwoStageDecoder):
            return self.line.pack(batch["codes"][:, :1], self.decoder.whole(batch["lengths"]))
        return self.pack(batch)

    def foretell(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None, number: int) -> Foretold:
        """Every step of the data but the first, of what is drawn step by step."""
        stage, line = stepwise(decoder)
        tokens = self.pack_line(batch)
        return Foretold(read(stage, line, tokens, batch, told_of(decoder, cond)).logits, came_behind(self.line, tokens))

    def sample(self, decoder: TokenModel, batch: Mapping[str, Any], cond: Conditions | None) -> dict[str, Tensor]:
        """How the decoder goes on with the beginning of the item, guessing."""
        stage, line = stepwise(decoder)
        codes = {**batch, "codes": batch["codes"][:, : len(line.sizes)]}
        media = self.preview.sample(
            stage, line, codes, told_of(decoder, cond), self.noise_of(0), Jacobi(), self.window
        )  # fmt: skip
        self.pace.count(media)
        return media

    def summary(self) -> dict[str, Score]:
        """What all decoders are asked, and how many steps a pass gives."""
        return super().summary() | self.pace.take()


def stepwise(decoder: TokenModel) -> tuple[TokenModel, Layout]:
    """What goes step by step of a decoder, with the layout of its steps: of a two-stage decoder the first stage."""
    if isinstance(decoder, TwoStageDecoder):
        return decoder.coarse, decoder.steps
    whole: Any = decoder
    return decoder, whole.tokens.layout


def told_of(decoder: TokenModel, cond: Conditions | None) -> Conditions | None:
    """What the part of it that goes step by step is told."""
    return decoder.conditions(cond)[0] if isinstance(decoder, TwoStageDecoder) else cond
