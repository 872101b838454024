"""Rows side by side: every cell sees what is known before it, and a model that looks no further notices nothing."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Toy

from zoo.decoders.base import Output
from zoo.decoders.layouts import Flat, Raster
from zoo.decoders.sampling import Law, Noise, decode, decode_zipar, guidance
from zoo.decoders.sampling.law import draw
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.state import open_block

NOISE, SHAPE = Noise(5), (3, 4)
LAYOUTS = {
    "plain": Raster((11, 7), begin=True),
    "row ends": Raster((11, 7), begin=True, row_end=True, grid_end=True),
    "code by code": Flat((11, 7), begin=True),
}
LAWS = {"draw": Law(), "greedy": Law(temperature=0), "guided": Law(streams=guidance(2.0))}


def first_steps(layout: Raster | Flat, rows: int = 2, count: int = 1) -> torch.Tensor:
    """The begin token, and whatever comes behind."""
    generator = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(card, (rows, *SHAPE), generator=generator) for card in layout.sizes], 1)
    return layout.pack(codes)[:, :count]


@pytest.mark.parametrize(
    "law", [Law(), Law(temperature=0), Law(streams=guidance(2.0))], ids=["draw", "greedy", "guided"]
)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_window_of_the_whole_width_gives_the_tokens_of_decode(layout, law):
    model = small_decoder(layers=2, specials=layout.specials)
    for count in (1, 4):
        prompt = first_steps(layout, 2 * len(law.streams), count)
        if len(prompt) > 2:
            prompt[2:, -1] = prompt[:2, -1]  # both streams go on from the same step
        steps = layout.steps(SHAPE) - count
        plain = decode(model, prompt, steps, law, NOISE, forced=layout.forced(SHAPE)[None])
        found = decode_zipar(model, prompt, layout, SHAPE, 4, law, NOISE)
        assert torch.equal(found.codes, plain.codes) and torch.allclose(found.logp, plain.logp, atol=1e-5)
        assert torch.equal(found.lengths, plain.lengths) and found.exactness == "approximate"


def test_codes_that_depend_on_each_other_are_drawn_in_turn():
    layout, toy = Raster((3, 4), begin=True), Toy((3, 4), depth=True)
    toy.table = torch.randn(41, 2, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    toy._info = small_decoder((3, 4), specials=layout.specials, layers=1).info.__class__(
        cards=(3, 4), context=40, layers=1, width=8, parameters=0, specials=layout.specials, depth=True
    )
    prompt = first_steps(layout)
    plain = decode(toy, prompt, 12, noise=NOISE)
    found = decode_zipar(toy, prompt, layout, SHAPE, 4, noise=NOISE)
    assert torch.equal(found.codes, plain.codes) and torch.allclose(found.logp, plain.logp, atol=1e-5)


@pytest.mark.parametrize("placed", [False, True], ids=["by step", "by place"])
@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_every_cell_sees_what_is_known_before_it(layout, window, placed):
    """Against passes without memory over just these steps, each wave from its definition."""
    places = layout.positions(SHAPE) if placed else torch.arange(layout.steps(SHAPE))
    axes = places.shape[1] if placed else 1
    model = small_decoder(layers=2, specials=layout.specials, axes=axes, head_dim=2 * axes)
    prompt, forced = first_steps(layout), layout.forced(SHAPE)
    each = 2 if isinstance(layout, Flat) else 1  # steps of a cell
    lines = (layout.places(SHAPE)[:each] // 2).permute(1, 2, 0).flatten(1)
    known = {0: prompt[:, 0]} | {
        step: forced[step].expand(2, -1) for step in range(1, len(forced)) if (forced[step] >= 0).all()
    }
    for time in range((4 + 2 * window) * each):
        wave = [(row, time - row * window * each) for row in range(3) if 0 <= time - row * window * each < 4 * each]
        came = {}
        for row, place in wave:
            step = int(lines[row, place])
            seen = sorted(other for other in known if other < step)
            tokens = [known[other] for other in seen]
            if step - 1 not in known:
                nearest = max(other for other in lines[row - 1, each - 1 :: each].tolist() if other in known)
                seen, tokens = [*seen, step - 1], [*tokens, known[nearest]]
            logits = model(torch.stack(tokens, 1), places[seen].expand(2, *places[seen].shape)).logits[:, -1:]
            gumbel = NOISE.gumbel(torch.full((2, 1), step), *logits.shape[2:])
            came[step] = torch.where(forced[step] < 0, draw(Law()(logits), gumbel)[:, 0], forced[step])
        known |= came
    expected = torch.stack([known[step] for step in range(1, len(forced))], 1)
    found = decode_zipar(model, prompt, layout, SHAPE, window, noise=NOISE, positions=places[None] if placed else None)
    assert torch.equal(found.codes, expected) and not found.logp[:, (forced[1:] >= 0)].any()
    assert len(found.trace.emitted) == (4 + 2 * window) * each
    assert torch.equal(found.trace.emitted.sum(0), found.lengths)


class Near(Toy):
    """A cell looks at its row and at the one above, up to `reach` cells to the right, and no other."""

    def __init__(self, reach: int, columns: int):
        super().__init__((5,), strength=3.0)
        self.reach, self.columns = reach, columns

    def run(self, tokens, positions, state, block_mask):
        vectors = self.table[positions[..., None], 0, tokens].sum(2)
        block = open_block(state, vectors, block_mask, True)
        place = positions[:, None, :, None].expand(-1, 1, -1, vectors.shape[-1]).double()
        keys, places = block.extend(0, vectors[:, None], place)
        there = torch.ones(1, tokens.shape[1], keys.shape[2], dtype=torch.bool).tril()
        if block.bias is not None:
            there = block.bias[:, 0] == 0
        elif not block.causal:
            there = torch.ones_like(there)
        row, column = places[:, 0, None, :, 0] // self.columns, places[:, 0, None, :, 0] % self.columns
        at = positions[..., None] + 1  # the cell that is asked about
        sees = (row == at // self.columns) | (
            (row == at // self.columns - 1) & (column <= at % self.columns + self.reach)
        )
        hidden = ((sees & there).double() @ keys[:, 0]).tanh()
        return Output(torch.einsum("rnd,dqv->rnqv", hidden, self.heads), hidden)


def test_a_model_that_looks_no_further_than_the_window_notices_nothing():
    layout, shape = Raster((5,)), (4, 6)
    model, prompt = Near(reach=1, columns=6), torch.tensor([[[1]], [[4]], [[0]]])
    plain = decode(model, prompt, 23, noise=NOISE).codes
    for window in (2, 3, 6):
        found = decode_zipar(model, prompt, layout, shape, window, noise=NOISE)
        assert torch.equal(found.codes, plain)
        assert len(found.trace.emitted) == 6 + 3 * window - 1
    assert not torch.equal(decode_zipar(model, prompt, layout, shape, 1, noise=NOISE).codes, plain)


def test_a_picture_is_the_same_alone_and_beside_others():
    layout = LAYOUTS["plain"]
    model = small_decoder(layers=2, specials=layout.specials)
    together = decode_zipar(model, first_steps(layout, 3), layout, SHAPE, 2, noise=NOISE)
    alone = decode_zipar(model, first_steps(layout, 3)[2:], layout, SHAPE, 2, noise=Noise(NOISE.seed, rows=(2,)))
    assert torch.equal(together.codes[2:], alone.codes)


def test_bad_input_gives_one_clear_error():
    layout = LAYOUTS["plain"]
    model = small_decoder(layers=1, specials=layout.specials)
    prompt = first_steps(layout)
    for arguments in ((prompt, layout, SHAPE, 0), (random_tokens(model, 1, 13), layout, SHAPE, 2)):
        with pytest.raises(ValueError, match="expected a window and a prompt"):
            decode_zipar(model, *arguments)
    with pytest.raises(ValueError, match=r"has processors \(RepetitionPenalty\), which look at all that stands before"):
        decode_zipar(model, prompt, layout, SHAPE, 2, Law(processors=(RepetitionPenalty(2.0),)))
    with pytest.raises(ValueError, match=r"prompt is \[2, 0, 2\]"):
        decode_zipar(model, prompt[:, :0], layout, SHAPE, 2)
    with pytest.raises(ValueError, match=r"forced tokens are \[1, 12, 1\]"):
        decode_zipar(model, prompt, Raster((11,)), SHAPE, 2)
