"""A decoder that learns from guesses in all windows of a row at once needs fewer passes, and writes what it wrote."""

import json
from types import SimpleNamespace

import pytest
import torch
from test_consistency import Stays
from test_decoder_recipe import QUICK, SIZES, Repeats, batch, conditioned, decoder, fit
from torch.nn.functional import cross_entropy

import zoo
from zoo import checkpoint
from zoo.codecs.errors import UserError
from zoo.convert import convert
from zoo.decoders.conditioning import BYTES, ConditionConfig, Conditions
from zoo.decoders.depth import DepthConfig, DepthDecoder
from zoo.decoders.layouts import Delay, FrameDepth, Parallel
from zoo.decoders.masked import MaskedConfig, MaskedDecoder
from zoo.decoders.sampling import Law, Noise, decode, proposers, stream
from zoo.decoders.sampling.rules import Typical
from zoo.decoders.transformer import TransformerConfig
from zoo.decoders.two_stage import TwoStageConfig, TwoStageDecoder
from zoo.recipes.cli import train
from zoo.recipes.decoder import WRITING, DecoderRecipe
from zoo.recipes.jacobi_forcing import JacobiForcingRecipe, Windows, stepwise, told_of
from zoo.recipes.preview import Preview
from zoo.recipes.reading import came_behind, read
from zoo.recipes.tally import IGNORED
from zoo.recipes.writing import grid_of, stops
from zoo.token_facts import TokenFacts

LAYOUT = Parallel(SIZES, begin=True)
STAGGERED = Delay(SIZES, begin=True)  # with structure at both ends of a row
READER = TransformerConfig(16, 1, heads=2, causal=False)
CLASSES = ConditionConfig(16, classes=3, way="prefix")
TEXT = ConditionConfig(16, text=BYTES, way="prefix", encoder=READER)
TIMED = ConditionConfig(16, classes=3, text=BYTES, way="prefix", encoder=READER, timed=True)
KINDS = ("plain", "staggered", "classes", "text", "timed", "groups")
GREEDY = Law(temperature=0)


def two_stages(condition=CLASSES, layers=1, group=1, shared=False) -> TwoStageDecoder:
    torch.manual_seed(0)
    coarse, fine = (TransformerConfig(16, layers, heads=2, causal=causal) for causal in (True, False))
    return TwoStageDecoder(TwoStageConfig(SIZES, coarse, fine, group, 32, condition, shared))


def given(number=0) -> dict:
    """A batch of rows of several lengths, with all that conditions are made of."""
    texts, durations = ["abc", "d", "ef"], torch.tensor([[2.0, 2, 2], [3, 0, 0], [1, 2, 0]])
    return batch(frames=9, seed=number) | {"text": texts, "durations": durations}


def save(model, folder, random=True) -> str:
    """Weights so large that what is wrongly seen shows."""
    for weight in model.parameters() if random else ():
        torch.nn.init.normal_(weight, std=0.5)
    model.tokens = TokenFacts(model.layout if isinstance(model, TwoStageDecoder) else model.tokens)
    checkpoint.save(model, folder)
    return str(folder)


@pytest.fixture(scope="module")
def targets(tmp_path_factory):
    """Directories of decoders that have learned nothing, by name."""
    models = {
        "classes": two_stages(), "text": two_stages(TEXT), "timed": two_stages(TIMED), "groups": two_stages(group=2),
        "deep": two_stages(TEXT, layers=2), "shared": two_stages(TEXT, shared=True),
    }  # fmt: skip
    for name, layout in (("plain", LAYOUT), ("staggered", STAGGERED)):
        models[name] = decoder(layout)
        models[name].tokens = layout
    folder = tmp_path_factory.mktemp("targets")
    return {name: save(model, folder / name) for name, model in models.items()}


def moment(recipe, number=0, shift=1):
    """A batch's row and its windows, of a recipe whose decoder says what its target says."""
    recipe.decoder.eval()
    data = given(number)
    cond = recipe.conditions(data)
    told, row = told_of(recipe.decoder, cond), recipe.written(data, cond, number)
    windows = Windows.of(row.shape[1] - 1, recipe.window, shift, row.device)
    return SimpleNamespace(batch=data, cond=cond, told=told, row=row, windows=windows)


def said(recipe, now, row):
    """What the decoder says behind each step of a row but the last."""
    return read(*stepwise(recipe.decoder), row, now.batch, now.told).logits


def free(recipe, row):
    """Steps between the first and the last that a guess may be wrong about."""
    there = row < torch.tensor(recipe.line.cards)
    there[:, [0, -1]] = False
    return there


@pytest.mark.parametrize(("slots", "window", "shift"), [(10, 4, 0), (10, 4, 3), (5, 8, 2), (6, 1, 0)])
def test_a_guess_sees_the_row_before_its_window_and_the_guesses_up_to_itself(slots, window, shift):
    first, seen = Windows.of(slots, window, shift, torch.device("cpu"))
    begins = sorted({0, *range(window - shift, slots, window)})
    assert all(later - begin <= window for begin, later in zip(begins, [*begins[1:], slots], strict=True))
    for slot in range(slots):
        begin = max(each for each in begins if each <= slot)
        row, guess = (seen[0, each].nonzero()[:, 0].tolist() for each in (slot, slots + slot))
        assert row == list(range(slot + 1)) and first[slot] == begin
        assert guess == [*range(begin), *range(slots + begin, slots + slot + 1)]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_behind_right_guesses_comes_what_comes_behind_the_row(targets, kind):
    recipe = JacobiForcingRecipe(targets[kind], 1, window=3)
    now = moment(recipe)
    logits, guessed = recipe.both(now.row, now.row, now.windows, now.batch, now.told)
    torch.testing.assert_close(logits, said(recipe, now, now.row))
    torch.testing.assert_close(guessed, logits)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_guess_misleads_those_behind_it_in_its_window_and_nothing_else(targets, kind):
    recipe = JacobiForcingRecipe(targets[kind], 1, window=3)
    now = moment(recipe)
    before = recipe.both(now.row, now.row, now.windows, now.batch, now.told)
    for slot in range(1, now.row.shape[1] - 1):
        wrong = now.row.clone()
        wrong[:, slot, 0] = (wrong[:, slot, 0] + 1) % recipe.line.cards[0]
        logits, misled = recipe.both(now.row, wrong, now.windows, now.batch, now.told)
        assert torch.equal(logits, before[0])
        apart = (misled - before[1]).nan_to_num(0).abs().amax((0, 2, 3)) > 1e-4
        first = now.windows.first
        behind = (first == first[slot]) & (torch.arange(len(first)) >= slot)
        assert torch.equal(apart, behind)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["plain", "staggered", "text", "groups"])
def test_guesses_begin_as_those_of_jacobi_decoding_do(targets, kind, temperature):
    recipe = JacobiForcingRecipe(targets[kind], 1, temperature=temperature)
    now, noise, first = moment(recipe, shift=0), recipe.noise_of(0, WRITING), []

    class Spy(proposers.Jacobi):
        def propose(self, ctx, n):
            draft = super().propose(ctx, n)
            first.append(draft.tokens)
            return draft

    stage, line = stepwise(recipe.decoder)
    steps = now.row.shape[1] - 1
    next(stream(
        stage, now.row[:, :1], steps, Law(temperature=temperature), noise, Spy(), window=steps, cond=now.told,
        stop=stops(line), **grid_of(stage, line, now.batch),
    ))  # fmt: skip
    guessed = recipe.guess(now.row, now.windows, 0, now.batch, now.told, noise)
    there = free(recipe, now.row)
    assert torch.equal(guessed[there], first[0][:, : steps - 1][there[:, 1:-1]])
    assert torch.equal(guessed[~there], now.row[~there])
    assert (guessed[there] == 0).all() == (temperature == 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["plain", "staggered", "timed"])
def test_a_round_makes_the_first_guess_of_each_window_right_and_many_all_of_them(targets, kind, temperature):
    """Rows are the target's own, which the decoder still is; those that came last into a window are as they began."""
    recipe = JacobiForcingRecipe(targets[kind], 1, window=3, temperature=temperature)
    now, noise = moment(recipe), recipe.noise_of(0, WRITING)
    there = free(recipe, now.row)[:, :-1]
    begun, once, often = (
        recipe.guess(now.row, now.windows, rounds, now.batch, now.told, noise)[:, :-1] for rounds in (0, 1, 8)
    )
    place = torch.arange(len(now.windows.first)) - now.windows.first
    assert torch.equal(once[:, place == 0], now.row[:, :-1][:, place == 0])
    assert torch.equal(once[:, place == 2], begun[:, place == 2])
    assert torch.equal(often, now.row[:, :-1])
    assert not torch.equal(often[there], begun[there])


@torch.no_grad()
def test_behind_the_border_of_a_window_the_decoder_guesses_from_the_row_and_then_from_its_guesses(targets):
    """Of rows that another one wrote, too."""
    recipe = JacobiForcingRecipe(targets["plain"], 1, window=4)
    now = moment(recipe)
    row = recipe.pack(now.batch)
    there, first = free(recipe, row), now.windows.first
    old, new = (recipe.guess(row, now.windows, rounds, now.batch, None, Noise(0)) for rounds in (0, 1))
    _, misled = recipe.both(row, old, now.windows, now.batch, None)
    for slot in range(1, row.shape[1] - 1):
        begins = first[slot] == slot
        law = said(recipe, now, row)[:, slot - 1] if begins else misled[:, slot - 1]
        wanted = law.argmax(-1) if slot - first[slot] < 2 else old[:, slot]  # half of a window came before the round
        assert torch.equal(new[:, slot][there[:, slot]], wanted[there[:, slot]])


def plainly(recipe, now, scale):
    """The most probable steps under guidance, each from a pass over all before it; the layout may fix some."""
    stage, line = stepwise(recipe.teacher.decoder)
    row, fixed = now.row[:, :1], line.forced(tuple(now.batch["codes"].shape[2:]))
    for step in range(1, now.row.shape[1]):
        state = None if now.told is None else stage.init_state(len(row), 0, now.told)
        told, untold = (stage(row, state=each).logits[:, -1] for each in (state, None))
        law = told if scale == 1 else scale * told + (1 - scale) * untold
        row = torch.cat((row, torch.where(fixed[step] < 0, law.argmax(-1), fixed[step])[:, None]), 1)
    return row


@torch.no_grad()
@pytest.mark.parametrize(("kind", "scale"), [("plain", 1.0), ("classes", 1.0), ("classes", 2.0), ("text", 2.0)])
@pytest.mark.parametrize("foresight", [0.0, 1e-4])
def test_rows_are_what_the_target_says_first_under_guidance(targets, kind, scale, foresight):
    """Hardly any foresight changes nothing; rows end where they do, or with those of the batch."""
    recipe = JacobiForcingRecipe(targets[kind], 1, window=3, scale=scale, foresight=foresight)
    now = moment(recipe)
    wanted, room = plainly(recipe, now, scale), recipe.pack_line(now.batch)
    there = room < torch.tensor(recipe.line.cards)
    assert torch.equal(now.row[~there], room[~there])
    ends = torch.isin(wanted[..., :1], torch.tensor(stops(recipe.line))).int()
    behind = (ends.cumsum(1) > ends).expand_as(wanted)
    assert torch.equal(now.row[there & ~behind], wanted[there & ~behind])
    assert (now.row[behind] >= min(recipe.line.cards)).all()
    assert scale == 1 or not torch.equal(wanted, plainly(recipe, now, 1.0))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["plain", "classes"])
def test_with_foresight_rows_have_steps_that_will_do(targets, kind):
    """Each is typical of the target's law, or the likeliest; without foresight it is the likeliest."""
    recipe = JacobiForcingRecipe(targets[kind], 1, window=4, foresight=3.0)
    now = moment(recipe)
    logp = (said(recipe, now, now.row) / 3.0).log_softmax(-1)
    came = came_behind(recipe.line, now.row)
    asked, likeliest = came != IGNORED, logp.argmax(-1) == came
    assert (likeliest | Typical().plausible(logp, came.clamp(min=0)))[asked].all()
    assert not likeliest[asked].all()


@pytest.mark.parametrize("learn_from", ["law", "written"])
def test_what_is_behind_guesses_is_held_against_the_row(targets, learn_from):
    """With no weight on what was written and right guesses, there is nothing to learn from the law."""
    recipe = JacobiForcingRecipe(targets["classes"], 1, window=3, rounds=0, writing=0.0, learn_from=learn_from)
    data = given()
    cond = recipe.conditions(data)
    loss, parts, count = recipe.objective(data, cond, 0)
    assert 0 < parts["seen_through"] < 1 and loss == parts["consistency"] > 1e-3
    assert count == (came_behind(recipe.line, recipe.written(data, cond, 0)) != IGNORED).sum()
    recipe.guess = lambda tokens, *rest: tokens
    right = recipe.objective(data, cond, 0).parts
    now = moment(recipe)
    wanted, came = said(recipe, now, now.row)[:, 1:], came_behind(recipe.line, now.row)[:, 1:]
    surprise = cross_entropy(wanted.flatten(0, 2), came.flatten()) if learn_from == "written" else torch.zeros(())
    torch.testing.assert_close(right["consistency"], surprise)
    torch.testing.assert_close(right["seen_through"], (wanted.argmax(-1) == came)[came != IGNORED].float().mean())


def test_windows_begin_anywhere_behind_any_number_of_rounds(targets):
    recipe, data, seen = JacobiForcingRecipe(targets["plain"], 1, window=3, rounds=2), given(), set()
    row = recipe.pack(data)
    recipe.written = lambda *args: row
    recipe.guess = lambda tokens, windows, rounds, *rest: seen.add((int(windows.first.unique()[1]), rounds)) or tokens
    for number in range(60):  # in one of 100 seeds, one of the 9 would be missing
        recipe.objective(data, None, number)
    assert seen == {(begin, rounds) for begin in (1, 2, 3) for rounds in (0, 1, 2)}


def test_a_target_that_ends_at_once_leaves_nothing_to_guess(targets):
    recipe, data = JacobiForcingRecipe(targets["classes"], 1), given()
    ended = recipe.line.pack(data["codes"][:, :1], torch.zeros(3, dtype=torch.int64))
    recipe.written = lambda *args: ended
    loss, parts, count = recipe.objective(data, recipe.conditions(data), 0)
    assert loss == parts["cross_entropy"] > 0 and parts["consistency"] == 0 and count == 3  # ends


@pytest.mark.parametrize("kind", ["text", "shared"])
def test_the_second_stage_learns_to_do_without_guidance(targets, kind):
    recipe = JacobiForcingRecipe(targets[kind], 1, fine_scale=4.0)
    data = given()
    cond = recipe.conditions(data)
    optimizer, losses = torch.optim.Adam(recipe.decoder.parameters(), lr=3e-3), []
    for _ in range(20):
        optimizer.zero_grad()
        losses.append(recipe.of_one_stream(data, cond, 0))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
    stages = recipe.decoder.coarse, recipe.decoder.fine
    first, second = ([weight.grad is not None for weight in stage.decoder.parameters()] for stage in stages)
    assert not any(first) and all(second)
    encoder = recipe.decoder.coarse.encoder
    assert any(weight.grad is not None for weight in encoder.parameters()) == (kind == "shared")
    alone = JacobiForcingRecipe(targets[kind], 1)  # without guidance, what it says is right
    assert alone.of_one_stream(data, cond, 0) < 1e-6


def test_the_second_stage_learns_from_half_of_the_rows_in_turn(targets):
    recipe, data = JacobiForcingRecipe(targets["classes"], 1, fine_scale=2.0), given()
    other = data | {"codes": data["codes"].clone()}
    other["codes"][1, 0, 0] = (other["codes"][1, 0, 0] + 1) % SIZES[0]
    for number in (0, 1):
        one, two = (recipe.of_one_stream(each, recipe.conditions(each), number) for each in (data, other))
        assert torch.equal(one, two) == (number == 0)  # rows 0 and 2


@pytest.mark.parametrize("kind", ["classes", "shared"])
def test_without_guidance_of_its_own_the_second_stage_stays(targets, kind, tmp_path):
    recipe = JacobiForcingRecipe(targets[kind], 3, optimization=QUICK, preview=None)
    fine, coarse = (
        {name: weight.clone() for name, weight in part.state_dict().items()}
        for part in (recipe.decoder.fine, recipe.decoder.coarse.decoder)
    )
    fit(tmp_path, recipe, Told())
    torch.testing.assert_close(recipe.average.module.fine.state_dict(), fine)
    torch.testing.assert_close(recipe.decoder.fine.state_dict(), fine, rtol=0, atol=0)
    learned = dict(recipe.decoder.coarse.decoder.named_parameters())
    assert not any(torch.equal(weight, coarse[name]) for name, weight in learned.items())


class Told(Repeats):
    """The same sequences with a text that says how they begin."""

    def make(self, number):
        found = super().make(number)
        return found | {"text": ["abcdefg"[code] for code in found["codes"][:, 0, 0].tolist()]}


def test_jacobi_decoding_needs_fewer_passes_afterwards_and_gives_the_same(tmp_path):
    first = DecoderRecipe(conditioned(LAYOUT), LAYOUT, 60, optimization=QUICK, preview=None)
    fit(tmp_path / "target", first, Stays(epoch_batches=60))
    target = str(tmp_path / "target" / "last.ckpt")

    def jacobi(model):
        begin, cond = LAYOUT.pack(Stays(rows=3).make(0)["codes"])[:, :1], Conditions(torch.arange(3))
        found = decode(model, begin, 12, GREEDY, Noise(0), proposers.Jacobi(), window=4, cond=cond)
        return found.codes, float(found.trace.tokens_per_forward.mean())

    recipe = JacobiForcingRecipe(target, 40, window=4, optimization=QUICK, preview=None)
    untouched = {name: weight.clone() for name, weight in recipe.teacher.decoder.state_dict().items()}
    torch.testing.assert_close(recipe.decoder.state_dict(), untouched, rtol=0, atol=0)
    before, slow = jacobi(recipe.teacher.decoder)
    fit(tmp_path, recipe, Stays(epoch_batches=40))
    after, fast = jacobi(recipe.average.module)
    # Guesses from nothing give one step, those seen through five, then the window is empty again: 1 + 5 + 1 + 5.
    assert slow < 1.2 and fast == 3 and torch.equal(after, before)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    apart, seen = ([line[f"loss/{name}"] for line in lines] for name in ("consistency", "seen_through"))
    assert apart[-1] < 0.1 * apart[0] and seen[-1] > seen[0]


@pytest.mark.parametrize("kind", ["plain", "shared"])
def test_a_resumed_run_equals_an_uninterrupted_one(targets, kind, tmp_path):
    settings = {"plain": {"temperature": 1.0}, "shared": {"scale": 1.5, "fine_scale": 2.0, "condition_dropout": 0.2}}

    def recipe():
        return JacobiForcingRecipe(targets[kind], 12, window=3, optimization=QUICK, preview=None, **settings[kind])

    whole, parts = recipe(), recipe()
    fit(tmp_path / "whole", whole, Told())
    fit(tmp_path / "parts", recipe(), Told(), steps=10)
    torch.manual_seed(999)  # a new process would not find the old one's random state
    fit(tmp_path / "parts", parts, Told(), resume=True)
    assert int(parts.step) == 12
    torch.testing.assert_close(parts.state_dict(), whole.state_dict(), rtol=0, atol=0)
    assert not any("teacher" in name for name in whole.state_dict())


def test_the_second_stage_of_the_target_teaches_in_bfloat16_what_the_first_reads_in_fewer_bits(targets, tmp_path):
    """Though both read the text by the same encoder."""
    recipe = JacobiForcingRecipe(targets["shared"], 1, fine_scale=2.0, optimization=QUICK, preview=None)
    weights = {name: weight.clone() for name, weight in recipe.teacher.decoder.fine.encoder.state_dict().items()}
    fit(tmp_path, recipe, Told(), precision="bf16-mixed")
    torch.testing.assert_close(recipe.teacher.decoder.fine.encoder.state_dict(), weights, rtol=0, atol=0)
    assert int(recipe.step) == 1


@pytest.mark.parametrize("group", [1, 2])
def test_validation_tells_what_steps_of_the_first_stage_cost_and_how_many_a_pass_gives(targets, group, tmp_path):
    target = targets["classes" if group == 1 else "groups"]
    preview = Preview(batches=1, prompt=0.0, steps=5, temperature=0.0)
    recipe = JacobiForcingRecipe(target, 2, optimization=QUICK, preview=preview)
    fit(tmp_path, recipe, val_check_interval=2, limit_val_batches=2)
    (line,) = [each for each in map(json.loads, (tmp_path / "metrics.jsonl").open()) if "valid/bits/code" in each]
    assert sum(name.startswith("valid/cross_entropy") for name in line) == group  # codes of a step
    assert line["valid/steps/forward"] >= 1


def test_a_decoder_of_fewer_layers_begins_with_the_first_ones_of_the_target(targets):
    part = two_stages(TEXT, shared=True)
    recipe = JacobiForcingRecipe(targets["deep"], 1, part)
    theirs = dict(recipe.teacher.decoder.named_parameters())
    for begun in (recipe.decoder, recipe.average.module):
        for name, weight in begun.named_parameters():
            assert torch.equal(weight, theirs[name])
    assert recipe.decoder is part and part.tokens == recipe.teacher.decoder.tokens
    assert part.info.layers == 2 < recipe.teacher.decoder.info.layers
    with pytest.raises(UserError, match="text: its coarse.decoder.transformer.layers.1.*is not there, this recipe's"):
        JacobiForcingRecipe(targets["text"], 1, two_stages(TEXT, layers=2))
    with pytest.raises(UserError, match="is a AutoregressiveDecoder, no TwoStageDecoder"):
        JacobiForcingRecipe(targets["plain"], 1, part)


def test_what_cannot_be_guessed_or_makes_no_sense_is_refused(targets, tmp_path):
    layout = FrameDepth(SIZES, begin=True)
    core = TransformerConfig(width=16, layers=1, heads=2)
    deep = DepthDecoder(DepthConfig(layout.cards, core, context=64, specials=layout.specials, depth=core))
    filler = MaskedDecoder(MaskedConfig(SIZES, READER, context=16))
    for name, model, line in (("deep", deep, layout), ("filler", filler, Parallel(SIZES))):
        model.tokens = line
        with pytest.raises(UserError, match=f"{name} doesn't go step by step, or the codes of its .* take another one"):
            JacobiForcingRecipe(save(model, tmp_path / name), 1)
    for wrong, message in (
        ({"window": 0}, "a window of 0 steps.*expected 1 or more"),
        ({"rounds": -1}, "-1 rounds.*twice 0 or more"),
        ({"writing": -2.0}, "weight -2.0.*twice 0 or more"),
        ({"temperature": -0.5}, "temperature -0.5.*expected 0 or more"),
        ({"foresight": -0.5}, "foresight -0.5.*expected 0 or more"),
        ({"scale": 0.0}, "guidance 0.0 .*more than 0"),
        ({"fine_scale": 0.0}, "and 0.0; .*more than 0"),
        ({"foresight": 1.0, "temperature": 0.5}, "not 0.5; leave one of them out"),
        ({"fine_scale": 2.0}, "fine_scale 2.0 is for a second stage, and .*plain has none; leave it out"),
    ):
        with pytest.raises(UserError, match=message):
            JacobiForcingRecipe(targets["plain"], 1, **wrong)
    with pytest.raises(UserError, match="codebooks of .8, 5. codes"):
        fit(tmp_path, JacobiForcingRecipe(targets["plain"], 1, preview=None), Repeats(sizes=(8, 5)))
    recipe = JacobiForcingRecipe(targets["classes"], 1)
    recipe._device_mesh = object()  # as `ModelParallelStrategy` gives it
    with pytest.raises(UserError, match="learned on whole weights; take --trainer.strategy=ddp"):
        recipe.configure_model()


@pytest.fixture(scope="module")
def singer(tmp_path_factory):
    """The last.ckpt of a short run of the recipe that the one here goes on from."""
    folder = tmp_path_factory.mktemp("singer")
    options = ("--model.steps=30", "--trainer.val_check_interval=30", "--model.preview=null")
    return train("two-stage.singing-smoke", [f"--run.folder={folder}", *options]) / "last.ckpt"


@pytest.mark.parametrize("shared", [True, False])
def test_a_run_by_name_tells_steps_a_pass_and_becomes_a_model(singer, shared, tmp_path):
    options = {
        "run.folder": tmp_path / "run", "model.target": singer, "model.steps": 10, "trainer.val_check_interval": 5,
        "model.decoder.init_args.config.shared": str(shared).lower(),
    }  # fmt: skip
    run = train("two-stage.singing-smoke-forced", [f"--{name}={value}" for name, value in options.items()])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["valid/steps/forward"] for line in lines if "valid/steps/forward" in line]
    assert len(speeds) == 2 and min(speeds) >= 1
    losses = [line["loss/consistency"] for line in lines if "loss/consistency" in line]
    assert losses[-1] < losses[0]
    convert(run / "last.ckpt", tmp_path / "model")
    model = zoo.load(tmp_path / "model")
    assert (model.coarse.encoder is model.fine.encoder) == model.config.shared == shared
    found = zoo.generate(tmp_path / "model", text="a", temperature=0, proposer="jacobi")
    assert found.tokens[0].codes.shape[1] == 3
