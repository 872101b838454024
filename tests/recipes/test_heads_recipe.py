"""Heads learn to look ahead for a decoder that stays as it is, and then draft for it under their own name."""

import json

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, conditioned, decoder, fit

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.heads import MultiTokenHeads
from zoo.decoders.layouts import Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder
from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.proposers import Heads
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.cli import train
from zoo.recipes.decoder import DecoderRecipe
from zoo.recipes.divergence import divergence
from zoo.recipes.heads import HeadsRecipe
from zoo.recipes.reading import read
from zoo.recipes.tally import IGNORED
from zoo.token_facts import TokenFacts

LAYOUT = Parallel(SIZES, begin=True)
GREEDY = Law(temperature=0)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A decoder that knows how rounds of codes go on; the last.ckpt of its run."""
    folder = tmp_path_factory.mktemp("target")
    recipe = DecoderRecipe(decoder(LAYOUT), LAYOUT, 60, optimization=QUICK, preview=None)
    fit(folder, recipe, Repeats(epoch_batches=60))
    return str(folder / "last.ckpt")


def accepted(target, heads) -> float:
    """Steps that a pass gives over four prompts, from which the target goes on greedily."""
    prompt = LAYOUT.pack(Repeats().make(2000)["codes"][..., :5])
    plain = decode(target, prompt, 24, GREEDY)
    found = decode(target, prompt, 24, GREEDY, Noise(0), Heads(heads.eval(), width=1), window=3)
    assert torch.equal(found.codes, plain.codes)
    return float(found.trace.tokens_per_forward.mean())


@pytest.mark.parametrize(
    "options",
    [
        {"learn_from": "data"},
        {"learn_from": "law", "sequential": True, "written": 0.5},
        {"learn_from": "law", "sequential": True, "shared": True},
    ],
)
def test_trained_heads_draft_what_the_target_says(target, tmp_path, options):
    """Untrained ones say the next step again, which is wrong in a language whose codes go round."""
    recipe = HeadsRecipe(target, 60, heads=3, optimization=QUICK, preview=None, **options)
    model = recipe.teacher.decoder
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    untrained = accepted(model, recipe.decoder)
    fit(tmp_path, recipe, Repeats(epoch_batches=60))
    assert accepted(model, recipe.average.module) > untrained + 1
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_a_resumed_run_equals_an_uninterrupted_one(target, tmp_path):
    def recipe():
        return HeadsRecipe(target, 20, heads=2, written=0.5, learn_from="law", optimization=QUICK, preview=None)

    whole, parts = recipe(), recipe()
    fit(tmp_path / "whole", whole)
    fit(tmp_path / "parts", recipe(), steps=10)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, resume=True)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert not any("teacher" in name for name in whole.state_dict())


def test_a_head_is_held_against_the_targets_law_of_its_own_step(target):
    recipe = HeadsRecipe(target, 1, heads=2, learn_from="law", divergence="reverse", decay=0.5)
    given = Repeats(rows=2, frames=6).make(0)
    tokens, model = recipe.pack(given), recipe.teacher.decoder
    loss, parts, count = recipe.objective(given, None, 0)
    logits, hidden = read(model, LAYOUT, tokens, given, None)
    wanted = []
    for head in range(2):
        said = recipe.decoder(hidden[:, : 5 - head], head)  # seven steps; the last is foretold from two before
        law = model(tokens).logits[:, head + 1 : 6]
        wanted.append(divergence(said, law, tokens[:, head + 2 :], 1.0, "reverse"))
    torch.testing.assert_close(torch.stack([parts["head 1"], parts["head 2"]]), torch.stack(wanted).detach())
    torch.testing.assert_close(loss, wanted[0] + 0.5 * wanted[1])
    assert count == 2 * 2 * (5 + 4)


def test_only_what_the_target_wrote_is_learned_from_where_it_writes(target, monkeypatch):
    recipe = HeadsRecipe(target, 1, heads=2, written=1.0, prompt=0.5)
    given, seen = Repeats(rows=2, frames=6).make(0), []
    monkeypatch.setattr(recipe, "missed", lambda logits, targets, law: seen.append(targets) or logits.sum() * 0)
    recipe.objective(given, None, 0)
    tokens = recipe.pack(given)
    for head, targets in enumerate(seen):
        first = 4 - head - 2  # of seven steps, four are given
        assert (targets[:, :first] == IGNORED).all() and (targets[:, first:] != IGNORED).all()
        assert not torch.equal(targets[:, first:], tokens[:, 4:])


def test_heads_of_a_conditioned_target_get_its_conditions(tmp_path):
    model = conditioned(LAYOUT)
    model.tokens = TokenFacts(LAYOUT)
    checkpoint.save(model, tmp_path / "target")
    recipe = HeadsRecipe(str(tmp_path / "target"), 5, heads=1, optimization=QUICK)
    given = Repeats().make(0)
    assert recipe.conditions(given).labels.tolist() == given["label"].tolist()
    one, other = (recipe.objective(given, cond, 0).loss for cond in (recipe.conditions(given), None))
    assert one != other
    fit(tmp_path, recipe)


def test_what_heads_cannot_look_ahead_for_is_refused(target, tmp_path):
    core = TransformerConfig(16, 1, heads=2, causal=False)
    masked = MaskedDecoder(MaskedConfig((7, 5), core, context=16))
    masked.tokens = TokenFacts(Parallel(SIZES))
    checkpoint.save(masked, tmp_path / "masked")
    with pytest.raises(UserError, match="doesn't go step by step"):
        HeadsRecipe(str(tmp_path / "masked"), 1)
    with pytest.raises(UserError, match="shares in 0"):
        HeadsRecipe(target, 1, written=2.0)
    with pytest.raises(UserError, match="three steps"):
        HeadsRecipe(target, 1).objective(Repeats(frames=1).make(0), None, 0)
    with pytest.raises(UserError, match="codebooks of .8, 5. codes"):
        fit(tmp_path, HeadsRecipe(target, 1, preview=None), Repeats(sizes=(8, 5)))


def test_a_run_by_name_tells_steps_a_pass_and_becomes_heads_with_their_tokens(tmp_path):
    first = train("autoregressive.text-smoke", [f"--run.folder={tmp_path}/target"])
    run = train("heads.text-smoke", [f"--run.folder={tmp_path}/run", f"--model.target={first}/last.ckpt"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss/head 1"] for line in lines if "loss/head 1" in line]
    assert losses[-1] < losses[0]
    speeds = [line["valid/steps/forward"] for line in lines if "valid/steps/forward" in line]
    assert len(speeds) == 2 and min(speeds) >= 1
    convert(run / "last.ckpt", tmp_path / "heads")
    convert(first / "last.ckpt", tmp_path / "model")
    heads, model = zoo.load(tmp_path / "heads"), zoo.load(tmp_path / "model")
    assert isinstance(heads, MultiTokenHeads) and heads.tokens == model.tokens and not heads.training
    assert heads.info.parameters == sum(weight.numel() for weight in heads.parameters())
