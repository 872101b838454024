"""A decoder of another kind begins with what it has in common with one that is trained."""

import pytest
import torch
from test_decoder_recipe import QUICK, fit
from test_decoder_recipe import decoder as causal
from test_masked_recipe import LAYOUT, core, decoder, recipe

from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.layouts import Delay
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.start import adapt, start_as_part
from zoo.token_facts import TokenFacts


def save(model, layout, folder) -> None:
    model.tokens = TokenFacts(layout)
    checkpoint.save(model, folder)


def same_codes(own, mine, other, trained) -> bool:
    """All codes' vectors, and not those of structure tokens."""
    tables = zip(LAYOUT.cards, own.weight.split(mine.sizes), other.weight.split(trained.sizes), strict=True)
    return all(torch.equal(table[:card], source[:card]) for card, table, source in tables)


def test_a_masked_decoder_begins_with_the_weights_of_an_autoregressive_one(tmp_path):
    """That one has an end token and three input-only ids, and neither levels nor positions that are learned."""
    layout = Delay(LAYOUT.cards, begin=True, end=True)
    trained = causal(layout)
    for parameter in trained.parameters():
        torch.nn.init.normal_(parameter)
    save(trained, layout, tmp_path)
    mine = recipe(decoder=decoder(levels=True), adapt_from=str(tmp_path))
    for begun in (mine.decoder, mine.average.module):
        for own, other in zip(begun.transformer.parameters(), trained.transformer.parameters(), strict=True):
            assert torch.equal(own, other)
        assert same_codes(begun.embedding.table, begun.embedding, trained.embedding.table, trained.embedding)
        assert same_codes(begun.heads.product, begun.heads, trained.heads.product, trained.heads)
        assert begun.levels.weight.abs().max() < 0.2  # as random as ever


def test_weights_of_another_width_are_refused(tmp_path):
    save(causal(LAYOUT), LAYOUT, tmp_path)
    with pytest.raises(UserError, match="same width"):
        adapt(decoder(transformer=core(width=32)), str(tmp_path))


def test_a_decoder_with_hardly_anything_in_common_is_refused(tmp_path):
    save(causal(LAYOUT), LAYOUT, tmp_path)
    with pytest.raises(UserError, match="it has"):
        adapt(torch.nn.Linear(3, 3), str(tmp_path))


def test_training_begins_with_what_another_run_came_to(tmp_path):
    """`last.ckpt` of the run is enough: its averaged weights."""
    first = DecoderRecipe(causal(LAYOUT), LAYOUT, 2, optimization=QUICK, preview=None)
    fit(tmp_path, first)
    second = DecoderRecipe(
        causal(LAYOUT), LAYOUT, 2, optimization=QUICK, preview=None, start_from=str(tmp_path / "last.ckpt")
    )
    torch.testing.assert_close(second.decoder.state_dict(), first.average.module.state_dict(), rtol=0, atol=0)


def test_a_part_of_a_decoder_begins_with_the_first_of_its_layers():
    whole, part = causal(LAYOUT), causal(LAYOUT, TransformerConfig(width=16, layers=1, heads=2))
    for parameter in whole.parameters():
        torch.nn.init.normal_(parameter)
    start_as_part(part, whole, "that one")
    theirs = dict(whole.named_parameters())
    assert all(torch.equal(own, theirs[name]) for name, own in part.named_parameters())


def test_what_is_no_part_of_a_decoder_is_refused():
    deeper, wider = TransformerConfig(width=16, layers=3, heads=2), TransformerConfig(width=32, layers=2, heads=2)
    with pytest.raises(UserError, match=r"part of that one: its \S*layers.2\S* is not there, this recipe's \[16"):
        start_as_part(causal(LAYOUT, deeper), causal(LAYOUT), "that one")
    with pytest.raises(UserError, match=r"its embedding.table.weight is \[\d+, 16\], this recipe's \[\d+, 32\]"):
        start_as_part(causal(LAYOUT, wider), causal(LAYOUT), "that one")
