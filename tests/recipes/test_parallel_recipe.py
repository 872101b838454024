"""Decoders of one pass and of a few learn to spell aloud; what they cannot say is counted and left out."""

import json

import pytest
import torch
from test_decoder_recipe import QUICK, fit

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.conditioned import ConditionedMasked, ConditionedMaskedConfig
from zoo.decoders.conditioning import ConditionConfig, Conditions, text_ids
from zoo.decoders.ctc import CTCConfig, CTCDecoder
from zoo.decoders.directed_acyclic import DirectedAcyclicConfig, DirectedAcyclicDecoder
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.masked import MaskedConfig
from zoo.decoders.sampling import Law
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.unrolled_denoising import decode_unrolled
from zoo.recipes.cli import train
from zoo.recipes.data.spelled_letters import SpelledLetters
from zoo.recipes.parallel import ParallelRecipe, UnrolledRecipe
from zoo.recipes.tally import IGNORED

CORE = TransformerConfig(16, 1, heads=2, causal=False)
SOURCE = ConditionConfig(16, text=256, encoder=CORE)
CODES, BLANKED = Parallel((8,)), Parallel((8,), absent=True)


def ctc(upsampling=8) -> CTCDecoder:
    torch.manual_seed(0)
    return CTCDecoder(CTCConfig(cards=(9,), transformer=CORE, condition=SOURCE, upsampling=upsampling))


def acyclic() -> DirectedAcyclicDecoder:
    torch.manual_seed(0)
    return DirectedAcyclicDecoder(DirectedAcyclicConfig(cards=(8,), transformer=CORE, condition=SOURCE, upsampling=6))


def unrolled() -> ConditionedMasked:
    torch.manual_seed(0)
    core = TransformerConfig(16, 1, heads=2, causal=False, cross=16)
    return ConditionedMasked(ConditionedMaskedConfig(SOURCE, MaskedConfig((9,), core, context=16)))


def test_words_are_spelled_in_as_many_codes_as_their_letters_last():
    batch = SpelledLetters(letters=3, batch_size=50).make(0)
    assert {len(word) for word in batch["text"]} == {1, 2, 3} and set("".join(batch["text"])) == set("abcd")
    for word, codes, length in zip(batch["text"], batch["codes"][:, 0].tolist(), batch["lengths"], strict=True):
        said = {"a": [0], "b": [2, 3], "c": [4, 5, 5], "d": [6, 7, 7, 7]}
        assert codes[:length] == [code for letter in word for code in said[letter]]
        assert set(codes[length:]) <= {-1}
    same, other, valid = (SpelledLetters(letters=3, batch_size=50).make(*at)["text"] for at in ((0,), (1,), (0, True)))
    assert same == batch["text"] != other and valid != same


@pytest.mark.parametrize(
    ("name", "kind", "layout"), [("ctc", CTCDecoder, BLANKED), ("directed-acyclic", DirectedAcyclicDecoder, CODES)]
)
def test_decoders_of_one_pass_are_trained_by_their_name_and_become_models_that_spell(tmp_path, name, kind, layout):
    run = train(f"{name}.spelling-smoke", [f"--run.folder={tmp_path}/run"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/nats"] for line in lines if "loss/nats" in line]
    assert losses[-1] < 0.3 * losses[0]
    bits = [line["valid/bits/code"] for line in lines if "valid/bits/code" in line]
    assert bits[-1] < bits[0]
    convert(run / "last.ckpt", tmp_path / "model")
    model = zoo.load(tmp_path / "model")
    assert isinstance(model, kind) and model.tokens.layout == layout
    codes, cond = torch.tensor([[2, 3, -1, -1], [6, 7, 7, 7]])[..., None], Conditions(text=text_ids(["b", "d"]))
    assert (model.nats(codes, cond) < model.nats(codes.flip(0), cond)).all()


def test_an_unrolled_encoder_decoder_is_trained_by_its_name_and_restores_what_is_said(tmp_path):
    run = train("unrolled.spelling-smoke", [f"--run.folder={tmp_path}/run"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    bits = [line["valid/bits/code"] for line in lines if "valid/bits/code" in line]
    assert bits[-1] < bits[0]
    convert(run / "last.ckpt", tmp_path / "model")
    model, cond = zoo.load(tmp_path / "model"), Conditions(text=text_ids(["a", "d"]))
    said = decode_unrolled(model, (2, 12), 8, Law(temperature=0.0), cond=cond).codes[..., 0]  # as long as in training
    wanted = torch.tensor([[0] + [8] * 11, [6, 7, 7, 7] + [8] * 8])  # 8: nothing
    assert (said == wanted).float().mean() > 0.9
    letters = dict(sample_rate=8000, ratios=(5, 4, 4), filters=2, dim=4, codebooks=1, codebook_size=8, lstm_layers=0)
    checkpoint.save(zoo.create("seanet", **letters), tmp_path / "codec")
    found = zoo.generate(tmp_path / "model", text="d", passes=8, codec=tmp_path / "codec").tokens[0].codes[0, 0]
    assert model.tokens.unrolled and found.tolist() == said[1][said[1] < 8].tolist()  # at temperature 0 as well


def test_validation_tells_what_whole_sequences_cost_and_a_directed_acyclic_decoder_learns_with_glances(tmp_path):
    recipe = ParallelRecipe(acyclic(), CODES, 12, glance=(0.5, 0.1), optimization=QUICK)
    fit(tmp_path, recipe, SpelledLetters(letters=2), val_check_interval=12)
    batch, decoder = SpelledLetters(letters=2).make(0, True), recipe.average.module
    cond = recipe.conditions(batch)
    found = recipe.foretell(decoder, batch, cond, 0)
    nats = decoder.nats(batch["codes"].mT, cond)
    torch.testing.assert_close(found.nats.sum((1, 2)), nats.where(nats.isfinite(), 0))
    assert ((found.targets != IGNORED).sum((1, 2)) == batch["lengths"].where(nats.isfinite(), 0)).all()
    shown = recipe.sample(decoder, batch, cond.rows(slice(1)))
    said = decoder.generate(cond).codes[0, :, 0]
    assert torch.equal(shown["sample"][0], said[said >= 0]) and torch.equal(shown["target"], batch["codes"][0])


def test_rows_that_are_too_long_for_their_places_are_counted_and_teach_nothing():
    """A letter makes two places, and the letter d takes four codes."""
    recipe = ParallelRecipe(ctc(upsampling=2), BLANKED, 1)
    batch = {
        "codes": torch.tensor([[[6, 7, 7, 7]], [[0, -1, -1, -1]]]),
        "lengths": torch.tensor([4, 1]),
        "text": ["d", "a"],
    }
    loss, parts, _ = recipe.objective(batch, recipe.conditions(batch), 0)
    short = {name: part[1:] for name, part in batch.items()}
    torch.testing.assert_close(loss, recipe.objective(short, recipe.conditions(short), 0).loss)
    assert parts["impossible"] == 0.5
    found = recipe.foretell(recipe.decoder, batch, recipe.conditions(batch), 0)
    assert (found.targets[0] == IGNORED).all() and not found.nats[0].any() and found.nats.isfinite().all()


def test_an_unrolled_decoder_learns_codes_and_where_they_end(tmp_path):
    """A word is one letter; what follows its codes is the absent token."""
    recipe = UnrolledRecipe(unrolled(), BLANKED, 120, optimization=QUICK, condition_dropout=0.0)
    fit(tmp_path, recipe, SpelledLetters(letters=1, epoch_batches=120), val_check_interval=120)
    batch = SpelledLetters(letters=1).make(0, True)
    assert torch.equal(recipe.steps_of(batch), batch["codes"].mT.where(batch["codes"].mT >= 0, 8))
    cond = recipe.conditions(batch)
    made = decode_unrolled(recipe.decoder.eval(), (8, 4), 4, cond=cond).codes
    assert torch.equal(BLANKED.unpack(made, (4,)), batch["codes"])
    shown = recipe.sample(recipe.decoder, batch, cond.rows(slice(1)))
    assert torch.equal(shown["sample"], batch["codes"][0])


def test_words_beyond_the_context_are_refused_before_training(tmp_path):
    recipe = UnrolledRecipe(unrolled(), BLANKED, 1)
    with pytest.raises(UserError, match="items of 20 cells, .* steps to read, and the decoder's context is 16"):
        fit(tmp_path, recipe, SpelledLetters(letters=5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ParallelRecipe(unrolled(), BLANKED, 1), "decoders of one pass"),
        (lambda: ParallelRecipe(ctc(), BLANKED, 1, glance=(0.5, 0.1)), "doesn't glance"),
        (lambda: ParallelRecipe(ctc(), CODES, 1), "make them the same"),
        (lambda: UnrolledRecipe(unrolled(), Delay((8,), absent=True), 1), "fill in cells"),
    ],
)
def test_what_does_not_fit_is_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
