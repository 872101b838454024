"""Both stages learn side by side, from nothing or from decoders that they are like, and sing what they learned."""

import json

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, batch, fit
from torch.nn.functional import cross_entropy

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.autoregressive import AutoregressiveConfig
from zoo.decoders.conditioned import (
    ConditionedAutoregressive,
    ConditionedConfig,
    ConditionedMasked,
    ConditionedMaskedConfig,
)
from zoo.decoders.conditioning import ConditionConfig, Conditions
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.masked import MaskedConfig
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.two_stage import TwoStageConfig, TwoStageDecoder
from zoo.recipes.cli import train
from zoo.recipes.data.sung_letters import SungLetters
from zoo.recipes.preview import Preview
from zoo.recipes.tally import IGNORED
from zoo.recipes.two_stage import TwoStageRecipe
from zoo.token_facts import TokenFacts

CLASSES = ConditionConfig(16, classes=3, way="prefix")
COARSE, FINE = TransformerConfig(16, 1, heads=2), TransformerConfig(16, 1, heads=2, causal=False)


def recipe(steps=1, group=1, context=16, dropout=0.0, **settings) -> TwoStageRecipe:
    torch.manual_seed(0)
    coarse, fine = (TransformerConfig(16, 1, heads=2, causal=c, dropout=dropout) for c in (True, False))
    config = TwoStageConfig(SIZES, coarse, fine, group, context, CLASSES)
    settings = {"optimization": QUICK, "preview": None} | settings
    return TwoStageRecipe(TwoStageDecoder(config), steps, **settings)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train("two-stage.singing-smoke", [f"--run.folder={tmp_path_factory.mktemp('runs') / 'run'}"])


def test_a_run_tells_the_losses_of_each_stage_and_what_each_codebook_costs(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for stage in ("coarse", "fine"):
        losses = [line[f"loss/{stage}"] for line in lines if f"loss/{stage}" in line]
        assert losses[-1] < 0.1 * losses[0]
    for book in range(3):
        costs = [line[name] for line in lines if (name := f"valid/cross_entropy/codebook {book}") in line]
        assert costs[-1] < costs[0]
    assert list(run.glob("events.out.tfevents*"))


def test_a_run_becomes_a_model_that_sings_the_letters_of_its_text(run, tmp_path):
    """In all codebooks, and for as long as a letter lasts."""
    convert(run / "last.ckpt", tmp_path / "model")
    data = SungLetters(codebooks=3)
    data.setup("fit")
    for text in ("a", "d"):
        found = zoo.generate(tmp_path / "model", tmp_path / "sung.wav", text=text, temperature=0)
        wanted = data.sounds()["abcd".index(text)]
        assert torch.equal(found.tokens[0].codes[0], wanted)
        assert found.facts()["passes"] == wanted.shape[1] + 1 + 2  # the end, and two codebooks
    assert (tmp_path / "sung.wav").stat().st_size > 1000


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    whole, parts = (recipe(20, dropout=0.2) for _ in range(2))
    fit(tmp_path / "whole", whole)
    fit(tmp_path / "parts", recipe(20, dropout=0.2), steps=10)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, resume=True)
    assert int(parts.step) == 20
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("group", [1, 2])
def test_validation_tells_what_each_code_costs_given_all_that_is_drawn_before_it(group):
    mine, given = recipe(group=group), batch()
    cond = mine.conditions(given)
    found, again = (mine.foretell(mine.decoder, given, cond, 0) for _ in range(2))
    assert torch.equal(found.nats, again.nats)
    lengths, decoder = mine.decoder.whole(given["lengths"]), mine.decoder
    asked = found.targets != IGNORED
    assert (asked.sum((1, 2)) == len(SIZES) * lengths + 1).all()  # and the end
    for row, length in enumerate(lengths.tolist()):
        own = Conditions(given["label"][row : row + 1])
        codes = given["codes"][row : row + 1, :, :length]
        steps = decoder.steps.pack(codes[:, :1])
        logits = decoder.coarse(steps[:, :-1], state=decoder.coarse.init_state(1, 0, own)).logits[0].flatten(0, 1)
        said = cross_entropy(logits[: length + 1], steps[0, 1:].flatten()[: length + 1], reduction="sum")
        torch.testing.assert_close(found.nats[row, ..., 0].sum(), said)
        masked = codes[0].T.clone()
        masked[:, 1] = SIZES[1]
        logits = decoder.fine(masked[None], state=decoder.fine.init_state(1, 0, own)).logits[0, :, 1, : SIZES[1]]
        torch.testing.assert_close(found.nats[row, ..., 1].sum(), cross_entropy(logits, codes[0, 1], reduction="sum"))


def test_the_loss_is_that_of_both_stages_and_what_is_shown_goes_on_with_an_item(tmp_path):
    mine, given = recipe(preview=Preview(prompt=0.5, temperature=0.0)), batch()
    cond = mine.conditions(given)
    loss, parts, tokens = mine.objective(given, cond, 0)
    torch.testing.assert_close(loss, parts["coarse"] + parts["fine"])
    lengths = given["lengths"]
    assert lengths.sum() + len(lengths) < tokens <= 2 * lengths.sum() + len(lengths)
    again, other = (mine.objective(given, cond, number).loss for number in (0, 1))
    assert again == loss != other  # which codebook and what prompt, the number of the batch says
    for group, begin in ((1, 3), (2, 2)):  # half of an item of 6 frames, in whole groups
        mine = recipe(group=group, preview=Preview(prompt=0.5, temperature=0.0))
        shown = mine.sample(mine.decoder.eval(), given, cond.rows(slice(1)))
        target, sample = given["codes"][0], shown["sample"]
        assert shown["given"] == begin and torch.equal(sample[:, :begin], target[:, :begin])
        assert begin <= sample.shape[1] <= 6


def test_each_stage_begins_with_what_a_decoder_of_its_kind_has_learned(tmp_path):
    layout = Delay(SIZES, begin=True, end=True)
    config = AutoregressiveConfig(layout.cards, COARSE, 32, layout.specials)
    first = ConditionedAutoregressive(ConditionedConfig(CLASSES, config))
    first.tokens = TokenFacts(layout)
    second = ConditionedMasked(ConditionedMaskedConfig(CLASSES, MaskedConfig(SIZES, FINE, 16, levels=True)))
    second.tokens = TokenFacts(Parallel(SIZES))
    for name, model in (("first", first), ("second", second)):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        checkpoint.save(model, tmp_path / name)
    mine = recipe(coarse_from=str(tmp_path / "first"), fine_from=str(tmp_path / "second"))
    for begun in (mine.decoder, mine.average.module):
        fine = begun.fine.decoder
        assert torch.equal(fine.levels.weight, second.decoder.levels.weight)
        assert torch.equal(fine.heads.product.weight, second.decoder.heads.product.weight)
        coarse, card = begun.coarse.decoder, layout.cards[0]
        for own, other in zip(coarse.transformer.parameters(), first.decoder.transformer.parameters(), strict=True):
            assert torch.equal(own, other)
        assert torch.equal(coarse.heads.product.weight, first.decoder.heads.product.weight[:card])
        assert torch.equal(coarse.embedding.table.weight[:card], first.decoder.embedding.table.weight[:card])


def test_what_does_not_fit_is_refused(tmp_path):
    data = Repeats()
    data.largest = ((16,),)
    with pytest.raises(
        UserError, match="items of 16 cells, which are 17 steps to read, and the decoder's context is 16"
    ):
        fit(tmp_path, recipe(), data)
    with pytest.raises(UserError, match="the data has codebooks of"):
        fit(tmp_path, recipe(), Repeats(sizes=(7, 6)))
    mine = recipe()
    mine._device_mesh = object()  # as `ModelParallelStrategy` gives it
    with pytest.raises(UserError, match="learned on whole weights; take --trainer.strategy=ddp"):
        mine.configure_model()
    with pytest.raises(UserError, match="same width"):
        recipe(coarse_from="conditioned.speech-16khz")
