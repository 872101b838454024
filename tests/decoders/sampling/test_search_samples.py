"""Samples beside each other keep the law of each, and what chooses among them chooses as defined."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
import torch
from small_decoders import random_tokens, small_decoder
from toys import Toy, all_outputs, chi_square, counts, joint_law

from zoo.decoders.sampling import Law, Noise, decode
from zoo.decoders.sampling.processors import Mirostat, RepetitionPenalty
from zoo.decoders.sampling.search import (
    arithmetic_samples,
    best_of,
    mean_log_probability,
    minimum_bayes_risk,
    ngram_f,
    samples,
)
from zoo.decoders.sampling.search.sampled import SAMPLE

PROMPT = torch.tensor([[[1]], [[2]]])


@pytest.mark.parametrize(
    ("law", "depth"),
    [(Law(), False), (Law(), True), (Law(temperature=0), False), (Law(top_k=2, processors=(Mirostat(1.0),)), True)],
    ids=["plain", "depth", "certain", "law"],
)
def test_each_sample_is_what_its_row_of_noise_draws(law, depth):
    model, prompt, lengths = Toy((3, 4), depth=depth), torch.tensor([[[1, 2], [0, 3]], [[2, 0], [1, 1]]]), [2, 1]
    forced = torch.full((1, 5, 2), -1)
    forced[0, 3, 0], forced[0, 4] = 1, 4  # a code, and a step of input-only ids
    options = {"forced": forced, "lengths": torch.tensor(lengths), "stop": 2}
    found = samples(model, prompt, torch.tensor([9, 6]), 3, law, Noise(5), **options)
    for k in range(3):
        noise = Noise(5, rows=(k * SAMPLE, 1 + k * SAMPLE))
        alone = decode(model, prompt, torch.tensor([9, 6]), law, noise, **options)
        for row, (codes, logp) in enumerate(each[k] for each in (found.each(0), found.each(1))):
            length = int(alone.lengths[row])
            assert torch.equal(codes, alone.codes[row, :length])
            torch.testing.assert_close(logp, alone.logp[row, :length])
    assert found.exactness == "identical"
    assert torch.equal(found.trace.emitted.sum(0), found.lengths.amax(1))
    first = samples(model, prompt, torch.tensor([9, 6]), 1, law, Noise(5), **options)
    assert torch.equal(first.codes[:, 0], found.codes[:, 0, : first.codes.shape[2]])


def test_samples_of_streams_are_guided():
    model = small_decoder((11,))
    prompt, law = random_tokens(model, 4, 5), Law(streams=(2.0, -1.0))
    found = samples(model, prompt, 6, 2, law, Noise(1))
    for k in range(2):
        alone = decode(model, prompt, 6, law, Noise(1, rows=(k * SAMPLE, 1 + k * SAMPLE)))
        assert torch.equal(found.codes[:, k], alone.codes)


def arithmetic_p_values(model, law, noise, rows=15_000, count=3):
    """For each of the samples, how probable counts as far from the law as these are."""
    books = model.info.codebooks
    prompt, steps = torch.ones(1, 1, books, dtype=torch.int64), 5 - books
    found = arithmetic_samples(model, prompt.expand(rows, -1, -1), steps, count, law, noise)
    assert found.exactness == "distribution"
    expected = joint_law(model, prompt[0], steps, law)
    return [chi_square(counts(found.codes[:, k], model.info.cards), expected) for k in range(count)]


@pytest.mark.parametrize(
    ("model", "law"),
    [
        (Toy((3,)), Law()),
        (Toy((3, 2), depth=True), Law()),
        (Toy((3,)), Law(temperature=0.7, processors=(RepetitionPenalty(1.5),))),
    ],
    ids=["plain", "depth", "law"],
)
def test_each_arithmetic_sample_has_the_law(model, law):
    assert min(arithmetic_p_values(model, law, Noise(7))) > 1e-4


class Still(Noise):
    """The same number everywhere."""

    def derive(self, *names):
        return self

    def uniform(self, steps, codebooks):
        return torch.full((*steps.shape, codebooks), 0.3, dtype=torch.float64)


def test_the_test_of_the_law_finds_points_that_are_not_shifted_at_random():
    assert max(arithmetic_p_values(Toy((3,)), Law(), Still(0), rows=2000)) < 1e-6


def test_of_every_beginning_there_come_as_many_arithmetic_samples_as_it_is_probable():
    model, count = Toy((3,)), 50
    found = arithmetic_samples(model, PROMPT, 4, count, noise=Noise(3))
    plain = samples(model, PROMPT, 4, count, noise=Noise(3))
    for row, prompt in enumerate(PROMPT):
        for steps in range(1, 5):
            expected = count * joint_law(model, prompt, steps, Law())

            def discrepancy(codes, steps=steps, row=row, expected=expected):
                return (counts(codes[row, :, :steps], (3,)) - expected).abs().max()

            assert discrepancy(found.codes) < 1 < discrepancy(plain.codes)  # rounded up or down
        lines = found.codes[row, :, :, 0].tolist()
        assert sum(a > b for a, b in pairwise(lines)) <= 1  # in order, round in a circle


def test_arithmetic_samples_stay_random_when_a_float_has_no_digits_left():
    """A law of four equal tokens uses up two digits a step, of the 52 that there are."""
    model, rows, steps = Toy((4,), strength=0.0), 3000, 32
    found = arithmetic_samples(model, torch.ones(rows, 1, 1, dtype=torch.int64), steps, 2, noise=Noise(2))
    for k in range(2):
        assert chi_square(counts(found.codes[:, k, -3:], (4,)), torch.full((64,), 1 / 64)) > 1e-4
    assert (found.codes[:, 0] != found.codes[:, 1]).any(1).all()


@pytest.mark.parametrize("sampler", [samples, arithmetic_samples])
def test_rows_do_not_depend_on_the_batch(sampler):
    model = small_decoder((11, 7))
    prompt, lengths = random_tokens(model, 3, 6), torch.tensor([6, 2, 4])
    whole = sampler(model, prompt, 7, 3, noise=Noise(4), lengths=lengths, stop=2)
    for row, length in enumerate(lengths):
        alone = sampler(model, prompt[row : row + 1, :length], 7, 3, noise=Noise(4, rows=(row,)), stop=2)
        for (ours, _), (theirs, _) in zip(whole.each(row), alone.each(0), strict=True):
            assert torch.equal(ours, theirs)


def test_the_best_of_samples_has_the_best_score():
    model, noise = Toy((3,)), Noise(6)
    drawn = samples(model, PROMPT, 6, 8, noise=noise, stop=0)
    found = best_of(model, PROMPT, 6, 8, noise=noise, stop=0)
    longest = best_of(model, PROMPT, 6, 8, lambda codes, logp: len(codes), noise=noise, stop=0)
    for row in range(2):
        means = [mean_log_probability(codes, logp) for codes, logp in drawn.each(row)]
        best = drawn.each(row)[means.index(max(means))][0]
        assert torch.equal(found.codes[row, : found.lengths[row]], best)
        assert found.scores[row].tolist() == sorted(means, reverse=True)
        assert longest.lengths[row] == drawn.lengths[row].max()
    assert found.exactness == "approximate"
    one = best_of(model, PROMPT, 6, 1, noise=noise, stop=0)
    assert torch.equal(one.codes, decode(model, PROMPT, 6, noise=noise, stop=0).codes)


def test_the_least_risk_under_equality_is_the_commonest_sample_and_the_mode_in_the_end():
    model = Toy((3,), strength=3.0)
    found = minimum_bayes_risk(model, PROMPT, 2, 100, lambda a, b: float(torch.equal(a, b)), noise=Noise(1))
    even = minimum_bayes_risk(
        model, PROMPT, 2, 40, lambda a, b: float(torch.equal(a, b)), noise=Noise(1), sampler=arithmetic_samples
    )  # fmt: skip
    for row, prompt in enumerate(PROMPT):
        law = joint_law(model, prompt, 2, Law())
        mode = all_outputs((3,), 2)[law.argmax()]
        assert torch.equal(found.codes[row], mode) and torch.equal(even.codes[row], mode)
        assert float(found.scores[row, 0]) == pytest.approx(float(law.max()), abs=0.15)
        assert float(even.scores[row, 0]) == pytest.approx(float(law.max()), abs=1 / 40)


def test_candidates_are_ranked_by_their_mean_utility():
    model, noise = Toy((3,)), Noise(2)
    drawn = samples(model, PROMPT, 6, 5, noise=noise, stop=0)
    found = minimum_bayes_risk(model, PROMPT, 6, 5, noise=noise, stop=0)
    for row in range(2):
        lines = [codes for codes, _ in drawn.each(row)]
        means = [sum(ngram_f(line, other) for other in lines) / 5 for line in lines]
        torch.testing.assert_close(found.scores[row], torch.tensor(sorted(means, reverse=True), dtype=torch.float64))
        assert torch.equal(found.codes[row, : found.lengths[row]], lines[means.index(max(means))])


def test_ngram_f_is_chrf_of_tokens():
    def line(text):
        return torch.tensor([ord(letter) for letter in text], dtype=torch.int64)[:, None]

    f = partial(ngram_f, line("abcd"))
    assert f(line("abcd")) == pytest.approx(1) and f(line("xyz")) == 0 and f(line("")) == 0
    assert ngram_f(line(""), line("")) == 1
    # abcd against abd: unigrams 3 of 4 and 3 of 3, bigrams 1 of 3 and 1 of 2, trigrams none.
    precision, recall = (3 / 4 + 1 / 3) / 3, (1 + 1 / 2) / 3
    assert f(line("abd")) == pytest.approx(5 * precision * recall / (4 * precision + recall))
    assert f(line("abd")) != pytest.approx(ngram_f(line("abd"), line("abcd")))  # recall counts more
    pairs = torch.tensor([[1, 2], [3, 4]])
    assert ngram_f(pairs, torch.tensor([[1, 4], [3, 2]])) == 0  # steps are compared whole
