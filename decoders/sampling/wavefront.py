"""Diffusion forcing for decoders of recurrent depth: each pass begins one more step, and loops a little on all.

This is a loop of its own, because `decode` gives every step all loops of the model, in a pass in which it is drawn or
judged. Here a step's latents live on from pass to pass, while the steps before them are still being found.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from zoo.decoders.autoregressive import core_of
from zoo.decoders.base import TokenModel
from zoo.decoders.sampling.checks import fitting
from zoo.decoders.sampling.draft import Draft
from zoo.decoders.sampling.law import Law, draw
from zoo.decoders.sampling.noise import Noise, Quiet
from zoo.decoders.sampling.proposers.base import write_line
from zoo.decoders.sampling.result import Exactness, Recorder, Result
from zoo.decoders.state import State


@torch.no_grad()
def decode_wavefront(
    model: TokenModel,
    prompt: Int[Tensor, "C_times_R P Q"],
    steps: int | Int[Tensor, "R"],
    law: Law | None = None,
    noise: Noise | None = None,
    *,
    window: int = 16,
    loops: int = 1,
    settled: float = 0.03,
    lengths: Int[Tensor, "C_times_R"] | None = None,
    cond: Any = None,
    stop: int | Collection[int] = (),
    forced: Int[Tensor, "#R T Q"] | None = None,
    positions: Int[Tensor, "#R T *axes"] | None = None,
) -> Result:
    """Continue a prompt by a model of recurrent depth, of whose loops a pass makes only a few.

    Geiping et al., "Efficient Parallel Samplers for Recurrent-Depth Models and Their Connection to Diffusion Language
    Models" (arXiv 2510.14961). A pass reads the last known step and a token for each step in flight; runs the prelude,
    some loops from where the last pass left the latents of each, and the coda; draws every step anew, by the noise of
    its place; and lets one more step begin. A step stands once all before it stand, its own token was right, and its
    latents move no more, or have looped on this token as often as in the model. The paper's momentum and noise of
    latents are left out.

    Output: approximate. All loops read the memory of the last one, so that steps of any age share it, and a step's
    latents begin as the prelude's output but may have begun so for another token. Where loops forget what they began
    with, as those trained at random depths do, it comes near to `decode`, and with many loops meets it.

    Cost: a pass runs prelude, coda and `loops` loops instead of all, on `window` slots. With L loops a step takes up to
    L / `loops` passes, but so many steps are in flight.

    Args:
        model: An `AutoregressiveDecoder` that injects the prelude's output into each loop (`inject`, `prelude`), in
            eval mode; or one of these with conditions.
        prompt, steps, law, noise, lengths, cond, stop, forced, positions: See `stream`.
        window: Most steps in flight.
        loops: Of a pass.
        settled: Latents that a loop moves by less than this share of their length stand still. 0: never.

    Returns:
        As `decode` does. A round of the trace is a pass; it drafts nothing and emits the steps that stand.

    Raises:
        ValueError: What `stream` raises; a model of another kind; fewer than one loop.
    """
    law, noise = law or Law(), noise or Noise(0)
    lengths, room = fitting(model, prompt, lengths, steps, law, window, forced, positions)
    if loops < 1 or not settled >= 0:
        raise ValueError(f"{loops} loops of a pass, settled at {settled}; expected 1 or more, and 0 or more")
    rows, copies, most = len(room), len(law.streams), int(room.max())
    flight = _Flight(model, prompt, lengths, law, most + window, cond, positions)
    running = law.start(prompt[:rows], lengths[:rows], model.checked)
    noise = Quiet() if law.certain else noise
    stops = torch.tensor([stop] if isinstance(stop, int) else sorted(stop), dtype=torch.int64, device=prompt.device)
    line = prompt.new_zeros(rows, most + window, prompt.shape[2])
    logp, came = torch.zeros(line.shape, device=prompt.device), torch.zeros_like(room)
    row, slot = torch.arange(rows, device=prompt.device)[:, None], torch.arange(window, device=prompt.device)
    tokens = prompt[row, lengths[:rows, None] - 1].repeat(1, window, 1)
    active, age = torch.ones_like(room), torch.zeros_like(tokens[..., 0])
    fresh = torch.ones_like(age, dtype=torch.bool)
    recorder = Recorder(rows)
    recorder.prefill_seconds = recorder.lap()
    while int(room.max()) > 0:
        logits, moved = flight.passed(tokens.repeat(copies, 1, 1), fresh.repeat(copies, 1), loops)
        laws = running.block(running.combine(logits), Draft(tokens[:, 1:], active - 1))
        places = lengths[:rows, None] + came[:, None] + slot
        found = draw(laws, noise.gumbel(places, *laws.shape[2:]))
        fixed = torch.zeros_like(found, dtype=torch.bool)
        if forced is not None:
            structure = pad(forced, (0, 0, 0, 1), value=-1)[row % len(forced), places.clamp(max=forced.shape[1])]
            fixed, found = structure >= 0, torch.where(structure >= 0, structure, found)
        age = age + loops
        stands = (moved.unflatten(0, (copies, rows)).amax(0) < settled) | (age >= flight.loops)
        stands[:, 1:] &= (tokens[:, 1:] == found[:, :-1]).all(-1)
        stands &= (slot < active[:, None]) & (slot < room[:, None])
        count = stands.long().cumprod(1).sum(1)
        ends = torch.isin(found[..., 0], stops) & (slot < count[:, None])
        count = torch.where(ends.any(1), ends.int().argmax(1) + 1, count)
        write_line(line, came, found)
        write_line(logp, came, running.log_prob(laws, found.clamp(max=laws.shape[-1] - 1)).masked_fill(fixed, 0))
        last = (count - 1).clamp(min=0)
        running.hold(count, None)
        running.settle(last, None)
        running.advance(found[row[:, 0], last], count > 0)
        running.came(found, count)
        came, room = came + count, torch.where(ends.any(1), 0, room - count)
        recorder.round(torch.zeros_like(count), torch.zeros_like(count), count, target=1, draft=0)
        # Each slot takes over from the one `count` behind it, and reads what was just drawn before that.
        source = (count[:, None] + slot).clamp(max=window - 1)
        read = found[row, (source - 1).clamp(min=0)]
        read[:, 0] = torch.where((count > 0)[:, None], read[:, 0], tokens[:, 0])
        age = age[row, source].masked_fill((read != tokens[row, source]).any(-1), 0)
        fresh = slot >= (active - count)[:, None]
        tokens, age, active = read, age.masked_fill(fresh, 0), (active - count + 1).clamp(1, window)
        flight.commit(count.repeat(copies), source.repeat(copies, 1))
    index = torch.arange(int(came.max()), device=came.device)
    behind = (index >= came[:, None])[..., None]
    codes, logp = line[:, : len(index)].masked_fill(behind, -1), logp[:, : len(index)].masked_fill(behind, 0)
    return Result(codes, came, logp, Exactness.APPROXIMATE, recorder.trace())


class _Flight:
    """A looped model with its memory, and the latents of the steps in flight."""

    def __init__(
        self,
        model: TokenModel,
        prompt: Int[Tensor, "C_times_R P Q"],
        lengths: Int[Tensor, "C_times_R"],
        law: Law,
        room: int,
        cond: Any,
        positions: Int[Tensor, "#R T *axes"] | None,
    ):
        core = core_of(model)
        shape = None if core is None else core.config.transformer
        if shape is None or not shape.inject or not shape.prelude:
            raise ValueError(
                f"{type(model).__name__} does not loop on what a prelude injects; give an AutoregressiveDecoder with "
                "inject and prelude, or decode without a wavefront"
            )
        self.core, self.transformer, self.loops = core, core.transformer, shape.loops
        end = shape.depth - shape.coda
        self.prelude, self.coda = range(shape.prelude), range(end, shape.depth)
        self.loop = range(end - (shape.layers - shape.prelude - shape.coda), end)  # the last one, for its memory
        copies = len(law.streams)
        self.positions = (
            positions
            if positions is None or len(positions) == 1
            else positions.repeat(copies, *[1] * (positions.ndim - 1))
        )
        self.state: State = model.init_state(len(prompt), prompt.shape[1] + room, cond)
        self.latents: Float[Tensor, "C_times_R W D"] | None = None
        if prompt.shape[1] > 1:
            before = torch.arange(prompt.shape[1] - 1, device=prompt.device).expand(len(prompt), -1)
            known = prompt[:, :-1].where((before < lengths[:, None])[..., None], 0)
            model(known, self.places(before), self.state)
            self.state.commit(None, lengths - 1)

    def passed(
        self, tokens: Int[Tensor, "C_times_R W Q"], fresh: Bool[Tensor, "C_times_R W"], loops: int
    ) -> tuple[Float[Tensor, "C_times_R W Q V"], Float[Tensor, "C_times_R W"]]:
        """Logits behind each slot after some loops more, and how far the last of these moved its latents."""
        places = self.places(self.state.length[:, None] + torch.arange(tokens.shape[1], device=tokens.device))
        x = self.core.embedding(tokens, places)
        _, (injected,) = self.transformer(x, places, self.state, None, self.prelude, (self.prelude[-1],))
        latents = injected if self.latents is None else torch.where(fresh[..., None], injected, self.latents)
        for _ in range(loops):
            before = latents
            _, (latents,) = self.transformer(
                before, places, self.state, None, self.loop, (self.loop[-1],), injected
            )  # fmt: skip
        moved = (latents - before).norm(dim=-1) / latents.norm(dim=-1).clamp(min=1e-9)
        self.latents = latents
        hidden, _ = self.transformer(latents, places, self.state, None, self.coda)
        return self.core.heads(hidden), moved

    def commit(self, count: Int[Tensor, "C_times_R"], source: Int[Tensor, "C_times_R W"]) -> None:
        """The first slots stand; each slot takes over the latents of another."""
        self.state.commit(None, count)
        self.latents = self.latents[torch.arange(len(source), device=source.device)[:, None], source]

    def places(self, index: Int[Tensor, "C_times_R N"]) -> Tensor:
        """Positions of absolute steps; those of slots that only fill the block up stay within what the model knows."""
        if self.positions is None:
            return index.clamp(max=self.core.info.context - 1)
        row = torch.arange(len(index), device=index.device)[:, None] % len(self.positions)
        return self.positions[row, index.clamp(max=self.positions.shape[1] - 1)]
