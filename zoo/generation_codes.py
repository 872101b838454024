"""Codes of any layout, drawn as a decoder does it: step by step, by filling in or restoring, in one pass, in scales or
stages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from zoo.codecs.errors import UserError
from zoo.codecs.image.tiling import Progress
from zoo.decoders.base import TokenModel, bare
from zoo.decoders.conditioning import Conditions
from zoo.decoders.layouts import Flat, Layout, Raster
from zoo.decoders.layouts.base import Shape
from zoo.decoders.next_scale import NextScaleDecoder, decode_scales
from zoo.decoders.one_code import OneCode, code_of
from zoo.decoders.parallel import ParallelDecoder
from zoo.decoders.sampling import Law, Noise, Result, decode_masked, decode_wavefront, decode_zipar, stream
from zoo.decoders.sampling.choosers import Chooser, Confidence
from zoo.decoders.sampling.proposers import Outcome, Proposer
from zoo.decoders.sampling.rules import Equal, Rule
from zoo.decoders.sampling.search import Named
from zoo.decoders.side_by_side import SideBySide
from zoo.decoders.two_stage import TwoStageDecoder
from zoo.decoders.unrolled_denoising import decode_unrolled
from zoo.generation_choice import Change
from zoo.token_facts import positions_of

ROWS = 16  # drawn side by side: a pass reads all weights, however many rows it is for

Codes = Int[Tensor, "Q *grid"]


@dataclass(frozen=True)
class Sampling:
    """How codes are drawn.

    Attributes:
        law: What from; of two streams for guidance, the second one without conditions, and for a context.
        seed: Of the noise.
        proposer: Makes what drafts for rows of some conditions, and for grids of some shape; None: one step at a time.
        rule, window: See `zoo.decoders.sampling.stream`.
        search: What takes the place of drawing step by step; None: nothing.
        against: A decoder that reads the law's second stream; None: the same one reads all.
        zipar: Of pictures: cells that the row above is ahead where rows are drawn side by side; None: one by one.
        wavefront: Of decoders of recurrent depth: steps in flight; None: one by one.
        one_code: The decoder is seen as one of a single codebook; proposers are made for that. See `OneCode`.
        passes, schedule, ahead: See `zoo.decoders.sampling.decode_masked`; unrolled decoders have passes, too.
        chooser: Makes what chooses the places that are filled, for rows of these conditions.
        change: Which codes each pass of an unrolled decoder changes; None: it is none.
    """

    law: Law
    seed: int = 0
    proposer: Callable[..., Proposer] | None = None
    rule: Rule = field(default_factory=Equal)
    window: int = 5
    passes: int | Sequence[int] = 1
    schedule: str = "cosine"
    ahead: int = 0
    chooser: Callable[[Conditions | None], Chooser] = lambda _: Confidence()
    search: Named | None = None
    against: TokenModel | None = None
    zipar: int | None = None
    wavefront: int | None = None
    one_code: bool = False
    change: Change | None = None

    def noise(self, ids: Sequence[int]) -> Noise:
        """Of rows of these ids: what a row gets does not depend on what is drawn beside it."""
        return Noise(self.seed, rows=tuple(ids))

    def conditions(self, cond: Conditions | None) -> Any:
        """Those of all streams of the law, as `init_state` takes them."""
        if self.against is not None:
            return cond and [cond, cond if self.against.info.conditioning else None]
        copies = len(self.law.streams)
        return cond if cond is None or copies == 1 else Conditions.stack([cond, *[None] * (copies - 1)])


@dataclass(frozen=True)
class Drawn:
    """What was drawn.

    Attributes:
        codes: Of each row; int64 `[Q, *grid]`.
        results: Of the loops that ran, in order.
    """

    codes: list[Codes]
    results: list[Result]


def draw_codes(
    model: TokenModel,
    layout: Layout,
    shapes: Sequence[Shape],
    ids: Sequence[int],
    cond: Conditions | None,
    sampling: Sampling,
    prompt: Codes | None = None,
    stop: int | None = None,
    progress: Progress | None = None,
    watch: Callable[[Outcome], None] | None = None,
    alone: Codes | None = None,
) -> Drawn:
    """Draw a grid of codes for each row.

    Args:
        model: In eval mode; causal, masked, unrolled, of one pass, of two stages or next-scale.
        layout: Of its steps.
        shapes: Grid of each row, prompt included; where the layout has an end token, the largest that may come out;
            decoders of one pass make as long ones as they like.
        ids: Noise of each row.
        cond: Of the rows.
        prompt: Codes that each row begins with, in the grid's first corner; -1 is none.
        stop: A code of the first codebook behind which nothing comes.
        progress: Called with the rows that are done, in fractions, and their number.
        watch: Sees each round of a causal decoder.
        alone: The prompt without the context that it begins with: what the law's second stream goes on with, under the
            same conditions; layouts whose steps are their codes.

    Raises:
        UserError: The decoder cannot draw such grids, or nothing is left to draw.
    """
    drawn = Drawn([], [])
    for first in range(0, len(shapes), ROWS):
        rows = slice(first, first + ROWS)
        size = len(shapes[rows])

        def report(share: float, first: int = first, size: int = size) -> None:
            if progress is not None:
                progress(first + share * size, len(shapes))

        task = Task(model, layout, shapes[rows], ids[rows], cond and cond.rows(rows), sampling, prompt, report, alone)
        try:
            part = task.run(stop, watch)
        except ValueError as error:
            raise UserError(f"this decoder cannot do that: {error}") from error
        drawn.codes.extend(part.codes)
        drawn.results.extend(part.results)
        report(1.0)
    return drawn


@dataclass(frozen=True)
class Task:
    """Rows that are drawn side by side; see `draw_codes`."""

    model: TokenModel
    layout: Layout
    shapes: Sequence[Shape]
    ids: Sequence[int]
    cond: Conditions | None
    sampling: Sampling
    prompt: Codes | None
    report: Callable[[float], None]
    alone: Codes | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def run(self, stop: int | None, watch: Callable[[Outcome], None] | None) -> Drawn:
        """By the loop that the decoder takes."""
        if isinstance(bare(self.model), NextScaleDecoder):
            return self.scale_by_scale()
        if isinstance(bare(self.model), ParallelDecoder):
            return self.in_one_pass()
        if isinstance(self.model, TwoStageDecoder):
            return self.in_two_stages(self.model)
        if self.sampling.change is not None:
            return self.by_restoring(self.sampling.change)
        if self.sampling.zipar is not None:
            return self.rows_side_by_side(self.sampling.zipar)
        return self.step_by_step(stop, watch) if self.model.info.causal else self.by_filling_in()

    def step_by_step(self, stop: int | None, watch: Callable[[Outcome], None] | None) -> Drawn:
        """Steps up to the one that completes the last frame.

        The row's end comes with a step of its first codebook. Where others come later, its length is known from then
        on, and a second run draws what is missing of its frames.
        """
        layout, shapes, results = self.layout, list(self.shapes), []
        tokens = [self._begin(shape, self.prompt) for shape in shapes]
        rows = [row for row, shape in enumerate(shapes) if len(tokens[row]) < steps_of(layout, shape)]
        if len(rows) < len(shapes):
            raise UserError("the prompt leaves nothing to draw; ask for more, or give a shorter one")
        while rows:
            result = self._continued(tokens, shapes, rows, stop, watch)
            results.append(result)
            for index, row in enumerate(rows):
                came = result.codes[index, : int(result.lengths[index])].cpu()
                tokens[row] = torch.cat((tokens[row], came))
                if layout.end:
                    shapes[row] = (int(layout.lengths(tokens[row][None], shapes[row])),)
                elif int(came[-1, 0]) == stop:
                    shapes[row] = (int((layout.completed_at(shapes[row]) <= len(tokens[row])).sum()),)
            rows = [row for row in rows if len(tokens[row]) < steps_of(layout, shapes[row])]
        needed = [steps_of(layout, shape) for shape in shapes]
        cut = [part[None, :count] for part, count in zip(tokens, needed, strict=True)]
        return Drawn([layout.unpack(part, shape)[0] for part, shape in zip(cut, shapes, strict=True)], results)

    def rows_side_by_side(self, window: int) -> Drawn:
        """Pictures of one size, a cell of every row that has begun in a pass."""
        layout, shape, sampling = self.layout, self.shapes[0], self.sampling
        assert isinstance(layout, Raster | Flat), "who asks for rows side by side has seen to it"
        if self.prompt is not None:
            raise UserError("rows side by side are of whole pictures; leave the prompt out")
        begin, places = self._begin(shape, None), positions_of(layout, self.model.info, shape)
        prompt = begin.expand(len(self.shapes) * len(sampling.law.streams), -1, -1).to(self.device)
        result = decode_zipar(
            self.model, prompt, layout, shape, window, sampling.law, sampling.noise(self.ids),
            cond=sampling.conditions(self.cond), positions=None if places is None else places.to(self.device),
        )  # fmt: skip
        steps = torch.cat((prompt[: len(self.shapes)], result.codes), 1)[:, : steps_of(layout, shape)]
        return Drawn(list(layout.unpack(steps.cpu(), shape)), [result])

    def by_filling_in(self) -> Drawn:
        """All places of a row, known ones as they are."""
        if self.model.info.specials < 1:
            raise UserError("this decoder is neither causal nor knows a mask token: there is no way to draw from it")
        sampling, (known, options) = self.sampling, self._places()
        result = decode_masked(
            self.model, known, sampling.passes, sampling.law, sampling.noise(self.ids), sampling.schedule,
            sampling.chooser(self.cond), ahead=sampling.ahead, **options,
        )  # fmt: skip
        return Drawn(self._grids(result), [result])

    def by_restoring(self, change: Change) -> Drawn:
        """All places of a row, known ones as they are; a row may end before its last place."""
        sampling, (known, options) = self.sampling, self._places()
        passes, noise = sampling.passes, sampling.noise(self.ids)
        assert isinstance(passes, int), "who names a change has seen to it"
        result = decode_unrolled(self.model, known, passes, sampling.law, noise, change.share, change.choose, **options)
        ends = self.layout.absent and len(self.shapes[0]) == 1
        return Drawn([up_to_end(codes) if ends else codes for codes in self._grids(result)], [result])

    def in_one_pass(self) -> Drawn:
        """Rows as long as the decoder finds them."""
        if self.prompt is not None and self.prompt.numel():
            raise UserError("a decoder of one pass makes whole sequences and takes no prompt; leave it out")
        if self.cond is None:
            raise UserError(
                f"a decoder of one pass makes sequences of {', '.join(self.model.info.conditioning)}; give some of it"
            )
        result = bare(self.model).generate(self.cond, self.sampling.law, self.sampling.noise(self.ids))
        rows = zip(result.codes.cpu(), result.lengths.tolist(), strict=True)
        return Drawn([self.layout.unpack(row[None, :length], (length,))[0] for row, length in rows], [result])

    def in_two_stages(self, model: TwoStageDecoder) -> Drawn:
        """The first codebook step by step, by whatever drafts, searches or bends the law; of the others the best."""
        known = None if self.prompt is None else self.prompt[:1]
        first = replace(self, model=model.coarse, layout=model.steps, cond=model.conditions(self.cond)[0], prompt=known)
        drawn = first.step_by_step(None, None)
        coarse = [codes[0] for codes in drawn.codes]
        lengths = torch.tensor([len(codes) for codes in coarse])
        grid = torch.full((len(coarse), int(lengths.max()), len(self.layout.sizes)), -1)
        grid[..., 0] = pad_sequence(coarse, batch_first=True, padding_value=-1)
        if self.prompt is not None:
            grid[:, : self.prompt.shape[1], 1:] = self.prompt[1:].mT
        streams = self.sampling.law.streams if self.sampling.against is None else (1.0,)
        law, noise = Law(temperature=0, streams=streams), self.sampling.noise(self.ids)
        result = model.refine(grid.to(self.device), lengths.to(self.device), law, noise, self.cond)
        rows = zip(result.codes.cpu(), lengths.tolist(), strict=True)
        return Drawn([row[:length].mT for row, length in rows], [*drawn.results, result])

    def scale_by_scale(self) -> Drawn:
        """All scales of a picture."""
        if self.prompt is not None:
            raise UserError("a next-scale decoder draws whole pictures and takes no prompt; leave it out")
        rows, sampling = len(self.shapes), self.sampling
        cond = sampling.conditions(self.cond)
        result = decode_scales(self.model, rows, sampling.law, sampling.noise(self.ids), cond)
        return Drawn(list(self.layout.unpack(result.codes.cpu(), self.shapes[0])), [result])

    def _places(self) -> tuple[Int[Tensor, "R N S"], dict[str, Any]]:
        """What is known of all places, -1 where nothing is, and what else those loops take that see all at once."""
        known = [given_steps(self.layout, shape, self.prompt) for shape in self.shapes]
        if any((steps >= torch.tensor(self.model.info.cards)).any() for steps in known):
            raise UserError("steps that are fixed by the layout cannot be filled in; masked decoders need a plain one")
        lengths = torch.tensor([len(steps) for steps in known])
        positions = positions_of(self.layout, self.model.info, max(self.shapes))
        return pad_sequence(known, batch_first=True, padding_value=-1).to(self.device), dict(
            lengths=None if len(lengths.unique()) == 1 else lengths.to(self.device),
            cond=self.sampling.conditions(self.cond),
            positions=None if positions is None else positions.to(self.device), report=self.report,
        )  # fmt: skip

    def _grids(self, result: Result) -> list[Codes]:
        """Each row of what such a loop gave."""
        rows = zip(result.codes.cpu(), result.lengths.tolist(), self.shapes, strict=True)
        return [self.layout.unpack(row[None, :length], shape)[0] for row, length, shape in rows]

    def _begin(self, shape: Shape, prompt: Codes | None) -> Int[Tensor, "N S"]:
        """The first steps, as far as they are known altogether."""
        count = known_steps(self.layout, shape, prompt)
        if not count:
            raise UserError("this decoder goes on with what it is given and cannot begin by itself; give a prompt")
        return given_steps(self.layout, shape, prompt)[:count]

    def _without_context(self, tokens: Int[Tensor, "N S"], shape: Shape) -> Int[Tensor, "M S"]:
        """The same steps of a row behind the prompt alone."""
        came = tokens[len(self._begin(shape, self.prompt)) :]
        return torch.cat((self._begin(shape, self.alone), came))

    def _continued(
        self,
        tokens: list[Int[Tensor, "N S"]],
        shapes: list[Shape],
        rows: list[int],
        stop: int | None,
        watch: Callable[[Outcome], None] | None,
    ) -> Result:
        layout, sampling, info = self.layout, self.sampling, self.model.info
        lengths = torch.tensor([len(tokens[row]) for row in rows])
        whole = torch.tensor([steps_of(layout, shapes[row]) for row in rows])
        if whole.max() > info.context:
            raise UserError(
                f"{int(whole.max())} steps, prompt included, are more than the {info.context} that this decoder was"
                " made for; shorten the prompt, or ask for less"
            )
        forced = pad_sequence(
            [given_steps(layout, shapes[row], self.prompt) for row in rows], batch_first=True, padding_value=-1
        )
        positions = [positions_of(layout, info, shapes[row]) for row in rows]
        places = None
        if positions[0] is not None:
            places = pad_sequence([found[0] for found in positions], batch_first=True).to(self.device)
        cond = self.cond and self.cond.rows(torch.tensor(rows))
        begins, conds = [tokens[row] for row in rows] * len(sampling.law.streams), sampling.conditions(cond)
        if self.alone is not None:
            begins[len(rows) :] = [self._without_context(tokens[row], self.shapes[row]) for row in rows]
            conds = cond and Conditions.stack([cond, cond])
        prompt = pad_sequence(begins, batch_first=True).to(self.device)
        model = self.model if sampling.against is None else SideBySide(self.model, sampling.against)
        fixed, noise = forced.to(self.device), sampling.noise([self.ids[row] for row in rows])
        longest = max((shapes[row] for row in rows), key=lambda shape: steps_of(layout, shape))
        if sampling.one_code:
            model, prompt = OneCode(model, layout), code_of(layout, prompt, longest)
            fixed = code_of(layout, fixed, longest)
            noise = noise.in_turn(info.codebooks, int(layout.begin))
        begin = (model, prompt, (whole - lengths).to(self.device), sampling.law)
        options: dict[str, Any] = dict(
            lengths=torch.tensor([len(part) for part in begins]).to(self.device), cond=conds,
            stop=[token for token in (layout.end_id, stop) if token is not None], forced=fixed, positions=places,
        )  # fmt: skip
        if sampling.search is not None:
            return sampling.search(*begin, noise, **options)
        if sampling.wavefront is not None:
            return decode_wavefront(*begin, noise, window=sampling.wavefront, **options)
        proposer = sampling.proposer and sampling.proposer(cond, longest)
        rounds = stream(*begin, noise, proposer, sampling.rule, window=sampling.window, **options)
        done, wanted = torch.zeros(len(rows)), float((whole - lengths).max())
        while True:
            try:
                outcome = next(rounds)
            except StopIteration as end:
                return with_structure(end.value, forced, lengths) if sampling.one_code else end.value
            done += outcome.count.cpu()
            self.report(float(done.max()) / wanted)
            if watch is not None:
                watch(outcome)


def with_structure(result: Result, forced: Int[Tensor, "R N S"], begin: Int[Tensor, "R"]) -> Result:
    """What `OneCode` gave, with all that the layout puts beside the code of each step.

    Args:
        forced: Tokens that are known before anything is drawn, by absolute step; -1 where a code goes.
        begin: Steps of each row that the result goes on with.
    """
    index = begin[:, None] + torch.arange(result.codes.shape[1])
    fixed = forced[torch.arange(len(forced))[:, None], index.clamp(max=forced.shape[1] - 1)].to(result.codes.device)
    free = (fixed < 0) & (result.codes >= 0)
    fixed = fixed.where(result.codes >= 0, -1)
    return replace(result, codes=torch.where(free, result.codes, fixed), logp=torch.where(free, result.logp, 0.0))


def up_to_end(codes: Int[Tensor, "Q T"]) -> Int[Tensor, "Q end"]:
    """Without the frames behind the last one that holds a code."""
    there = (codes >= 0).any(0).nonzero()
    return codes[:, : int(there.max()) + 1 if len(there) else 0]


def given_steps(layout: Layout, shape: Shape, prompt: Codes | None) -> Int[Tensor, "N S"]:
    """What is known of a grid's steps before any is drawn: structure, and the codes of a prompt; -1 elsewhere."""
    steps = layout.forced(shape)
    if prompt is not None:
        if any(have > room for have, room in zip(prompt.shape[1:], shape, strict=True)):
            raise UserError(f"the prompt has a grid of {tuple(prompt.shape[1:])}, asked for is one of {shape}")
        places = layout.places(shape)[(slice(None), *(slice(side) for side in prompt.shape[1:]))]
        steps.view(-1)[places[prompt >= 0]] = prompt[prompt >= 0]
    return steps


def known_steps(layout: Layout, shape: Shape, prompt: Codes | None) -> int:
    """How many steps come before the first in which something is to be drawn."""
    return int((given_steps(layout, shape, prompt) >= 0).all(1).long().cumprod(0).sum())


def steps_of(layout: Layout, shape: Shape) -> int:
    """After how many steps a grid has all its codes; structure behind them needs no decoder."""
    found = layout.completed_at(shape)
    return int(found.max()) if found.numel() else 0


def most_frames(layout: Layout, steps: int) -> int:
    """The longest grid of one axis whose codes take no more than so many steps."""
    low, high = 0, steps
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if steps_of(layout, (middle,)) <= steps else (low, middle - 1)
    return low
