"""A decoder that learns from moments of its own Jacobi decoding needs fewer passes, and writes what it wrote before."""

import json

import pytest
import torch
from test_decoder_recipe import QUICK, SIZES, Repeats, decoder, fit

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.layouts import FrameDepth, Parallel
from zoo.decoders.sampling import Law, Noise, decode, proposers
from zoo.decoders.transformer import TransformerConfig
from zoo.recipes.cli import train
from zoo.recipes.consistency import ConsistencyRecipe
from zoo.recipes.decoder import DecoderRecipe
from zoo.token_facts import TokenFacts

LAYOUT = Parallel(SIZES, begin=True)
GREEDY = Law(temperature=0)


class Stays(Repeats):
    """Sequences of one frame, over and over: whoever reads the step before learns them, and falls for wrong guesses."""

    def row(self, number):
        return super().row(number)[:, :1].expand(-1, self.frames)


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A decoder that goes on as the last step was; the last.ckpt of its run."""
    folder = tmp_path_factory.mktemp("target")
    recipe = DecoderRecipe(decoder(LAYOUT), LAYOUT, 60, optimization=QUICK, preview=None)
    fit(folder, recipe, Stays(epoch_batches=60))
    return str(folder / "last.ckpt")


def jacobi(model):
    """What a model makes of four prompts, and how many steps a pass gives."""
    prompt = LAYOUT.pack(Stays().make(2000)["codes"][..., :4])
    found = decode(model, prompt, 8, GREEDY, Noise(0), proposers.Jacobi(), window=4)
    return found.codes, float(found.trace.tokens_per_forward.mean())


def test_jacobi_decoding_needs_fewer_passes_afterwards_and_gives_the_same(target, tmp_path):
    recipe = ConsistencyRecipe(target, 80, window=4, prompt=0.4, writing=1.0, optimization=QUICK, preview=None)
    before, slow = jacobi(recipe.teacher.decoder)
    untouched = {name: weight.clone() for name, weight in recipe.teacher.decoder.state_dict().items()}
    torch.testing.assert_close(recipe.decoder.state_dict(), untouched, rtol=0, atol=0)
    fit(tmp_path, recipe, Stays(epoch_batches=80))
    after, fast = jacobi(recipe.average.module)
    # Guesses from nothing give one step, those seen through five, then the window is empty again: 1 + 5 + 1 + 1.
    assert slow < 1.2 and 1.8 < fast <= 2.0
    assert (after == before).float().mean() > 0.9
    torch.testing.assert_close(recipe.teacher.decoder.state_dict(), untouched, rtol=0, atol=0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    apart, seen = ([line[f"loss/{name}"] for line in lines] for name in ("consistency", "seen_through"))
    assert apart[-1] < 0.5 * apart[0] and seen[-1] > seen[0]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_moment_is_a_round_of_jacobi_decoding(target, temperature):
    """Around its guesses, a row is what it became, and the guesses are those of a round."""
    recipe = ConsistencyRecipe(target, 1, window=3, temperature=temperature, prompt=0.3)
    given, begins = Stays().make(0), set()
    for number in range(12):
        moment = recipe.moment(given, None, number)
        noise = recipe.noise_of(number, 2)
        prompt, law = moment.tokens[:, : moment.given], Law(temperature=temperature)
        assert moment.given == 4 and torch.equal(prompt, recipe.pack(given)[:, :4])
        plain = decode(recipe.teacher.decoder, prompt, 9, law, noise)
        assert torch.equal(moment.tokens[:, 4:], plain.codes)
        states = list(every_state(recipe.teacher.decoder, prompt, law, noise))
        for row in range(4):
            asked = moment.asked[row].nonzero()[:, 0].tolist()
            assert 1 <= len(asked) <= 3 and asked == list(range(asked[0], asked[-1] + 1)) and asked[0] > 4
            guessed = moment.guessed[row, asked[0] - 1 : asked[-1]]
            assert (asked[0] - 1, guessed.tolist()) in [(begin, line) for at, begin, line in states if at == row]
            rest = [step for step in range(13) if not asked[0] - 1 <= step < asked[-1]]
            assert torch.equal(moment.guessed[row, rest], moment.tokens[row, rest])
            begins.add(asked[0])
    assert len(begins) > 3  # other rounds in other batches


def every_state(model, prompt, law, noise):
    """Row, first guessed step and guesses, cut at the last step of the row, of each round."""

    class Spy(proposers.Jacobi):
        def propose(self, ctx, n):
            draft = super().propose(ctx, n)
            for row in range(ctx.rows):
                room, begin = int(ctx.room[row]), int(ctx.length[row])
                line = draft.tokens[row, : int(draft.count[row])][: room - 1]
                found.append((row, begin, line.tolist()))
            return draft

    found = []
    decode(model, prompt, 9, law, noise, Spy(), window=3)
    return found


def test_a_resumed_run_equals_an_uninterrupted_one(target, tmp_path):
    def recipe():
        return ConsistencyRecipe(target, 20, window=3, optimization=QUICK, preview=None)

    whole, parts = recipe(), recipe()
    fit(tmp_path / "whole", whole)
    fit(tmp_path / "parts", recipe(), steps=10)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, resume=True)
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_only_the_steps_behind_guesses_pull_at_the_weights_of_consistency(target):
    """With no weight on what was written, a moment whose guesses are right has no gradient at all."""
    recipe = ConsistencyRecipe(target, 1, window=3, writing=0.0)
    given, real = Stays().make(0), recipe.moment
    recipe.objective(given, None, 0).loss.backward()
    assert max(weight.grad.abs().max() for weight in recipe.decoder.parameters()) > 1e-6
    recipe.zero_grad()
    recipe.moment = lambda *args: real(*args)._replace(guessed=real(*args).tokens)
    found = recipe.objective(given, None, 0)
    found.loss.backward()
    assert found.parts["consistency"] < 1e-6
    assert max(weight.grad.abs().max() for weight in recipe.decoder.parameters()) < 1e-5


def test_a_run_by_name_tells_steps_a_pass_and_becomes_a_model(tmp_path):
    first = train("autoregressive.text-smoke", [f"--run.folder={tmp_path}/target"])
    run = train("consistency.text-smoke", [f"--run.folder={tmp_path}/run", f"--model.target={first}/last.ckpt"])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["valid/steps/forward"] for line in lines if "valid/steps/forward" in line]
    assert len(speeds) == 2 and min(speeds) >= 1 and lines[-1]["valid/bits/byte"] < 8
    convert(run / "last.ckpt", tmp_path / "model")
    assert zoo.load(tmp_path / "model").tokens.vocabulary is not None


def test_what_cannot_be_guessed_or_makes_no_sense_is_refused(target, tmp_path):
    layout, core = FrameDepth(SIZES, begin=True), TransformerConfig(width=16, layers=1, heads=2)
    model = DepthDecoder(DepthConfig(layout.cards, core, context=64, specials=layout.specials, depth=core))
    model.tokens = TokenFacts(layout)
    checkpoint.save(model, tmp_path)
    with pytest.raises(UserError, match="depend on each other"):
        ConsistencyRecipe(str(tmp_path), 1)
    for wrong in ({"window": 0}, {"prompt": 1.5}, {"writing": -1.0}, {"temperature": -0.5}):
        with pytest.raises(UserError, match="share in 0"):
            ConsistencyRecipe(target, 1, **wrong)
