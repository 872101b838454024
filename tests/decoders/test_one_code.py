"""A decoder whose steps have one code each is seen as one of a single codebook, and says and draws the same."""

import pytest
import torch
from small_decoders import CARDS, small_decoder

from zoo.decoders.base import TokenModel
from zoo.decoders.fast import WEIGHTS, for_decoding
from zoo.decoders.layouts import Delay, Flat
from zoo.decoders.one_code import OneCode, code_of
from zoo.decoders.sampling import Law, Noise, decode, guidance
from zoo.decoders.sampling.proposers import DraftModel, EarlyExit, Jacobi, Swift

GRIDS = {(5,): 2, (2, 3): 3}
GREEDY = Law(temperature=0)


def flat(shape, begin=True, axes=True, seed=0, **options):
    """A decoder of `Flat` for that grid, the layout, and its positions; with `axes`, those are coordinates."""
    layout = Flat(CARDS, begin=begin)
    kind = dict(axes=GRIDS[shape], width=24, heads=4, kv_heads=4, head_dim=12) if axes else {}
    model = small_decoder(specials=layout.specials, seed=seed, context=32, **kind, **options)
    positions = layout.positions(shape) if axes else torch.arange(layout.steps(shape))
    return model, layout, positions


def packed(layout, shape, rows=2):
    chance = torch.Generator().manual_seed(1)
    codes = torch.stack([torch.randint(card, (rows, *shape), generator=chance) for card in CARDS], 1)
    return layout.pack(codes)


class Unaware(TokenModel):
    """A decoder that knows nothing of single codebooks."""

    def __init__(self, model):
        super().__init__()
        self.model, self.info, self.init_state, self.run = model, model.info, model.init_state, model.run

    info = init_state = run = None


@pytest.mark.parametrize("shape", GRIDS)
@pytest.mark.parametrize(("begin", "axes"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("kind", ["plain", "biased", "tied", "unaware", "columns", "float16", "int8"])
def test_its_logits_are_those_of_the_code_that_is_free(shape, begin, axes, kind):
    model, layout, positions = flat(
        shape, begin, axes, tied=kind == "tied", head_bias=kind in ("biased", "float16", "int8")
    )
    if kind in ("columns", *WEIGHTS):
        model = for_decoding(model.float(), WEIGHTS.get(kind))
    model = Unaware(model).eval() if kind == "unaware" else model
    tokens = packed(layout, shape)
    steps = tokens.shape[1]
    positions = positions.expand(2, *positions.shape)
    whole = model(tokens, positions).logits
    seen = OneCode(model, layout)
    part = seen(code_of(layout, tokens, shape), positions).logits
    books = (layout.coords(shape) >= 0).int().argmax(1)
    for step in range(steps - 1):
        torch.testing.assert_close(part[:, step, 0], whole[:, step, books[step + 1]])
    assert seen.info.cards == (max(CARDS),) and seen.info.context == model.info.context


@pytest.mark.parametrize("shape", GRIDS)
def test_it_draws_greedily_what_the_decoder_draws_whatever_drafts(shape):
    model, layout, positions = flat(shape)
    forced, drafter = layout.forced(shape)[None], flat(shape, seed=3, layers=1)[0]
    begin = packed(layout, shape)[:, :3]
    plain = decode(model, begin, len(positions) - 3, GREEDY, forced=forced, positions=positions[None])
    seen, given = OneCode(model, layout), code_of(layout, begin, shape)
    expected = code_of(layout, torch.cat((begin, plain.codes), 1), shape)
    for proposer in (None, Jacobi(), EarlyExit(range(1)), Swift(trials=2), DraftModel(OneCode(drafter, layout))):
        found = decode(
            seen, given, len(positions) - 3, GREEDY, Noise(0), proposer, forced=code_of(layout, forced, shape),
            positions=positions[None],
        )  # fmt: skip
        assert torch.equal(torch.cat((given, found.codes), 1), expected), proposer


def test_under_noise_all_draw_the_same_and_draw_from_both_codebooks_laws():
    """So many rows that the first code's and the second one's shares are seen: they are the decoder's own law."""
    shape, rows = (5,), 4000
    model, layout, positions = flat(shape)
    prompt = packed(layout, shape, 1)[:, :1].expand(rows, -1, -1)
    seen, options = OneCode(model, layout), dict(positions=positions[None])
    plain = decode(seen, code_of(layout, prompt, shape), 2, Law(), Noise(0), **options).codes
    assert torch.equal(
        decode(seen, code_of(layout, prompt, shape), 2, Law(), Noise(0), Jacobi(), **options).codes, plain
    )
    law = model(prompt[:1], positions[None, :1]).logits[0, 0, 0].softmax(-1)
    shares = plain[:, 0, 0].bincount(minlength=CARDS[0]) / rows
    assert (shares - law).abs().max() < 0.04
    assert plain[:, 1].max() < CARDS[1] <= plain[:, 0].max()


def test_streams_of_guidance_are_told_apart():
    """Two streams that begin with other codes go on with what both say of the second codebook."""
    shape = (5,)
    model, layout, positions = flat(shape)
    tokens = packed(layout, shape)[:, :2]
    seen, law = OneCode(model, layout), Law(temperature=0, streams=guidance(3.0))
    both = torch.cat((tokens, tokens.flip(0)))
    found = decode(seen, code_of(layout, both, shape), 1, law, positions=positions[None]).codes
    said = model(both, positions[None, :2].expand(4, -1, -1)).logits[:, -1, 1, : CARDS[1]]
    assert torch.equal(found[:, 0, 0], (3 * said[:2] - 2 * said[2:]).argmax(-1))


@pytest.mark.parametrize("layout", [Delay(CARDS), Flat(CARDS, end=True), Flat((5, 7)), Flat((11,))])
def test_other_layouts_are_refused(layout):
    with pytest.raises(ValueError, match="give a causal one"):
        OneCode(small_decoder(specials=3), layout)
