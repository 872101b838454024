"""A draft learns from its teacher's law, by several divergences, and where its own tokens lead."""

import json
from typing import get_args

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, batch, conditioned, decoder, fit

from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.decoders.layouts import Delay, Parallel
from zoo.decoders.layouts.base import Special
from zoo.decoders.sampling import Law, Noise, decode, guidance
from zoo.recipes.cli import train
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.divergence import Distillation, Divergence, divergence
from zoo.recipes.tally import IGNORED
from zoo.recipes.teacher import Teacher
from zoo.recipes.writing import written
from zoo.token_facts import TokenFacts

LAYOUT = Parallel(SIZES, begin=True)
KINDS = get_args(Divergence)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    recipe = DecoderRecipe(decoder(LAYOUT), LAYOUT, 60, optimization=QUICK, preview=None)
    fit(folder, recipe, Repeats(epoch_batches=60))
    return str(folder / "last.ckpt")


def distilling(teacher, steps, **options) -> DecoderRecipe:
    how = Distillation(teacher, **options)
    return DecoderRecipe(decoder(LAYOUT), LAYOUT, steps, optimization=QUICK, distillation=how, preview=None)


def some_laws():
    logits, law = torch.randn(2, 3, 4, 2, 5, generator=torch.Generator().manual_seed(0))
    targets = torch.zeros(3, 4, 2, dtype=torch.int64)
    targets[0, 1:] = IGNORED
    return logits, law, targets


@pytest.mark.parametrize("kind", KINDS)
def test_each_divergence_is_what_its_name_says(kind):
    logits, law, targets = some_laws()
    p, q = (torch.softmax(each[targets != IGNORED].double() / 2, -1) for each in (law, logits))
    m = (p + q) / 2
    wanted = {
        "forward": 4 * (p * (p / q).log()).sum(-1),
        "reverse": 4 * (q * (q / p).log()).sum(-1),
        "jensen-shannon": 4 * ((p * (p / m).log()).sum(-1) + (q * (q / m).log()).sum(-1)) / 2,
        "total-variation": 2 * (p - torch.minimum(p, q)).sum(-1),  # what rejection sampling turns down
    }[kind]
    torch.testing.assert_close(divergence(logits, law, targets, 2.0, kind), wanted.mean().float())
    assert divergence(law, law + 3, targets, 2.0, kind).abs() < 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_that_a_smaller_codebook_lacks_have_no_part_in_any_divergence(kind):
    logits, law, targets = some_laws()
    logits.requires_grad_()
    lacking = torch.zeros(2, 5).index_put((torch.tensor(1), torch.tensor(4)), torch.tensor(-torch.inf))
    loss = divergence(logits + lacking, law + lacking, targets, 1.0, kind)
    loss.backward()
    assert loss.isfinite() and logits.grad.isfinite().all() and (logits.grad[:, :, 1, 4] == 0).all()
    alone = divergence(logits[:, :, 1:, :4], law[:, :, 1:, :4], targets[:, :, 1:], 1.0, kind)
    both = divergence(logits[:, :, :1], law[:, :, :1], targets[:, :, :1], 1.0, kind)
    torch.testing.assert_close(loss, (alone + both) / 2)


def test_one_stream_learns_what_a_guided_teacher_says_with_two(tmp_path):
    """Where the teacher finds a token impossible, guidance doesn't make it possible."""
    model = conditioned(LAYOUT)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.tokens = TokenFacts(LAYOUT)
    checkpoint.save(model, tmp_path)
    how = Distillation(str(tmp_path), weight=1.0, guidance=2.5)
    recipe = DecoderRecipe(conditioned(LAYOUT), LAYOUT, 1, optimization=QUICK, distillation=how, preview=None)
    recipe.teacher = Teacher(str(tmp_path))
    given = batch()
    tokens, cond = recipe.pack(given), recipe.conditions(given)
    taught = recipe.taught(tokens, given, cond)
    both = torch.cat([recipe.predict(model, tokens, given, each)[0] for each in (cond, None)])
    told = Law(streams=guidance(2.5)).start(torch.cat((tokens, tokens))).combine(both)
    torch.testing.assert_close(taught, told)
    assert (taught.isneginf() == told.isneginf()).all() and taught.isneginf().any()
    assert not torch.allclose(taught, both[: len(tokens)])
    with pytest.raises(UserError, match="guidance 0"):
        Distillation("x", guidance=0)


@pytest.mark.parametrize(("kind", "writer"), [("total-variation", "student"), ("reverse", "teacher")])
def test_a_draft_comes_near_to_its_teacher_where_its_own_tokens_lead(teacher, tmp_path, kind, writer):
    recipe = distilling(teacher, 30, weight=1.0, divergence=kind, written=1.0, writer=writer, prompt=0.2)
    fit(tmp_path, recipe, Repeats(epoch_batches=30))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    far = [line["loss/written"] for line in lines if "loss/written" in line]
    assert 0 <= far[-1] < 0.6 * far[0]
    assert not any("loss/cross_entropy" in line for line in lines)  # no batch is the data's own


def test_the_data_are_learned_from_in_the_other_batches(teacher):
    recipe = distilling(teacher, 1, weight=0.25, written=0.5)
    recipe.teacher, given = Teacher(teacher), Repeats().make(0)
    found = [recipe.objective(given, None, number) for number in range(60)]
    own = ["written" in each.parts for each in found]
    assert 18 <= sum(own) <= 42  # half of 60; one seed in 500 misses it
    for each, alone in zip(found, own, strict=True):
        parts = each.parts
        wanted = parts["written"] if alone else 0.75 * parts["cross_entropy"] + 0.25 * parts["distillation"]
        torch.testing.assert_close(each.loss, wanted)
        assert each.tokens == 4 * 2 * (10 if alone else 12)  # of 13 steps the first, or a quarter, is given


def test_what_is_written_is_what_decoding_gives_and_structure_and_padding_stay(teacher):
    model, given = decoder(LAYOUT).train(), batch()
    tokens = LAYOUT.pack(given["codes"], given["lengths"])
    found, steps = written(model, LAYOUT, given, tokens, None, Noise(3), 0.3)
    assert steps == 2 and model.training
    plain = decode(model.eval(), tokens[:, :2], 5, noise=Noise(3)).codes
    there = tokens < torch.tensor(LAYOUT.cards)
    assert torch.equal(found[:, :2], tokens[:, :2])
    assert torch.equal(found[:, 2:], plain.where(there[:, 2:], tokens[:, 2:]))
    other = written(model, LAYOUT, given, tokens, None, Noise(4), 0.3).tokens
    assert not torch.equal(other, found)


def test_a_row_that_ends_itself_is_padding_from_there_on():
    layout = Delay(SIZES, end=True, begin=True)
    model, given = decoder(layout, head_bias=True), Repeats().make(0)
    with torch.no_grad():
        model.heads.product.bias[layout.end_id] = 50  # ends at once
    tokens = layout.pack(given["codes"], given["lengths"])
    found, steps = written(model, layout, given, tokens, None, Noise(0), 0.4)
    assert (found[:, steps, 0] == layout.end_id).all()
    behind = found[:, steps + 1 :]
    assert (behind == layout.special(Special.PAD)).all()


def test_a_resumed_run_equals_an_uninterrupted_one(teacher, tmp_path):
    whole, parts = (distilling(teacher, 20, written=0.5) for _ in range(2))
    fit(tmp_path / "whole", whole)
    fit(tmp_path / "parts", distilling(teacher, 20, written=0.5), steps=10)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, resume=True)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_draft_is_trained_by_name(tmp_path):
    first = train("autoregressive.text-smoke", [f"--run.folder={tmp_path}/teacher"])
    options = [f"--run.folder={tmp_path}/run", f"--model.distillation.teacher={first}/last.ckpt"]
    run = train("autoregressive.text-distilled-smoke", options)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    far = [line["loss/distillation"] for line in lines if "loss/distillation" in line]
    assert 0 < far[-1] < 0.8 * far[0] and any("loss/written" in line for line in lines)


@pytest.mark.parametrize("wrong", [{"written": 1.5}, {"prompt": -0.1}, {"weight": 2.0}, {"temperature": 0.0}])
def test_shares_that_are_none_are_refused(wrong):
    with pytest.raises(UserError, match="0 .. 1"):
        Distillation("any", **wrong)
