"""Decoders learn to exit early: what drafts by `early-exit` need."""

import pytest
import torch
from test_decoder_recipe import QUICK, Repeats, batch, fit
from torch.nn.functional import cross_entropy

from zoo.codecs.errors import UserError
from zoo.decoders.autoregressive import AutoregressiveConfig, AutoregressiveDecoder, core_of
from zoo.decoders.conditioned import ConditionedAutoregressive, ConditionedConfig
from zoo.decoders.conditioning import ConditionConfig
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.layouts import FrameDepth, Parallel
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.exits import exit_weights, read_exits
from zoo.recipes.reading import read

CODES = 6
LAYOUT = Parallel((CODES,), begin=True)
DEEP = TransformerConfig(width=24, layers=4, heads=2)


class Pairs(Repeats):
    """Two random codes in turn: each tells the one after the next, which attention has to fetch."""

    def __init__(self):
        super().__init__(rows=16, sizes=(CODES,), epoch_batches=80)

    def row(self, number):
        pair = torch.randint(CODES, (1, 2), generator=torch.Generator().manual_seed(number))
        return pair.repeat(1, self.frames // 2)


def plain():
    torch.manual_seed(0)
    return AutoregressiveDecoder(AutoregressiveConfig(LAYOUT.cards, DEEP, context=64, specials=LAYOUT.specials))


def told():
    torch.manual_seed(0)
    config = AutoregressiveConfig(LAYOUT.cards, DEEP, context=64, specials=LAYOUT.specials)
    conditions = ConditionConfig(width=24, classes=3, way="prefix")
    return ConditionedAutoregressive(ConditionedConfig(conditions, config))


def surprise(recipe, exits):
    """Nats of a code behind so many layers and behind all, once both codes were seen."""
    given = Pairs().make(9999)
    tokens = recipe.pack(given)
    with torch.no_grad():
        found = read_exits(recipe.decoder, LAYOUT, tokens, given, recipe.conditions(given), exits)
    return [cross_entropy(each[:, 2:].flatten(0, 2), recipe.targets(tokens)[:, 2:].flatten()).item() for each in found]


@pytest.mark.parametrize("model", [plain, told])
def test_an_exit_that_is_learned_foretells_nearly_as_well_as_the_whole(tmp_path, model):
    worse = {}
    for exits in ((), (2,)):
        recipe = DecoderRecipe(model(), LAYOUT, 80, optimization=QUICK, preview=None, exits=exits)
        fit(tmp_path / str(len(exits)), recipe, Pairs())
        early, last = surprise(recipe, (2,))
        assert last < 0.1  # of 1.8 before
        worse[exits] = early - last
    assert worse[2,] < 0.01 < 0.02 < worse[()], worse
    assert "exit 2" in (tmp_path / "1" / "train.log").read_text()


@pytest.mark.parametrize("model", [plain, told])
def test_the_loss_is_the_mean_over_exits_that_counts_deeper_ones_more(model):
    # of 4 layers and s = 2: 2 x 1, 2 x (1 + 2), and 4 + 2 x (1 + 2 + 3)
    assert exit_weights((1, 2), 4, 2.0) == pytest.approx([2 / 24, 6 / 24, 16 / 24])
    recipe = DecoderRecipe(model(), LAYOUT, 1, exits=(1, 2), exit_scale=2.0)
    given = batch(sizes=(CODES,))
    tokens, cond = recipe.pack(given), recipe.conditions(given)
    found = recipe.objective(given, cond, 0)
    targets = recipe.targets(tokens).flatten()
    state = recipe.decoder.init_state(len(tokens), 0, cond)
    places = torch.arange(tokens.shape[1] - 1).expand(len(tokens), -1)
    wanted = [
        cross_entropy(core_of(recipe.decoder).run(tokens[:, :-1], places, state, None, range(n)).logits.flatten(0, 2),
                      targets) for n in (1, 2, 4)
    ]  # fmt: skip
    assert list(found.parts) == ["cross_entropy", "exit 1", "exit 2"]
    torch.testing.assert_close(found.parts["exit 2"], wanted[1])
    whole = read(recipe.decoder, LAYOUT, tokens, given, cond).logits
    torch.testing.assert_close(found.parts["cross_entropy"], cross_entropy(whole.flatten(0, 2), targets))
    torch.testing.assert_close(found.loss, (2 * wanted[0] + 6 * wanted[1] + 16 * wanted[2]) / 24)


def test_exits_that_a_decoder_does_not_have_are_refused(tmp_path):
    for exits in ((0,), (4,), (2, 1), (2, 2)):
        with pytest.raises(UserError, match="not numbers of layers in 1 .. 3"):
            DecoderRecipe(plain(), LAYOUT, 1, exits=exits)
    with pytest.raises(UserError, match="exit_scale 0.0 is not above 0"):
        DecoderRecipe(plain(), LAYOUT, 1, exits=(1,), exit_scale=0.0)
    layout = FrameDepth((7, 5), begin=True)
    depth = DepthDecoder(DepthConfig(layout.cards, DEEP, context=64, specials=layout.specials, depth=DEEP))
    with pytest.raises(UserError, match="DepthDecoder exits nowhere early"):
        DecoderRecipe(depth, layout, 1, exits=(1,))
    recipe = DecoderRecipe(plain(), LAYOUT, 1, exits=(1,))
    recipe._device_mesh = object()  # as `ModelParallelStrategy` gives it
    with pytest.raises(UserError, match="learned on whole weights; .*--trainer.strategy=ddp"):
        recipe.configure_model()
