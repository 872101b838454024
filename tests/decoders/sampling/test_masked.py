"""The masked loop fills what is open, as many as it says, and the same at any batch size."""

from __future__ import annotations

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Toy, all_outputs, chi_square, counts

from zoo.decoders.sampling import Law, Noise, decode_masked, guidance
from zoo.decoders.sampling.choosers import Chooser, Confidence
from zoo.decoders.sampling.processors import RepetitionPenalty
from zoo.decoders.sampling.schedules import SCHEDULES, places_left
from zoo.decoders.transformer import Conditioning

NOISE = Noise(5)


@pytest.fixture(scope="module")
def model():
    return small_decoder(layers=2, causal=False, specials=2)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 3, 12, 40])
def test_every_step_fills_at_least_one_place_and_the_last_the_rest(model, schedule, steps):
    prompt = torch.full((3, 10, 2), -1)
    prompt[1, :7], prompt[2] = 2, 3
    result = decode_masked(model, prompt, steps, noise=NOISE, schedule=schedule)
    emitted = result.trace.emitted
    assert emitted.sum(0).tolist() == [20, 6, 0]
    assert (emitted[: emitted[:, 0].count_nonzero(), 0] > 0).all() and len(emitted) <= steps
    assert (result.codes >= 0).all() and (result.codes < torch.tensor([11, 7])).all()
    assert torch.equal(result.trace.drafted - emitted, torch.cat((result.trace.drafted[1:], torch.zeros(1, 3).long())))
    assert (result.trace.target_forwards == 1).all()


def test_schedules_leave_open_what_their_curves_say():
    first = torch.tensor([100])
    left = {
        name: [int(places_left(curve, step / 4, first, first)) for step in (1, 2, 3, 4)]
        for name, curve in SCHEDULES.items()
    }
    assert left == {"cosine": [92, 70, 38, 0], "arccos": [83, 66, 46, 0], "linear": [75, 50, 25, 0]}


def test_as_many_steps_as_places_fill_one_place_each():
    """Whole numbers stay whole, however a share of the steps is rounded."""
    for places in (1, 2, 3, 7, 12, 13, 49, 100):
        left, first = torch.tensor([places]), torch.tensor([places])
        for step in range(1, places + 1):
            left = places_left(SCHEDULES["linear"], step / places, first, left)
            assert int(left) == places - step


def test_known_tokens_stay_and_count_for_nothing(model):
    prompt = random_tokens(model, 3, 10)
    asked = prompt.clone()
    asked[0, 3:6], asked[1, ::2, 0], asked[2] = -1, -1, -1
    for chooser in (Confidence(), Confidence(4.0), Restless()):
        result = decode_masked(model, asked, 4, noise=NOISE, chooser=chooser)
        known = asked >= 0
        assert torch.equal(result.codes[known], prompt[known])
        assert not result.logp[known].any() and (result.logp[~known] < 0).all()


def test_nothing_open_takes_no_pass(model):
    prompt = random_tokens(model, 2, 5)
    result = decode_masked(model, prompt, 4)
    assert torch.equal(result.codes, prompt) and not len(result.trace.seconds)


def test_a_shape_is_a_prompt_of_which_all_is_open(model):
    asked = decode_masked(model, torch.full((2, 7, 2), -1), 4, noise=NOISE)
    assert torch.equal(decode_masked(model, (2, 7), 4, noise=NOISE).codes, asked.codes)


def test_seeds_differ_and_repeat(model):
    codes = [decode_masked(model, (2, 9), 4, noise=Noise(seed), chooser=Confidence(4.0)).codes for seed in (1, 1, 2)]
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


def test_all_places_at_once_are_independent_draws():
    toy, rows = Toy((3,), causal=False), 20_000
    drawn = decode_masked(toy, (rows, 3), 1, noise=NOISE).codes
    logp = toy(torch.full((1, 3, 1), 3)).logits.log_softmax(-1)[0, :, 0]
    outputs = all_outputs((3,), 3)[..., 0]
    law = logp[torch.arange(3), outputs].sum(1).double().exp()
    assert chi_square(counts(drawn, (3,)), law) > 1e-3


def test_codebooks_may_be_filled_one_after_the_other(model):
    result = decode_masked(model, (2, 9), [4, 2], noise=NOISE)
    assert result.trace.emitted.sum(0).tolist() == [18, 18]
    assert result.trace.emitted[:4].sum(0).tolist() == [9, 9] and len(result.trace.emitted) == 6
    seen = []

    class Spy(Confidence):
        def choose(self, view):
            seen.append((view.open.any((0, 1)).tolist(), (view.candidates[..., 0] >= 0).all().item()))
            return super().choose(view)

    decode_masked(model, (2, 9), [4, 2], noise=NOISE, chooser=Spy())
    assert seen == [([True, False], True)] * 3 + [([False, True], True)]


def test_confidence_keeps_the_candidates_that_the_model_is_surest_of(model):
    views = []

    class Spy(Confidence):
        def choose(self, view):
            views.append((view, kept := super().choose(view)))
            return kept

    decode_masked(model, (2, 9), 5, Law(temperature=0.3, top_k=3), NOISE, chooser=Spy())
    for view, kept in views:
        confidence = view.logits.log_softmax(-1).gather(-1, view.candidates.clamp(min=0)[..., None])[..., 0]
        new = kept & view.open
        for row in range(2):
            left_out = confidence[row][view.open[row] & ~new[row]]
            assert confidence[row][new[row]].min() >= left_out.max()
        assert torch.equal(view.open.flatten(1).sum(1) - new.flatten(1).sum(1), view.left)
        assert not (kept & ~view.open & ~view.filled).any()


def test_noise_on_the_choice_fades_to_nothing(model):
    shares = []

    class Spy(Confidence):
        def score(self, view):
            gumbel = view.noise.gumbel(view.places, 2, 1)[..., 0]
            added = super().score(view) - Confidence().score(view)
            assert torch.allclose(added, self.temperature * (1 - view.progress) * gumbel, atol=1e-4)
            shares.append(view.progress)
            return super().score(view)

    decode_masked(model, (2, 9), 4, noise=NOISE, chooser=Spy(3.0))
    assert shares == [0.25, 0.5, 0.75]


def test_noise_on_the_choice_changes_the_order(model):
    calm, wild = (
        decode_masked(model, (2, 20), 6, Law(temperature=0), NOISE, chooser=Confidence(t)) for t in (0.0, 50.0)
    )
    assert not torch.equal(calm.codes, wild.codes)
    with pytest.raises(ValueError, match="-1"):
        Confidence(-1)


class Restless(Confidence):
    """Opens again every other place that was filled in an earlier step."""

    def choose(self, view):
        return super().choose(view) & ~(view.filled & (view.places % 2 == 0)[..., None])


def test_what_a_chooser_takes_back_is_filled_again(model):
    result = decode_masked(model, (2, 6), 4, noise=NOISE, chooser=Restless())
    assert (result.trace.emitted.sum(0) > 12).all()
    assert (result.codes >= 0).all() and (result.logp < 0).all()
    levels = decode_masked(model, (2, 6), [3, 3], noise=NOISE, chooser=Restless())
    assert (levels.codes >= 0).all() and (levels.logp < 0).all()


def test_the_law_may_change_from_step_to_step(model):
    asked = []

    def annealed(progress: float) -> Law:
        asked.append(progress)
        return Law(temperature=2 * (1 - progress))

    decode_masked(model, (1, 9), 4, annealed, NOISE)
    assert asked == [0, 0.25, 0.5, 0.75]


def test_each_step_is_reported(model):
    shares = []
    decode_masked(model, (1, 9), [3, 1], noise=NOISE, report=shares.append)
    assert shares == [0.25, 0.5, 0.75, 1]


def test_guidance_is_two_contexts_in_step():
    model = small_decoder(layers=2, causal=False, specials=1, adaptive=4, conditioning=("class",))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    kinds = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = decode_masked(model, (2, 7), 1, Law(streams=guidance(3.0)), NOISE, cond=Conditioning(vector=kinds))
    masks = torch.tensor([11, 7]).expand(2, 7, 2)
    with_it, without = (
        model(masks, state=model.init_state(2, 0, Conditioning(vector=part))).logits for part in (kinds[:2], kinds[2:])
    )
    guided = (without + 3 * (with_it - without)).masked_fill(with_it.isneginf(), -torch.inf)
    assert torch.allclose(found.logp, guided.log_softmax(-1).gather(-1, found.codes[..., None])[..., 0], atol=1e-5)


class Greedy(Chooser):
    def choose(self, view):
        return torch.ones_like(view.open)


class Answers(Chooser):
    """Chooses by what a function makes of the open places."""

    def __init__(self, answer):
        self.answer = answer

    def choose(self, view):
        return self.answer(view.open)


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        (lambda open: open[:, :3], r"torch.bool \[2, 3, 2\]"),
        (lambda open: open.flatten(1), r"torch.bool \[2, 10\]"),
        (lambda open: open.float(), r"torch.float32 \[2, 5, 2\]"),
        (lambda open: None, "NoneType"),
    ],
    ids=["fewer places", "flat", "floats", "nothing"],
)
def test_a_chooser_that_returns_anything_else_than_places_is_named(model, answer, given):
    with pytest.raises(ValueError, match=rf"Answers chose by {given}; .* must return bool \[2, 5, 2\]"):
        decode_masked(model, (2, 5), 3, chooser=Answers(answer))


def test_bad_input_gives_one_clear_error(model):
    prompt = torch.full((2, 5, 2), -1)
    for message, arguments in {
        "no mask token": (small_decoder(causal=False), prompt),
        r"\[2, 5\]": (model, prompt[..., 0]),
        r"expected \[rows, places, 2\]": (model, prompt[:, :0]),
        "steps are 0": (model, prompt, 0),
        r"steps are \[3\]": (model, prompt, [3]),
        r"token 11 \(row 0, place 0, codebook 0\)": (model, prompt + 12),
        "come in no order": (model, prompt, 3, Law(processors=(RepetitionPenalty(),))),
        "no schedule 'slow'; there are arccos, cosine, linear": (model, prompt, 3, None, None, "slow"),
    }.items():
        with pytest.raises(ValueError, match=message):
            decode_masked(*arguments)
    with pytest.raises(ValueError, match="Greedy keeps places that are known"):
        decode_masked(model, random_tokens(model, 2, 5).index_fill(1, torch.tensor([0, 1]), -1), 3, chooser=Greedy())
    with pytest.raises(ValueError, match=r"lengths \[6, 5\]"):
        decode_masked(model, prompt, lengths=torch.tensor([6, 5]))
    with pytest.raises(ValueError, match="200 places for a model of 100"):
        decode_masked(small_decoder(causal=False, specials=1, context=100), (1, 200))
