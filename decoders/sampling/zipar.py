"""Rows of a picture side by side: each begins as soon as the row above is some cells ahead (ZipAR).

This is a loop of its own, because `decode` gives out steps in line: what a rule accepts is a path from the last known
step on, and its state remembers just these. Here each row has a front of its own.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from zoo.decoders.base import TokenModel
from zoo.decoders.layouts import Flat, Raster
from zoo.decoders.sampling.checks import fitting
from zoo.decoders.sampling.law import Law, LawState, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.result import Exactness, Recorder, Result


@torch.no_grad()
def decode_zipar(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    layout: Raster | Flat,
    shape: tuple[int, int],
    window: int,
    law: Law | None = None,
    noise: Noise | None = None,
    *,
    cond: Any = None,
    positions: Int[Tensor, "#R T *axes"] | None = None,
) -> Result:
    """Draw a picture from a model of raster order, a step of every row that has begun in a pass.

    He et al., "ZipAR: Parallel Autoregressive Image Generation through Spatial Locality" (arXiv 2412.04062). A cell is
    drawn once the row above is known up to `window` cells from its column on, or to its end. It sees all known cells
    that come before it in raster order, and has the noise of its step. So the output is that of `decode` if no cell
    looks further to the right in the row above, as with a window of the picture's width; else it is approximate. The
    first cell of a row is read off the last one of the row above; while that is unknown and no structure token stands
    between, the nearest known one takes its place. A cell is one step in `Raster`, and one for each code in `Flat`.

    Cost: W + (H - 1) window passes for HW cells, each times the steps of a cell. What is known in rows that have begun
    is run again in each pass, some W^2 / (2 window) cells, so that no cell sees what comes behind it.

    Args:
        model: Causal, in eval mode.
        prompt: int64 `[R, P, Q]`, the first steps of the layout, at least one; for laws of C streams `[C x R, P, Q]`.
        layout, shape: Of the picture, rows and columns.
        window: Cells that the row above is ahead.
        law: Default: the model's own.
        noise: Default: `Noise(0)`.
        cond: What `model.init_state` takes, of the rows of `prompt`.
        positions: Of all steps, for models of several axes; default: the step.

    Returns:
        All steps behind the prompt, in raster order. A round of the trace drafts nothing and emits the cells of a pass,
        each with the structure tokens right behind it.

    Raises:
        ValueError: What `stream` raises; a prompt that leaves nothing; a law with processors, which look at all that
            stands before a cell, while here some of it comes later.
    """
    law, noise = law or Law(), noise or Noise(0)
    columns, forced = shape[1], layout.forced(shape).to(prompt.device)
    total, known = len(forced), prompt.shape[1]
    if window < 1 or known >= total:
        raise ValueError(
            f"a window of {window} cells, a prompt of {known} of {total} steps; expected a window and a prompt of 1 or "
            "more, and a step to draw"
        )
    if law.processors:
        names = ", ".join(type(processor).__name__ for processor in law.processors)
        raise ValueError(
            f"the law has processors ({names}), which look at all that stands before a cell; where rows are drawn side "
            "by side, some of it comes later: leave them out, or draw by `decode`"
        )
    fitting(model, prompt, None, total - known, law, 1, forced[None])
    rows, noise = len(prompt) // len(law.streams), Quiet() if law.certain else noise
    lines = [row.flatten().unique().tolist() for row in (layout.places(shape) // len(layout.slots)).unbind(1)]
    each = len(lines[0]) // columns  # steps of a cell
    structure = (forced >= 0).all(-1).tolist()
    is_known = [step < known or structure[step] for step in range(total)]
    tokens = torch.cat((prompt, forced[known:].clamp(min=0).expand(len(prompt), -1, -1)), 1)
    logp = torch.zeros(rows, total, prompt.shape[2], device=prompt.device)
    if positions is None:
        positions = torch.arange(total, device=prompt.device)[None]
    positions = positions.repeat(len(law.streams) if len(positions) > 1 else 1, *[1] * (positions.ndim - 1))
    # A stand-in is one slot more.
    state, running = model.init_state(len(prompt), total + 1, cond), law.start(prompt[:rows], checked=model.checked)
    recorder = Recorder(rows)
    fronts = [sum(is_known[step] for step in line) for line in lines]
    past, came = 0, len(list(takewhile(bool, structure[known:])))
    recorder.prefill_seconds = recorder.lap()
    while fronts[-1] < len(lines[-1]):
        begun = [
            row for row, front in enumerate(fronts)
            if front < len(lines[row])
            and (row == 0 or fronts[row - 1] >= min((front // each + window) * each, len(lines[row])))
        ]  # fmt: skip
        steps = [lines[row][fronts[row]] for row in begun]
        block = [step for step in range(past, steps[-1]) if is_known[step]]
        read = block
        if not is_known[steps[-1] - 1]:
            above = begun[-1] - 1
            last = fronts[above] // each * each - 1  # the last code of a cell, as what it stands in for
            nearest = lines[above][last]
            block, read = [*block, steps[-1] - 1], [*block, nearest]
        at = positions[:, block].expand(len(prompt), *positions[:, block].shape[1:])
        output = model(tokens[:, read], at, state)
        slots = [block.index(step - 1) for step in steps]
        index = torch.tensor(steps, device=prompt.device).expand(rows, -1)
        gumbel = noise.gumbel(index, model.info.codebooks, model.info.vocabulary)
        found, laws = _drawn(model, running, output.logits[:, slots], output.hidden[:, slots], gumbel)
        fixed = forced[steps] >= 0
        tokens[:, steps] = torch.where(fixed, forced[steps], found).repeat(len(law.streams), 1, 1)
        logp[:, steps] = running.log_prob(laws, found).masked_fill(fixed, 0)
        for row, step in zip(begun, steps, strict=True):
            is_known[step], fronts[row], came = True, fronts[row] + 1, came + 1
            while step + 1 < total and structure[step + 1]:
                step, came = step + 1, came + 1
        whole = past
        while whole in block and is_known[whole]:
            whole += 1
        state.commit(None, whole - past)
        past = whole
        nothing = torch.zeros(rows, dtype=torch.int64)
        recorder.round(nothing, nothing, nothing + came, target=1, draft=0)
        came = 0
    lengths = torch.full((rows,), total - known, device=prompt.device)
    return Result(tokens[:rows, known:], lengths, logp[:, known:], Exactness.APPROXIMATE, recorder.trace())


def _drawn(
    model: TokenModel,
    law: LawState,
    logits: Float[Tensor, "C_times_R N Q V"],
    hidden: Float[Tensor, "C_times_R N D"],
    gumbel: Float[Tensor, "#R #N #Q #V"],
) -> tuple[Int[Tensor, "R N Q"], Float[Tensor, "R N Q V"]]:
    """One step behind each slot and the law of each code, code by code where they depend on each other."""
    laws = law(law.combine(logits))
    found = draw(laws, gumbel)
    if not model.info.depth:
        return found, laws
    for book in range(1, model.info.codebooks):
        codes = found.repeat(len(law.law.streams), 1, 1)
        laws = law(law.combine(model.depth(hidden, codes)))
        found[..., book] = draw(laws, gumbel)[..., book]
    return found, laws
