"""Every chooser fills what is open and nothing else, the same at any batch size; and each keeps what it says."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from masked_toys import Shifted, certain, every_chooser, view_of
from small_decoders import random_tokens
from toys import Toy, adversary, all_outputs, chi_square, counts, joint_law

from zoo.decoders.sampling import Exactness, Law, Noise, choosers, decode, decode_masked
from zoo.decoders.sampling.choosers import Adaptive, Judge, Rescored, Watched, trained_filter
from zoo.decoders.sampling.choosers.halton import halton_ranks
from zoo.decoders.sampling.choosers.learned import certainty

NOISE = Noise(5)
CHOOSERS = every_chooser((4, 3))
ONE_BOOK = every_chooser()


@pytest.fixture(scope="module")
def model():
    return Toy((4, 3), causal=False)


@pytest.mark.parametrize("name", CHOOSERS)
@pytest.mark.parametrize("schedule", ["cosine", "arccos", "linear"])
def test_what_was_open_is_filled_and_nothing_else_is_touched(model, name, schedule):
    prompt = random_tokens(model, 3, 8)
    asked = prompt.clone()
    asked[0], asked[1, 2:7, 0], asked[2, ::2] = -1, -1, -1
    for steps in (1, 3, 7, 30):
        result = decode_masked(model, asked, steps, noise=NOISE, schedule=schedule, chooser=CHOOSERS[name])
        known = asked >= 0
        assert torch.equal(result.codes[known], prompt[known]) and not result.logp[known].any()
        assert ((result.codes >= 0) & (result.codes < torch.tensor([4, 3]))).all()
        drafted, emitted = result.trace.drafted, result.trace.emitted
        assert drafted[0].tolist() == [16, 5, 8] and len(emitted) <= steps
        taken_back = torch.cat((drafted[1:], torch.zeros(1, 3, dtype=torch.int64))) - (drafted - emitted)
        assert (taken_back >= 0).all() and torch.equal(emitted.sum(0) - taken_back.sum(0), drafted[0])
        assert name == "remask" or not taken_back.any()
        assert torch.equal(emitted > 0, drafted > 0)


@pytest.mark.parametrize("name", CHOOSERS)
def test_a_row_gives_the_same_alone_and_beside_any_neighbours(model, name):
    prompt, lengths = random_tokens(model, 3, 10), torch.tensor([10, 6, 8])
    prompt[0, 2:], prompt[1, :4], prompt[2, ::2, 0] = -1, -1, -1
    chooser = CHOOSERS[name]
    for steps in (6, [4, 3]):
        together = decode_masked(model, prompt, steps, noise=NOISE, chooser=chooser, lengths=lengths)
        assert together.lengths.tolist() == lengths.tolist()
        for row, length in enumerate(lengths.tolist()):
            part, noise = prompt[row : row + 1, :length], Noise(NOISE.seed, rows=(row,))
            alone = decode_masked(model, part, steps, noise=noise, chooser=chooser)
            assert torch.equal(alone.codes[0], together.codes[row, :length])
            assert torch.allclose(alone.logp[0], together.logp[row, :length], atol=1e-5)
            assert (together.codes[row, length:] == -1).all()


@pytest.mark.parametrize("name", CHOOSERS)
def test_nothing_known_is_generation_and_seeds_repeat(model, name):
    chooser = CHOOSERS[name]
    first, again = (decode_masked(model, (2, 9), 4, noise=NOISE, chooser=chooser) for _ in range(2))
    filled_in = decode_masked(model, torch.full((2, 9, 2), -1), 4, noise=NOISE, chooser=chooser)
    other = decode_masked(model, (2, 9), 4, noise=Noise(6), chooser=chooser)
    assert torch.equal(first.codes, again.codes) and torch.equal(first.codes, filled_in.codes)
    assert not torch.equal(first.codes, other.codes)


@pytest.mark.parametrize("name", ["threshold", "local-leap", "prophet", "learned"])
def test_eager_choosers_are_approximate_and_end_sooner(name):
    model = Toy(causal=False, strength=3)  # a law sharp enough for places to be sure
    plain = decode_masked(model, (4, 12), 12, noise=NOISE, schedule="linear")
    eager = decode_masked(model, (4, 12), 12, noise=NOISE, schedule="linear", chooser=ONE_BOOK[name])
    assert eager.exactness == Exactness.APPROXIMATE and plain.exactness == Exactness.IDENTICAL
    assert len(eager.trace.target_forwards) < len(plain.trace.target_forwards) == 12


def test_one_place_a_step_from_left_to_right_is_autoregressive_decoding():
    masked, causal, law, rows = Shifted(), Toy(), Law(temperature=0.8), 40_000
    expected = decode(causal, torch.ones(1, 1, 1).long(), 8, Law(temperature=0)).codes
    line = choosers.LeftToRight()
    assert torch.equal(decode_masked(masked, (1, 8), 8, Law(temperature=0), None, "linear", line).codes, expected)
    for chooser in (line, Adaptive(Judge(adversary(causal), begin=1), 0.3)):
        drawn = decode_masked(masked, (rows, 4), 4, law, NOISE, "linear", chooser)
        p = chi_square(counts(drawn.codes, (3,)), joint_law(causal, torch.tensor([[1]]), 4, law))
        # A judge that always disagrees stops at the first candidate most of the time, and at chance agrees.
        assert p > 1e-3 if chooser is line else drawn.trace.emitted.float().mean() < 1.7


def test_random_order_one_place_a_step_is_the_mean_over_all_orders():
    model, rows, places = Toy(causal=False), 40_000, 3
    outputs = all_outputs((3,), places)
    law = torch.zeros(len(outputs), dtype=torch.float64)
    for order in itertools.permutations(range(places)):
        total, grid = torch.zeros(len(outputs), dtype=torch.float64), torch.full_like(outputs, 3)
        for place in order:
            logp = model(grid).logits[:, place, 0].double().log_softmax(-1)
            total += logp.gather(-1, outputs[:, place])[:, 0]
            grid[:, place] = outputs[:, place]
        law += total.exp() / math.factorial(places)
    drawn = decode_masked(model, (rows, places), places, Law(), NOISE, "linear", choosers.Shuffled()).codes
    assert chi_square(counts(drawn, (3,)), law) > 1e-3
    in_line = decode_masked(model, (rows, places), places, Law(), NOISE, "linear", choosers.LeftToRight()).codes
    assert chi_square(counts(in_line, (3,)), law) < 1e-6  # the law does depend on the order


def test_orders_rank_by_what_they_say():
    laws = torch.tensor([[0.5, 0.49, 0.01], [0.45, 0.275, 0.275], [0.4, 0.35, 0.25]]).log()[None, :, None]
    view = view_of(laws)
    first = {name: int(chooser.choose(view)[0, :, 0].int().argmax()) for name, chooser in {
        "confidence": choosers.Confidence(), "entropy": choosers.Entropy(), "margin": choosers.Margin(),
        "line": choosers.LeftToRight(),
    }.items()}  # fmt: skip
    assert first == {"confidence": 0, "entropy": 0, "margin": 1, "line": 0}
    flat_but_sure = torch.tensor([[0.5, 0.25, 0.25], [0.49, 0.5, 0.01]]).log()[None, :, None]
    assert choosers.Entropy().choose(view_of(flat_but_sure))[0, :, 0].tolist() == [False, True]


def test_a_halton_order_is_a_permutation_that_spreads():
    for sides in ((1,), (7,), (16,), (6, 6), (5, 3), (16, 16)):
        ranks = halton_ranks(sides)
        assert sorted(ranks.flatten().tolist()) == list(range(ranks.numel()))
    quarters = (halton_ranks((8, 8)) < 12).float().view(2, 4, 2, 4).sum((1, 3))
    assert quarters.min() >= 2  # of the first twelve cells, each quarter has some


def test_halton_follows_the_positions_of_a_grid():
    grid = torch.cartesian_prod(torch.arange(3), torch.arange(5))
    shuffled = grid[torch.randperm(15, generator=torch.Generator().manual_seed(0))][None]
    view = view_of(torch.zeros(1, 15, 1, 2), positions=shuffled, left=torch.tensor([10]))
    kept = choosers.Halton().choose(view)[0, :, 0]
    assert {tuple(place) for place in shuffled[0, kept].tolist()} == {
        tuple(place) for place in (halton_ranks((3, 5)) < 5).nonzero().tolist()
    }


def test_spans_keep_neighbours_together():
    view = view_of(certain(0.6, 0.6, 0.6, 0.7, 0.99, 0.6, 0.8, 0.8), left=torch.tensor([5]))
    assert choosers.Spans(3).choose(view)[0, :, 0].tolist() == [False] * 3 + [True] * 3 + [False] * 2


def test_remasking_takes_back_unsure_tokens_and_ends_where_the_schedule_says():
    filled = torch.arange(20)[None, :, None] < 10
    confidence = torch.where(filled, torch.tensor(-0.01), torch.tensor(-1.0))
    confidence[0, :5] = -9.0  # nobody believed in the first five
    hits = torch.zeros(10)
    for seed in range(400):
        view = view_of(
            torch.zeros(1, 20, 1, 2), ~filled, filled=filled, confidence=confidence, left=torch.tensor([6]),
            noise=Noise(seed, rows=(0,)),
        )  # fmt: skip
        kept = choosers.Remask(0.45).choose(view)
        assert int((view.filled & ~kept).sum()) == 4 and int(20 - kept.sum()) == 6
        hits += ~kept[0, :10, 0]
    # Weights are softmax(-p): exp(0) against exp(-.99) for each draw, about 2.7 to 1, without replacement less so.
    assert 1.6 < hits[:5].sum() / hits[5:].sum() < 2.7
    over = choosers.Remask(1.0).choose(
        view_of(torch.zeros(1, 20, 1, 2), ~filled, filled=filled, left=torch.tensor([2]))
    )
    assert int(20 - over.sum()) == 2


def test_remasking_corrects_what_later_tokens_make_improbable():
    """More steps of remasking bring the output nearer to what the model, asked about each place, agrees with."""
    model, rows = Toy(causal=False, strength=3), 400

    def agreement(chooser):
        codes = decode_masked(
            model, (rows, 6), 40, Law(), NOISE, lambda progress: max(0, 1 - 2 * progress), chooser
        ).codes
        total = 0.0
        for place in range(6):
            asked = codes.index_fill(1, torch.tensor([place]), 3)
            total += model(asked).logits.log_softmax(-1)[:, place, 0].gather(-1, codes[:, place]).mean().item()
        return total / 6

    assert agreement(choosers.Remask(0.5)) > agreement(choosers.Remask(0.0)) - 0.02


def test_rescoring_is_confidence_in_the_mixture():
    own, other = certain(0.9, 0.6, 0.55), certain(0.2, 0.6, 0.99)

    class Says(Toy):
        def run(self, tokens, positions, state, block_mask):
            return (
                super().run(tokens, positions, state, block_mask)._replace(logits=other.expand(len(tokens), -1, -1, -1))
            )

    judge = Judge(Says((2,), causal=False))
    for weight, mixed in ((1.0, [0.9, 0.6, 0.55]), (0.0, [0.2, 0.6, 0.99]), (0.7, [0.69, 0.6, 0.682])):
        score = Rescored(judge, weight).score(view_of(own))[0, :, 0]
        assert torch.allclose(score.exp(), torch.tensor(mixed), atol=1e-4)
    assert Rescored(judge).forwards == 1


def test_passes_of_judges_are_counted_but_for_last_steps():
    model, judge = Toy(causal=False), Toy(seed=3, causal=False)
    result = decode_masked(model, (2, 6), 4, noise=NOISE, chooser=Rescored(Judge(judge)))
    assert result.trace.draft_forwards.tolist() == [1, 1, 1, 0] and judge.calls == 3 and model.calls == 4


def test_a_judge_that_goes_step_by_step_is_asked_what_it_expects_at_each_place():
    judge, decoder = Toy((4, 3), seed=8), Toy((4, 3), causal=False)
    tokens = random_tokens(decoder, 2, 5)
    view = view_of(torch.randn(2, 5, 2, 4), candidates=tokens)
    expected = judge(torch.cat((torch.ones(2, 1, 2).long(), tokens[:, :-1]), 1)).logits.log_softmax(-1)
    assert torch.allclose(Judge(judge, begin=1).logp(view), expected)
    blind = Judge(judge).logp(view)
    assert torch.allclose(blind[:, 0], view.logits.log_softmax(-1)[:, 0])
    assert torch.allclose(blind[:, 1:], judge(tokens[:, :-1]).logits.log_softmax(-1))
    alone = view_of(torch.randn(2, 1, 2, 4), candidates=tokens[:, :1])
    assert torch.equal(Judge(judge).logp(alone), alone.logits.log_softmax(-1))


@pytest.mark.parametrize("causal", [False, True], ids=["fills in", "goes step by step"])
def test_a_judge_that_fails_is_named_and_not_taken_for_the_decoder(causal):
    model, judge = Toy(causal=False), Toy(seed=3, causal=causal)
    judge.heads = torch.full_like(judge.heads, torch.nan)
    for chooser in (Rescored(Judge(judge)), Adaptive(Judge(judge))):
        with pytest.raises(ValueError, match="the judge is at fault: the model gave NaN logits"):
            decode_masked(model, (2, 4), 3, chooser=chooser)
    with pytest.raises(ValueError, match="^the model gave NaN logits"):
        decode_masked(judge, (2, 4), 3, chooser=Rescored(Judge(model)))


def test_adaptive_decoding_keeps_a_prefix_up_to_the_first_disagreement():
    decoder, judge = Toy(causal=False), Toy(seed=4)
    kept = []

    class Spy(Adaptive):
        def choose(self, view):
            sure = self.sure(view)
            mixed = 0.5 * view.logits.log_softmax(-1) + 0.5 * self.judge.logp(view)
            again = (mixed.log_softmax(-1) + view.gumbel).argmax(-1)
            found = super().choose(view) & view.open
            for row in range(len(found)):
                line = view.open[row].flatten().nonzero()[:, 0]
                agree = (again == view.candidates)[row].flatten()[line].int().cumprod(0).sum()
                assert found[row].flatten()[line].tolist() == [i < max(1, agree) for i in range(len(line))]
                kept.append(int(found[row].sum()))
            assert not (sure & ~found & view.open).any()
            return super().choose(view)

    prompt = torch.full((6, 9, 1), -1)
    prompt[1, 3], prompt[2, 0] = 2, 1
    decode_masked(decoder, prompt, 9, noise=NOISE, schedule="linear", chooser=Spy(Judge(judge)))
    assert 1 in kept and max(kept) > 2


def test_adaptive_decoding_at_full_weight_takes_all_at_once_and_alike_models_agree():
    masked, causal = Shifted(), Toy()
    marginals = decode_masked(masked, (4, 8), 8, noise=NOISE, schedule="linear", chooser=Adaptive(Judge(causal), 1.0))
    assert len(marginals.trace.emitted) == 1
    greedy = decode_masked(masked, (4, 8), 8, Law(temperature=0), NOISE, "linear", choosers.LeftToRight())
    cautious = decode_masked(
        masked, (4, 8), 8, Law(temperature=0), NOISE, "linear", Adaptive(Judge(causal, begin=1), 0.0)
    )
    # All weight on the judge, which is the decoder itself going step by step: what it lets pass is its own choice.
    assert torch.equal(cautious.codes, greedy.codes)
    assert len(cautious.trace.emitted) < len(greedy.trace.emitted)


def test_leaps_reach_from_anchors_to_their_neighbours():
    view = view_of(certain(0.8, 0.6, 0.95, 0.6, 0.8, 0.8))
    kept = choosers.LocalLeap(0.9, 0.75, 2).choose(view)[0, :, 0]
    assert kept.tolist() == [True, False, True, False, True, False]
    grid = torch.cartesian_prod(torch.arange(2), torch.arange(3))[None]
    on_grid = choosers.LocalLeap(0.9, 0.75, 1).choose(view_of(view.logits, positions=grid))[0, :, 0]
    assert on_grid.tolist() == [False, False, True, False, True, True]
    nobody = view_of(certain(0.8, 0.7, 0.6))
    assert choosers.LocalLeap(0.9, 0.5).choose(nobody)[0, :, 0].tolist() == [True, False, False]  # the one that is due


def test_the_prophet_waits_for_a_gap_that_shrinks():
    three_nats = torch.tensor([0.0, 3.0]).expand(1, 4, 1, 2)
    stops = [bool(choosers.Prophet(6.0).choose(view_of(three_nats, progress=p)).all()) for p in (0.2, 0.5, 0.8)]
    assert stops == [False, False, True]
    mixed = torch.stack((three_nats[0], torch.zeros(4, 1, 2)))
    assert choosers.Prophet(3.0).choose(view_of(mixed, progress=0.2)).flatten(1).all(1).tolist() == [True, False]


def test_a_threshold_keeps_all_above_it_and_at_least_what_is_due():
    view = view_of(certain(0.95, 0.7, 0.91))
    assert choosers.Threshold(0.9).choose(view)[0, :, 0].tolist() == [True, False, True]
    assert choosers.Threshold(0.99).choose(view)[0, :, 0].tolist() == [True, False, False]


def test_a_trained_filter_tells_what_will_come_out_and_saves_passes():
    model, law = Toy(causal=False, strength=3), Law(temperature=0)

    def half_known(seed):
        chance = torch.Generator().manual_seed(seed)
        tokens = torch.randint(0, 3, (48, 16, 1), generator=chance)
        return tokens.masked_fill(torch.rand(tokens.shape, generator=chance) < 0.7, -1)

    def run(seed, steps, chooser=None):
        return decode_masked(model, half_known(seed), steps, law, schedule="linear", chooser=chooser)

    watched = Watched()
    learned = trained_filter(watched.examples(run(0, 16, watched).codes), steps=60, reach=4)
    watched = Watched()
    plain = run(1, 16, watched).codes
    sure, asked, final = (torch.cat(parts) for parts in zip(*watched.examples(plain), strict=True))
    found, final = learned(sure)[asked].sigmoid(), final[asked].float()
    assert ((found > 0.5) == final.bool()).float().mean() > final.mean() + 0.01  # better than to say always the same
    assert final[found > 0.9].mean() > 0.9 > final.mean()
    passes, agreement = [], []
    for probability in (0.7, 0.9, 0.97):
        quick = run(1, 16, choosers.Learned(learned, probability))
        passes.append(float((quick.trace.emitted > 0).sum(0).float().mean()))  # of a row
        agreement.append(float((quick.codes == plain).float().mean()))
    assert passes == sorted(passes) and passes[0] < 8  # for eleven open places in the mean
    assert agreement == sorted(agreement)


def test_filters_are_trained_the_same_each_time_and_leave_the_generator_alone():
    watched = Watched()
    result = decode_masked(Toy(causal=False), (4, 8), 4, noise=NOISE, chooser=watched)
    before = torch.random.get_rng_state()
    one, two = (trained_filter(watched.examples(result.codes), steps=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    with pytest.raises(ValueError, match="no examples"):
        trained_filter([])


def test_certainty_is_one_of_what_stands_and_zero_of_what_does_not():
    view = view_of(certain(0.9, 0.8, 0.7), torch.tensor([[[True], [False], [False]]]))
    view.candidates[0, 2] = -1
    assert certainty(view)[0, :, 0].tolist() == pytest.approx([0.9, 1.0, 0.0])


def test_names_find_choosers_and_settings_out_of_range_say_so():
    for name in choosers.NAMES:
        assert isinstance(choosers.find(name), choosers.Chooser)
    with pytest.raises(ValueError, match="no chooser 'best'; there are confidence, entropy"):
        choosers.find("best")
    judge = Judge(Toy())
    for make, message in {
        lambda: choosers.Remask(1.5): "1.5",
        lambda: choosers.Threshold(0.0): "threshold of 0.0",
        lambda: choosers.LocalLeap(radius=0): "radius of at least 1",
        lambda: choosers.Prophet(-1): "gap of -1",
        lambda: choosers.Spans(0): "runs of 0",
        lambda: Rescored(judge, 2): "weight of 2",
        lambda: Adaptive(judge, -1): "weight of -1",
        lambda: choosers.Learned(choosers.Filter(), 1.0): "probability of 1.0",
        lambda: Judge(Toy((3, 3), depth=True)): "take another",
        lambda: choosers.Halton().score(
            view_of(torch.zeros(1, 2, 1, 2), positions=torch.zeros(1, 2, 3).long())
        ): "3 axes",
        lambda: Judge(Toy((5,))).logp(view_of(torch.zeros(1, 2, 1, 3))): "the judge knows tokens",
    }.items():
        with pytest.raises(ValueError, match=message):
            make()
